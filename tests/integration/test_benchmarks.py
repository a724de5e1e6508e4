"""The load of the benchmarks counts wrong and failed answers, and the micro benchmarks run."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from benchmarks import load, report
from benchmarks.forms import FORMS, Form, Refused, ask
from benchmarks.load import Target
from tests.support.running import ROOT

pytestmark = pytest.mark.slow

ITEMS = 8
SCORES = np.arange(ITEMS * 10, dtype=np.float32).reshape(ITEMS, 10) / np.float32(100)
IMAGES = [np.full((1, 28, 28, 1), number, np.float32) for number in range(ITEMS)]

with_or_without_wrk = pytest.mark.parametrize(
    "with_wrk", [pytest.param(True, marks=pytest.mark.skipif(not load.has_wrk(), reason="wrk is not installed")), False]
)


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: wrk cuts its connections when its time is over."""


@pytest.fixture
def serve() -> Iterator[Callable[..., Target]]:
    """Starts a server whose answer to item i is made by a function of i, and returns the load on it."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Callable[[int], tuple[int, bytes]], form: Form = FORMS["instances"]) -> Target:
        item_of = {form.encode(image)[1]: number for number, image in enumerate(IMAGES)}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, content = answer(item_of[body])
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                pass

        servers.append(Server(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{servers[-1].server_port}/predict"
        return Target(url=url, form=form, items=IMAGES, expected=SCORES)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def predictions(number: int) -> bytes:
    return b'{"predictions": [%s]}' % str(SCORES[number].tolist()).encode()


@with_or_without_wrk
@pytest.mark.parametrize("connections", [1, 4])
def test_right_answers_are_all_checked_and_none_is_wrong(
    serve: Callable[..., Target], connections: int, with_wrk: bool
) -> None:
    outcome = load.run(serve(lambda i: (200, predictions(i))), connections=connections, seconds=1, with_wrk=with_wrk)
    assert outcome.errors == outcome.wrong == 0
    assert outcome.checked >= outcome.requests - connections > 0
    assert outcome.paired > 0


@with_or_without_wrk
@pytest.mark.parametrize("connections", [1, 4])
def test_an_answer_that_belongs_to_another_request_is_counted(
    serve: Callable[..., Target], connections: int, with_wrk: bool
) -> None:
    swapping = serve(lambda i: (200, predictions((i + 1) % ITEMS)))
    assert load.run(swapping, connections=connections, seconds=1, with_wrk=with_wrk).wrong > 0


@with_or_without_wrk
def test_an_answer_that_belongs_to_no_request_is_counted(serve: Callable[..., Target], with_wrk: bool) -> None:
    outcome = load.run(serve(lambda i: (200, b'{"predictions": []}')), connections=4, seconds=1, with_wrk=with_wrk)
    assert outcome.wrong == outcome.checked > 0


@with_or_without_wrk
def test_a_refusal_is_an_error_and_no_wrong_answer(serve: Callable[..., Target], with_wrk: bool) -> None:
    outcome = load.run(serve(lambda i: (429, b"{}")), connections=4, seconds=1, with_wrk=with_wrk)
    assert outcome.errors > 0
    assert outcome.wrong == outcome.checked == 0


@with_or_without_wrk
def test_binary_scores_are_compared_one_by_one(serve: Callable[..., Target], with_wrk: bool) -> None:
    one_is_off = serve(lambda i: (200, (SCORES[i] + (i == 3)).tobytes()), form=FORMS["raw f4"])
    outcome = load.run(one_is_off, connections=1, seconds=1, with_wrk=with_wrk)
    assert 0 < outcome.wrong < outcome.checked


def test_a_connection_raises_what_the_server_says_when_it_refuses(serve: Callable[..., Target]) -> None:
    target = serve(lambda i: (501, b'{"error": "not there"}'))
    with pytest.raises(Refused, match=r"HTTP 501.*not there"):
        ask(target.url, target.form, IMAGES[0])


def test_targets_say_what_was_met_missed_and_not_measured() -> None:
    def run(server: str, per_s: float) -> dict[str, object]:
        figures = dict.fromkeys(("p50_ms", "p99_ms", "cpu_ms", "pss_mb", "rss_mb", "cold_s"), 1.0)
        counts = dict.fromkeys(("errors", "wrong", "checked", "paired"), 0)
        about = {"server": server, "request": "instances", "connections": 32, "requests_per_s": per_s}
        return about | {"cpu_ms_by_role": {}} | figures | counts

    rows = report.summary([run("millrace", 900), run("millrace", 1000), run("millrace", 2000), run("flask", 250)])
    met = {target["name"]: target["met"] for target in report.targets(rows, {})}

    assert met["JSON beside Flask + gunicorn, 32 connections"] is True
    assert met["JSON beside Mosec's, 32 connections"] is None
    assert met["wrong or failed answers of ours"] is True
    assert [row["ratio_to_flask"] for row in rows] == [4.0, 1.0]


def test_the_micro_benchmarks_print_a_table_each() -> None:
    names = ["codec", "group_commit", "parse", "resp"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.micro", *names], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("1.00 x") >= len(names)
