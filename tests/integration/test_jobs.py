"""Background jobs end to end: submitted to the store, run by RQ workers as processes, their rows by a real worker."""

import csv
import io
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.jobs import Jobs, csv_of, model_worker
from tests.support.running import RedisServer, until


@pytest.fixture(scope="module")
def queue(
    tmp_path_factory: pytest.TempPathFactory, make_onnx: Callable[..., Path], _session_redis: RedisServer
) -> Iterator[RedisServer]:
    """The models' Redis, with a worker that has the tiny model."""
    folder = tmp_path_factory.mktemp("queue")
    server = RedisServer(folder / "redis.sock")
    server.start()
    make_onnx(folder / "models")
    with model_worker(server, folder / "models"):
        yield server
    server.kill()


@pytest.fixture
def jobs(redis_server: RedisServer, queue: RedisServer, tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(redis_server, queue, tmp_path)
    yield made
    made.stop()


def test_a_scored_file_has_every_row_in_order(jobs: Jobs) -> None:
    jobs.start()
    job = jobs.submit({"kind": "score", "model": "tiny", "column": "x"}, csv_of(1050))
    record = jobs.ended(job.id)
    assert (record.state, record.error) == ("finished", "")
    assert (record.rows, record.rows_done, record.errors) == (1050, 1050, 0)
    rows = list(csv.DictReader(io.StringIO(jobs.result(job.id).decode())))
    assert [row["id"] for row in rows] == [str(n) for n in range(1050)]
    assert rows[9]["scores"] == f"[{9 + 2 * 2 + 3}.0, {10 * (9 + 2 * 2 + 3)}.0]"
    assert {row["error"] for row in rows} == {""}
