"""Breaking the running stack: every request is answered right or refused with a stated error, and none hangs."""

import json
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from running import RedisServer, Stack, is_alive, until

Up = Callable[..., Stack]


@pytest.fixture
def tiny(make_onnx: Callable[..., Path], tmp_path: Path) -> str:
    """A repository with one tiny model."""
    make_onnx(tmp_path / "models")
    return str(tmp_path / "models")


class Load:
    """Clients in threads, each asking with numbers of its own and checking its answers; `tally` counts the outcomes."""

    def __init__(self, stack: Stack, clients: int = 12) -> None:
        self._url = f"{stack.url}/v1/models/tiny:predict"
        self._clients = clients
        self._stopping = threading.Event()
        self.tally: Counter[object] = Counter()

    def __enter__(self) -> "Load":
        self._pool = ThreadPoolExecutor(self._clients)
        self._futures = [self._pool.submit(self._ask, number) for number in range(self._clients)]
        self.answered(50)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._pool.shutdown()
        for future in self._futures:
            future.result()

    def answered(self, more: int) -> None:
        """Wait until that many more requests have their right answer."""
        before = self.tally[200]
        until(lambda: self.tally[200] >= before + more, 60, f"{more} more answers: {self.tally}")

    def _ask(self, client: int) -> None:
        with httpx.Client(timeout=40) as http:
            for turn in range(20_000):
                if self._stopping.is_set():
                    return
                row = [client, turn, 1]
                answer = http.post(
                    self._url, content=json.dumps({"instances": [row]}), headers={"X-Request-Timeout-Ms": "10000"}
                )
                if answer.status_code == 200:
                    total = float(client + 2 * turn + 3)
                    right = answer.json() == {"predictions": [[total, 10 * total]]}
                    self.tally[200 if right else "wrong"] += 1
                else:
                    self.tally[answer.status_code] += 1


@pytest.fixture
def two_workers(up: Up, tiny: str, own_redis: RedisServer) -> Iterator[Stack]:
    stack = up("--models", tiny, "--workers", "2", "--redis-url", own_redis.url, "--log-level", "error")
    until(lambda: 'millrace_workers{model="tiny"} 2.0' in httpx.get(f"{stack.url}/metrics").text)
    yield stack
    for process in stack.children("-m worker"):
        process.resume()


def test_a_worker_that_is_killed_costs_no_request(two_workers: Stack) -> None:
    with Load(two_workers) as load:
        for _ in range(2):
            two_workers.children("-m worker")[0].kill()
            load.answered(200)
    assert load.tally.keys() == {200}, load.tally


def test_a_worker_that_is_frozen_in_its_work_costs_no_request(two_workers: Stack) -> None:
    with Load(two_workers) as load:
        two_workers.children("-m worker")[0].suspend()
        load.answered(500)
    assert load.tally.keys() == {200}, load.tally


def test_a_worker_that_is_told_to_stop_costs_no_request(two_workers: Stack) -> None:
    with Load(two_workers) as load:
        leaving = two_workers.children("-m worker")[0]
        leaving.terminate()
        until(lambda: not is_alive(leaving), what="the worker to leave")
        load.answered(200)
    assert load.tally.keys() == {200}, load.tally


def test_a_redis_that_comes_back_empty_is_found_again_by_both_sides(two_workers: Stack, own_redis: RedisServer) -> None:
    with Load(two_workers) as load:
        own_redis.kill()
        until(lambda: load.tally[503] > 20, what="requests refused while Redis is away")
        own_redis.start()
        load.answered(200)
    assert load.tally.keys() <= {200, 503, 504}, load.tally


def test_a_frozen_redis_delays_or_refuses_but_never_hangs(two_workers: Stack, own_redis: RedisServer) -> None:
    assert own_redis.process
    redis = psutil.Process(own_redis.process.pid)
    with Load(two_workers, clients=4) as load:
        redis.suspend()
        frozen = httpx.post(
            f"{two_workers.url}/v1/models/tiny:predict",
            content=b'{"instances": [[1, 2, 3]]}',
            headers={"X-Request-Timeout-Ms": "300"},
            timeout=20,
        )
        redis.resume()
        load.answered(100)
    assert frozen.status_code in (503, 504)
    assert load.tally.keys() <= {200, 503, 504}, load.tally


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
