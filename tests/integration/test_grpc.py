"""The gRPC server on real connections: deadlines, callers that leave, limits, streams and stopping.

A queue in memory stands behind it, whose worker answers only when the test says so: `y` is twice `x`.
"""

import asyncio
import contextlib
import gc
import gzip
import json
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf import descriptor_pool

from millrace import logs, rpc
from millrace.rpc import tensorprotos
from serving.api import Api, servers_of
from serving.memory import excess_bytes, resident_bytes
from serving.monitoring.metrics import render
from serving.transport.http2.frames import PREFACE, settings
from tests.support import grpcbench
from tests.support.grpcbench import INFER, Bench, infer_request, infer_response, run

PREDICT = "/tensorflow.serving.PredictionService/Predict"
MULTI = "/tensorflow.serving.PredictionService/MultiInference"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
LIVE = "/inference.GRPCInferenceService/ServerLive"
LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"
UNLOAD = "/inference.GRPCInferenceService/RepositoryModelUnload"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
_server: list[Any] = ["own"]


@pytest.fixture(params=["own", pytest.param("grpcio", marks=pytest.mark.slow)], autouse=True)
def server(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test is run against both servers of gRPC; `test_http2.py` has one of the other that is quick."""
    _server[:] = [request.param]
    yield
    _server[:] = ["own"]


def running(**settings: Any) -> AbstractAsyncContextManager[Bench]:
    return grpcbench.running(grpc_server=_server[0], **settings)


def varint(number: int) -> bytes:
    """The number as protobuf writes it."""
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def predict_request(*values: float) -> Any:
    message = rpc.message("tensorflow.serving.PredictRequest")()
    message.model_spec.name = "m"
    message.inputs["x"].dtype = tensorprotos.number_of("FP32")
    message.inputs["x"].tensor_shape.dim.add(size=len(values))
    message.inputs["x"].float_val.extend(values)
    return message


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


@contextmanager
def recorded() -> Iterator[list[str]]:
    """The lines of the record of control actions meanwhile."""
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Kept()
    handler.setFormatter(logs.JsonFormatter("serving"))
    logger = logging.getLogger("serving.access.audit")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


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
    async with running(max_grpc_message_bytes=100_000) as b:
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
        assert "the queue of 'm' is more than half full" in text  # by this caller
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
            "/inference.GRPCInferenceService/SystemSharedMemoryRegister": "shared memory",
            "/inference.GRPCInferenceService/TraceSetting": "tracing",
            "/inference.GRPCInferenceService/LogSettings": "log settings",
            "/tensorflow.serving.SessionService/SessionRun": "signatures",
            "/grpc.channelz.v1.Channelz/GetServers": "is not supported",
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
        stopping = asyncio.ensure_future(b.stop())
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
async def test_reflection_describes_every_service_down_to_its_last_message() -> None:
    async with running() as b:
        for package in ("grpc.reflection.v1", "grpc.reflection.v1alpha"):
            request, response = (rpc.message(f"{package}.ServerReflection{word}") for word in ("Request", "Response"))
            stream = b.channel.stream_stream(f"/{package}.ServerReflection/ServerReflectionInfo")()

            async def ask(**asked: str) -> Any:
                await stream.write(request(**asked).SerializeToString())  # noqa: B023 - used in this turn
                return response.FromString(await stream.read())  # noqa: B023

            listed = [each.name for each in (await ask(list_services="*")).list_services_response.service]
            assert {"inference.GRPCInferenceService", "grpc.health.v1.Health", f"{package}.ServerReflection"} < {
                *listed
            }
            pool = descriptor_pool.DescriptorPool()
            for name in listed:
                answer = await ask(file_containing_symbol=name)
                for file in answer.file_descriptor_response.file_descriptor_proto:
                    pool.AddSerializedFile(file)
                assert pool.FindServiceByName(name).methods
            infer = pool.FindMethodByName("inference.GRPCInferenceService.ModelInfer")
            assert infer.input_type.fields_by_name["raw_input_contents"].number == 7
            assert (await ask(file_containing_symbol="no.Such")).error_response.error_code == 5
            assert (await ask(file_by_filename="inference.proto")).file_descriptor_response.file_descriptor_proto
            assert (await ask(all_extension_numbers_of_type="x")).error_response.error_code == 12
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF


# What callers may send, and how much of it


def refusing(path: str, code: grpc.StatusCode, **options: Any) -> Callable[[Bench], Coroutine[Any, Any, str]]:
    """Calls the method without ever sending a message; returns the words of the refusal."""

    async def call(b: Bench) -> str:
        status, text = await refused(b.channel.stream_unary(path)(timeout=10, **options))
        assert status == code
        return text

    return call


@run
async def test_who_may_not_change_models_is_told_before_a_message_is_read() -> None:
    async with running() as b:
        for path in (LOAD, UNLOAD, RELOAD):
            for metadata in (
                [("origin", "null")],
                [("sec-fetch-site", "cross-site")],
                [("x-forwarded-for", "10.0.0.1")],
                [("host", "example.org")],
            ):
                text = await refusing(path, grpc.StatusCode.PERMISSION_DENIED, metadata=metadata)(b)
                assert "models" in text


@run
async def test_a_caller_on_this_machine_changes_models_and_is_recorded() -> None:
    with recorded() as lines:
        async with running() as b:
            worker = b.broker.worker()

            async def obey() -> None:
                while True:
                    states = b.service.producer.desired_states.by_model
                    worker.announce(b.announcement({name: state.generation for name, state in states.items()}))
                    await asyncio.sleep(0.01)

            obeying = asyncio.ensure_future(obey())
            request = rpc.message("inference.RepositoryModelUnloadRequest")(model_name="m")
            await b.call(UNLOAD, request, metadata=(("x-request-id", "mine"),))
            request = rpc.message("inference.RepositoryModelUnloadRequest")(model_name="nobody")
            await refused(b.call(UNLOAD, request))
            obeying.cancel()
    done, failed = (json.loads(line) for line in lines)
    assert (done["action"], done["model"], done["caller"], done["request_id"], done["outcome"]) == (
        "unload", "m", "127.0.0.1", "mine", "OK",
    )  # fmt: skip
    assert json.loads(done["old"]) == {}
    assert json.loads(done["new"])["is_loaded"] is False
    assert (failed["action"], failed["model"], failed["outcome"]) == ("unload", "nobody", "INVALID_ARGUMENT")


@run
async def test_methods_that_take_names_take_kilobytes_packed_or_not() -> None:
    async with running() as b:
        for path in (LIVE, CHECK, LOAD, "/tensorflow.serving.ModelService/GetModelStatus"):
            for compression in (None, grpc.Compression.Gzip, grpc.Compression.Deflate):
                for size in (20_000, 60_000_000):
                    call = b.channel.unary_unary(path)(bytes(size), compression=compression)
                    status, text = await refused(call)
                    assert status == grpc.StatusCode.RESOURCE_EXHAUSTED
                    assert "larger than" in text
        status, text = await refused(b.channel.unary_stream(WATCH)(bytes(20_000)).read())
        assert status == grpc.StatusCode.RESOURCE_EXHAUSTED
        await b.until(lambda: b.service.budget.used == 0)


@run
async def test_messages_packed_in_either_way_are_read_and_broken_ones_refused_without_a_trace() -> None:
    async with running() as b:
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            answer = await b.answered(b.infer(*[0] * 4000, compression=compression))
            assert infer_response(answer)[1] == [0] * 4000
        packed = gzip.compress(infer_request(1).SerializeToString())
        with watched_log() as lines:
            for broken in (packed[:-1], packed + b"x", b"\x1f\x8b", b"\x78\x9c", b"\x1f"):
                status, _ = await refused(b.channel.unary_unary(INFER)(broken))
                assert status == grpc.StatusCode.INVALID_ARGUMENT
        assert lines == []


@run
async def test_a_reload_of_more_models_than_there_may_be_is_refused_before_anything_is_made_of_them() -> None:
    async with running() as b:
        for count, text in ((1001, "at most 1000 models can be configured"), (120_000, "more than 1024 'config'")):
            config = b"\x0a\x00" * count  # models without a name
            models = b"\x0a" + varint(len(config)) + config
            request = b"\x0a" + varint(len(models)) + models
            status, why = await refused(b.channel.unary_unary(RELOAD)(request))
            assert status == grpc.StatusCode.INVALID_ARGUMENT
            assert text in why


@run
async def test_thousands_of_calls_at_once_are_all_answered() -> None:
    async with running() as b:
        live = b.channel.unary_unary(LIVE)
        answers = await asyncio.gather(*(live(b"", timeout=60) for _ in range(4000)))
        assert set(answers) == {rpc.message("inference.ServerLiveResponse")(live=True).SerializeToString()}


@run
async def test_calls_above_the_limit_are_refused_in_words_and_counted() -> None:
    async with running(max_connections=100) as b:
        held = [asyncio.ensure_future(b.infer(1)) for _ in range(100)]
        await b.until(lambda: b.service.budget.used and b.queued())
        await b.until(lambda: b.server.open_calls == 100)
        for _ in range(50):
            assert await refused(b.infer(2)) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "too many calls are open; try again",
            )
        lines = render(b.service.metrics.counts, {}).decode().splitlines()
        (refusals,) = [line for line in lines if 'protocol="grpc"' in line and 'status="429"' in line]
        assert refusals.endswith(" 50.0")
        await b.taken(100)
        await asyncio.gather(*held)
        await b.until(lambda: b.server.open_calls == 0)


@run
async def test_callers_that_never_send_their_message_take_a_bounded_share_and_are_given_up() -> None:
    async with running(max_buffered_bytes=8_000_000, max_grpc_message_bytes=1_000_000, request_timeout_ms=1000) as b:
        silent = [b.channel.stream_unary(INFER)() for _ in range(20)]
        ends = [asyncio.ensure_future(refused(call)) for call in silent]
        if _server == ["own"]:  # who knows how much of a message has come counts no more than that
            await asyncio.sleep(0)
            assert b.service.budget.used < 1_000_000
        else:
            await b.until(lambda: sum(end.done() for end in ends) >= 16)
            assert b.service.budget.used <= 4_000_000
        large = asyncio.ensure_future(b.infer(*[0] * 8))
        await b.taken()
        await large
        outcomes = [status for status, _ in await asyncio.gather(*ends)]
        late = 20 if _server == ["own"] else 4
        assert outcomes.count(grpc.StatusCode.DEADLINE_EXCEEDED) == late
        assert outcomes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 20 - late
        await b.until(lambda: b.service.budget.used == 0)


@run
async def test_callers_that_never_send_their_message_cannot_keep_slow_ones_out() -> None:
    if _server == ["own"]:
        pytest.skip("there, a caller that sends nothing has no room")
    async with running(max_buffered_bytes=8_000_000, max_grpc_message_bytes=1_000_000, request_timeout_ms=20_000) as b:
        silent = [asyncio.ensure_future(refused(b.channel.stream_unary(INFER)())) for _ in range(4)]
        await b.until(lambda: b.service.budget.used == 4_000_000)  # all the room that there is for slow messages

        def has_room(call: Any) -> bool:
            return not call.done() and b.service.budget.used >= 4_000_000 and any(end.done() for end in silent)

        async with asyncio.timeout(10):
            slow = b.channel.stream_unary(INFER)()
            while not has_room(slow):  # it is refused as long as the others have not had their time
                await asyncio.sleep(0.005)
                if slow.done():
                    slow = b.channel.stream_unary(INFER)()
        await slow.write(infer_request(1).SerializeToString())
        await slow.done_writing()
        assert infer_response(await b.answered(slow)) == ("", [2])
        ends = [end.result() for end in silent if end.done()]
        assert ends == [
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "the message came slowly, and others need its room; try again")
        ]


@run
async def test_a_call_for_which_there_is_no_room_is_refused_and_leaves_none_taken() -> None:
    async with running(max_buffered_bytes=2_000_000, max_queue_rows=200_000) as b:
        others = b.service.budget.reserve(1_000_000)
        assert others
        for _ in range(20):
            status, text = await refused(b.infer(*[0] * 200_000))
            assert (status, text) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "the server holds all the bytes that it may; try again",
            )
        stream = b.channel.stream_stream(STREAM)()
        await stream.write(infer_request(*[0] * 200_000, identity="large").SerializeToString())
        assert await refused(stream.read()) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "the server holds all the bytes that it may; try again",
        )
        await b.until(lambda: b.service.budget.used == others.bytes)


@run
async def test_large_messages_that_were_refused_leave_no_memory_behind() -> None:
    async with running() as b:
        wrong = b"\xff" * 8_000_000
        await refused(b.channel.unary_unary(INFER)(wrong))
        before = resident_bytes()
        gc.collect()
        gc.disable()  # as good as that is it where a server runs
        try:
            # Of the other methods' messages our own server takes nothing, so that the client's are left half sent.
            for path in (INFER, PREDICT, MULTI, *((LIVE, RELOAD) if _server == ["grpcio"] else ())):
                for _ in range(20):
                    await refused(b.channel.unary_unary(path)(wrong))
            assert excess_bytes(before + 200_000_000) == 0
        finally:
            gc.enable()


@run
async def test_a_method_that_is_cancelled_or_has_no_message_leaves_nothing_and_no_error_in_the_log() -> None:
    async with running() as b:
        with watched_log() as lines:
            for path in (INFER, LIVE, LOAD, PREDICT, STREAM, WATCH):
                calls = [b.channel.stream_stream(path)() for _ in range(20)]
                await b.until(lambda: b.server.open_calls >= 20)
                for call in calls:
                    call.cancel()
                await b.until(lambda: b.server.open_calls == 0)
            empty = b.channel.stream_unary(INFER)(timeout=10)
            await empty.done_writing()
            assert await refused(empty) == (grpc.StatusCode.INVALID_ARGUMENT, "the call has no message")
        assert lines == []
        await b.until(lambda: b.service.budget.used == 0)


@run
async def test_connections_above_the_limit_are_closed_and_those_open_go_on() -> None:
    async with running(max_grpc_connections=3) as b:
        await b.call(LIVE, rpc.message("inference.ServerLiveRequest")())
        silent = [await asyncio.open_connection("127.0.0.1", b.settings.grpc_port) for _ in range(10)]
        closed = 0
        for _, writer in silent:
            writer.write(PREFACE + settings({}) if _server == ["own"] else b"")
        for reader, _ in silent[2:]:
            with contextlib.suppress(ConnectionError):
                while await asyncio.wait_for(reader.read(1000), 5):
                    pass
            closed += 1
        assert closed == 8
        await b.call(LIVE, rpc.message("inference.ServerLiveRequest")())
        for _, writer in silent:
            writer.close()


@run
async def test_an_idle_connection_is_closed_and_the_next_call_opens_another() -> None:
    async with running(keep_alive_timeout_s=1.0) as b:
        await b.call(LIVE, rpc.message("inference.ServerLiveRequest")())
        async with asyncio.timeout(20):
            while b.channel.get_state() == grpc.ChannelConnectivity.READY:
                await b.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        await b.call(LIVE, rpc.message("inference.ServerLiveRequest")())


@run
async def test_connections_end_by_their_age_and_no_call_notices() -> None:
    async with running(max_connection_age_s=0.3) as b:
        ended = 0
        slow = b.infer(1, timeout=20)
        await b.until(lambda: b.queued() == 1)
        state = b.channel.get_state()
        async with asyncio.timeout(20):
            while ended < 3:
                await b.call(LIVE, rpc.message("inference.ServerLiveRequest")())
                before, state = state, b.channel.get_state()
                ended += before == grpc.ChannelConnectivity.READY != state
        assert infer_response(await b.answered(slow))[1] == [2]


@run
async def test_a_client_that_may_try_again_does_so_where_the_server_is_unavailable() -> None:
    policy = {
        "maxAttempts": 5,
        "initialBackoff": "0.6s",
        "maxBackoff": "0.6s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
    async with running(ready=False) as b:
        target = f"127.0.0.1:{b.settings.grpc_port}"
        async with grpc.aio.insecure_channel(target, options=[("grpc.service_config", config)]) as channel:
            call = channel.unary_unary(INFER)(infer_request(3).SerializeToString(), timeout=20)
            await b.until(lambda: b.counted(503))
            b.announce()
            assert infer_response(await b.answered(call))[1] == [6]
        assert (await refused(b.infer(1, timeout=1e-3)))[0] == grpc.StatusCode.DEADLINE_EXCEEDED


@run
async def test_a_client_may_ask_for_a_sign_of_life_again_and_again() -> None:
    options = [
        ("grpc.keepalive_time_ms", 20),
        ("grpc.keepalive_timeout_ms", 2000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with running() as b:
        target = f"127.0.0.1:{b.settings.grpc_port}"
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            call = channel.unary_unary(INFER)(infer_request(3).SerializeToString(), timeout=20)
            await b.until(lambda: b.queued() == 1)
            await asyncio.sleep(0.5)  # in which pings come
            assert infer_response(await b.answered(call))[1] == [6]
            assert channel.get_state() == grpc.ChannelConnectivity.READY


@run
async def test_a_port_that_is_taken_is_an_error() -> None:
    async with running() as b:
        (*_, other) = servers_of(b.service, Api(b.service), asyncio.Event())
        with pytest.raises(OSError, match=str(b.settings.grpc_port if _server == ["grpcio"] else b.settings.port)):
            await other.start()
        await other.stop()
