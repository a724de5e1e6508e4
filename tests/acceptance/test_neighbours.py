"""No request keeps a neighbour waiting: not its size, its datatype, its coding, nor how many there are of it.

A neighbour sends small requests to a model of its own while one request of the table, or many at once, are answered.
Its longest wait may be 50 ms above what it is when other programs, which have nothing to do with the stack, take as
much of the processor. What a busy machine adds is in both; a case is tried again when it adds to one of them alone.
"""

import contextlib
import gzip
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
import pytest

from millrace import rpc
from millrace.rpc import wire
from tests.support import onnxmodels as models
from tests.support.neighbours import Neighbour, burning
from tests.support.running import Parts, until

pytestmark = pytest.mark.alone

MB = 2**20
ALLOWED_S = 0.05
ATTEMPTS = 5
BURNERS = 4  # as many processes as work for a large request: two that read it, a worker, and its caller
INFER = "/inference.GRPCInferenceService/ModelInfer"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
CLASSIFY = "/tensorflow.serving.PredictionService/Classify"
FLOATS = np.random.default_rng(0).random(4 * MB, np.float32)
NOT_FINITE = np.where(
    np.arange(4 * MB) % 3, FLOATS, np.where(np.arange(4 * MB) % 2, np.float32("nan"), np.float32("inf"))
)


class Http(NamedTuple):
    """A request over HTTP."""

    path: str
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({})

    def packed(self) -> "Http":
        return Http(self.path, gzip.compress(self.body, 1), dict(self.headers) | {"Content-Encoding": "gzip"})

    def send(self, stack: Parts) -> int:
        connection = http.client.HTTPConnection(*stack.addresses[0], timeout=120)
        with contextlib.closing(connection):
            connection.request("POST", self.path, self.body, dict(self.headers))
            response = connection.getresponse()
            response.read()
            return response.status


class Grpc(NamedTuple):
    """A request over gRPC; its status is HTTP's that is like it."""

    method: str
    message: bytes

    def send(self, stack: Parts) -> int:
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(f"127.0.0.1:{stack.grpc_ports[0]}", options=unlimited) as channel:
            try:
                channel.unary_unary(self.method)(self.message, timeout=120)
            except grpc.RpcError as error:
                return 400 if error.code() == grpc.StatusCode.INVALID_ARGUMENT else 500
            return 200


def rest(model: str, text: bytes, verb: str = "predict") -> Http:
    return Http(f"/v1/models/{model}:{verb}", text)


def binary(model: str, datatype: str, shape: list[int], data: bytes, **more: Any) -> Http:
    described = {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [described], **more}).encode()
    return Http(f"/v2/models/{model}/infer", head + data, {"Inference-Header-Content-Length": str(len(head))})


def upload(model: str, body: bytes, kind: str = "multipart/form-data; boundary=x") -> Http:
    return Http(f"/v1/models/{model}:predict", body, {"Content-Type": kind})


def form_of(files: list[bytes]) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="x"; filename="f"\r\n\r\n'
    return b"".join([head + file + b"\r\n" for file in files]) + b"--x--\r\n"


def row_of(value: bytes, count: int) -> bytes:
    return b'{"instances":[[' + b",".join([value] * count) + b"]]}"


def infer(model: str, datatype: str, shape: list[int], raw: bytes = b"", **contents: Any) -> Grpc:
    message = rpc.message("inference.ModelInferRequest")(model_name=model)
    tensor = message.inputs.add(name="x", datatype=datatype, shape=shape)
    if raw:
        message.raw_input_contents.append(raw)
    for name, values in contents.items():
        getattr(tensor.contents, name).extend(values)
    return Grpc(INFER, message.SerializeToString())


def predict(model: str, dtype: int, shape: list[int], **fields: Any) -> Grpc:
    message = rpc.message("tensorflow.serving.PredictRequest")()
    message.model_spec.name = model
    message.inputs["x"].CopyFrom(rpc.message("tensorflow.TensorProto")(dtype=dtype, **fields))
    for size in shape:
        message.inputs["x"].tensor_shape.dim.add(size=size)
    return Grpc(PREDICT, message.SerializeToString())


def empty_examples(count: int) -> Grpc:
    head = rpc.message("tensorflow.serving.ClassificationRequest")()
    head.model_spec.name = "numbers"
    examples = b"".join(wire.field(2, *wire.field(1, b"\x0a\x00" * count)))
    return Grpc(CLASSIFY, head.SerializeToString() + examples)


