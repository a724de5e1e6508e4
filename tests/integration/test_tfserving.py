"""A remote TensorFlow Serving as a backend: in front of our own gRPC server, which speaks its protocol."""

import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from millrace import rpc
from millrace.protocol.errors import DeadlineExceeded, InvalidRequest, ModelFailed, Unavailable
from tests.support.remotes import Described, floats_to_threes
from tests.support.running import Parts, until
from tests.support.tls import Certificates
from worker import backends
from worker.backends.base import Backend, Device, LoadError
from worker.running.current import CurrentRequests, current

CPU = Device()
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory, make_onnx: Callable[..., Path]) -> Iterator[Parts]:
    """The remote server, with a model `tiny` in two versions, of which the second doubles what the first answers."""
    folder = tmp_path_factory.mktemp("remote")
    for version in (1, 2):
        make_onnx(folder / "models", "tiny", version)
    (folder / "models" / "tiny" / "config.pbtxt").write_text("version_policy { all {} }\n")
    with Parts(folder, folder / "models") as parts:
        yield parts


def address(parts: Parts) -> str:
    return f"127.0.0.1:{parts.grpc_ports[0]}"


def describe(folder: Path, **fields: Any) -> Path:
    """A version folder that names a remote model."""
    folder.mkdir(parents=True)
    (folder / "tfserving.json").write_text(json.dumps({"model": "tiny", **fields}))
    return folder


def load(folder: Path, **fields: Any) -> Backend:
    return backends.load(describe(folder, **fields), CPU)


