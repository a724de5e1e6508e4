"""The gRPC server on real connections: deadlines, callers that leave, limits, streams and stopping.

A queue in memory stands behind it, whose worker answers only when the test says so: `y` is twice `x`.
"""

import asyncio
import contextlib
import gzip
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import uvloop

from millrace import rpc
from millrace.broker.base import Reply
from millrace.broker.keys import Queue
from millrace.broker.memory import MemoryBroker
from millrace.protocol import codec
from millrace.protocol.messages import ModelAnnouncement, ReplyBlock, ReplyItem, RequestBlock, WorkerAnnouncement
from millrace.protocol.tensors import Signature, Tensor, TensorSpec
from millrace.rpc import tensorprotos
from serving.service import Service
from serving.settings import ServingSettings
from serving.transport.grpc_server import GrpcServer
from tests.support.running import free_port

PREDICT = "/tensorflow.serving.PredictionService/Predict"
INFER = "/inference.GRPCInferenceService/ModelInfer"
MULTI = "/tensorflow.serving.PredictionService/MultiInference"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1,)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1,)),),
)


class Bench:
    """A server, a client, and a worker that answers when it is told to."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.broker = MemoryBroker()
        self.consumer = self.broker.consumer(Queue("m", 1), "c")
        self.settings = ServingSettings(grpc_port=free_port(), **settings)
        self.service = Service(self.settings, self.broker)
        self.server = GrpcServer(self.service)
        unlimited = [("grpc.max_send_message_length", -1)]
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.settings.grpc_port}", options=unlimited)

    def announce(self) -> None:
        model = ModelAnnouncement(
            name="m", version=1, state="AVAILABLE", signatures={"serving_default": SIGNATURE}, max_batch_size=8
        )
        self.broker.worker().announce(WorkerAnnouncement(worker="w", expires_ms=2**60, models=(model,)))

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

    def work(self) -> list[RequestBlock]:
        blocks = []
        for delivery in self.consumer.exchange([], [], count=100, block_ms=0):
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
            self.consumer.exchange([Reply(block.reply_to, codec.encode_reply(reply))], [delivery], count=0, block_ms=0)
        return blocks

    def queued(self) -> int:
        """How many blocks are on the queue."""
        return self.broker.worker().block_count(Queue("m", 1))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    def counted(self, status: int) -> bool:
        """Whether a request with that outcome was counted."""
        lines = self.service.metrics.render().decode().splitlines()
        mine = [line for line in lines if 'protocol="oip-grpc"' in line and f'status="{status}"' in line]
        return [line.split()[-1] for line in mine] == ["1.0"]


@asynccontextmanager
async def running(*, ready: bool = True, **settings: Any) -> AsyncIterator[Bench]:
    bench = Bench({"drain_timeout_s": 5.0, **settings})
    if ready:
        bench.announce()
    await bench.service.start()
    await bench.server.start()
    try:
        await bench.until(lambda: bench.service.is_ready or not ready)
        yield bench
    finally:
        await bench.channel.close()
        await bench.server.stop()
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


def predict_request(*values: float) -> Any:
    message = rpc.message("tensorflow.serving.PredictRequest")()
    message.model_spec.name = "m"
    message.inputs["x"].dtype = tensorprotos.number_of("FP32")
    message.inputs["x"].tensor_shape.dim.add(size=len(values))
    message.inputs["x"].float_val.extend(values)
    return message


def infer_response(body: bytes) -> tuple[str, list[float]]:
    response = rpc.message("inference.ModelInferResponse").FromString(body)
    return response.id, np.frombuffer(response.raw_output_contents[0], np.float32).tolist()


@contextmanager
def watched_log() -> Iterator[list[str]]:
    """The errors that the server logs meanwhile."""
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Kept(logging.ERROR)
    logging.getLogger().addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(handler)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call
    return refusal.value.code(), refusal.value.details()


@run
async def test_both_protocols_are_answered_through_the_queue() -> None:
    async with running() as b:
        infer, predict = b.infer(1, 2), b.call(PREDICT, predict_request(3, 4))
        tasks = [asyncio.ensure_future(call) for call in (infer, predict)]
        await b.taken(2)
        assert infer_response(await tasks[0]) == ("", [2, 4])
        response = rpc.message("tensorflow.serving.PredictResponse").FromString(await tasks[1])
        assert list(response.outputs["y"].float_val) == [6, 8]
        assert not response.outputs["y"].tensor_content
        assert b.counted(200)


@run
async def test_a_setting_answers_predict_with_tensor_content() -> None:
    async with running(grpc_tensor_content=True) as b:
        call = asyncio.ensure_future(b.call(PREDICT, predict_request(3, 4)))
        await b.taken()
        response = rpc.message("tensorflow.serving.PredictResponse").FromString(await call)
        assert response.outputs["y"].tensor_content == np.array([6, 8], np.float32).tobytes()
        assert not response.outputs["y"].float_val


@run
async def test_a_cancelled_call_is_withdrawn() -> None:
    async with running() as b:
        call = b.infer(1)
        await asyncio.sleep(0)
        sending = asyncio.ensure_future(call)
        await b.until(lambda: b.queued() == 1)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
        await b.until(lambda: b.counted(499))


@run
async def test_the_callers_deadline_is_the_requests() -> None:
    async with running() as b:
        sending = asyncio.ensure_future(b.infer(1, timeout=10.0))
        (block,) = await b.taken()
        await sending
        assert 0 < block.items[0].deadline_ms - block.sent_ms < b.settings.request_timeout_ms / 2


@run
async def test_a_call_that_is_not_answered_in_time_ends_and_is_counted() -> None:
    async with running() as b:
        status, _ = await refused(b.infer(1, timeout=0.2))
        assert status == grpc.StatusCode.DEADLINE_EXCEEDED
        await b.until(lambda: b.counted(499) or b.counted(504))


@run
async def test_the_request_id_comes_back_with_answers_and_errors() -> None:
    async with running() as b:
        call = b.infer(1, metadata=(("x-request-id", "mine"),))
        sending = asyncio.ensure_future(call)
        await b.taken()
        await sending
        assert ("x-request-id", "mine") in list(await call.trailing_metadata())
        wrong = b.call(INFER, infer_request(1, name="other"), metadata=(("x-request-id", "mine"),))
        status, text = await refused(wrong)
        assert (status, text) == (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'other' is not found")
        assert ("x-request-id", "mine") in list(await wrong.trailing_metadata())
        plain = b.call("/inference.GRPCInferenceService/ServerLive", rpc.message("inference.ServerLiveRequest")())
        await plain
        assert [value for key, value in await plain.trailing_metadata() if key == "x-request-id"]


@run
async def test_bytes_that_are_no_message_are_refused_and_hurt_nobody() -> None:
    async with running() as b:
        calls = [b.channel.unary_unary(path) for path in (PREDICT, INFER, MULTI, CHECK)]
        for ask in (*calls, lambda request: b.channel.unary_stream(WATCH)(request).read()):
            status, text = await refused(ask(b"\xff\xff\xff"))
            assert status == grpc.StatusCode.INVALID_ARGUMENT
            assert "cannot be read" in text
        call = asyncio.ensure_future(b.infer(1))
        await b.taken()
        assert infer_response(await call) == ("", [2])


@run
async def test_a_message_above_the_limit_is_refused_compressed_or_not() -> None:
    async with running(max_body_bytes=100_000) as b:
        status, _ = await refused(b.infer(*range(30_000)))
        assert status == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(gzip.compress(bytes(400_000))) < 1000
        zeros = b.channel.unary_unary(INFER)(
            infer_request(*[0] * 100_000).SerializeToString(), compression=grpc.Compression.Gzip
        )
        status, _ = await refused(zeros)
        assert status == grpc.StatusCode.RESOURCE_EXHAUSTED


@run
async def test_a_large_message_is_read_beside_the_event_loop() -> None:
    async with running(max_queue_rows=200_000) as b:
        values = np.arange(100_000, dtype=np.float32)
        call = asyncio.ensure_future(b.infer(*values))
        async with asyncio.timeout(20):
            while not call.done():
                b.work()
                await asyncio.sleep(0.001)
        assert infer_response(await call)[1] == (values * 2).tolist()


@run
async def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    async with running(max_queue_rows=2) as b:
        first = asyncio.ensure_future(b.infer(1, 2))
        await b.until(lambda: b.queued() == 1)
        second = b.infer(3)
        status, text = await refused(second)
        assert status == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "the queue of 'm' is full" in text
        assert dict(await second.trailing_metadata())["retry-after"].isdigit()
        await b.taken()
        await first


@run
async def test_more_calls_at_once_than_allowed_are_refused() -> None:
    async with running(max_connections=1) as b:
        first = asyncio.ensure_future(b.infer(1))
        await b.until(lambda: b.queued() == 1)
        status, _ = await refused(b.infer(2))
        assert status == grpc.StatusCode.RESOURCE_EXHAUSTED
        await b.taken()
        await first


@run
async def test_what_is_not_offered_is_refused_by_name() -> None:
    async with running() as b:
        for path, why in {
            "/inference.GRPCInferenceService/SystemSharedMemoryStatus": "shared memory",
            "/inference.GRPCInferenceService/TraceSetting": "tracing",
            "/inference.GRPCInferenceService/LogSettings": "log settings",
            "/tensorflow.serving.SessionService/SessionRun": "signatures",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": "is not supported",
        }.items():
            status, text = await refused(b.channel.unary_unary(path)(b""))
            assert status == grpc.StatusCode.UNIMPLEMENTED
            assert path[1:] in text
            assert why in text


@run
async def test_an_error_in_a_stream_leaves_it_open_and_answers_come_as_they_are_ready() -> None:
    response = rpc.message("inference.ModelStreamInferResponse")
    async with running() as b:
        stream = b.channel.stream_stream(STREAM)()
        await stream.write(infer_request(1, identity="waits").SerializeToString())
        await stream.write(infer_request(1, name="other", identity="wrong").SerializeToString())
        await stream.write(b"\xff")
        errors = [response.FromString(await stream.read()) for _ in range(2)]
        assert {(error.infer_response.id, error.error_message) for error in errors} == {
            ("wrong", "Request for unknown model: 'other' is not found"),
            ("", "the message cannot be read as inference.ModelInferRequest"),
        }
        await b.taken()
        answer = response.FromString(await stream.read())
        assert (answer.infer_response.id, answer.error_message) == ("waits", "")
        assert answer.infer_response.parameters["triton_final_response"].bool_param
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() == grpc.StatusCode.OK


@run
async def test_a_stream_that_its_caller_leaves_withdraws_what_it_asked() -> None:
    async with running() as b:
        stream = b.channel.stream_stream(STREAM)()
        await stream.write(infer_request(1).SerializeToString())
        await b.until(lambda: b.queued() == 1)
        stream.cancel()
        await b.until(lambda: b.counted(499))


@run
async def test_answers_to_streams_that_their_callers_leave_are_dropped_in_silence() -> None:
    async with running() as b:
        with watched_log() as lines:
            for _ in range(20):
                calls = [b.channel.stream_stream(STREAM)() for _ in range(10)]
                for call in calls:
                    await call.write(infer_request(1).SerializeToString())
                await b.until(b.queued)
                for call in calls:
                    call.cancel()
                b.work()
            asked = asyncio.ensure_future(b.infer(2))
            await b.until(lambda: [b.work(), asked.done()][-1])
        assert infer_response(await asked) == ("", [4])
        assert lines == []


@run
async def test_stopping_answers_what_came_and_ends_the_streams() -> None:
    async with running() as b:
        call = asyncio.ensure_future(b.infer(1))
        await b.until(lambda: b.queued() == 1)
        asking, idle = b.channel.stream_stream(STREAM)(), b.channel.stream_stream(STREAM)()
        await asking.write(infer_request(2).SerializeToString())
        await idle.write(infer_request(1, name="other").SerializeToString())
        await idle.read()
        watch = b.channel.unary_stream(WATCH)(b"")
        await watch.read()
        await b.until(lambda: b.queued() == 2)
        stopping = asyncio.ensure_future(b.server.stop())
        assert await refused(idle.read()) == (grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
        assert not stopping.done()
        await b.taken(2)
        assert infer_response(await call) == ("", [2])
        answer = rpc.message("inference.ModelStreamInferResponse").FromString(await asking.read())
        assert np.frombuffer(answer.infer_response.raw_output_contents[0], np.float32).tolist() == [4]
        assert await asking.code() == grpc.StatusCode.UNAVAILABLE
        assert rpc.message("grpc.health.v1.HealthCheckResponse").FromString(await watch.read()).status == 2
        assert await watch.read() is grpc.aio.EOF
        await stopping


@run
async def test_health_follows_readiness() -> None:
    request, response = (rpc.message(f"grpc.health.v1.HealthCheck{word}") for word in ("Request", "Response"))
    async with running(ready=False) as b:
        watch = b.channel.unary_stream(WATCH)(b"")
        assert response.FromString(await watch.read()).status == response.NOT_SERVING
        b.announce()
        assert response.FromString(await watch.read()).status == response.SERVING
        for name in ("", "inference.GRPCInferenceService", "tensorflow.serving.PredictionService"):
            answer = response.FromString(await b.call(CHECK, request(service=name)))
            assert answer.status == response.SERVING
        status, _ = await refused(b.call(CHECK, request(service="other")))
        assert status == grpc.StatusCode.NOT_FOUND
        unknown = b.channel.unary_stream(WATCH)(request(service="other").SerializeToString())
        assert response.FromString(await unknown.read()).status == response.SERVICE_UNKNOWN


@run
async def test_a_port_that_is_taken_is_an_error() -> None:
    async with running() as b:
        other = GrpcServer(b.service)
        with pytest.raises(OSError, match=str(b.settings.grpc_port)):
            await other.start()
        await other.stop()
