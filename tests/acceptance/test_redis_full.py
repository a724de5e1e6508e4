"""A Redis at its memory limit: nothing new gets in, what is in is answered, and all is well when there is space."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import redis

from millrace.broker.keys import WORKERS, Queue
from tests.support.running import RedisServer, Stack, freeze, thaw, until

QUEUE = Queue("tiny", 1)


def test_a_full_redis_refuses_what_is_new_and_answers_what_it_has(
    up: Callable[..., Stack], make_onnx: Callable[..., Path], tmp_path: Path, own_redis: RedisServer
) -> None:
    make_onnx(tmp_path / "models")
    stack = up("--models", str(tmp_path / "models"), "--redis-url", own_redis.url, "--log-level", "error")
    (worker,) = stack.programs("worker")

    def ask(number: int) -> httpx.Response:
        body = {"instances": [[number, 0, 0]]}
        return httpx.post(f"{stack.url}/v1/models/tiny:predict", json=body, timeout=30)

    with redis.Redis.from_url(own_redis.url, decode_responses=True) as client, ThreadPoolExecutor(20) as pool:

        def announced_until_ms() -> int:
            (announcement,) = client.hvals(WORKERS)
            return int(json.loads(announcement)["expires_ms"])

        freeze(worker.pid)
        queued = [pool.submit(ask, number) for number in range(20)]
        until(lambda: client.hget(QUEUE.held, "rows") == "20", what="the requests to be on the queue")
        client.config_set("maxmemory", 1)
        thaw(worker.pid)
        assert [answer.result().json() for answer in queued] == [{"predictions": [[n, 10 * n]]} for n in range(20)]
        assert client.hgetall(QUEUE.held) == {"rows": "0", "bytes": "0"}

        announced_ms = announced_until_ms()
        until(lambda: announced_until_ms() > announced_ms + 2500, what="the worker to stay announced")
        refused = ask(1)
        assert refused.status_code == 503
        assert "out of memory" in refused.json()["error"]
        assert "retry-after" in refused.headers
        assert httpx.get(f"{stack.url}/v2/health/ready").status_code == 200

        client.config_set("maxmemory", 0)
        assert ask(7).json() == {"predictions": [[7.0, 70.0]]}
    assert worker.is_running()