def text_of(url: str) -> str:
    """What is there, "" while nobody listens."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).text
    return ""


class _Forward(grpc.GenericRpcHandler):
    """Hands every call on to another server; Predict only when it is told to, or it has `answer` for it."""

    def __init__(self, target: str, may_predict: Event, answer: bytes | None) -> None:
        self._channel = grpc.insecure_channel(target)
        self._may_predict = may_predict
        self._answer = answer

    def service(self, handler_call_details: Any) -> Any:
        def forward(request: bytes, context: Any) -> Any:
            if handler_call_details.method.endswith("/Predict"):
                self._may_predict.wait(30)
                if self._answer is not None:
                    return self._answer
            try:
                return self._channel.unary_unary(handler_call_details.method)(request)
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())

        return grpc.unary_unary_rpc_method_handler(forward)


@contextmanager
def proxy(target: str, credentials: Any = None, answer: bytes | None = None) -> Iterator[tuple[int, Event]]:
    """A server in front of another: its port, and what lets Predict through; `answer` is then what Predict gets."""
    may_predict = Event()
    may_predict.set()
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[_Forward(target, may_predict, answer)])
    port = (
        server.add_secure_port("127.0.0.1:0", credentials) if credentials else server.add_insecure_port("127.0.0.1:0")
    )
    server.start()
    try:
        yield port, may_predict
    finally:
        may_predict.set()
        server.stop(None).wait()


def test_signatures_are_read_from_the_remote_and_rows_are_computed_there(remote: Parts, tmp_path: Path) -> None:
    backend = load(tmp_path / "1", address=address(remote))
    signature = backend.signatures["serving_default"]
    assert [(s.name, s.datatype, s.shape) for s in signature.inputs] == [("x", "FP32", (-1, 3))]
    assert [(s.name, s.datatype, s.shape) for s in signature.outputs] == [("scores", "FP32", (-1, 2))]
    outputs = backend.run("serving_default", {"x": np.array([[1, 0, 0], [0, 0, 1]], np.float32)})
    assert outputs["scores"].tolist() == [[2, 20], [6, 60]]
    assert backend.fault == ""


def test_a_signature_can_be_chosen_and_a_version(remote: Parts, tmp_path: Path) -> None:
    backend = load(tmp_path / "1", address=address(remote), version=1, signature="serving_default")
    assert backend.run("serving_default", {"x": np.ones((1, 3), np.float32)})["scores"].tolist() == [[6, 60]]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model": "other"}, "model 'other' at .*: Servable not found"),
        ({"version": 9}, "Servable not found for request: Specific"),
        ({"label": "nightly"}, "Unrecognized servable version label: nightly"),
        ({"signature": "other"}, "has no signature 'other'; it has .*serving_default"),
        ({"version": 1, "label": "stable"}, "version and label exclude each other"),
        ({"adress": "x"}, "unknown field `adress`"),
        ({"timeout_ms": 0}, "timeout_ms must be above 0"),
        ({"model": ""}, "must not be empty"),
        ({"tls": {"authority": "missing.crt"}}, "missing.crt"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_cannot_be_loaded_says_why(remote: Parts, tmp_path: Path, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(LoadError, match=text):
        load(tmp_path / "1", **{"address": address(remote), **fields})


def test_a_remote_that_is_away_is_worth_another_try(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"model 'tiny' at 127\.0\.0\.1:1:") as refusal:
        load(tmp_path / "1", address="127.0.0.1:1")
    assert refusal.value.can_retry


def test_what_the_remote_refuses_is_the_callers_error(remote: Parts, tmp_path: Path) -> None:
    backend = load(tmp_path / "1", address=address(remote))
    with pytest.raises(InvalidRequest, match=r"Expected \[-1,3\], got \[1,2\]"):
        backend.run("serving_default", {"x": np.ones((1, 2), np.float32)})


@pytest.mark.parametrize(
    "outputs", [None, {"y": {"dtype": 1, "tensor_shape": {"dim": [{"size": -1}]}}}, {"y": {"dtype": 8}}]
)
def test_an_answer_that_cannot_be_read_is_the_remotes_fault(remote: Parts, tmp_path: Path, outputs: Any) -> None:
    response = rpc.message("tensorflow.serving.PredictResponse")
    answer = b"\xff\xff" if outputs is None else response(outputs=outputs).SerializeToString()
    with proxy(address(remote), answer=answer) as (port, _):
        backend = load(tmp_path / "1", address=f"127.0.0.1:{port}")
        with pytest.raises(ModelFailed, match="gave an answer that cannot be read"):
            backend.run("serving_default", {"x": np.ones((1, 3), np.float32)})


def test_what_cannot_be_announced_of_a_remote_model_is_left_out_by_name(tmp_path: Path) -> None:
    def info(dtype: int, **more: Any) -> dict[str, Any]:
        return {"name": "x:0", "dtype": dtype, "tensor_shape": {"dim": [{"size": -1}]}, **more}

    sparse = {"coo_sparse": {"values_tensor_name": "v:0"}, "dtype": 1}
    text = {"name": "e:0", "dtype": 7, "tensor_shape": {"unknown_rank": True}}
    floats, any_rank = info(1), info(1, tensor_shape={"unknown_rank": True})
    remote = Described(
        {
            "serving_default": {"inputs": {"x": any_rank}, "outputs": {"y": info(101), "s": sparse}},
            "regress": {
                "inputs": {"inputs": text},
                "outputs": {"outputs": floats},
                "method_name": "tensorflow/serving/regress",
            },
            "complex": {"inputs": {"x": info(8)}, "outputs": {"y": floats}},
            "__saved_model_init_op": {"outputs": {"__saved_model_init_op": {"name": "NoOp"}}},
        },
        {"y": {"dtype": 1, "float_val": [3]}},
    )
    with remote as port:
        backend = load(tmp_path / "1", address=f"127.0.0.1:{port}")
        assert backend.notes == [
            "Signature 'complex' is left out: its input 'x' has the type DT_COMPLEX64, which is not carried.",
            "Output 's' of signature 'serving_default' is left out: it is a SparseTensor, which is not one tensor.",
        ]
        assert sorted(backend.signatures) == ["regress", "serving_default"]
        (x,), (y,) = backend.signatures["serving_default"].inputs, backend.signatures["serving_default"].outputs
        assert (x.unknown_rank, y.datatype, y.shape, y.graph_name) == (True, "FP32", (-1,), "x:0")
        assert backend.signatures["regress"].examples_input == "inputs"
        assert backend.run("serving_default", {"x": np.ones((), np.float32)})["y"].item() == 3
        assert remote.asked[0].output_filter == ["y"]


@pytest.mark.parametrize(("trace", "passed_on"), [(f"id {TRACEPARENT}", [TRACEPARENT]), ("id", []), (None, [])])
def test_the_trace_of_a_runs_first_request_is_passed_on(
    tmp_path: Path, trace: str | None, passed_on: list[str]
) -> None:
    remote = floats_to_threes()
    with remote as port:
        backend = load(tmp_path / "1", address=f"127.0.0.1:{port}")
        run = CurrentRequests(deadline_ms=0, trace=trace, via=()) if trace is not None else None
        token = current.set(run)
        backend.run("serving_default", {"x": np.ones((1, 3), np.float32)})
        current.reset(token)
        assert [value for key, value in remote.metadata[0] if key == "traceparent"] == passed_on


def test_a_remote_that_takes_too_long_or_goes_away_is_told(remote: Parts, tmp_path: Path) -> None:
    inputs = {"x": np.ones((1, 3), np.float32)}
    with proxy(address(remote)) as (port, may_predict):
        backend = load(tmp_path / "1", address=f"127.0.0.1:{port}", timeout_ms=200)
        may_predict.clear()
        with pytest.raises(DeadlineExceeded, match="did not answer within 200 ms"):
            backend.run("serving_default", inputs)
    with pytest.raises(Unavailable, match=f"model 'tiny' at 127.0.0.1:{port}"):
        backend.run("serving_default", inputs)
    until(lambda: f"model 'tiny' at 127.0.0.1:{port}" in backend.fault)


def test_tls_is_spoken_where_it_is_asked_for(remote: Parts, tmp_path: Path, certificates: Certificates) -> None:
    files = [Path(certificates.file(name)).read_bytes() for name in ("server.key", "server.crt", "ca.crt")]
    own = grpc.ssl_server_credentials([tuple(files[:2])], root_certificates=files[2], require_client_auth=True)
    with proxy(address(remote), own) as (port, _):
        tls = {
            name: certificates.file(file)
            for name, file in (("authority", "ca.crt"), ("certificate", "client.crt"), ("key", "client.key"))
        }
        backend = load(tmp_path / "1", address=f"127.0.0.1:{port}", tls=tls)
        assert backend.run("serving_default", {"x": np.ones((1, 3), np.float32)})["scores"].tolist() == [[12, 120]]
        with pytest.raises(LoadError):
            load(tmp_path / "2", address=f"127.0.0.1:{port}")


@pytest.mark.slow
def test_a_stack_in_front_of_a_remote_follows_its_health(remote: Parts, tmp_path: Path) -> None:
    def ask() -> httpx.Response:
        return httpx.post(f"{front.urls[0]}/v1/models/far:predict", json={"instances": [[1, 0, 0], [0, 0, 1]]})

    with proxy(address(remote)) as (port, _):
        describe(tmp_path / "models" / "far" / "1", address=f"127.0.0.1:{port}")
        with Parts(tmp_path, tmp_path / "models") as front:
            assert ask().json() == {"predictions": [[2, 20], [6, 60]]}
            wrong = httpx.post(f"{front.urls[0]}/v1/models/far:predict", json={"instances": [[1, 0]]})
            assert wrong.status_code == 400
            remote.apis[0].terminate()
            remote.apis[0].wait()
            until(lambda: ask().status_code == 503 and "model 'tiny' at" in ask().json()["error"])
            until(lambda: not httpx.get(f"{front.urls[0]}/v2/models/far/ready").json()["ready"])
            remote.restart_api(0)
            until(lambda: ask().status_code == 200)
            assert ask().json() == {"predictions": [[2, 20], [6, 60]]}


@pytest.mark.slow
def test_a_worker_that_starts_before_its_remote_loads_the_model_once_it_is_there(remote: Parts, tmp_path: Path) -> None:
    remote.apis[0].terminate()
    remote.apis[0].wait()
    describe(tmp_path / "models" / "far" / "1", address=address(remote))
    with Parts(tmp_path, tmp_path / "models", waits=False) as front:
        until(lambda: "model 'tiny' at" in text_of(f"{front.urls[0]}/v1/models"))
        remote.restart_api(0)
        until(lambda: httpx.get(f"{front.urls[0]}/v2/models/far/ready").status_code == 200)