CASES: dict[str, tuple[Callable[[], Http | Grpc], int]] = {
    "numbers as JSON": (lambda: rest("numbers", row_of(b"0.5", 4 * MB)), 200),
    "numbers as JSON with one NaN": (lambda: rest("numbers", row_of(b"0.5", MB)[:-3] + b",NaN]]}"), 200),
    "whole numbers as JSON": (lambda: rest("wholes", row_of(b"7", 2 * MB)), 200),
    "strings as JSON": (lambda: rest("texts", row_of(b'"a"', MB)), 200),
    "more strings than may be": (lambda: rest("texts", row_of(b'""', 5 * MB)), 413),
    "numbers, answered as JSON": (lambda: binary("numbers", "FP32", [1, 4 * MB], FLOATS.tobytes()), 200),
    "NaN and Infinity, answered as JSON": (lambda: binary("numbers", "FP32", [1, 4 * MB], NOT_FINITE.tobytes()), 200),
    "numbers, answered as numbers": (
        lambda: binary("numbers", "FP32", [1, 8 * MB], bytes(32 * MB), parameters={"binary_data_output": True}),
        200,
    ),
    "a large file": (lambda: upload("texts", bytes(32 * MB), "image/jpeg"), 200),
    "a form of large files": (lambda: upload("texts", form_of([bytes(4 * MB)] * 7)), 200),
    "a form of too many files": (lambda: upload("texts", form_of([b""] * 300_000)), 413),
    "empty strings": (lambda: binary("texts", "BYTES", [1, MB], bytes(4 * MB)), 200),
    "strings of two lengths": (
        lambda: binary("texts", "BYTES", [1, MB], b"\x01\0\0\0a\x02\0\0\0bc" * (MB // 2)),
        200,
    ),
    "strings that are too few": (lambda: binary("texts", "BYTES", [1, 8 * MB], bytes(32 * MB - 4)), 400),
    "rows that are too many": (lambda: binary("texts", "BYTES", [8 * MB, 1], bytes(32 * MB)), 413),
    "all classes of 4,096 rows": (
        lambda: binary(
            "numbers",
            "FP32",
            [4096, 1000],
            FLOATS[: 4096 * 1000].tobytes(),
            outputs=[{"name": "y", "parameters": {"classification": 1000}}],
        ),
        200,
    ),
    "classify": (
        lambda: rest("numbers", json.dumps({"examples": [{"x": [0.5] * 1000}] * 256}).encode(), "classify"),
        200,
    ),
    "empty examples": (lambda: rest("numbers", b'{"examples":[' + b"{}," * (5 * MB) + b"{}]}", "classify"), 413),
    "empty inputs": (lambda: Http("/v2/models/numbers/infer", b'{"inputs":[' + b"[]," * (5 * MB) + b"[]]}"), 413),
    "a key for each value": (
        lambda: rest("numbers", b"{" + b",".join(b'"%d":1' % i for i in range(MB)) + b',"instances":[]}'),
        400,
    ),
    "raw tensors over gRPC": (lambda: infer("numbers", "FP32", [1, 4 * MB], FLOATS.tobytes()), 200),
    "typed numbers over gRPC": (lambda: infer("numbers", "FP32", [1, MB], fp32_contents=FLOATS[:MB]), 200),
    "typed strings over gRPC": (lambda: infer("texts", "BYTES", [1, MB // 2], bytes_contents=[b""] * (MB // 2)), 200),
    "outputs without end over gRPC": (
        lambda: Grpc(INFER, infer("numbers", "FP32", [1, 1], bytes(4)).message + b"\x32\x00" * (8 * MB)),
        400,
    ),
    "a shape without end over gRPC": (lambda: infer("numbers", "FP32", [1] * (8 * MB)), 400),
    "examples without end over gRPC": (lambda: empty_examples(8 * MB), 400),
    "numbers of Predict": (lambda: predict("numbers", 1, [1, MB], float_val=FLOATS[:MB]), 200),
    "strings of Predict": (lambda: predict("texts", 7, [1, MB // 2], string_val=[b""] * (MB // 2)), 200),
    "a few bytes that stand for a million strings": (lambda: predict("texts", 7, [1, MB - 1000]), 200),
    "a few bytes that stand for too many rows": (lambda: predict("texts", 7, [MB, 1]), 400),
}
AT_ONCE: dict[str, tuple[Callable[[], Http | Grpc], int]] = {
    "numbers as JSON": (lambda: rest("numbers", row_of(b"0.5", MB // 8)), 200),
    "strings of two lengths": (
        lambda: binary("texts", "BYTES", [1, MB // 32], b"\x01\0\0\0a\x02\0\0\0bc" * (MB // 64)),
        200,
    ),
    "numbers, answered as JSON": (
        lambda: binary("numbers", "FP32", [1, MB // 16], NOT_FINITE[: MB // 16].tobytes()),
        200,
    ),
    "empty examples": (lambda: rest("numbers", b'{"examples":[' + b"{}," * (MB // 4) + b"{}]}", "classify"), 400),
    "outputs without end over gRPC": (
        lambda: Grpc(INFER, infer("numbers", "FP32", [1, 1], bytes(4)).message + b"\x32\x00" * (MB // 2)),
        400,
    ),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of the table, and in a folder of its own the neighbour's."""
    folder = tmp_path_factory.mktemp("models")
    for name, kind in (("numbers", models.FLOAT), ("wholes", models.INT32), ("texts", models.STRING)):
        _identity(folder / "heavy" / name / "1", kind)
    _identity(folder / "light" / "small" / "1", models.FLOAT)
    return folder


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Parts]:
    """An API process, a worker for the models of the table, and one for the neighbour's model alone."""
    with _running(tmp_path_factory.mktemp("stack"), repository) as parts:
        yield parts


@contextmanager
def _running(folder: Path, repository: Path, offload_processes: int = 2) -> Iterator[Parts]:
    with (
        Parts(
            folder, repository / "heavy", waits=False, MILLRACE_SERVING_OFFLOAD_PROCESSES=str(offload_processes)
        ) as parts,
        parts.another_worker(repository / "light"),
    ):
        until(lambda: _are_ready(parts.urls[0]), 120, "the models to be ready")
        yield parts


def _identity(folder: Path, kind: int) -> None:
    shape = ["rows", "values"]
    models.save(
        folder,
        [models.node("Identity", ["x"], ["y"])],
        [models.info("x", kind, shape)],
        [models.info("y", kind, shape)],
    )


def _are_ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        names = ("numbers", "wholes", "texts", "small")
        return all(httpx.get(f"{url}/v2/models/{name}/ready").status_code == 200 for name in names)
    return False


@pytest.fixture(scope="module")
def neighbour(stack: Parts) -> Iterator[Neighbour]:
    with _neighbour(stack) as found:
        yield found


def _neighbour(stack: Parts) -> Neighbour:
    return Neighbour(stack.ports[0], "/v1/models/small:predict", '{"instances": [[1, 2, 3]]}')


def _send_at_once(stack: Parts, request: Http | Grpc, count: int) -> set[int]:
    statuses: set[int] = set()
    threads = [threading.Thread(target=lambda: statuses.add(request.send(stack))) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def _excess(stack: Parts, neighbour: Neighbour, request: Http | Grpc, count: int, statuses: set[int]) -> float:
    """By how many seconds the neighbour waits longer for the requests than beside other programs."""
    with neighbour.waits() as waits:
        assert _send_at_once(stack, request, count) <= statuses
    with burning(BURNERS):
        beside_others_s = neighbour.longest_s(1.0)
    return max(waits) - beside_others_s


def _check(stack: Parts, neighbour: Neighbour, request: Http | Grpc, count: int, statuses: set[int]) -> None:
    measured: list[float] = []
    while not measured or measured[-1] >= ALLOWED_S:
        assert len(measured) < ATTEMPTS, f"the neighbour waited too long, by {measured} s"
        measured.append(_excess(stack, neighbour, request, count, statuses))


@pytest.mark.parametrize("name", CASES)
def test_a_neighbour_does_not_wait_for_one_request(stack: Parts, neighbour: Neighbour, name: str) -> None:
    make, status = CASES[name]
    _check(stack, neighbour, make(), 1, {status})


@pytest.mark.parametrize("name", ["more strings than may be", "empty examples", "a key for each value"])
def test_a_neighbour_does_not_wait_for_a_packed_request(stack: Parts, neighbour: Neighbour, name: str) -> None:
    make, _ = CASES[name]
    request = make()
    assert isinstance(request, Http)
    _check(stack, neighbour, request.packed(), 1, {400, 413})


@pytest.mark.parametrize("name", AT_ONCE)
def test_a_neighbour_does_not_wait_for_many_requests_at_once(stack: Parts, neighbour: Neighbour, name: str) -> None:
    make, status = AT_ONCE[name]
    # Those for which there is no room, or no time, are refused.
    _check(stack, neighbour, make(), 64, {status, 413, 429, 500, 503, 504})


def test_a_neighbour_does_wait_where_the_event_loop_reads_large_bodies(tmp_path: Path, repository: Path) -> None:
    """Else the table would show nothing."""
    make, status = CASES["numbers as JSON with one NaN"]
    with (
        _running(tmp_path, repository, offload_processes=0) as stack,
        _neighbour(stack) as neighbour,
    ):
        assert all(_excess(stack, neighbour, make(), 1, {status}) > ALLOWED_S for _ in range(3))
