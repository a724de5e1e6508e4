"""The requests to the exact model: each has numbers of its own, so that another caller's answer is seen."""

import itertools
import json
from collections.abc import Iterator

import httpx

from tests.support import exact
from tests.support.load import Call

_PREDICT = "/v1/models/exact:predict"


def calls(timeouts_ms: tuple[int, ...] = (10_000,)) -> Iterator[Call]:
    """Requests with numbers that no other request has, most of one row, some of three; the deadlines alternate."""
    for number in itertools.count():
        xs = [10 * number + row for row in range(1 if number % 8 else 3)]
        yield call_of(xs, timeouts_ms[number % len(timeouts_ms)])


def call_of(xs: list[int], timeout_ms: int = 10_000) -> Call:
    """A request for these rows."""
    right = {"predictions": [[exact.answer(x)] for x in xs]}
    body = json.dumps({"instances": [[x] for x in xs]}).encode()
    return Call(path=_PREDICT, body=body, is_right=right.__eq__, timeout_ms=timeout_ms)


def ask(url: str, x: int, timeout_ms: int = 10_000) -> httpx.Response:
    """The answer to one request outside the load."""
    call = call_of([x], timeout_ms)
    headers = {"X-Request-Timeout-Ms": str(timeout_ms)}
    return httpx.post(url + call.path, content=call.body, headers=headers, timeout=timeout_ms / 1000 + 10)
