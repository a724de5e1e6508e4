"""One call from its body to its response: here and elsewhere the same, and everything is given back in the end.

A queue in memory stands behind it, whose worker answers only when the test says so: `y` is twice `x`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import uvloop

from millrace.broker.base import Reply
from millrace.broker.keys import Queue
from millrace.broker.memory import MemoryBroker
from millrace.protocol import codec
from millrace.protocol.messages import ModelAnnouncement, ReplyBlock, ReplyItem, WorkerAnnouncement
from millrace.protocol.tensors import Signature, Tensor, TensorSpec
from serving.execution import Execution
from serving.routing import target
from serving.service import Service
from serving.settings import ServingSettings
from serving.transport.responses import HttpResponse
from serving.transport.spooled_body import SpooledBody

PREDICT, INFER = "/v1/models/m:predict", "/v2/models/m/infer"
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, -1)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, -1)),),
)
LARGE = json.dumps({"instances": [[0.5] * 100_000]}).encode()


class Asked:
    """A request on its way."""

    def __init__(self) -> None:
        self.execution: Execution | None = None
        self.answers: list[HttpResponse] = []

    @property
    def body(self) -> bytes:
        (answer,) = self.answers
        return answer.spooled.read() if answer.spooled else answer.body


class Bench:
    """A service, and a worker that answers when it is told to."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.broker = MemoryBroker()
        self.consumer = self.broker.consumer(Queue("m", 1), "c")
        self.service = Service(ServingSettings(**settings), self.broker)
        model = ModelAnnouncement(
            name="m", version=1, state="AVAILABLE", signatures={"serving_default": SIGNATURE}, max_batch_size=8
        )
        self.broker.worker().announce(WorkerAnnouncement(worker="w", expires_ms=2**60, models=(model,)))

    def ask(self, body: bytes, path: str = PREDICT, **headers: str) -> Asked:
        """Send a request as the HTTP server would."""
        asked, found = Asked(), target(path)
        assert found
        reservation = self.service.budget.reserve(len(body))
        assert reservation
        data: bytes | SpooledBody = body
        if len(body) > 256 * 1024:
            data = SpooledBody()
            data.write(body)
        given = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        asked.execution = self.service.rest.begin(found, given, data, "", reservation, asked.answers.append)
        return asked

    async def answered(self, body: bytes, path: str = PREDICT, **headers: str) -> Asked:
        asked = self.ask(body, path, **headers)
        await self.until(lambda: self.work() or asked.answers)
        await self.until(lambda: asked.answers)
        return asked

    def work(self) -> int:
        """Answer what is queued; how many blocks that was."""
        deliveries = self.consumer.exchange([], [], count=100, block_ms=0)
        for delivery in deliveries:
            block = codec.decode_request(delivery.block)
            values = block.tensors["x"].to_numpy()
            reply = ReplyBlock(
                worker="w",
                compute_ms=1.0,
                batch_rows=len(values),
                items=tuple(ReplyItem(item.id, item.rows, 0.0, 0.0) for item in block.items),
                tensors={"y": Tensor.from_numpy(values * 2)},
            )
            self.consumer.exchange([Reply(block.reply_to, codec.encode_reply(reply))], [delivery], count=0, block_ms=0)
        return len(deliveries)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.002)


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Bench]:
    bench = Bench({"drain_timeout_s": 5.0, **settings})
    await bench.service.start()
    try:
        await bench.until(lambda: bench.service.is_ready)
        yield bench
    finally:
        await bench.service.stop()


def run(test: Callable[[Bench], Coroutine[Any, Any, None]], **settings: Any) -> None:
    async def body() -> None:
        async with running(**settings) as bench:
            await test(bench)

    uvloop.run(body())


def test_a_large_body_is_answered_as_a_small_one_is() -> None:
    async def test(bench: Bench) -> None:
        small = await bench.answered(b'{"instances": [[1, 2]]}')
        assert json.loads(small.body) == {"predictions": [[2.0, 4.0]]}
        large = await bench.answered(LARGE)
        assert json.loads(large.body) == {"predictions": [[1.0] * 100_000]}
        for answer in (*small.answers, *large.answers):
            assert answer.status == 200
            assert {"x-request-id", "server-timing", "content-type"} <= dict(answer.headers).keys()

    run(test)


