"""Both clients over gRPC, against a real server with scripted answers: errors, retries and deadlines as over HTTP."""

import asyncio
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc
import numpy as np
import pytest
from millrace_client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    InvalidResponse,
    MillraceError,
    NotFound,
    NotSupported,
    Overloaded,
    PayloadTooLarge,
    ServerError,
    Unavailable,
)
from millrace_client.messages import message

from tests.support.running import free_port, until

INFER = "/inference.GRPCInferenceService/ModelInfer"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
_Handle = Callable[[bytes, grpc.ServicerContext], bytes]


class ScriptedRpc(grpc.GenericRpcHandler):
    """A server of one model, `half`; answers to ModelInfer and Predict are given in turn, the last one for ever."""

    def __init__(self, port: int = 0, **answers: list[_Handle]) -> None:
        self.received: list[tuple[str, bytes, dict[str, str], float]] = []
        self._answers = {INFER: answers.get("infer", []), PREDICT: answers.get("predict", [])}
        self._fixed = {
            "/inference.GRPCInferenceService/ServerReady": message("inference.ServerReadyResponse")(ready=True),
            "/inference.GRPCInferenceService/ModelMetadata": message("inference.ModelMetadataResponse")(
                name="half",
                versions=["3"],
                inputs=[{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
                outputs=[{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
            ),
            "/inference.GRPCInferenceService/ModelConfig": message("inference.ModelConfigResponse")(),
            "/tensorflow.serving.ModelService/GetModelStatus": message("tensorflow.serving.GetModelStatusResponse")(
                model_version_status=[{"version": 3, "state": 30}]
            ),
        }
        self.leave = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((self,))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")

    def service(self, details: Any) -> Any:
        path = details.method

        def answer(body: bytes, context: grpc.ServicerContext) -> bytes:
            metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
            self.received.append((path, body, metadata, context.time_remaining()))
            if path in self._fixed:
                return bytes(self._fixed[path].SerializeToString())
            answers = self._answers[path]
            return (answers.pop(0) if len(answers) > 1 else answers[0])(body, context)

        return grpc.unary_unary_rpc_method_handler(answer)

    def __enter__(self) -> "ScriptedRpc":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave.set()
        self._server.stop(0).wait()

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"


def refused(code: grpc.StatusCode, text: str, **trailing: str) -> _Handle:
    def handle(body: bytes, context: Any) -> NoReturn:
        metadata = {"x-request-id": "r-9"} | {key.replace("_", "-"): value for key, value in trailing.items()}
        context.set_trailing_metadata(tuple(metadata.items()))
        context.abort(code, text)
        raise AssertionError("abort raises")

    return handle


def halved(body: bytes, context: grpc.ServicerContext) -> bytes:
    context.send_initial_metadata((("x-request-id", "r-1"),))
    context.set_trailing_metadata((("server-timing", "queue;dur=1.5"),))
    answer = message("inference.ModelInferResponse")(
        model_name="half",
        model_version="3",
        outputs=[{"name": "y", "datatype": "FP32", "shape": [1, 2]}],
        raw_output_contents=[np.array([0.5, 1], np.float32).tobytes()],
    )
    return bytes(answer.SerializeToString())


class Asked:
    """One of the two clients, used for one call; `waits` is what it slept."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.waits: list[float] = []

    def __call__(self, url: str, method: str, *args: Any, client: dict[str, Any] | None = None, **options: Any) -> Any:
        settings: dict[str, Any] = {"rng": random.Random(1), **(client or {})}
        if self.kind == "sync":
            with Client(url, sleep=self.waits.append, **settings) as asked:
                return getattr(asked, method)(*args, **options)

        async def later() -> Any:
            async with AsyncClient(url, sleep=self._asleep, **settings) as asked:
                return await getattr(asked, method)(*args, **options)

        return asyncio.run(later())

    async def _asleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Asked:
    return Asked(request.param)


def test_a_prediction_carries_outputs_version_request_id_and_timings(ask: Asked) -> None:
    with ScriptedRpc(infer=[halved]) as server:
        answer = ask(server.url, "predict", "half", [1.0, 2.0])
    assert answer.outputs["y"].tolist() == [[0.5, 1.0]]
    assert (answer.version, answer.request_id, answer.timings) == ("3", "r-1", {"queue": 1.5})
    sent = message("inference.ModelInferRequest").FromString(server.received[-1][1])
    assert (sent.model_name, sent.model_version, sent.inputs[0].datatype) == ("half", "", "FP32")
    assert np.frombuffer(sent.raw_input_contents[0], np.float32).tolist() == [1.0, 2.0]


def test_the_deadline_and_one_request_id_travel_with_all_requests_of_a_call(ask: Asked) -> None:
    full = refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", retry_after="0.5")
    with ScriptedRpc(infer=[full, halved]) as server:
        ask(server.url, "predict", "half", [1.0, 2.0], timeout_s=7.0)
    assert len(server.received) == 4
    assert len({metadata["x-request-id"] for _, _, metadata, _ in server.received}) == 1
    assert all(6 < left_s < 8 for *_, left_s in server.received)  # gRPC rounds it on the wire
    assert ask.waits == [0.5]


@pytest.mark.parametrize(
    ("code", "text", "expected", "status"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "no such luck", InvalidRequest, 400),
        (grpc.StatusCode.FAILED_PRECONDITION, "no such luck", InvalidRequest, 400),
        (grpc.StatusCode.NOT_FOUND, "no such luck", NotFound, 404),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)", PayloadTooLarge, 413),
        (grpc.StatusCode.INTERNAL, "no such luck", ServerError, 500),
        (grpc.StatusCode.UNKNOWN, "no such luck", ServerError, 500),
        (grpc.StatusCode.UNIMPLEMENTED, "no such luck", NotSupported, 501),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "no such luck", DeadlineExceeded, 504),
    ],
)
def test_a_status_becomes_its_error_with_the_servers_message_and_is_not_tried_again(
    ask: Asked, code: grpc.StatusCode, text: str, expected: type[MillraceError], status: int
) -> None:
    with ScriptedRpc(infer=[refused(code, text)]) as server, pytest.raises(expected) as caught:
        ask(server.url, "predict", "half", [1.0, 2.0])
    assert type(caught.value) is expected
    assert (str(caught.value), caught.value.status, caught.value.request_id) == (text, status, "r-9")
    assert len(server.received) == 3
    assert ask.waits == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [(grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded), (grpc.StatusCode.UNAVAILABLE, Unavailable)],
)
def test_retries_end_with_the_last_error_and_say_when_to_come_again(
    ask: Asked, code: grpc.StatusCode, expected: type[MillraceError]
) -> None:
    later = refused(code, "later", retry_after="2")
    with ScriptedRpc(infer=[later]) as server, pytest.raises(expected) as caught:
        ask(server.url, "predict", "half", [1.0, 2.0], client={"retries": 2})
    assert ask.waits == [2.0, 2.0]
    assert caught.value.retry_after_s == 2.0


def test_a_refused_connection_is_tried_again_and_then_named(ask: Asked) -> None:
    with ScriptedRpc() as gone:
        url = gone.url
    with pytest.raises(ConnectionFailed, match=url) as caught:
        ask(url, "predict", "half", [1.0, 2.0])
    assert caught.value.status is None
    assert caught.value.request_id is not None
    assert len(ask.waits) == 3
    assert ask(url, "is_ready") is False


def test_an_answer_that_does_not_come_in_time_is_a_deadline_exceeded_without_status(ask: Asked) -> None:
    def late(body: bytes, context: grpc.ServicerContext) -> bytes:
        server.leave.wait(30)
        return b""

    with ScriptedRpc(infer=[late]) as server, pytest.raises(DeadlineExceeded, match="no answer from grpc") as caught:
        ask(server.url, "predict", "half", [1.0, 2.0], timeout_s=0.5)
    assert caught.value.status is None
    assert ask.waits == []


def _raw(*outputs: tuple[str, list[int]], contents: list[bytes]) -> _Handle:
    tensors = [{"name": "y", "datatype": datatype, "shape": shape} for datatype, shape in outputs]
    answer = message("inference.ModelInferResponse")(outputs=tensors, raw_output_contents=contents)
    return lambda body, context: bytes(answer.SerializeToString())


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda body, context: b"\xff\xff\xff", "no inference.ModelInferResponse"),
        (_raw(("FP32", [1]), contents=[]), "cannot be read"),
        (_raw(("FP32", [3]), contents=[b"\0\0\0\0"]), "cannot be read"),
        (_raw(("FP31", [1]), contents=[b"\0\0\0\0"]), "FP31"),
        (_raw(("BYTES", [1]), contents=[b"\x09\0\0\0abc"]), "9 bytes is cut"),
        (_raw(("BYTES", [2]), contents=[b"\x01\0\0\0a"]), "do not fill"),
    ],
)
def test_an_answer_outside_the_protocol_is_an_invalid_response(ask: Asked, answer: _Handle, text: str) -> None:
    with ScriptedRpc(infer=[answer]) as server, pytest.raises(InvalidResponse, match=text):
        ask(server.url, "predict", "half", [1.0, 2.0])


TENSORS = {
    "typed values": ({"dtype": 1, "float_val": [0.5, 1]}, [[0.5, 1.0]]),
    "one value for all": ({"dtype": 1, "float_val": [7]}, [[7.0, 7.0]]),
    "halves": ({"dtype": 19, "half_val": [0x3800, 0x3C00]}, [[0.5, 1.0]]),
    "strings": ({"dtype": 7, "string_val": [b"a", b"\xff"]}, [["a", b"\xff"]]),
    "content": ({"dtype": 1, "tensor_content": np.array([0.5, 1], np.float32).tobytes()}, [[0.5, 1.0]]),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_a_label_asks_tensorflow_serving_whose_tensors_come_in_either_encoding(ask: Asked, kind: str) -> None:
    tensor, expected = TENSORS[kind]
    shape = {"dim": [{"size": 1}, {"size": 2}]}
    answer = message("tensorflow.serving.PredictResponse")(model_spec={"name": "half", "version": {"value": 3}})
    answer.outputs["y"].CopyFrom(message("tensorflow.TensorProto")(**tensor, tensor_shape=shape))
    with ScriptedRpc(predict=[lambda body, context: bytes(answer.SerializeToString())]) as server:
        prediction = ask(server.url, "predict", "half", [1.0, 2.0], label="stable")
    assert (prediction.outputs["y"].tolist(), prediction.version) == (expected, "3")
    sent = message("tensorflow.serving.PredictRequest").FromString(server.received[-1][1])
    assert (sent.model_spec.name, sent.model_spec.version_label) == ("half", "stable")
    assert [dim.size for dim in sent.inputs["x"].tensor_shape.dim] == [1, 2]
    assert server.received[0][0] == "/tensorflow.serving.ModelService/GetModelStatus"


def test_a_version_and_a_label_cannot_both_be_asked_for(ask: Asked) -> None:
    with ScriptedRpc() as server, pytest.raises(InvalidRequest, match="both"):
        ask(server.url, "predict", "half", [1.0, 2.0], version=3, label="stable")
    assert server.received == []


def test_a_client_finds_a_server_that_starts_after_it_was_refused() -> None:
    port = free_port()
    with Client(f"grpc://127.0.0.1:{port}", retries=0) as client:
        with pytest.raises(ConnectionFailed):
            client.predict("half", [1.0, 2.0])
        with ScriptedRpc(port, infer=[halved]):
            until(client.is_ready, what="the connection")
            assert client.predict("half", [1.0, 2.0]).version == "3"
