"""A caller who leaves while its large body is read: nothing of it comes to the queue, and its memory comes back."""

import asyncio
from collections.abc import Callable

import uvloop

from millrace.broker.keys import Queue
from millrace.broker.memory import MemoryBroker
from millrace.protocol import codec
from millrace.protocol.messages import ModelAnnouncement, WorkerAnnouncement
from millrace.protocol.tensors import Signature, TensorSpec
from serving.execution import Execution
from serving.routing import target
from serving.service import Service
from serving.settings import ServingSettings
from serving.transport.responses import HttpResponse
from serving.transport.spooled_body import SpooledBody

MODEL = ModelAnnouncement(
    name="m",
    version=1,
    state="AVAILABLE",
    signatures={
        "serving_default": Signature(
            inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1,)),),
            outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1,)),),
        )
    },
    max_batch_size=8,
)


def begin(service: Service, rows: int, answered: list[HttpResponse]) -> Execution:
    """A request of a megabyte, which an offload process reads."""
    found, body = target("/v1/models/m:predict"), SpooledBody()
    assert found
    body.write(b'{"instances": [%b]%b}' % (b",".join([b"1.5"] * rows), b" " * 2**20))
    reservation = service.budget.reserve(body.size)
    execution = service.rest.begin(found, {}, body, "127.0.0.1", reservation, answered.append)
    assert execution
    return execution


def test_a_large_body_whose_caller_has_left_is_not_queued() -> None:
    async def test() -> None:
        broker = MemoryBroker()
        broker.worker().announce(WorkerAnnouncement(worker="w", expires_ms=2**60, models=(MODEL,)))
        service = Service(ServingSettings(offload_processes=1, drain_timeout_s=0), broker)
        await service.start()
        try:
            await until(lambda: service.is_ready)
            answered: list[HttpResponse] = []
            begin(service, 2, answered).withdraw()
            begin(service, 3, answered)  # which the one process reads after the other
            await until(lambda: broker.worker().block_count(Queue("m", 1)))
            deliveries = broker.consumer(Queue("m", 1), "c").exchange([], [], count=100, block_ms=0)
            blocks = [codec.decode_request(delivery.block) for delivery in deliveries]
            assert [item.rows for block in blocks for item in block.items] == [3]
            await until(lambda: service.budget.used == 0)
            assert not answered
        finally:
            await service.stop()

    uvloop.run(test())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)
