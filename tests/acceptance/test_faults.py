"""One request at a time into a stack that is broken or full: what its caller sees. For load, see test_chaos.py."""

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.chaos.calls import ask as ask_exact
from tests.support import exact
from tests.support.running import RedisServer, Stack, until

Up = Callable[..., Stack]


@pytest.fixture
def tiny(make_onnx: Callable[..., Path], tmp_path: Path) -> str:
    """A repository with one tiny model."""
    make_onnx(tmp_path / "models")
    return str(tmp_path / "models")


@pytest.mark.skipif(not exact.IS_KILLABLE, reason="only x86 processors stop the process at that division")
def test_a_request_that_kills_its_worker_does_not_end_the_stack(up: Up, tmp_path: Path, own_redis: RedisServer) -> None:
    exact.make(tmp_path / "models")
    stack = up("--models", str(tmp_path / "models"), "--redis-url", own_redis.url, "--log-level", "error")
    given_up = ask_exact(stack.url, exact.KILLS, 30_000)
    assert (given_up.status_code, given_up.json()) == (
        500,
        {"error": "model 'exact': the request was given up after 3 workers failed on it"},
    )
    assert ask_exact(stack.url, 5).json() == {"predictions": [[exact.answer(5)]]}


def test_overload_deadlines_and_absence_have_each_their_status(
    up: Up, tiny: str, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_SERVING_MAX_QUEUE_ROWS", "3")
    stack = up("--models", tiny, "--redis-url", own_redis.url, "--log-level", "error")
    (worker,) = stack.children("-m worker")

    def ask(timeout_ms: int) -> httpx.Response:
        headers = {"X-Request-Timeout-Ms": str(timeout_ms)}
        body = b'{"instances": [[1, 2, 3]]}'
        return httpx.post(f"{stack.url}/v1/models/tiny:predict", content=body, headers=headers, timeout=20)

    assert ask(5000).status_code == 200
    worker.suspend()
    late = ask(100)
    assert (late.status_code, late.json()) == (504, {"error": "no answer within 100 ms"})
    until(lambda: ask(100).status_code == 429, what="a full queue")
    full = ask(100)
    assert full.status_code in (429, 503)
    assert int(full.headers["retry-after"]) >= 1
    until(lambda: ask(100).status_code == 503, what="the worker's announcement to expire")
    absent = ask(100)
    assert "no worker is running" in absent.json()["error"]
    assert absent.headers["retry-after"] == "1"
    assert httpx.get(f"{stack.url}/v2/health/ready").status_code == 503
    assert httpx.get(f"{stack.url}/v2/models/tiny/ready").status_code == 503
    worker.resume()
    until(lambda: ask(5000).status_code == 200, what="service after the worker is back")


def test_the_api_finishes_open_requests_before_it_stops(up: Up, tiny: str, own_redis: RedisServer) -> None:
    stack = up("--models", tiny, "--redis-url", own_redis.url, "--log-level", "error")
    (worker,) = stack.children("-m worker")
    worker.suspend()
    with ThreadPoolExecutor(1) as pool:
        open_request = pool.submit(
            httpx.post, f"{stack.url}/v1/models/tiny:predict", content=b'{"instances": [[1, 2, 3]]}', timeout=30
        )
        import redis

        with redis.Redis.from_url(own_redis.url) as client:
            until(lambda: client.hget("millrace:{tiny/1}:held", "rows") == b"1", what="the request to be on the queue")
        stack.process.send_signal(signal.SIGTERM)
        worker.resume()
        assert open_request.result().json() == {"predictions": [[14.0, 140.0]]}
    assert stack.process.wait(60) == 0
