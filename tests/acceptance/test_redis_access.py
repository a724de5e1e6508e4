"""The API and a worker as ACL users who may do no more than their roles need, on a Redis behind TLS."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import redis

from millrace.broker import acl
from millrace.broker.keys import Queue
from tests.support.running import ROOT, RedisServer, free_port, freeze, thaw, until
from tests.support.tls import Certificates, tls_in_front_of


@contextlib.contextmanager
def running(program: str, **settings: object) -> Iterator["subprocess.Popen[bytes]"]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    environment |= {f"MILLRACE_{name}": str(value) for name, value in settings.items()}
    process = subprocess.Popen([sys.executable, "-m", program], cwd=ROOT, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_they_serve_and_drain_with_exactly_their_acls_through_tls(
    make_onnx: Callable[..., Path], tmp_path: Path, own_redis: RedisServer, certificates: Certificates
) -> None:
    make_onnx(tmp_path / "models")
    port = free_port()
    with (
        redis.Redis.from_url(own_redis.url) as client,
        tls_in_front_of(own_redis, certificates, "server", asks=True) as tls_port,
    ):
        for role in ("api", "worker"):
            client.execute_command("ACL", "SETUSER", role, ">secret", *acl.rules(role).split())
        names = {"ssl_ca_certs": "ca.crt", "ssl_certfile": "client.crt", "ssl_keyfile": "client.key"}
        query = "&".join(f"{name}={certificates.file(file)}" for name, file in names.items())

        def url(role: str) -> str:
            return f"rediss://{role}:secret@127.0.0.1:{tls_port}/0?{query}"

        def ask() -> httpx.Response:
            return httpx.post(f"http://127.0.0.1:{port}/v1/models/tiny:predict", content=b'{"instances": [[1, 2, 3]]}')

        def is_ready() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/v2/health/ready").status_code == 200
            except httpx.TransportError:
                return False

        with (
            running("serving", REDIS_URL=url("api"), SERVING_PORT=port, SERVING_GRPC_PORT=0) as serving,
            running("worker", REDIS_URL=url("worker"), WORKER_MODELS=tmp_path / "models") as worker,
            ThreadPoolExecutor(1) as pool,
        ):
            until(is_ready, 60, "the API to be ready")
            assert ask().json() == {"predictions": [[14.0, 140.0]]}
            freeze(worker.pid)
            waiting = pool.submit(ask)
            until(lambda: client.hget(Queue("tiny", 1).held, "rows") == b"1", what="the request to be on the queue")
            serving.send_signal(signal.SIGTERM)
            thaw(worker.pid)
            assert waiting.result().json() == {"predictions": [[14.0, 140.0]]}
            assert serving.wait(60) == 0
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0
        denied = [entry for entry in client.acl_log() if entry["username"] in ("api", "worker")]
        assert denied == [], json.dumps(denied, default=str)
