"""Load on the three models that come with Millrace, with every answer checked.

    locust -f client/loadtest/locustfile.py --headless --users 32 --spawn-rate 32 --run-time 30s \
        --host http://127.0.0.1:8000 --only-summary

Name classes at the end to load just their models: `... DigitsUser`. `--wait-s` is a user's pause between two requests.
Exit status 1 when an answer was wrong, a request failed, or nothing was asked. Locust is a closed loop: what its
percentiles do not tell is in docs/howto/load-test.md.
"""

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import payloads
import requests
from locust import FastHttpUser, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

SEVEN = Path(__file__).resolve().parents[2] / "examples" / "seven.json"
_HEADERS = {"Content-Type": "application/json"}
_TIMEOUT_S = 30.0


class ModelUser(FastHttpUser):
    """A user who asks one model the same questions in turn, and knows the right answers."""

    abstract = True
    network_timeout = _TIMEOUT_S
    connection_timeout = _TIMEOUT_S
    model: ClassVar[str]
    make: ClassVar[Callable[[], list[payloads.Payload]]]
    turn: ClassVar[Iterator[tuple[payloads.Payload, Any]]]

    def wait_time(self) -> float:
        """Seconds between an answer and the next request."""
        wait_s: float = self.environment.parsed_options.wait_s
        return wait_s

    @task
    def ask(self) -> None:
        """Send the next payload and compare the answer."""
        payload, expected = next(self.turn)
        with self.client.post(
            payload.path, data=payload.body, headers=_HEADERS, name=self.model, catch_response=True
        ) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
            elif not _is_right(expected, response.content):
                response.failure("not the answer that the request gets alone")


class DigitsUser(ModelUser):
    """Images of digits, in TensorFlow Serving's form."""

    model = "digits"
    make = staticmethod(lambda: payloads.digits(SEVEN))


class SentimentUser(ModelUser):
    """Sentences, in the Open Inference form."""

    model = "sentiment"
    make = staticmethod(payloads.sentiment)


class Word2VecUser(ModelUser):
    """Sums of words, in the Open Inference form."""

    model = "word2vec"
    make = staticmethod(payloads.word2vec)


@events.init_command_line_parser.add_listener
def declare_options(parser: LocustArgumentParser) -> None:
    """Add `--wait-s`."""
    parser.add_argument("--wait-s", type=float, default=0.0, help="Seconds that a user waits between two requests")


@events.init.add_listener
def learn_the_answers(environment: Environment, **_: object) -> None:
    """Ask every payload alone, before there is load. Ends the program where that already fails."""
    if not environment.host:
        sys.exit("load test: give the server with --host")
    for user in environment.user_classes:
        if issubclass(user, ModelUser):
            user.turn = itertools.cycle(
                [(payload, _answer_alone(environment.host, payload)) for payload in user.make()]
            )


@events.quitting.add_listener
def nothing_asked_is_a_failure(environment: Environment, **_: object) -> None:
    """A run without requests has shown nothing."""
    if environment.stats.total.num_requests == 0:
        environment.process_exit_code = 1


def _answer_alone(host: str, payload: payloads.Payload) -> Any:
    try:
        response = requests.post(host.rstrip("/") + payload.path, payload.body, headers=_HEADERS, timeout=_TIMEOUT_S)
        response.raise_for_status()
        answer = response.json()
    except requests.RequestException as error:
        sys.exit(f"load test: no answer even without load: {error}")
    if not payload.is_plausible(answer):
        sys.exit(f"load test: wrong even without load: {payload.path} {payload.body[:120]!r} → {response.text[:200]}")
    return answer


def _is_right(expected: Any, body: bytes | None) -> bool:
    try:
        return payloads.is_same(expected, json.loads(body or b""))
    except ValueError:
        return False