@pytest.mark.parametrize("offload_processes", [0, 1])
def test_where_it_is_read_makes_no_difference(offload_processes: int) -> None:
    async def test(bench: Bench) -> None:
        array = np.linspace(-1, 1, 50_000, dtype=np.float32)
        array[::100], array[1::100] = np.nan, np.inf
        body = b'{"instances":[[' + b",".join(repr(float(x)).encode() for x in array) + b"]]}"
        body = body.replace(b"nan", b"NaN").replace(b"inf", b"Infinity")
        answer = await bench.answered(body)
        np.testing.assert_array_equal(np.array(json.loads(answer.body)["predictions"][0], np.float32), array * 2)
        many_rows = b'{"instances":[' + b"[]," * 100_000 + b"[]]}"
        for wrong, status in ((body[:-1], 400), (body.replace(b"NaN", b'"a"'), 400), (many_rows, 413)):
            refused = await bench.answered(wrong)
            assert refused.answers[0].status == status

    run(test, offload_processes=offload_processes)


def test_raw_tensors_are_views_of_the_body_and_need_no_process() -> None:
    async def test(bench: Bench) -> None:
        data = np.arange(200_000, dtype=np.float32).tobytes()
        described = {"name": "x", "datatype": "FP32", "shape": [1, 200_000], "parameters": {}}
        described["parameters"] = {"binary_data_size": len(data)}
        head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
        asked = bench.ask(head + data, INFER, inference_header_content_length=str(len(head)))
        assert bench.service.pool.statistics.running == 0
        await bench.until(bench.work)
        await bench.until(lambda: asked.answers)
        length = int(dict(asked.answers[0].headers)["inference-header-content-length"])
        np.testing.assert_array_equal(
            np.frombuffer(asked.body[length:], np.float32), np.arange(200_000, dtype=np.float32) * 2
        )

    run(test)


def test_all_that_was_reserved_is_given_back() -> None:
    async def test(bench: Bench) -> None:
        budget = bench.service.budget
        for body, status in ((LARGE, 200), (LARGE[:-1], 400), (b"{", 400), (b'{"instances": [[1]]}', 200)):
            (answer,) = (await bench.answered(body)).answers
            assert answer.status == status
            if answer.reservation:
                answer.reservation.release()  # as the server does when the caller has read it
            assert budget.used == 0

    run(test)


def test_a_caller_that_leaves_while_its_body_is_read_has_nothing_queued() -> None:
    async def test(bench: Bench) -> None:
        asked = bench.ask(LARGE)
        assert bench.service.pool.statistics.running == 1
        assert asked.execution
        asked.execution.withdraw()
        assert bench.service.budget.used == 0
        await bench.until(lambda: not bench.service.pool.statistics.running)
        assert (bench.work(), asked.answers) == (0, [])

    run(test)


def test_a_body_that_is_not_read_in_time_gets_504() -> None:
    async def test(bench: Bench) -> None:
        strings = b'{"instances":[[' + b'"a",' * 2_000_000 + b'"a"]]}'
        (answer,) = (await bench.answered(strings, x_request_timeout_ms="30")).answers
        assert answer.status == 504
        assert "no answer within 30 ms" in answer.body.decode()
        assert bench.service.budget.used == 0

    run(test)


def test_there_is_no_room_for_a_response_that_the_budget_does_not_hold() -> None:
    async def test(bench: Bench) -> None:
        asked = bench.ask(LARGE)
        await bench.until(bench.work)
        rest = bench.service.budget.limit - bench.service.budget.used
        taken = [each for _ in range(rest // 65_536) if (each := bench.service.budget.reserve(65_536))]
        await bench.until(lambda: asked.answers)
        assert asked.answers[0].status == 503
        for each in taken:
            each.release()
        assert bench.service.budget.used == 0

    run(test, max_buffered_bytes=4 * 2**20)


def test_a_response_that_cannot_be_taken_ends_the_wait_with_an_error() -> None:
    async def test(bench: Bench) -> None:
        answers: list[HttpResponse] = []

        def take(response: HttpResponse) -> None:
            if response.status == 200:
                raise RuntimeError("a fault of ours")
            answers.append(response)

        reservation = bench.service.budget.reserve(24)
        found = target(PREDICT)
        assert found
        bench.service.rest.begin(found, {}, b'{"instances": [[1.0, 2]]}', "", reservation, take)
        await bench.until(lambda: bench.work() or answers)
        await bench.until(lambda: answers)
        assert [answer.status for answer in answers] == [500]
        assert bench.service.metrics.counts.version("m", 1).ended == {("tfs", 500): 1}
        assert bench.service.budget.used == 0

    run(test)
