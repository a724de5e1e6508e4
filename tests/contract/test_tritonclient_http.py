"""NVIDIA's `tritonclient.http` and `tritonclient.http.aio`: each call by both, with the same answer."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from tritonclient import http
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

from millrace.protocol.tensors import DTYPES
from tests.contract.claims import proves
from tests.support.running import Stack

MODELS = ["digits", "sentiment", "word2vec", "half_plus_two", "simple"]
INPUTS: dict[str, dict[str, npt.NDArray[Any]]] = {
    "digits": {"image": np.linspace(0, 255, 2 * 784, dtype=np.float32).reshape(2, 28, 28, 1)},
    "sentiment": {"text": np.array(["a wonderful film", "a dull, lifeless film", "a film from 日本語"], object)},
    "word2vec": {"tokens": np.array([["king", "man", "woman"]], object), "weights": np.array([[1, -1, 1]], np.float32)},
    "half_plus_two": {"x": np.array([1, 2, 5], np.float32)},
    "simple": {"INPUT0": np.arange(16, dtype=np.int32)[None], "INPUT1": np.ones((1, 16), np.int32)},
}


def both(call: str, **how: str) -> Callable[[Any], Any]:
    """Mark a test as the proof of a call of both clients."""

    def mark(test: Any) -> Any:
        return proves("tritonclient.http", call, **how)(proves("tritonclient.http.aio", call, **how)(test))

    return mark


class Asked:
    """Both clients of one server: each call is made by both, and they must agree."""

    def __init__(self, stack: Stack) -> None:
        self.address = stack.url.removeprefix("http://")

    def __call__(self, method: str, *args: Any, **options: Any) -> Any:
        """What the synchronous client answers, and the other one too."""
        with http.InferenceServerClient(self.address) as client:
            answer = getattr(client, method)(*args, **options)
        later = asyncio.run(self._later(method, *args, **options))
        assert _comparable(later) == _comparable(answer)
        return answer

    async def _later(self, method: str, *args: Any, **options: Any) -> Any:
        async with aio.InferenceServerClient(self.address) as client:
            return await getattr(client, method)(*args, **options)

    def refused(self, status: str, text: str, method: str, *args: Any, **options: Any) -> None:
        """Both clients meet this error."""
        with http.InferenceServerClient(self.address) as client, pytest.raises(InferenceServerException) as met:
            getattr(client, method)(*args, **options)
        with pytest.raises(InferenceServerException) as met_later:
            asyncio.run(self._later(method, *args, **options))
        for error in (met.value, met_later.value):
            assert error.status() == status, error
            assert text in error.message()


def _comparable(answer: Any) -> Any:
    """An answer without what differs between two calls: the statistics count on."""
    if isinstance(answer, http.InferResult):
        names = [output["name"] for output in answer.get_response()["outputs"]]
        return answer.get_response(), [answer.as_numpy(name).tolist() for name in names]
    if isinstance(answer, dict) and "model_stats" in answer:
        return [(stats["name"], stats["version"], stats.keys()) for stats in answer["model_stats"]]
    return answer


@pytest.fixture
def asked(stack: Stack) -> Asked:
    return Asked(stack)


def inputs(tensors: dict[str, npt.NDArray[Any]], *, binary: bool = True) -> list[http.InferInput]:
    made = []
    for name, array in tensors.items():
        tensor = http.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array, binary_data=binary)
        made.append(tensor)
    return made


# What is told


@both("is_server_live, is_server_ready")
def test_the_server_is_live_and_ready(asked: Asked) -> None:
    assert asked("is_server_live") is True
    assert asked("is_server_ready") is True


@both("is_model_ready")
@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_ready_where_it_is_there(asked: Asked, model: str) -> None:
    assert asked("is_model_ready", model) is True
    assert asked("is_model_ready", model, "1") is True
    assert asked("is_model_ready", model, "9") is False
    assert asked("is_model_ready", "nope") is False


@both("get_server_metadata")
def test_the_server_names_the_extensions_that_work(asked: Asked) -> None:
    metadata = asked("get_server_metadata")
    assert metadata["name"] == "millrace"
    assert {"binary_tensor_data", "classification", "model_configuration", "statistics"} <= set(metadata["extensions"])
    assert not {"sequence", "system_shared_memory", "cuda_shared_memory", "trace", "logging"} & set(
        metadata["extensions"]
    )


@both("get_model_metadata")
@pytest.mark.parametrize("model", MODELS)
def test_a_model_tells_its_inputs_and_outputs(asked: Asked, model: str) -> None:
    metadata = asked("get_model_metadata", model)
    assert metadata == asked("get_model_metadata", model, model_version="1")
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == (model, ["1"], "onnxruntime_onnx")
    for described in metadata["inputs"]:
        array = INPUTS[model][described["name"]]
        assert described["datatype"] == np_to_triton_dtype(array.dtype)
        assert all(size in (-1, have) for size, have in zip(described["shape"], array.shape, strict=True))


@both("get_model_config")
@pytest.mark.parametrize("model", MODELS)
def test_a_model_tells_its_configuration(asked: Asked, model: str) -> None:
    config, metadata = asked("get_model_config", model), asked("get_model_metadata", model)
    assert (config["name"], config["backend"]) == (model, "onnxruntime")
    assert config["max_batch_size"] > 0
    for kind in ("input", "output"):
        shapes = {tensor["name"]: tensor["shape"][1:] for tensor in metadata[f"{kind}s"]}
        assert {tensor["name"]: tensor["dims"] for tensor in config[kind]} == shapes


@both("get_model_config: a model's config.pbtxt, completed with Triton's defaults")
def test_the_whole_configuration_is_told(asked: Asked, repository: Path, make_onnx: Callable[..., Path]) -> None:
    folder = make_onnx(repository, "configured").parent
    (folder / "labels.txt").write_text("less\nmore\n")
    (folder / "config.pbtxt").write_text(
        """
        platform: "onnxruntime_onnx" max_batch_size: 4
        input { name: "x" data_type: TYPE_FP32 dims: [3] format: FORMAT_NONE }
        output { name: "scores" data_type: TYPE_FP32 dims: [2] label_filename: "labels.txt" }
        instance_group { count: 1 kind: KIND_CPU }
        parameters { key: "mine" value { string_value: "yes" } }
        """
    )
    asked("load_model", "configured")
    config = asked("get_model_config", "configured")
    assert (config["max_batch_size"], config["default_model_filename"]) == (4, "model.onnx")
    assert config["output"][0]["label_filename"] == "labels.txt"
    assert config["version_policy"] == {"latest": {"num_versions": 1}}
    assert (config["instance_group"][0]["kind"], config["instance_group"][0]["gpus"]) == ("KIND_CPU", [])
    assert config["parameters"]["mine"] == {"string_value": "yes"}
    classes = [http.InferRequestedOutput("scores", class_count=1)]
    x = inputs({"x": np.ones((1, 3), np.float32)})
    assert asked("infer", "configured", x, outputs=classes).as_numpy("scores").tolist() == [[b"60.000000:1:more"]]
    (folder / "labels.txt").write_text("small\nlarge\n")
    asked("load_model", "configured")
    assert asked("infer", "configured", x, outputs=classes).as_numpy("scores").tolist() == [[b"60.000000:1:large"]]
    asked("unload_model", "configured")


@both("get_inference_statistics")
def test_statistics_count_requests_rows_and_runs(asked: Asked) -> None:
    (before,) = asked("get_inference_statistics", "half_plus_two", "1")["model_stats"]
    asked("infer", "half_plus_two", inputs(INPUTS["half_plus_two"]))
    (after,) = asked("get_inference_statistics", "half_plus_two")["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 2 * 3
    assert after["execution_count"] - before["execution_count"] == 2
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 2
    assert after["last_inference"] > before["last_inference"]
    every = asked("get_inference_statistics")["model_stats"]
    assert {stats["name"] for stats in every} >= set(MODELS)


# The repository


@both("get_model_repository_index")
def test_the_index_lists_every_model(asked: Asked) -> None:
    entries = {(entry["name"], entry["version"]): entry for entry in asked("get_model_repository_index")}
    for model in MODELS:
        assert entries[model, "1"] == {"name": model, "version": "1", "state": "READY", "reason": ""}


@both("load_model, unload_model")
def test_a_model_is_unloaded_and_loaded_again(asked: Asked, repository: Path, make_onnx: Callable[..., Path]) -> None:
    name, x = "loaded_over_http", inputs({"x": np.ones((1, 3), np.float32)})
    make_onnx(repository, name)
    for _ in range(2):
        assert asked("load_model", name) is None
        assert asked("is_model_ready", name) is True
        assert asked("infer", name, x).as_numpy("scores").tolist() == [[6.0, 60.0]]
        assert asked("unload_model", name) is None
        assert asked("is_model_ready", name) is False
        asked.refused("404", f"Request for unknown model: '{name}' has no available versions", "infer", name, x)


@both("load_model of a model that is not there")
def test_loading_what_is_not_there_says_so(asked: Asked) -> None:
    asked.refused("400", "failed to load 'nowhere'", "load_model", "nowhere")


@both("load_model with config or files", refused="501: put them into the model repository")
def test_a_configuration_cannot_be_sent(asked: Asked) -> None:
    text = "put them into the model repository"
    asked.refused("501", text, "load_model", "simple", config='{"max_batch_size": 1}')
    asked.refused("501", text, "load_model", "simple", config="{}", files={"file:1/model.onnx": b"x"})


# Infer


@both("infer: binary")
@pytest.mark.parametrize("model", MODELS)
def test_tensors_go_and_come_binary(asked: Asked, model: str) -> None:
    result = asked("infer", model, inputs(INPUTS[model]), model_version="1", request_id="7")
    assert result.get_response()["id"] == "7"
    assert (result.get_response()["model_name"], result.get_response()["model_version"]) == (model, "1")
    for output in asked("get_model_metadata", model)["outputs"]:
        array = result.as_numpy(output["name"])
        assert array.dtype == triton_to_np_dtype(output["datatype"])
        assert len(array) == len(next(iter(INPUTS[model].values())))


@both("infer: JSON")
@pytest.mark.parametrize("model", MODELS)
def test_tensors_go_and_come_as_json(asked: Asked, model: str) -> None:
    binary = asked("infer", model, inputs(INPUTS[model]))
    names = [output["name"] for output in binary.get_response()["outputs"]]
    wanted = [http.InferRequestedOutput(name, binary_data=False) for name in names]
    result = asked("infer", model, inputs(INPUTS[model], binary=False), outputs=wanted)
    for name in names:
        assert "data" in result.get_output(name)
        got, expected = result.as_numpy(name), binary.as_numpy(name)
        if expected.dtype == object:
            assert [text.encode() for text in got.ravel()] == expected.ravel().tolist()
        else:
            np.testing.assert_allclose(got, expected, atol=1e-6)


def _values(datatype: str) -> npt.NDArray[Any]:
    if datatype == "BYTES":
        return np.array([[b"", b"\x00"], ["ü, 日本".encode(), b"line\nbreak"]], object)
    return np.array([[0, 1, 2], [3, 4, 100]]).astype(triton_to_np_dtype(datatype))


@both("infer: every datatype, binary")
@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_comes_back_as_it_went(asked: Asked, datatype: str) -> None:
    values = _values(datatype)
    result = asked("infer", f"identity_{datatype}", inputs({"INPUT0": values}))
    assert result.as_numpy("OUTPUT0").dtype == values.dtype
    assert result.as_numpy("OUTPUT0").tolist() == values.tolist()


@both("infer: every datatype but FP16, JSON")
@pytest.mark.parametrize("datatype", [datatype for datatype in DTYPES if datatype != "FP16"])
def test_every_datatype_that_json_has_comes_back_as_it_went(asked: Asked, datatype: str) -> None:
    values = np.array([["", "ü, 日本"]], object) if datatype == "BYTES" else _values(datatype)
    wanted = [http.InferRequestedOutput("OUTPUT0", binary_data=False)]
    result = asked("infer", f"identity_{datatype}", inputs({"INPUT0": values}, binary=False), outputs=wanted)
    assert result.as_numpy("OUTPUT0").tolist() == values.tolist()


@both("infer: FP16, JSON", differs="an output of FP16 can be had as JSON, which Triton refuses; inputs can't, as there")
def test_half_precision_is_answered_as_json_too(asked: Asked) -> None:
    values = _values("FP16")
    wanted = [http.InferRequestedOutput("OUTPUT0", binary_data=False)]
    result = asked("infer", "identity_FP16", inputs({"INPUT0": values}), outputs=wanted)
    assert result.as_numpy("OUTPUT0").tolist() == values.tolist()
    tensors = inputs({"INPUT0": values}, binary=False)
    asked.refused("400", "receiving FP16 data via JSON is not supported", "infer", "identity_FP16", tensors)


@both("infer: request_compression_algorithm")
@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("size", [4, 100_000])
def test_requests_are_unpacked(asked: Asked, algorithm: str, size: int) -> None:
    values = np.arange(2 * size, dtype=np.float32).reshape(2, size)
    for binary in (True, False):
        tensors = inputs({"INPUT0": values}, binary=binary)
        result = asked("infer", "identity_FP32", tensors, request_compression_algorithm=algorithm)
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), values)


@proves("tritonclient.http", "infer: response_compression_algorithm", differs="answers below 1 KiB are not packed")
@proves("tritonclient.http.aio", "infer: response_compression_algorithm", differs="answers below 1 KiB are not packed")
@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("size", [4, 1000, 100_000])
def test_answers_are_packed(stack: Stack, asked: Asked, algorithm: str, size: int, capsys: Any) -> None:
    values = np.zeros((1, size), np.float32)
    for binary in (True, False):
        wanted = [http.InferRequestedOutput("OUTPUT0", binary_data=binary)]
        tensors = inputs({"INPUT0": values})
        options = {"outputs": wanted, "response_compression_algorithm": algorithm}
        result = asked("infer", "identity_FP32", tensors, **options)
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), values)
        capsys.readouterr()
        with http.InferenceServerClient(asked.address, verbose=True) as telling:
            telling.infer("identity_FP32", tensors, **options)
        assert (f"'content-encoding': '{algorithm}'" in capsys.readouterr().out) == (size > 4)


@both("infer: requested outputs")
def test_outputs_come_as_they_were_asked_for(asked: Asked) -> None:
    sum_, difference = http.InferRequestedOutput("OUTPUT0"), http.InferRequestedOutput("OUTPUT1", binary_data=False)
    result = asked("infer", "simple", inputs(INPUTS["simple"]), outputs=[difference, sum_])
    assert [output["name"] for output in result.get_response()["outputs"]] == ["OUTPUT1", "OUTPUT0"]
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), INPUTS["simple"]["INPUT0"] + 1)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), INPUTS["simple"]["INPUT0"] - 1)
    result = asked("infer", "simple", inputs(INPUTS["simple"]), outputs=[sum_])
    assert result.as_numpy("OUTPUT1") is None


@both("infer: classification (class_count)")
@pytest.mark.parametrize("binary", [True, False])
def test_the_largest_scores_come_with_their_labels(asked: Asked, binary: bool) -> None:
    wanted = [http.InferRequestedOutput("probabilities", binary_data=binary, class_count=1)]
    result = asked("infer", "sentiment", inputs(INPUTS["sentiment"]), outputs=wanted)
    classes = result.as_numpy("probabilities")
    texts = [value.decode() if isinstance(value, bytes) else value for value in classes.ravel().tolist()]
    assert classes.shape == (3, 1)
    assert [text.split(":", 1)[1] for text in texts[:2]] == ["1:positive", "0:negative"]
    scores = asked("infer", "digits", inputs(INPUTS["digits"])).as_numpy("probabilities")
    wanted = [http.InferRequestedOutput("probabilities", class_count=3)]
    three = asked("infer", "digits", inputs(INPUTS["digits"]), outputs=wanted).as_numpy("probabilities")
    best = np.argsort(scores, axis=1)[:, ::-1][:, :3]
    assert [[int(text.split(b":")[1]) for text in row] for row in three] == best.tolist()


@both("infer: priority, timeout, parameters, headers, query_params")
def test_a_request_says_how_urgent_it_is(asked: Asked) -> None:
    for options in (
        {"priority": 1},
        {"priority": 2, "timeout": 30_000_000},
        {"parameters": {"mine": "value"}},
        {"headers": {"X-Request-Id": "mine"}, "query_params": {"a": [1, 2]}},
    ):
        result = asked("infer", "half_plus_two", inputs(INPUTS["half_plus_two"]), **options)
        assert result.as_numpy("y").tolist() == [2.5, 3.0, 4.5]


@both("infer: sequence_id", differs="taken and ignored, as by a model of Triton's that has no sequences")
def test_a_sequence_is_no_more_than_its_requests(asked: Asked) -> None:
    options = {"sequence_id": 7, "sequence_start": True, "sequence_end": True}
    result = asked("infer", "half_plus_two", inputs(INPUTS["half_plus_two"]), **options)
    assert result.as_numpy("y").tolist() == [2.5, 3.0, 4.5]


@proves("tritonclient.http", "async_infer")
@pytest.mark.parametrize("model", MODELS)
def test_many_requests_are_open_at_once(stack: Stack, asked: Asked, model: str) -> None:
    expected = _comparable(asked("infer", model, inputs(INPUTS[model])))
    with http.InferenceServerClient(asked.address, concurrency=8) as client:
        open_ = [client.async_infer(model, inputs(INPUTS[model])) for _ in range(24)]
        results = [request.get_result() for request in open_]
    _close([_comparable(result) for result in results], expected)


@proves("tritonclient.http.aio", "infer: many at once")
@pytest.mark.parametrize("model", MODELS)
def test_many_coroutines_wait_at_once(asked: Asked, model: str) -> None:
    expected = _comparable(asked("infer", model, inputs(INPUTS[model])))

    async def ask() -> list[Any]:
        async with aio.InferenceServerClient(asked.address) as client:
            return await asyncio.gather(*(client.infer(model, inputs(INPUTS[model])) for _ in range(24)))

    _close([_comparable(result) for result in asyncio.run(ask())], expected)


def _close(answers: list[Any], expected: Any) -> None:
    """The answers are this one but for the rounding that differs from batch to batch."""
    for response, arrays in answers:
        assert response == expected[0]
        for got, wanted in zip(arrays, expected[1], strict=True):
            if np.array(wanted).dtype.kind == "f":
                np.testing.assert_allclose(got, wanted, atol=1e-5)
            else:
                assert got == wanted


@proves("tritonclient.http", "generate_request_body, parse_response_body")
def test_a_body_made_by_the_client_may_be_sent_by_another(stack: Stack) -> None:
    body, length = http.InferenceServerClient.generate_request_body(inputs(INPUTS["simple"]), request_id="7")
    headers = {"Inference-Header-Content-Length": str(length), "Accept-Encoding": "gzip"}
    answer = httpx.post(f"{stack.url}/v2/models/simple/infer", content=body, headers=headers)
    parsed = http.InferenceServerClient.parse_response_body(
        answer.content, header_length=int(answer.headers["inference-header-content-length"])
    )
    np.testing.assert_array_equal(parsed.as_numpy("OUTPUT0"), INPUTS["simple"]["INPUT0"] + 1)


# What is refused


@both("errors: unknown model or version, wrong input, output, shape, datatype")
def test_what_is_wrong_is_named_in_tritons_words(asked: Asked) -> None:
    x = inputs(INPUTS["half_plus_two"])
    unknown = "Request for unknown model: 'nope' is not found"
    asked.refused("404", unknown, "infer", "nope", x)
    asked.refused("404", unknown, "get_model_metadata", "nope")
    asked.refused("404", unknown, "get_model_config", "nope")
    asked.refused("404", "version 9 is not found", "infer", "half_plus_two", x, model_version="9")
    asked.refused("400", "requested model 'nope' is not available", "get_inference_statistics", "nope")
    asked.refused("400", "missing required input(s) ['INPUT0','INPUT1']", "infer", "simple", [])
    asked.refused("400", "unexpected inference input 'z'", "infer", "simple", inputs({"z": np.array([1], np.int32)}))
    outputs = [http.InferRequestedOutput("z")]
    asked.refused("400", "unexpected inference output 'z'", "infer", "half_plus_two", x, outputs=outputs)
    shape = "unexpected shape for input 'x' for model 'half_plus_two'. Expected [-1], got [1,3]"
    asked.refused("400", shape, "infer", "half_plus_two", inputs({"x": np.array([[1, 2, 3]], np.float32)}))
    datatype = "data-type is 'FP64', but model 'half_plus_two' expects 'FP32'"
    asked.refused("400", datatype, "infer", "half_plus_two", inputs({"x": np.array([1], np.float64)}))


@both("errors: an output asked for twice, classes of more than a million values, BYTES that are not as many")
def test_what_triton_refuses_is_refused(asked: Asked) -> None:
    x = inputs(INPUTS["half_plus_two"])
    twice = [http.InferRequestedOutput("y"), http.InferRequestedOutput("y")]
    asked.refused("400", "output 'y' already exists in request", "infer", "half_plus_two", x, outputs=twice)
    large = inputs({"INPUT0": np.zeros((1, 1_000_001), np.int8)})
    classes = [http.InferRequestedOutput("OUTPUT0", class_count=1)]
    text = "classification output tensor too large"
    asked.refused("400", text, "infer", "identity_INT8", large, outputs=classes)
    few = http.InferInput("INPUT0", [1, 3], "BYTES")
    few.set_data_from_numpy(np.array([["a", "b", "c"]], object))
    few.set_shape([1, 4])
    text = "expected 4 string elements for inference input 'INPUT0' for model 'identity_BYTES', got 3"
    asked.refused("400", text, "infer", "identity_BYTES", [few])


@both(
    "infer: BYTES that are not UTF-8, to an ONNX model",
    refused="400: ONNX Runtime's Python takes strings as UTF-8 only; a SavedModel takes any bytes",
)
def test_strings_of_onnx_are_text(asked: Asked) -> None:
    odd = inputs({"INPUT0": np.array([[b"\xff"]], object)})
    asked.refused("400", "ONNX Runtime takes strings as UTF-8", "infer", "identity_BYTES", odd)


@both("errors: timeout", differs="504, where Triton answers 503 `Request timeout expired`")
def test_a_timeout_that_is_too_short_is_kept(asked: Asked) -> None:
    started = time.monotonic()
    asked.refused("504", "no answer within 0 ms", "infer", "digits", inputs(INPUTS["digits"]), timeout=1)
    assert time.monotonic() - started < 30


@both("get_system_shared_memory_status, get_cuda_shared_memory_status")
def test_no_shared_memory_is_registered(asked: Asked) -> None:
    assert asked("get_system_shared_memory_status") == []
    assert asked("get_cuda_shared_memory_status") == []
    for kind in ("system", "cuda"):
        text = f"Unable to find {kind} shared memory region: 'r'"
        asked.refused("404", text, f"get_{kind}_shared_memory_status", "r")


@both(
    "register_ and unregister_ system_ and cuda_shared_memory, set_shared_memory",
    refused="501 `shared memory is not supported`",
)
def test_shared_memory_is_refused_by_name(asked: Asked) -> None:
    text = "shared memory is not supported"
    asked.refused("501", text, "register_system_shared_memory", "r", "/key", 64)
    asked.refused("501", text, "register_cuda_shared_memory", "r", b"handle", 0, 64)
    for kind in ("system", "cuda"):
        asked.refused("501", text, f"unregister_{kind}_shared_memory")
        asked.refused("501", text, f"unregister_{kind}_shared_memory", "r")
    tensor = http.InferInput("x", [1], "FP32")
    tensor.set_shared_memory("r", 4)
    asked.refused("501", "tensors in shared memory are not supported", "infer", "half_plus_two", [tensor])


@both("get_ and update_trace_settings", refused="501 `tracing is not supported`")
def test_tracing_is_refused_by_name(asked: Asked) -> None:
    for model in (None, "digits"):
        asked.refused("501", "tracing is not supported", "get_trace_settings", model)
        asked.refused("501", "tracing is not supported", "update_trace_settings", model, {"trace_rate": "1"})


@both("get_ and update_log_settings", refused="501 `log settings cannot be changed at run time`")
def test_log_settings_are_refused_by_name(asked: Asked) -> None:
    asked.refused("501", "log settings cannot be changed at run time", "get_log_settings")
    asked.refused("501", "log settings cannot be changed", "update_log_settings", {"log_verbose_level": 1})
