"""The API's servers of gRPC on real ports, before a queue in memory whose worker answers only when the test says so.

The model `m` makes `y` = 2 `x`, value by value; `wide` does the same with rows of any width.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import numpy as np
import uvloop

from millrace import rpc
from millrace.broker.base import Reply
from millrace.broker.keys import Queue
from millrace.broker.memory import MemoryBroker
from millrace.protocol import codec
from millrace.protocol.messages import ModelAnnouncement, ReplyBlock, ReplyItem, RequestBlock, WorkerAnnouncement
from millrace.protocol.tensors import Signature, Tensor, TensorSpec
from serving.api import Api, servers_of
from serving.monitoring.metrics import render
from serving.service import Service
from serving.settings import ServingSettings
from serving.transport.certificates import certificates
from tests.support.running import free_port

INFER = "/inference.GRPCInferenceService/ModelInfer"


def _signature(*shape: int) -> Signature:
    return Signature(
        inputs=(TensorSpec(name="x", datatype="FP32", shape=shape),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=shape),),
    )


SIGNATURES = {"m": _signature(-1), "wide": _signature(-1, -1)}


class Bench:
    """A server, a client, and a worker that answers when it is told to."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.broker = MemoryBroker()
        self.consumers = [self.broker.consumer(Queue(name, 1), "c") for name in SIGNATURES]
        self.settings = ServingSettings(port=free_port(), grpc_port=free_port(), **settings)
        self.service = Service(self.settings, self.broker)
        self.stopping = asyncio.Event()
        self.servers = servers_of(self.service, Api(self.service), self.stopping, shown=certificates(self.settings))
        self.server: Any = self.servers[-1]
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.settings.grpc_port}", options=unlimited)

    async def stop(self) -> None:
        """Stop the servers; what came is answered."""
        self.stopping.set()
        await asyncio.gather(*(server.stop(self.settings.drain_timeout_s) for server in self.servers))

    def announce(self) -> None:
        self.broker.worker().announce(self.announcement({}))

    def announcement(self, generations: dict[str, int]) -> WorkerAnnouncement:
        """What the worker says, which has done what it was asked for up to these generations."""
        models = [
            ModelAnnouncement(
                name=name, version=1, state="AVAILABLE", signatures={"serving_default": signature}, max_batch_size=8
            )
            for name, signature in SIGNATURES.items()
        ]
        return WorkerAnnouncement(worker="w", expires_ms=2**60, models=tuple(models), generations=generations)

    def call(self, path: str, message: Any, **options: Any) -> Any:
        """A call on its way; awaited, the bytes of its answer."""
        return self.channel.unary_unary(path)(message.SerializeToString(), **options)

    def infer(self, *values: float, **options: Any) -> Any:
        return self.call(INFER, infer_request(*values), **options)

    async def taken(self, count: int = 1) -> list[RequestBlock]:
        """The blocks that came to the queue, once they hold so many requests, each answered."""
        blocks: list[RequestBlock] = []
        async with asyncio.timeout(10):
            while sum(len(block.items) for block in blocks) < count:
                blocks += self.work()
                await asyncio.sleep(0.001)
        return blocks

    async def answered(self, call: Any) -> bytes:
        """The call's answer, with the worker at work."""
        asking = asyncio.ensure_future(call)
        async with asyncio.timeout(20):
            while not asking.done():
                self.work()
                await asyncio.sleep(0.001)
        answer: bytes = await asking
        return answer

    def work(self) -> list[RequestBlock]:
        return [block for consumer in self.consumers for block in self._work(consumer)]

    def _work(self, consumer: Any) -> list[RequestBlock]:
        blocks = []
        for delivery in consumer.exchange([], [], count=100, block_ms=0):
            block = codec.decode_request(delivery.block)
            blocks.append(block)
            values = block.tensors["x"].to_numpy()
            reply = ReplyBlock(
                worker="w",
                compute_ms=1.0,
                batch_rows=len(values),
                items=tuple(ReplyItem(item.id, item.rows, 0.0, 0.0) for item in block.items),
                tensors={"y": Tensor.from_numpy(values * 2)},
            )
            consumer.exchange([Reply(block.reply_to, codec.encode_reply(reply))], [delivery], count=0, block_ms=0)
        return blocks

    def queued(self, model: str = "m") -> int:
        """How many blocks are on the model's queue."""
        return self.broker.worker().block_count(Queue(model, 1))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    def counted(self, status: int) -> bool:
        """Whether a request with that outcome was counted."""
        lines = render(self.service.metrics.counts, {}).decode().splitlines()
        mine = [line for line in lines if 'protocol="oip-grpc"' in line and f'status="{status}"' in line]
        return [line.split()[-1] for line in mine] == ["1.0"]


@asynccontextmanager
async def running(*, ready: bool = True, **settings: Any) -> AsyncIterator[Bench]:
    bench = Bench({"drain_timeout_s": 5.0, **settings})
    if ready:
        bench.announce()
    await bench.service.start()
    for server in bench.servers:
        await server.start()
    try:
        await bench.until(lambda: bench.service.is_ready or not ready)
        yield bench
    finally:
        await bench.channel.close()
        await bench.stop()
        await bench.service.stop()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run_it() -> None:
        uvloop.run(test())

    run_it.__name__ = test.__name__
    return run_it


def infer_request(*values: float, identity: str = "", name: str = "m") -> Any:
    message = rpc.message("inference.ModelInferRequest")(model_name=name, id=identity)
    message.inputs.add(name="x", datatype="FP32", shape=[len(values)])
    message.raw_input_contents.append(np.array(values, np.float32).tobytes())
    return message


def infer_response(body: bytes) -> tuple[str, list[float]]:
    response = rpc.message("inference.ModelInferResponse").FromString(body)
    return response.id, np.frombuffer(response.raw_output_contents[0], np.float32).tolist()
