"""Triton's own gRPC client, sync and asyncio, against the running stack."""

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.grpc import InferInput, InferRequestedOutput, service_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from millrace.protocol.tensors import DTYPES
from tests.contract.claims import proves
from tests.support.running import Stack

_Test = TypeVar("_Test", bound=Callable[..., Any])
_SUM = np.arange(16, dtype=np.int32)[None]
_FEW = np.array([[0, 1, 1], [1, 0, 1]])


class Aio:
    """The asyncio client, each of whose calls is run to its end."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._loop.run_until_complete(self._connect(address))

    async def _connect(self, address: str) -> Any:
        return tritonclient.grpc.aio.InferenceServerClient(address)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **options: self._loop.run_until_complete(method(*args, **options))

    def run(self, ask: Callable[[Any], Any]) -> Any:
        return self._loop.run_until_complete(ask(self._client))

    def end(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


@pytest.fixture(params=["sync", "asyncio"])
def client(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Any]:
    if request.param == "sync":
        with tritonclient.grpc.InferenceServerClient(stack.grpc) as made:
            yield made
    else:
        aio = Aio(stack.grpc)
        yield aio
        aio.end()


@pytest.fixture
def aio(stack: Stack) -> Iterator[Aio]:
    made = Aio(stack.grpc)
    yield made
    made.end()


@pytest.fixture
def sync(stack: Stack) -> Iterator[Any]:
    with tritonclient.grpc.InferenceServerClient(stack.grpc) as made:
        yield made


def both(call: str, **claim: str) -> Callable[[_Test], _Test]:
    """Claims the call for the sync client and for the asyncio one."""
    return lambda test: proves("tritonclient.grpc", call, **claim)(proves("tritonclient.grpc.aio", call, **claim)(test))


def tensor(name: str, array: np.ndarray[Any, Any]) -> InferInput:
    made = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def summands() -> list[InferInput]:
    return [tensor("INPUT0", _SUM), tensor("INPUT1", np.ones((1, 16), np.int32))]


def image(rows: int = 1) -> InferInput:
    return tensor("image", np.linspace(0, 255, rows * 784, dtype=np.float32).reshape(rows, 28, 28, 1))


def refusal(ask: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as refused:
        ask()
    return refused.value.status().removeprefix("StatusCode."), refused.value.message()


# Health and metadata


@both("is_server_live, is_server_ready")
def test_the_server_is_live_and_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()


@both("is_model_ready")
@pytest.mark.parametrize("model", ["digits", "simple"])
def test_a_model_is_ready_when_a_worker_has_it(client: Any, model: str) -> None:
    assert client.is_model_ready(model)
    assert client.is_model_ready(model, "1")
    assert not client.is_model_ready(model, "99")
    assert not client.is_model_ready("other")


@both("get_server_metadata")
def test_the_server_names_the_extensions_that_work(client: Any) -> None:
    metadata = client.get_server_metadata(as_json=True)
    assert metadata["name"] == "millrace"
    assert {"binary_tensor_data", "classification", "statistics"} <= set(metadata["extensions"])
    assert not {"cuda_shared_memory", "sequence", "system_shared_memory", "trace"} & set(metadata["extensions"])


@both("get_model_metadata")
def test_a_models_tensors_are_described(client: Any) -> None:
    metadata = client.get_model_metadata("simple", as_json=True)
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("simple", ["1"], "onnxruntime_onnx")
    assert metadata["inputs"] == [
        {"name": name, "datatype": "INT32", "shape": ["-1", "16"]} for name in ("INPUT0", "INPUT1")
    ]
    assert [output["name"] for output in metadata["outputs"]] == ["OUTPUT0", "OUTPUT1"]
    assert refusal(lambda: client.get_model_metadata("simple", "99")) == (
        "NOT_FOUND",
        "Request for unknown model: 'simple' version 99 is not found",
    )


@both("get_model_config")
def test_a_models_configuration_leaves_out_the_dimension_of_rows(client: Any) -> None:
    config = client.get_model_config("simple").config
    assert (config.name, config.platform, config.backend) == ("simple", "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size > 0
    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [("INPUT0", [16]), ("INPUT1", [16])]
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"


@both("get_inference_statistics")
def test_statistics_count_what_was_inferred(client: Any) -> None:
    def count() -> int:
        (stats,) = client.get_inference_statistics("simple", "1").model_stats
        assert (stats.name, stats.version) == ("simple", "1")
        return int(stats.inference_stats.success.count)

    before = count()
    client.infer("simple", summands())
    assert count() == before + 1
    assert {stats.name for stats in client.get_inference_statistics().model_stats} >= {"digits", "simple"}


# The repository


@both("get_model_repository_index")
def test_the_index_lists_every_model(client: Any) -> None:
    entries = {(entry.name, entry.version): entry.state for entry in client.get_model_repository_index().models}
    assert entries["simple", "1"] == "READY"


@both("load_model, unload_model")
def test_a_model_is_unloaded_and_loaded_again(
    client: Any, repository: Path, make_onnx: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    name = f"loaded_{request.node.callspec.id}"
    make_onnx(repository, name)
    client.load_model(name)
    assert client.is_model_ready(name)
    client.unload_model(name)
    assert not client.is_model_ready(name)
    status, _ = refusal(lambda: client.infer(name, [tensor("x", np.ones((1, 3), np.float32))]))
    assert status in ("NOT_FOUND", "UNAVAILABLE")
    client.load_model(name)
    answer = client.infer(name, [tensor("x", np.ones((1, 3), np.float32))])
    assert answer.as_numpy("scores").tolist() == [[6.0, 60.0]]
    client.unload_model(name)


@both("load_model of a model that is not there")
def test_loading_what_is_not_there_says_so(client: Any) -> None:
    status, text = refusal(lambda: client.load_model("nowhere"))
    assert status == "INVALID_ARGUMENT"
    assert "failed to load 'nowhere'" in text


@both("load_model with config or files", refused="UNIMPLEMENTED: put them into the model repository")
def test_a_configuration_cannot_be_sent(client: Any) -> None:
    status, text = refusal(lambda: client.load_model("simple", config='{"max_batch_size": 1}'))
    assert status == "UNIMPLEMENTED"
    assert "model repository" in text


# Infer


@both("infer")
@pytest.mark.parametrize("model", ["digits"])
def test_an_answer_is_that_of_the_rest_api(client: Any, stack: Stack, model: str) -> None:
    answer = client.infer(model, [image(3)], request_id="mine")
    body = {"instances": image(3)._get_content()}  # noqa: SLF001 - the client has no other way to it
    rows = np.frombuffer(body["instances"], np.float32).reshape(3, 28, 28, 1).tolist()
    rest = httpx.post(f"{stack.url}/v1/models/{model}:predict", json={"instances": rows}).json()["predictions"]
    np.testing.assert_allclose(answer.as_numpy("probabilities"), rest, atol=1e-6)
    assert answer.get_response().id == "mine"
    assert answer.get_response().model_version == "1"


@both("infer: every datatype, BYTES and FP16 among them")
@pytest.mark.parametrize("model", [f"identity_{datatype}" for datatype in DTYPES])
def test_elements_come_back_as_they_were_sent(client: Any, model: str) -> None:
    dtype = DTYPES[model.removeprefix("identity_")]
    array = np.array([[b"a", b"\x00"], ["ü".encode(), b""]], object) if dtype.kind == "O" else _FEW.astype(dtype)
    answer = client.infer(model, [tensor("INPUT0", array)]).as_numpy("OUTPUT0")
    assert answer.dtype == dtype
    assert answer.tolist() == array.tolist()


@both("infer: requested outputs")
def test_only_the_outputs_that_were_asked_for_come_in_their_order(client: Any) -> None:
    outputs = [InferRequestedOutput("OUTPUT1"), InferRequestedOutput("OUTPUT0")]
    answer = client.infer("simple", summands(), outputs=outputs)
    assert [output.name for output in answer.get_response().outputs] == ["OUTPUT1", "OUTPUT0"]
    assert answer.as_numpy("OUTPUT0").tolist() == (_SUM + 1).tolist()
    assert answer.as_numpy("OUTPUT1").tolist() == (_SUM - 1).tolist()
    only = client.infer("simple", summands(), outputs=[InferRequestedOutput("OUTPUT1")])
    assert only.as_numpy("OUTPUT0") is None


@both("infer: classes")
def test_the_largest_classes_of_an_output(client: Any) -> None:
    plain = client.infer("digits", [image(2)]).as_numpy("probabilities")
    answer = client.infer("digits", [image(2)], outputs=[InferRequestedOutput("probabilities", class_count=3)])
    classes = answer.as_numpy("probabilities")
    assert classes.shape == (2, 3)
    best = [int(row[0].split(b":")[1]) for row in classes]
    assert best == plain.argmax(axis=1).tolist()


@both("infer: a version")
def test_a_version_is_chosen_or_refused(client: Any) -> None:
    assert client.infer("simple", summands(), model_version="1").get_response().model_version == "1"
    assert refusal(lambda: client.infer("simple", summands(), model_version="7")) == (
        "NOT_FOUND",
        "Request for unknown model: 'simple' version 7 is not found",
    )
    status, text = refusal(lambda: client.infer("simple", summands(), model_version="newest"))
    assert status == "INVALID_ARGUMENT"
    assert "newest" in text


@both("infer: priority, timeout, client_timeout")
def test_priority_and_deadlines_are_taken(client: Any) -> None:
    answer = client.infer("simple", summands(), priority=1, timeout=10_000_000, client_timeout=10)
    assert answer.as_numpy("OUTPUT0").tolist() == (_SUM + 1).tolist()
    status, _ = refusal(lambda: client.infer("simple", summands(), timeout=1))
    assert status in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")


@both("infer: compression_algorithm gzip, deflate")
@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_compressed_request_is_read(client: Any, algorithm: str) -> None:
    answer = client.infer("simple", summands(), compression_algorithm=algorithm)
    assert answer.as_numpy("OUTPUT0").tolist() == (_SUM + 1).tolist()


@both("infer: parameters of the caller's own")
def test_parameters_that_mean_nothing_here_are_passed_over(client: Any) -> None:
    answer = client.infer("simple", summands(), parameters={"mine": "x"}, sequence_id=7, sequence_start=True)
    assert answer.as_numpy("OUTPUT0").tolist() == (_SUM + 1).tolist()


@both("infer: several megabytes")
def test_a_message_larger_than_grpcs_default_passes(client: Any) -> None:
    array = np.arange(2_000_000, dtype=np.float32).reshape(1, -1)
    assert np.array_equal(client.infer("identity_FP32", [tensor("INPUT0", array)]).as_numpy("OUTPUT0"), array)


@both("infer: errors")
def test_a_wrong_request_is_refused_in_tritons_words(client: Any) -> None:
    one = tensor("INPUT0", _SUM)
    for inputs, text in (
        ([one], "expected 2 inputs but got 1 inputs for model 'simple'"),
        ([*summands(), tensor("INPUT2", _SUM)], "unexpected inference input 'INPUT2' for model 'simple'"),
        ([one, tensor("INPUT1", np.ones((1, 8), np.int32))], "Expected [-1,16], got [1,8]"),
        ([one, tensor("INPUT1", np.ones((1, 16), np.float32))], "data-type is 'FP32'"),
    ):
        code, words = refusal(partial(client.infer, "simple", inputs))
        assert code == "INVALID_ARGUMENT"
        assert text in words
    unknown = refusal(lambda: client.infer("simple", summands(), outputs=[InferRequestedOutput("OUTPUT9")]))
    assert unknown == ("INVALID_ARGUMENT", "unexpected inference output 'OUTPUT9' for model 'simple'")
    assert refusal(lambda: client.infer("other", summands())) == (
        "NOT_FOUND",
        "Request for unknown model: 'other' is not found",
    )


@proves("tritonclient.grpc", "service stubs: typed contents in place of raw ones, for every datatype but FP16")
@pytest.mark.parametrize("model", [f"identity_{datatype}" for datatype in DTYPES if datatype != "FP16"])
def test_typed_contents_are_read(sync: Any, model: str) -> None:
    datatype = model.removeprefix("identity_")
    array = np.array([[b"a", b"bc"]], object) if datatype == "BYTES" else _FEW.astype(DTYPES[datatype])
    answer = _stub_infer(sync, model, datatype, array.shape, array.ravel().tolist())
    given = tensor("INPUT0", array)._get_content()  # noqa: SLF001 - the client has no other way to it
    assert answer.raw_output_contents[0] == given


@proves("tritonclient.grpc", "service stubs: raw and typed contents in one request", refused="INVALID_ARGUMENT")
def test_raw_and_typed_contents_do_not_mix(sync: Any) -> None:
    with pytest.raises(tritonclient.grpc.grpc.RpcError, match="contents field must not be specified"):
        _stub_infer(sync, "identity_FP32", "FP32", (1, 1), [1.0], raw=b"\0\0\0\0")


def _stub_infer(
    sync: Any, model: str, datatype: str, shape: tuple[int, ...], values: list[Any], raw: bytes = b""
) -> Any:
    fields = {
        "BOOL": "bool", "INT64": "int64", "UINT64": "uint64", "FP32": "fp32", "FP64": "fp64", "BYTES": "bytes",
    }  # fmt: skip
    field = fields.get(datatype, "uint" if datatype.startswith("U") else "int")
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="INPUT0", datatype=datatype, shape=shape, contents={f"{field}_contents": values})
    if raw:
        request.raw_input_contents.append(raw)
    return sync._client_stub.ModelInfer(request)  # noqa: SLF001 - the client has no other way to it


# Many at once


@proves("tritonclient.grpc", "async_infer")
def test_callbacks_are_called_with_answers_and_errors(sync: Any) -> None:
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for number in range(20):
        sync.async_infer("simple", summands(), lambda result, error: done.put((result, error)), request_id=str(number))
    sync.async_infer("other", summands(), lambda result, error: done.put((result, error)))
    answers = [done.get(timeout=30) for _ in range(21)]
    assert {result.get_response().id for result, _ in answers if result} == {str(n) for n in range(20)}
    (error,) = [error for _, error in answers if error]
    assert "unknown model: 'other'" in error.message()


@proves("tritonclient.grpc", "async_infer: cancel")
def test_a_call_can_be_cancelled(sync: Any) -> None:
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    call = sync.async_infer("simple", summands(), lambda result, error: done.put((result, error)))
    call.cancel()
    result, error = done.get(timeout=30)
    assert result or "cancelled" in error.message().lower()


@proves("tritonclient.grpc.aio", "infer: many at once")
def test_many_requests_at_once_have_each_their_own_answer(aio: Aio) -> None:
    async def ask(client: Any) -> list[Any]:
        inputs = [[tensor("INPUT0", _SUM + n), tensor("INPUT1", _SUM)] for n in range(32)]
        return await asyncio.gather(*(client.infer("simple", each) for each in inputs))

    answers = aio.run(ask)
    assert [answer.as_numpy("OUTPUT1").tolist() for answer in answers] == [[[n] * 16] for n in range(32)]


@proves("tritonclient.grpc.aio", "infer: 2,000 at once: each is answered, or refused with RESOURCE_EXHAUSTED and words")
def test_very_many_requests_at_once_are_all_told_something(aio: Aio) -> None:
    async def ask(client: Any) -> list[Any]:
        asked = [client.infer("simple", [tensor("INPUT0", _SUM), tensor("INPUT1", _SUM)]) for _ in range(2000)]
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = aio.run(ask)
    refused = [answer for answer in answers if isinstance(answer, InferenceServerException)]
    assert len(refused) < len(answers) == 2000
    assert {answer.status() for answer in refused} <= {"StatusCode.RESOURCE_EXHAUSTED"}
    assert all(answer.message() for answer in refused)


@proves("tritonclient.grpc", "start_stream, async_stream_infer, stop_stream")
def test_a_stream_answers_each_request_and_errors_do_not_end_it(sync: Any) -> None:
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    sync.start_stream(lambda result, error: done.put((result, error)))
    sync.async_stream_infer("other", summands())
    _, error = done.get(timeout=30)
    assert error.message() == "Request for unknown model: 'other' is not found"
    for number in range(10):
        sync.async_stream_infer(
            "simple", summands(), request_id=str(number), enable_empty_final_response=number % 2 == 0
        )
    answers = [done.get(timeout=30) for _ in range(10)]
    assert {result.get_response().id for result, _ in answers} == {str(n) for n in range(10)}
    assert all(result.get_response().parameters["triton_final_response"].bool_param for result, _ in answers)
    assert all(result.as_numpy("OUTPUT0").tolist() == (_SUM + 1).tolist() for result, _ in answers)
    sync.stop_stream()
    assert done.empty()


@proves("tritonclient.grpc.aio", "stream_infer")
def test_an_asyncio_stream_answers_each_request_and_errors_do_not_end_it(aio: Aio) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": "other", "inputs": summands()}
        for number in range(5):
            yield {"model_name": "simple", "inputs": summands(), "request_id": str(number)}

    async def ask(client: Any) -> list[tuple[Any, Any]]:
        return [answer async for answer in client.stream_infer(requests())]

    answers = aio.run(ask)
    assert {result.get_response().id for result, _ in answers if result} == {str(n) for n in range(5)}
    assert [error.message() for _, error in answers if error] == ["Request for unknown model: 'other' is not found"]


# What is not offered


@both("get_system_shared_memory_status, get_cuda_shared_memory_status")
def test_no_region_of_shared_memory_is_registered(client: Any) -> None:
    for kind, ask in (
        ("system", client.get_system_shared_memory_status),
        ("cuda", client.get_cuda_shared_memory_status),
    ):
        assert ask(as_json=True) == {}
        assert refusal(partial(ask, "mine")) == (
            "NOT_FOUND",
            f"Unable to find {kind} shared memory region: 'mine'",
        )


@both(
    "register_ and unregister_ system_ and cuda_shared_memory",
    refused="UNIMPLEMENTED: tensors in shared memory are not supported",
)
def test_shared_memory_is_refused_by_name(client: Any) -> None:
    for ask in (
        client.unregister_system_shared_memory,
        client.unregister_cuda_shared_memory,
        lambda: client.register_system_shared_memory("region", "/key", 16),
        lambda: client.register_cuda_shared_memory("region", b"aGFuZGxl", 0, 16),
    ):
        status, text = refusal(ask)
        assert status == "UNIMPLEMENTED"
        assert "shared memory" in text


@both("infer: a tensor in shared memory", refused="UNIMPLEMENTED: tensors in shared memory are not supported")
def test_a_tensor_in_shared_memory_is_refused(client: Any) -> None:
    shared = InferInput("INPUT0", [1, 16], "INT32")
    shared.set_shared_memory("region", 64)
    status, text = refusal(lambda: client.infer("simple", [shared, tensor("INPUT1", _SUM)]))
    assert status == "UNIMPLEMENTED"
    assert "shared memory" in text


@both("get_trace_settings, update_trace_settings", refused="UNIMPLEMENTED: tracing is not supported")
def test_trace_settings_are_refused_by_name(client: Any) -> None:
    for ask in (client.get_trace_settings, lambda: client.update_trace_settings(settings={"trace_rate": "1"})):
        status, text = refusal(ask)
        assert status == "UNIMPLEMENTED"
        assert "tracing" in text


@both("get_log_settings, update_log_settings", refused="UNIMPLEMENTED: log settings cannot be changed")
def test_log_settings_are_refused_by_name(client: Any) -> None:
    for ask in (client.get_log_settings, lambda: client.update_log_settings({"log_info": True})):
        status, text = refusal(ask)
        assert status == "UNIMPLEMENTED"
        assert "log settings" in text
