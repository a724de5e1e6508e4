"""Bulk in a process of its own beside the one that answers callers: real processes, a real Redis."""

import asyncio
import os
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from millrace.broker.keys import Queue
from millrace.broker.redis import RedisBroker
from millrace.calling.call import Call
from millrace.calling.caller import QueueCaller
from millrace.protocol.tensors import Tensor
from tests.support import breaking
from tests.support.codemodels import write
from tests.support.processes import Api, Running, asking, ready, running
from tests.support.running import RedisServer, until

needs_sched_idle = pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="the system has no SCHED_IDLE")
_FAILS_TWICE = """
import pathlib

class Model:
    def __init__(self):
        loaded = pathlib.Path({folder!r}, "loaded")
        if loaded.exists():
            raise MemoryError("no room for a second one")
        loaded.touch()

    def predict(self, x: float) -> float:
        return 2 * x
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    breaking.make(tmp_path / "models", "m")
    return tmp_path / "models"


def bulk(url: str, *values: float, width: int | None = 1) -> list[float]:
    """The answers to a row of bulk for each value, in blocks of up to 8."""
    rows = np.array(values, np.float32)
    rows = rows if width is None else rows.reshape(-1, width)

    async def run() -> list[Any]:
        caller = QueueCaller(RedisBroker(url).producer("job"))
        await caller.refresh()
        call = Call(
            queue=Queue("m", 1),
            signature="serving_default",
            tensors={"x": Tensor.from_numpy(rows)},
            rows=len(values),
            max_batch_size=8,
            deadline_ms=int(caller.now_ms() + 20_000),
            priority="bulk",
        )
        parts = await caller.answers(call)
        await caller.close()
        return parts

    return [value for part in asyncio.run(run()) for (found,) in [part.values()] for value in found.to_numpy().ravel()]


def idle(worker: Running) -> list[psutil.Process]:
    """The model processes that give way to everybody."""
    return [process for process in worker.processes if os.sched_getscheduler(process.pid) == os.SCHED_IDLE]


@needs_sched_idle
def test_bulk_is_answered_by_a_process_that_gives_way_which_ends_when_none_comes(
    redis_server: RedisServer, api: Api, repository: Path
) -> None:
    with running(redis_server.url, repository, bulk_idle_s=0.2) as worker:
        ready(api, "m")
        (callers,) = worker.processes
        for _ in range(2):
            assert bulk(redis_server.url, *range(20)) == [2.0 * value for value in range(20)]
            (process,) = idle(worker)
            assert all(os.sched_getscheduler(thread.id) == os.SCHED_IDLE for thread in process.threads())
            assert os.getsid(process.pid) == process.pid
            until(lambda: worker.processes == [callers], what="the end of the process")
        assert os.sched_getscheduler(callers.pid) == os.SCHED_OTHER
        assert worker.host.usage().ends == 0


@needs_sched_idle
def test_the_end_of_the_process_for_bulk_is_noticed_by_bulk_alone(
    redis_server: RedisServer, api: Api, repository: Path
) -> None:
    with running(redis_server.url, repository) as worker:
        ready(api, "m")
        assert bulk(redis_server.url, 1.0) == [2.0]
        with asking(api, "m") as took:
            (process,) = idle(worker)
            process.kill()
            assert bulk(redis_server.url, *range(100)) == [2.0 * value for value in range(100)]
            until(lambda: len(took) > 20)
        assert len(idle(worker)) == 1
        assert worker.host.usage().ends == 1
        assert api.announced()["m"].state == "AVAILABLE"


@needs_sched_idle
def test_a_version_takes_the_process_for_its_bulk_along(redis_server: RedisServer, api: Api, repository: Path) -> None:
    breaking.make(repository, "other")
    with running(redis_server.url, repository) as worker:
        ready(api, "m", "other")
        assert bulk(redis_server.url, 1.0) == [2.0]
        (repository / "m" / "1" / breaking.FILE).unlink()
        (repository / "m" / "1").rmdir()
        (repository / "m").rmdir()
        until(lambda: len(worker.processes) == 1)
        assert worker.host.usage().ends == 0


@pytest.mark.parametrize("is_wanted", [False, None])
def test_where_there_is_no_second_process_callers_process_takes_bulk(
    redis_server: RedisServer, api: Api, tmp_path: Path, is_wanted: bool | None
) -> None:
    """It is not wanted, or the model cannot be loaded a second time."""
    write(tmp_path / "models", "m", _FAILS_TWICE.format(folder=str(tmp_path)))
    with running(redis_server.url, tmp_path / "models", allow_code=True, bulk_process=is_wanted) as worker:
        ready(api, "m")
        assert bulk(redis_server.url, 1.0, 2.0, width=None) == [2.0, 4.0]
        until(lambda: len(worker.processes) == 1, what="the end of the process that could not load it")
        assert api.announced()["m"].state == "AVAILABLE"
