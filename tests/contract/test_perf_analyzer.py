"""What NVIDIA's perf_analyzer sends, in its order, and what its C++ code must find in every answer.

No package has its binary (the one on PyPI is a placeholder), so it is acted out here: the requests of its HTTP backend
(`client_backend/triton/triton_client_backend.cc` with the C++ client's `http_client.cc`) and the reads of its parsers
(`model_parser.cc`, `ParseStatistics`), which end the program where a key is missing or of another type.
"""

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from millrace.protocol.tensors import DTYPES, encode_strings
from tests.contract.claims import proves
from tests.support.running import Stack

_REQUESTS, _CONCURRENCY = 40, 4
_STAGES = ("success", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
SHAPES = {"word2vec": {"tokens": [2], "weights": [2]}, "identity_FP16": {"INPUT0": [4]}}  # --shape
STRINGS = {"sentiment": "a wonderful film", "word2vec": "king"}  # --string-data


# rapidjson's reads, which assert the type


def _string(value: Any) -> str:
    assert isinstance(value, str), value
    return value


def _array(value: Any) -> list[Any]:
    assert isinstance(value, list), value
    return value


def _bool(value: Any) -> bool:
    assert isinstance(value, bool), value
    return value


def _int64(value: Any) -> int:
    assert isinstance(value, int), value
    assert not isinstance(value, bool), value
    assert -(2**63) <= value < 2**63
    return value


def _uint64(value: Any) -> int:
    assert isinstance(value, int), value
    assert 0 <= value < 2**64
    return value


@dataclass
class Tensor:
    """What `ModelParser` keeps of an input or output; the shape is that of one row where the model batches."""

    datatype: str
    shape: list[int]
    is_optional: bool = False


@dataclass
class Model:
    """What `ModelParser::InitTriton` makes of the metadata and the configuration."""

    name: str
    scheduler: str
    max_batch_size: int
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def parse_model(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> Model:
    if "platform" in config and _string(config["platform"]) == "ensemble":
        raise AssertionError("the steps of an ensemble would be asked for")
    scheduler = next((kind for kind in ("sequence_batching", "dynamic_batching") if kind in config), "none")
    max_batch_size = _int64(config["max_batch_size"]) if "max_batch_size" in config else 0
    if "model_transaction_policy" in config:
        assert not _bool(config["model_transaction_policy"]["decoupled"]), "a stream would be opened"
    if "response_cache" in config:
        _bool(config["response_cache"]["enable"])
    inputs, outputs = (_parse_tensors(metadata[kind], batches=max_batch_size > 0) for kind in ("inputs", "outputs"))
    for described in _array(config["input"]):
        assert _string(described["name"]) in inputs, "no metadata found for input tensor"
        if "is_shape_tensor" in described:
            _bool(described["is_shape_tensor"])
        inputs[described["name"]].is_optional = "optional" in described and _bool(described["optional"])
    for described in _array(config["output"]):
        assert _string(described["name"]) in outputs, "no metadata found for output tensor"
    return Model(_string(metadata["name"]), scheduler, max_batch_size, inputs, outputs)


def _parse_tensors(described: Any, *, batches: bool) -> dict[str, Tensor]:
    return {
        _string(tensor["name"]): Tensor(
            _string(tensor["datatype"]), [_int64(size) for size in _array(tensor["shape"])[1 if batches else 0 :]]
        )
        for tensor in _array(described)
    }


def parse_statistics(document: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, int]]:
    parsed = {}
    for stats in _array(document["model_stats"]):
        counts = {name: _uint64(stats[name]) for name in ("inference_count", "execution_count")}
        for stage in _STAGES:
            counts[f"{stage}_count"] = _uint64(stats["inference_stats"][stage]["count"])
            counts[f"{stage}_ns"] = _uint64(stats["inference_stats"][stage]["ns"])
        parsed[_string(stats["name"]), _string(stats["version"])] = counts
    return parsed


class Backend:
    """One connection of its HTTP backend; close it."""

    def __init__(self, stack: Stack) -> None:
        self._connection = HTTPConnection(stack.url.removeprefix("http://"), timeout=60)

    def close(self) -> None:
        self._connection.close()

    def get(self, path: str) -> Any:
        self._connection.request("GET", "/" + path)
        return json.loads(self._answer()[1])

    def get_text(self, path: str) -> str:
        self._connection.request("GET", "/" + path)
        return self._answer()[1].decode()

    def infer(self, model: str, inputs: dict[str, tuple[str, list[int], bytes]], outputs: list[str]) -> Any:
        """The answer's JSON; every output's binary data must be as long as it says."""
        described = [
            {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
            for name, (datatype, shape, data) in inputs.items()
        ]
        wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
        return self._infer(model, {"id": "0", "inputs": described, "outputs": wanted}, [d for *_, d in inputs.values()])

    def infer_json(self, model: str, inputs: dict[str, tuple[str, list[int], list[Any]]], outputs: list[str]) -> Any:
        """The same with `--input-tensor-format json`: the length of the JSON is sent although nothing follows it."""
        described = [
            {"name": name, "shape": shape, "datatype": datatype, "data": data}
            for name, (datatype, shape, data) in inputs.items()
        ]
        wanted = [{"name": name, "parameters": {"binary_data": False}} for name in outputs]
        return self._infer(model, {"id": "0", "inputs": described, "outputs": wanted}, [])

    def refusal(self, path: str) -> tuple[int, str]:
        """The status and the text that a POST of nothing meets."""
        self._connection.request("POST", "/" + path)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())["error"]

    def _infer(self, model: str, document: Any, buffers: list[bytes]) -> Any:
        head = json.dumps(document).encode()
        headers = {"Expect": "", "Inference-Header-Content-Length": str(len(head))}
        headers["Content-Type"] = "application/octet-stream" if buffers else "application/json"
        self._connection.request("POST", f"/v2/models/{model}/infer", head + b"".join(buffers), headers)
        length, body = self._answer()
        answer = json.loads(body[:length])
        sizes = [_uint64(o["parameters"]["binary_data_size"]) for o in answer["outputs"] if "parameters" in o]
        assert sum(sizes) == len(body) - length
        assert answer["id"] == "0"
        return answer

    def _answer(self) -> tuple[int, bytes]:
        response = self._connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        return int(response.headers.get("Inference-Header-Content-Length", len(body))), body


@pytest.fixture
def backend(stack: Stack) -> Iterator[Backend]:
    with closing(Backend(stack)) as opened:
        yield opened


def _row(model: Model, name: str, tensor: Tensor) -> tuple[list[int], npt.NDArray[Any] | list[str]]:
    """One row of random data, or of `--string-data`."""
    shape = SHAPES[model.name][name] if -1 in tensor.shape else tensor.shape
    if tensor.datatype == "BYTES":
        return shape, [STRINGS[model.name]] * int(np.prod(shape))
    return shape, np.random.default_rng(0).integers(0, 100, shape).astype(DTYPES[tensor.datatype])


def _binary(tensor: Tensor, row: npt.NDArray[Any] | list[str]) -> bytes:
    return encode_strings(row) if isinstance(row, list) else np.asarray(row, DTYPES[tensor.datatype]).tobytes()


def _learn(backend: Backend, name: str) -> Model:
    """The calls before the first request."""
    extensions = {_string(extension) for extension in _array(backend.get("v2")["extensions"])}
    assert "statistics" in extensions, "the server's side of the report would be left out"
    return parse_model(backend.get(f"v2/models/{name}"), backend.get(f"v2/models/{name}/config"))


MODELS = ["digits", "word2vec", "simple", "identity_FP16"]


@proves("perf_analyzer", "-m MODEL -b 2 --concurrency-range 4 (HTTP, as acted out by a test)")
@pytest.mark.parametrize("model", MODELS)
def test_it_finds_all_it_needs_in_its_order(stack: Stack, backend: Backend, model: str) -> None:
    parsed = _learn(backend, model)
    assert (parsed.scheduler, parsed.max_batch_size >= 2) == ("dynamic_batching", True)
    rows = {name: _row(parsed, name, tensor) for name, tensor in parsed.inputs.items()}
    inputs = {
        name: (parsed.inputs[name].datatype, [2, *shape], _binary(parsed.inputs[name], row) * 2)
        for name, (shape, row) in rows.items()
    }
    before = parse_statistics(backend.get(f"v2/models/{model}/stats"))[model, "1"]

    def load(count: int) -> list[Any]:
        with closing(Backend(stack)) as connection:
            return [connection.infer(model, inputs, list(parsed.outputs)) for _ in range(count)]

    with ThreadPoolExecutor(_CONCURRENCY) as pool:
        answers = list(pool.map(load, [_REQUESTS // _CONCURRENCY] * _CONCURRENCY))
    after = parse_statistics(backend.get(f"v2/models/{model}/stats"))[model, "1"]
    assert all([o["name"] for o in answer["outputs"]] == list(parsed.outputs) for part in answers for answer in part)
    grown = {name: after[name] - before[name] for name in after}
    assert grown["inference_count"] == 2 * _REQUESTS
    assert 0 < grown["execution_count"] <= _REQUESTS
    for stage in _STAGES[:5]:
        assert grown[f"{stage}_count"] == _REQUESTS, stage
    # What it reports: the parts of the server's time are no more than the whole.
    parts = sum(grown[f"{stage}_ns"] for stage in _STAGES[1:5])
    assert 0 < parts <= grown["success_ns"]
    assert grown["cache_hit_count"] == grown["cache_miss_count"] == 0


@proves("perf_analyzer", "--input-tensor-format json")
@pytest.mark.parametrize("model", MODELS[:-1])
def test_its_json_has_a_header_for_its_length(backend: Backend, model: str) -> None:
    parsed = _learn(backend, model)
    inputs = {}
    for name, tensor in parsed.inputs.items():
        shape, row = _row(parsed, name, tensor)
        inputs[name] = tensor.datatype, [1, *shape], row if isinstance(row, list) else row.ravel().tolist()
    answer = backend.infer_json(model, inputs, list(parsed.outputs))
    assert all("data" in output for output in answer["outputs"])


@proves(
    "perf_analyzer",
    "-m MODEL, whose rows are single values (`half_plus_two`, `sentiment`)",
    refused="by the program itself: `unable to set shape for the input`; it has no words for a row of no dimensions",
)
@pytest.mark.parametrize("model", ["half_plus_two", "sentiment"])
def test_a_row_of_no_dimensions_is_told_as_such(backend: Backend, model: str) -> None:
    parsed = _learn(backend, model)
    assert [tensor.shape for tensor in parsed.inputs.values()] == [[]]


@proves("perf_analyzer", "-x VERSION, statistics of all models")
def test_a_version_may_be_named(backend: Backend) -> None:
    path = "v2/models/half_plus_two/versions/1"
    assert parse_model(backend.get(path), backend.get(f"{path}/config")).name == "half_plus_two"
    assert parse_statistics(backend.get(f"{path}/stats")).keys() == {("half_plus_two", "1")}
    assert ("digits", "1") in parse_statistics(backend.get("v2/models/stats"))


@proves("perf_analyzer", "--collect-metrics", differs="GPU metrics are not told, so it warns that there are none")
def test_its_reading_of_metrics_finds_nothing_wrong(backend: Backend) -> None:
    text = backend.get_text("metrics")
    for name in ("nv_gpu_utilization", "nv_gpu_power_usage", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes"):
        assert not re.search(rf'\n{name}\{{gpu_uuid="([^"]+)"\}} (\d+\.?\d*)', text)
        assert name not in text


@proves("perf_analyzer", "--shared-memory system|cuda", refused="501 `shared memory is not supported`")
@pytest.mark.parametrize("kind", ["system", "cuda"])
def test_shared_memory_is_refused_by_name(backend: Backend, kind: str) -> None:
    status, text = backend.refusal(f"v2/{kind}sharedmemory/unregister")
    assert status == 501
    assert "shared memory is not supported" in text
