"""The offload processes: what they do, and that no job hurts another."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
import uvloop

from millrace.protocol.errors import DeadlineExceeded, InvalidRequest, MillraceError, PayloadTooLarge
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import Signature, Tensor, TensorSpec
from serving.offload.jobs import Parsed, ParseJob, RenderJob, Written, describe, with_elements
from serving.offload.pool import OffloadPool, Result
from tests.support.offspring import Offspring
from tests.support.running import ROOT

MB = 2**20
MEMORY = 1536 * MB


def spec(name: str, datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape)


MODEL = ModelAnnouncement(
    name="m",
    version=1,
    state="AVAILABLE",
    signatures={
        "serving_default": Signature(inputs=(spec("x", "FP32", -1, -1),), outputs=(spec("y", "FP32", -1, -1),))
    },
    max_batch_size=8,
)
TEXTS = msgspec.structs.replace(
    MODEL, signatures={"serving_default": Signature(inputs=(spec("x", "BYTES", -1, -1),), outputs=())}
)


def parse(body: bytes, verb: str = "tfs/predict", model: ModelAnnouncement = MODEL) -> ParseJob:
    return ParseJob(verb, model, len(body), 4096, None, 0)


class Bench:
    """A pool, jobs that are waited for, and the processes that do them."""

    def __init__(self, pool: OffloadPool, offspring: Offspring) -> None:
        self.pool = pool
        self._offspring = offspring

    @property
    def processes(self) -> list[psutil.Process]:
        return self._offspring.children()

    async def do(self, job: Any, *buffers: Any, timeout_s: float = 60) -> Result | MillraceError:
        future: asyncio.Future[Result | MillraceError] = asyncio.get_running_loop().create_future()
        self.pool.submit(job, buffers, None, future.set_result, timeout_s)
        return await future

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(processes: int = 1, memory_bytes: int = MEMORY) -> AsyncIterator[Bench]:
    pool, offspring = OffloadPool(processes, memory_bytes), Offspring()
    pool.start()
    try:
        yield Bench(pool, offspring)
    finally:
        pool.stop()


def run(test: Callable[[Bench], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def body() -> None:
        async with running(**options) as bench:
            await test(bench)

    uvloop.run(body())


def tensors(result: Result | MillraceError) -> dict[str, Tensor]:
    assert isinstance(result, Result)
    assert isinstance(result.outcome, Parsed)
    return with_elements(result.outcome.tensors, result.buffers([each.size for each in result.outcome.tensors]))


def test_a_body_is_read_and_a_response_written_elsewhere() -> None:
    async def test(bench: Bench) -> None:
        body = json.dumps({"instances": [[1, 2, 3], [4, 5, 6]]}).encode()
        read = await bench.do(parse(body), body)
        assert tensors(read)["x"].to_numpy().tolist() == [[1, 2, 3], [4, 5, 6]]
        assert isinstance(read, Result)
        assert isinstance(read.outcome, Parsed)
        assert (read.outcome.rows, read.outcome.signature) == (2, "serving_default")
        y = Tensor.from_numpy(np.array([[1, np.nan]], np.float32))
        job = RenderJob("tfs/predict", MODEL, msgspec.Raw(msgspec.msgpack.encode("row")), describe({"y": y}), None)
        written = await bench.do(job, y.data)
        assert isinstance(written, Result)
        assert isinstance(written.outcome, Written)
        assert written.take_body().read() == b'{"predictions":[[1.0,NaN]]}'

    run(test)


def test_errors_come_back_in_the_callers_words() -> None:
    async def test(bench: Bench) -> None:
        error = await bench.do(parse(b"{"), b"{")
        assert isinstance(error, InvalidRequest)
        assert "JSON Parse error" in str(error)

    run(test)


def test_what_needs_too_much_memory_is_refused_and_the_process_lives_on() -> None:
    async def test(bench: Bench) -> None:
        body = b'{"instances":[[' + b",".join([b'"abc"'] * 3_900_000) + b"]]}"
        (child,) = bench.processes
        error = await bench.do(parse(body, model=TEXTS), body)
        assert isinstance(error, PayloadTooLarge)
        assert "memory" in str(error)
        assert isinstance(await bench.do(parse(b'{"instances": [[1]]}'), b'{"instances": [[1]]}'), Result)
        assert [each.pid for each in bench.processes] == [child.pid]

    run(test, memory_bytes=128 * MB)


def test_a_process_that_ends_fails_its_own_job_alone() -> None:
    async def test(bench: Bench) -> None:
        body = b'{"instances":[[' + b",".join([b'"a"'] * 3_000_000) + b"]]}"
        slow = asyncio.create_task(bench.do(parse(body, model=TEXTS), body))
        await bench.until(lambda: bench.pool.statistics.running == 1)
        small = b'{"instances": [[1]]}'
        behind = asyncio.create_task(bench.do(parse(small), small))
        await asyncio.sleep(0)
        os.kill(bench.processes[0].pid, signal.SIGSEGV)
        assert isinstance(await slow, MillraceError)
        assert isinstance(await behind, Result)
        assert bench.pool.statistics.ended == 1

    run(test)


def test_a_job_ends_with_its_deadline_and_the_next_one_is_done() -> None:
    async def test(bench: Bench) -> None:
        small = b'{"instances": [[1]]}'
        assert isinstance(await bench.do(parse(small), small), Result)  # it has started
        body = b'{"instances":[[' + b",".join([b'"a"'] * 3_900_000) + b"]]}"
        assert isinstance(await bench.do(parse(body, model=TEXTS), body, timeout_s=0.1), DeadlineExceeded)
        assert isinstance(await bench.do(parse(small), small), Result)

    run(test)


def test_a_job_whose_caller_left_ends_with_its_deadline_too() -> None:
    async def test(bench: Bench) -> None:
        small = b'{"instances": [[1]]}'
        assert isinstance(await bench.do(parse(small), small), Result)  # it has started
        body = b'{"instances":[[' + b",".join([b'"a"'] * 3_900_000) + b"]]}"
        ticket = bench.pool.submit(parse(body, model=TEXTS), [body], None, lambda _: pytest.fail("nobody waits"), 0.1)
        await bench.until(lambda: not ticket.buffers)  # the process has them
        ticket.cancel()
        assert isinstance(await bench.do(parse(small), small), Result)
        assert bench.pool.statistics.ended == 1

    run(test)


def test_short_jobs_are_not_stuck_behind_long_ones() -> None:
    async def test(bench: Bench) -> None:
        body = b'{"instances":[[' + b",".join([b'"a"'] * 500_000) + b"]]}"
        order: list[str] = []

        async def note(name: str, sent: bytes) -> None:
            assert isinstance(await bench.do(parse(sent, model=TEXTS), sent), Result)
            order.append(name)

        long = [asyncio.create_task(note("long", body)) for _ in range(8)]
        await asyncio.sleep(0)
        await note("short", b'{"instances": [["a"]]}')
        assert order.count("long") <= 2
        await asyncio.gather(*long)

    run(test, processes=2)


@pytest.mark.parametrize("processes", [1, 2])
def test_no_process_is_left_behind(processes: int) -> None:
    offspring = Offspring()

    async def test(bench: Bench) -> None:
        await bench.until(lambda: len(bench.processes) == processes)

    run(test, processes=processes)
    assert offspring.children() == []


_UNDER_A_LIMIT = """
import resource
from tests.integration.test_offload import Result, parse, running
import asyncio
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
async def main():
    async with running(memory_bytes=64 << 30) as bench:
        body = b'{"instances": [[1]]}'
        assert isinstance(await bench.do(parse(body), body), Result)
asyncio.run(main())
"""


def test_a_limit_that_the_api_was_started_with_holds_for_its_processes() -> None:
    subprocess.run([sys.executable, "-c", _UNDER_A_LIMIT], check=True, cwd=ROOT, timeout=60)
