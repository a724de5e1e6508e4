"""One request at a time into a stack that is broken or full: what its caller sees. For load, see test_chaos.py."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import redis

from tests.chaos.calls import ask as ask_exact
from tests.chaos.stack import QUEUE
from tests.support import exact
from tests.support.gated import GatedModel
from tests.support.running import RedisServer, Stack, freeze, thaw, until

Up = Callable[..., Stack]


@pytest.fixture
def model() -> Iterator[GatedModel]:
    """A model whose runs wait for the test."""
    with GatedModel().serving() as gated:
        yield gated


@pytest.mark.skipif(not exact.IS_KILLABLE, reason="only x86 processors stop the process at that division")
def test_a_request_that_kills_its_model_ends_neither_the_worker_nor_another_model(
    up: Up, make_onnx: Callable[..., Path], tmp_path: Path, own_redis: RedisServer
) -> None:
    exact.make(tmp_path / "models")
    make_onnx(tmp_path / "models")
    stack = up("--models", str(tmp_path / "models"), "--redis-url", own_redis.url, "--log-level", "error")
    (worker,) = stack.programs("worker")
    words = "model 'exact' ended its process on this request (SIGFPE, a wrong calculation)"
    for number in range(5):
        with ThreadPoolExecutor(2) as pool:
            killing = pool.submit(ask_exact, stack.url, exact.KILLS, 30_000)
            while not killing.done():
                other = httpx.post(f"{stack.url}/v1/models/tiny:predict", content=b'{"instances": [[1, 2, 3]]}')
                assert other.json() == {"predictions": [[14.0, 140.0]]}
        assert (killing.result().status_code, killing.result().json()) == (500, {"error": words})
        assert ask_exact(stack.url, number).json() == {"predictions": [[exact.answer(number)]]}
    assert stack.programs("worker") == [worker]


def test_overload_deadlines_and_absence_have_each_their_status(
    up: Up, model: GatedModel, tmp_path: Path, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_SERVING_MAX_QUEUE_ROWS", "6")  # of which one caller may have a half
    model.publish(tmp_path / "models")
    stack = up("--models", str(tmp_path / "models"), "--redis-url", own_redis.url, "--log-level", "error")
    (worker,) = stack.programs("worker")

    def ask(timeout_ms: int) -> httpx.Response:
        return ask_exact(stack.url, 5, timeout_ms)

    assert ask(60_000).status_code == 200
    model.close()
    late = ask(100)
    assert (late.status_code, late.json()) == (504, {"error": "no answer within 100 ms"})
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(ask, 60_000) for _ in range(3)]
        until(lambda: _holds_three(own_redis), what="a caller with its share of the queue")
        full = ask(100)
        assert full.status_code == 429
        assert int(full.headers["retry-after"]) >= 1
        model.open()
        assert {answer.result().status_code for answer in waiting} == {200}
    freeze(worker.pid)
    until(lambda: ask(100).status_code == 503, what="the worker's announcement to expire")
    absent = ask(100)
    assert "no worker is running" in absent.json()["error"]
    assert absent.headers["retry-after"] == "1"
    assert httpx.get(f"{stack.url}/v2/health/ready").status_code == 503
    assert httpx.get(f"{stack.url}/v2/models/exact/ready").status_code == 503
    thaw(worker.pid)
    until(lambda: ask(60_000).status_code == 200, what="service after the worker is back")


def test_the_api_finishes_open_requests_before_it_stops(
    up: Up, model: GatedModel, tmp_path: Path, own_redis: RedisServer
) -> None:
    model.publish(tmp_path / "models")
    stack = up("--models", str(tmp_path / "models"), "--redis-url", own_redis.url, "--log-level", "error")
    model.close()
    with ThreadPoolExecutor(1) as pool:
        open_request = pool.submit(ask_exact, stack.url, 5, 60_000)
        model.until_busy()
        stack.process.send_signal(signal.SIGTERM)
        until(lambda: not _listens(stack), what="the API to take no more requests")
        assert not open_request.done()
        model.open()
        assert open_request.result().json() == {"predictions": [[exact.answer(5)]]}
    assert stack.process.wait(60) == 0


def _holds_three(server: RedisServer) -> bool:
    with redis.Redis.from_url(server.url) as client:
        return int(client.hget(QUEUE.held, "rows") or 0) >= 3  # the late request may hold its row still


def _listens(stack: Stack) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{stack.url}/v2/health/live", timeout=5).is_success
    return False
