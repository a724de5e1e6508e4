"""The contract of the API, on the real stack, under our own server and under a plain WSGI server alike."""

import base64
import gzip
import io
import json
import re
import time
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from millrace_client.errors import NotSupported
from millrace_client.exchange import Request, Response
from millrace_client.load.server_counts import counts
from millrace_client.load.targets import http_ask

DIGITS = "/v1/models/digits:predict"
V2_DIGITS = "/v2/models/digits/infer"
V2_SENTIMENT = "/v2/models/sentiment/infer"


def post(api: str, path: str, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(api + path, content=content, headers=headers, timeout=60)


@pytest.fixture
def seven(examples: Path) -> list[Any]:
    """The pixels of a seven, as nested lists [28][28][1]."""
    document: dict[str, list[Any]] = json.loads((examples / "seven.json").read_text())
    return document["instances"][0]


def v2_image(pixels: Any) -> dict[str, Any]:
    return {"name": "image", "shape": [1, 28, 28, 1], "datatype": "FP32", "data": pixels}


# What is answered


def test_row_form_answers_by_row(api: str, seven: list[Any]) -> None:
    answer = post(api, DIGITS, {"instances": [seven, seven]})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    predictions = answer.json()["predictions"]
    assert [int(np.argmax(row)) for row in predictions] == [7, 7]
    assert answer.json().keys() == {"predictions"}


@pytest.mark.parametrize("shape", ["value", "named"])
def test_column_form_answers_by_column(api: str, seven: list[Any], shape: str) -> None:
    answer = post(api, DIGITS, {"inputs": [seven] if shape == "value" else {"image": [seven]}})
    assert int(np.argmax(answer.json()["outputs"][0])) == 7


def test_a_version_and_a_signature_can_be_named(api: str, seven: list[Any]) -> None:
    body = {"signature_name": "serving_default", "instances": [{"image": seven}]}
    answer = post(api, "/v1/models/digits/versions/1:predict", body)
    assert int(np.argmax(answer.json()["predictions"][0])) == 7


def test_an_image_file_is_taken_as_base64_and_means_the_same(api: str, examples: Path, seven: list[Any]) -> None:
    file = {"b64": base64.b64encode((examples / "seven.png").read_bytes()).decode()}
    by_file = post(api, DIGITS, {"instances": [file, {"b64": file["b64"]}]}).json()["predictions"]
    by_pixels = post(api, DIGITS, {"instances": [seven]}).json()["predictions"]
    np.testing.assert_allclose(by_file, [*by_pixels, *by_pixels], atol=1e-6)
    named = post(api, DIGITS, {"instances": [{"image": file}]}).json()["predictions"]
    np.testing.assert_allclose(named, by_pixels, atol=1e-6)
    content, kind = (examples / "seven.png").read_bytes(), {"Content-Type": "image/png"}
    alone = httpx.post(api + DIGITS, content=content, headers=kind, timeout=60).json()["predictions"]
    form = httpx.post(api + DIGITS, files=[("image", content), ("image", content)], timeout=60).json()["predictions"]
    np.testing.assert_allclose([*alone, *form], by_pixels * 3, atol=1e-6)


@pytest.mark.parametrize(("text", "label"), [("a dull, lifeless film", 0), ("what a wonderful film", 1)])
def test_a_text_is_judged(api: str, text: str, label: int) -> None:
    (row,) = post(api, "/v1/models/sentiment:predict", {"instances": [text]}).json()["predictions"]
    assert int(np.argmax(row)) == label
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}
    output = post(api, V2_SENTIMENT, {"inputs": [tensor]}).json()["outputs"][0]
    np.testing.assert_allclose(output["data"], row, atol=1e-6)


def test_texts_of_different_length_are_judged_together_as_alone(api: str) -> None:
    texts = ["good", "a dull, lifeless film " * 30, "I did not like it at all", "great " * 7]
    together = post(api, "/v1/models/sentiment:predict", {"instances": texts}).json()["predictions"]
    alone = [post(api, "/v1/models/sentiment:predict", {"instances": [t]}).json()["predictions"][0] for t in texts]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_words_have_neighbours_and_analogies(api: str) -> None:
    row = {"tokens": ["king", "man", "woman"], "weights": [1, -1, 1]}
    (answer,) = post(api, "/v1/models/word2vec:predict", {"instances": [row]}).json()["predictions"]
    assert answer.keys() == {"vector", "neighbors", "similarities"}
    assert "queen" in answer["neighbors"][:5]
    assert answer["similarities"] == sorted(answer["similarities"], reverse=True)
    (alone,) = post(api, "/v1/models/word2vec:predict", {"instances": [["paris"]]}).json()["predictions"]
    assert "london" in alone["neighbors"]


def test_infer_answers_with_shape_datatype_and_flat_data(api: str, seven: list[Any]) -> None:
    answer = post(api, V2_DIGITS, {"id": "42", "inputs": [v2_image(seven)], "outputs": [{"name": "probabilities"}]})
    body = answer.json()
    assert (body["id"], body["model_name"], body["model_version"]) == ("42", "digits", "1")
    (output,) = body["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [1, 10])
    assert int(np.argmax(output["data"])) == 7
    flat = post(api, "/v2/models/digits/versions/1/infer", {"inputs": [v2_image(np.ravel(seven).tolist())]}).json()
    assert flat["outputs"][0]["data"] == output["data"]
    assert "id" not in flat


def test_a_thousand_rows_come_back_in_order(api: str, seven: list[Any]) -> None:
    blank = np.zeros((28, 28, 1), int).tolist()
    rows = [seven if i % 3 == 0 else blank for i in range(1000)]
    predictions = np.array(post(api, DIGITS, {"instances": rows}).json()["predictions"])
    assert predictions.shape == (1000, 10)
    expected = post(api, DIGITS, {"instances": [seven, blank]}).json()["predictions"]
    np.testing.assert_allclose(predictions[::3], np.repeat([expected[0]], 334, 0), atol=1e-5)
    np.testing.assert_allclose(predictions[1::3], np.repeat([expected[1]], 333, 0), atol=1e-5)


def test_examples_are_classified_with_the_labels_of_the_model(api: str) -> None:
    body = {"examples": [{"text": "a dull, lifeless film"}, {"text": {"b64": "d29uZGVyZnVs"}}]}
    for path in ("/v1/models/sentiment:classify", "/V1/MODELS/sentiment/versions/1:Classify"):
        results = post(api, path, body).json()["results"]
        assert [[label for label, _ in row] for row in results] == [["negative", "positive"]] * 2
        assert [max(row, key=lambda pair: pair[1])[0] for row in results] == ["negative", "positive"]


def test_the_largest_scores_come_with_their_labels(api: str) -> None:
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["wonderful"]}
    body = {"inputs": [tensor], "outputs": [{"name": "probabilities", "parameters": {"classification": 1}}]}
    (output,) = post(api, V2_SENTIMENT, body).json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 1])
    assert output["data"][0].endswith(":1:positive")


# What is told


def test_status_lists_versions_as_tensorflow_serving_does(api: str) -> None:
    available = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("/v1/models/digits", "/v1/models/digits/versions/1"):
        of_kserve = {"name": "digits", "ready": True}
        assert httpx.get(api + path).json() == {"model_version_status": [available], **of_kserve}


def test_metadata_has_the_signature(api: str) -> None:
    document = httpx.get(api + "/v1/models/digits/metadata").json()
    assert document["model_spec"] == {"name": "digits", "signature_name": "", "version": "1"}
    signature = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["image"]["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in signature["outputs"]["probabilities"]["tensor_shape"]["dim"]] == ["-1", "10"]


def test_all_models_are_listed(api: str) -> None:
    listed = {model["name"]: model for model in httpx.get(api + "/v1/models").json()["models"]}
    assert listed.keys() == {"digits", "digits-student", "sentiment", "word2vec"}
    assert listed["sentiment"]["labels"] == ["negative", "positive"]


def test_the_server_and_its_models_describe_themselves(api: str) -> None:
    server = httpx.get(api + "/v2").json()
    assert server["name"] == "millrace"
    assert "binary_tensor_data" in server["extensions"]
    model = httpx.get(api + "/v2/models/word2vec").json()
    assert (model["name"], model["versions"], model["platform"]) == ("word2vec", ["1"], "onnxruntime_onnx")
    assert {"name": "tokens", "datatype": "BYTES", "shape": [-1, -1]} in model["inputs"]
    assert model["parameters"]["optional_inputs"] == ["weights"]
    assert httpx.get(api + "/v2/models/digits/versions/1").json()["parameters"]["media"] == {"image": "image"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/digits/ready", {"name": "digits", "ready": True}),
        ("/v2/models/digits/versions/1/ready", {"name": "digits", "ready": True}),
    ],
)
def test_health_is_200_when_all_is_well(api: str, path: str, body: Any) -> None:
    answer = httpx.get(api + path)
    assert (answer.status_code, answer.json()) == (200, body)


def test_metrics_count_requests_time_and_batches(api: str, seven: list[Any]) -> None:
    post(api, DIGITS, {"instances": [seven]})
    post(api, DIGITS, {"instances": []})
    text = httpx.get(api + "/metrics").text
    for line in (
        'millrace_requests_total{model="digits",protocol="tfs",status="200",version="1"}',
        'millrace_requests_total{model="digits",protocol="tfs",status="400",version="1"}',
        'millrace_request_duration_seconds_bucket{le="0.001",model="digits",version="1"}',
        'millrace_queue_duration_seconds_count{model="digits",version="1"}',
        'millrace_batch_rows_bucket{le="1.0",model="digits",version="1"}',
        'millrace_workers{model="digits"} 1.0',
        "millrace_queue_up 1.0",
    ):
        assert line in text


def test_statistics_count_rows_and_runs(api: str, seven: list[Any]) -> None:
    def counted(path: str) -> dict[str, Any]:
        (stats,) = (s for s in httpx.get(api + path).json()["model_stats"] if s["name"] == "digits")
        return stats

    before = counted("/v2/models/stats")
    assert post(api, DIGITS, {"instances": [seven] * 5}).status_code == 200
    assert post(api, DIGITS, {"instances": []}).status_code == 400
    after = counted("/v2/models/digits/versions/1/stats")
    assert after["inference_count"] - before["inference_count"] == 5
    assert after["execution_count"] - before["execution_count"] >= 1
    assert after["last_inference"] > before["last_inference"]
    for name in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"):
        assert after["inference_stats"][name]["count"] - before["inference_stats"][name]["count"] == 1
    for name in ("success", "fail", "compute_infer"):
        assert after["inference_stats"][name]["ns"] > before["inference_stats"][name]["ns"]
    assert sum(b["batch_size"] * b["compute_infer"]["count"] for b in after["batch_stats"]) >= 5


def test_metrics_have_the_names_of_other_servers_too(api: str, seven: list[Any]) -> None:
    post(api, DIGITS, {"instances": [seven]})
    post(api, DIGITS, {"instances": []})
    triton = httpx.get(api + "/metrics").text
    for name in ("nv_inference_request_success", "nv_inference_count", "nv_inference_compute_infer_duration_us"):
        assert f"# TYPE {name} counter\n" in triton
        assert re.search(rf'^{name}{{model="digits",version="1"}} [1-9]\d*$', triton, re.M)
    assert 'nv_inference_request_failure{model="digits",version="1",reason="OTHER"}' in triton
    tensorflow = httpx.get(api + "/monitoring/prometheus/metrics").text
    for line in (
        ':tensorflow:serving:request_count{model_name="digits",status="OK"} ',
        ':tensorflow:serving:request_count{model_name="digits",status="INVALID_ARGUMENT"} ',
        ':tensorflow:serving:request_latency_bucket{model_name="digits",version="1",le="1000.0"} ',
        ':tensorflow:serving:runtime_latency_count{model_name="digits",version="1"} ',
    ):
        assert line in tensorflow


def test_a_load_test_reads_the_metrics_of_tensorflow_serving(api: str, seven: list[Any]) -> None:
    def ask(request: Request) -> Response:
        if request.path.startswith("/v2"):
            raise NotSupported("as in TensorFlow Serving")
        return http_ask(api)(request)

    before = counts(ask, ("digits",))
    started = time.perf_counter()
    for _ in range(3):
        post(api, DIGITS, {"instances": [seven]})
    waited_ms = (time.perf_counter() - started) * 1000 / 3
    after = counts(ask, ("digits",))
    assert after
    means_ms = after.means_ms(before)
    assert 0 < means_ms["run"] < means_ms["request"] < waited_ms


def test_the_configuration_is_told_as_triton_tells_it(api: str) -> None:
    config = httpx.get(api + "/v2/models/sentiment/config").json()
    assert (config["name"], config["backend"], config["platform"]) == ("sentiment", "onnxruntime", "onnxruntime_onnx")
    (text,) = config["input"]
    described = text["name"], text["data_type"], text["dims"], text["optional"], text["format"]
    assert described == ("text", "TYPE_STRING", [], False, "FORMAT_NONE")
    assert config["max_batch_size"] > 0
    assert "sequence_batching" not in config
    assert httpx.get(api + "/v2/systemsharedmemory/status").json() == []


def test_every_answer_has_a_request_id_and_timings(api: str, seven: list[Any]) -> None:
    answer = post(api, DIGITS, {"instances": [seven]}, **{"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    stages = [stage.partition(";dur=") for stage in answer.headers["server-timing"].split(", ")]
    assert [name for name, _, _ in stages] == ["parse", "queue", "batch", "compute", "reply"]
    assert all(float(duration) >= 0 for _, _, duration in stages)
    for other in (
        httpx.get(api + "/v2"),
        post(api, DIGITS, b"{"),
        httpx.get(api + "/nowhere"),
        httpx.get(api + "/metrics"),
    ):
        assert other.headers["x-request-id"]
        assert other.headers["server-timing"]
    ids = {httpx.get(api + "/v2").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


def test_an_id_that_cannot_be_logged_is_replaced(api: str, seven: list[Any]) -> None:
    answer = post(api, DIGITS, {"instances": [seven]}, **{"X-Request-Id": "x" * 300})
    assert len(answer.headers["x-request-id"]) < 64


# What is refused


def _nested(*shape: int) -> Any:
    return np.zeros(shape, int).tolist()


BAD_PREDICT = [
    ("wrong shape", DIGITS, {"instances": [_nested(28, 27, 1)]}, 400, r"unexpected shape for input 'image' for model 'digits'. Expected [-1,28,28,1], got [1,28,27,1]"),
    ("wrong datatype", DIGITS, {"instances": [[["a"] * 28] * 28]}, 400, 'JSON Value: "a" Type: String is not of expected type: float'),
    ("ragged lists", DIGITS, {"instances": [[[[1], [2]], [[3]]]]}, 400, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    ("unknown model", "/v1/models/nope:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(nope)"),
    ("unknown version", "/v1/models/digits/versions/9:predict", {"instances": [1]}, 404, "Servable not found for request: Specific(digits, 9)"),
    ("unknown label", "/v1/models/digits/labels/stable:predict", {"instances": [1]}, 400, "Unrecognized servable version label: stable"),
    ("unknown signature", DIGITS, {"signature_name": "x", "instances": [1]}, 400, 'Serving signature name: "x" not found in signature def'),
    ("malformed JSON", DIGITS, b'{"instances": [', 400, "JSON Parse error"),
    ("empty body", DIGITS, b"", 400, "JSON Parse error: The document is empty"),
    ("empty batch", DIGITS, {"instances": []}, 400, "No values in 'instances' array"),
    ("empty columns", DIGITS, {"inputs": []}, 400, "is empty: its shape is [0,28,28,1]"),
    ("not an image", DIGITS, {"instances": [{"b64": "aGVsbG8="}]}, 400, "the bytes are not a JPEG, PNG, WebP or GIF image"),
    ("not base64", DIGITS, {"instances": [{"b64": "!"}]}, 400, "Unable to base64 decode"),
    ("text of 1 MB", "/v1/models/sentiment:predict", {"instances": ["x" * 2**20]}, 400, "takes at most 65536 bytes an element, got 1048576"),
    ("unknown word", "/v1/models/word2vec:predict", {"instances": [["qwrtzpsdf"]]}, 400, "unknown word 'qwrtzpsdf'"),
    ("unequal weights", "/v1/models/word2vec:predict", {"instances": [{"tokens": ["king"], "weights": [1, 2]}]}, 400, "must have the same shape"),
    ("too many rows", DIGITS, {"instances": [_nested(28, 28, 1)] * 4097}, 413, "inference request batch-size must be <= 4096 for 'digits', got 4097"),
    ("half a character", "/v1/models/sentiment:predict", b'{"instances": ["\\ud800"]}', 400, "is not valid UTF-8"),
    ("half a character as name", DIGITS, b'{"signature_name": "\\ud800", "instances": [1]}', 400, "Serving signature name"),
    ("huge number", DIGITS, b'{"instances": [%s]}' % (b"9" * 40), 400, "Expected [-1,28,28,1], got [1]"),
    ("deep lists", DIGITS, b'{"instances": %s1%s}' % (b"[" * 99, b"]" * 99), 400, "at most 32 dimensions"),
    ("long name", DIGITS, {"signature_name": "x" * 10**6, "instances": [1]}, 400, "xxx..."),
    ("unknown verb", "/v1/models/digits:train", {}, 400, "Malformed request: POST /v1/models/digits:train"),
    ("missing feature", "/v1/models/digits:classify", {"examples": [{}]}, 400, "Feature: image (data type: float) is required"),
    ("no examples", "/v1/models/digits:regress", {}, 400, "key 'examples' is expected and was not found"),
    ("no regression", "/v1/models/sentiment:regress", {"examples": [{"text": "a film"}]}, 400, "No regression outputs found in signature"),
    ("version and label", "/v1/models/digits/versions/1/labels/a:predict", {}, 400, "Malformed request: POST"),
    ("wrong path", "/v1/model/digits:predict", {}, 400, "Malformed request: POST /v1/model/digits:predict"),
]  # fmt: skip


def _infer(**changes: Any) -> dict[str, Any]:
    return {"inputs": [v2_image(_nested(28 * 28)) | changes]}


BAD_INFER: list[tuple[str, str, object, int, str]] = [
    ("wrong shape", V2_DIGITS, _infer(shape=[1, 28, 28], data=_nested(784)), 400, "unexpected shape for input 'image' for model 'digits'. Expected [-1,28,28,1], got [1,28,28]"),
    ("wrong count", V2_DIGITS, _infer(data=[1, 2]), 400, "needs 784 values, got 2"),
    ("wrong datatype", V2_DIGITS, _infer(datatype="INT32"), 400, "data-type is 'INT32', but model 'digits' expects 'FP32'"),
    ("unknown datatype", V2_DIGITS, _infer(datatype="FP33"), 400, "invalid datatype for input 'image'"),
    ("unknown input", V2_DIGITS, _infer(name="picture"), 400, "unexpected inference input 'picture' for model 'digits'"),
    ("no input", V2_DIGITS, {"inputs": []}, 400, "expected 1 inputs but got 0 inputs for model 'digits'"),
    ("unknown output", V2_DIGITS, _infer() | {"outputs": [{"name": "logits"}]}, 400, "unexpected inference output 'logits' for model 'digits'"),
    ("empty batch", V2_DIGITS, _infer(shape=[0, 28, 28, 1], data=[]), 400, "is empty"),
    ("unknown model", "/v2/models/nope/infer", _infer(), 404, "Request for unknown model: 'nope' is not found"),
    ("unknown version", "/v2/models/digits/versions/9/infer", _infer(), 404, "Request for unknown model: 'digits' version 9 is not found"),
    ("malformed JSON", V2_DIGITS, b"{", 400, "failed to parse the request JSON buffer"),
    ("text of 1 MB", V2_SENTIMENT, {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["x" * 2**20]}]}, 400, "at most 65536 bytes"),
    ("no shape", V2_DIGITS, _infer(shape=5), 400, "Unable to parse 'shape' of input 'image'"),
    ("null shape", V2_DIGITS, _infer(shape=None), 400, "Unable to parse 'shape' of input 'image'"),
    ("many dimensions", V2_DIGITS, _infer(shape=[9] * 200_000), 400, "at most 32 whole numbers"),
    ("huge dimensions", V2_DIGITS, _infer(shape=[10**18, 10**18]), 400, "causes total element count to exceed maximum size of"),
    ("huge timeout", V2_DIGITS, _infer() | {"parameters": {"timeout": 10**400}}, 400, "'timeout' must be a number of microseconds"),
    ("odd name", V2_DIGITS, _infer(name=[1]), 400, "each needs a 'name'"),
    ("half a character as id", V2_DIGITS, b'{"id": "\\ud800", "inputs": []}', 400, "must be printable text"),
    ("another verb", "/v2/models/digits/generate", {}, 501, "generate is not supported"),
    ("shared memory", "/v2/systemsharedmemory/region/r/register", {}, 501, "shared memory is not supported"),
    ("log settings", "/v2/logging", {}, 501, "MILLRACE_LOG_LEVEL"),
    ("a path nobody has", "/v2/models/digits/oops", {}, 404, "Not Found"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "path", "body", "status", "text"), BAD_PREDICT + BAD_INFER)
def test_bad_input_is_named_with_the_right_status(
    api: str, what: str, path: str, body: Any, status: int, text: str
) -> None:
    answer = post(api, path, body)
    assert (answer.status_code, answer.json().keys()) == (status, {"error"})
    assert text in answer.json()["error"]
    assert len(answer.content) < 3000
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", [DIGITS, V2_DIGITS])
def test_a_body_of_100_mb_is_too_large(api: str, path: str) -> None:
    answer = post(api, path, b"[" + b"1," * 50_000_000 + b"1]")
    assert answer.status_code == 413
    assert "larger than the 67108864 bytes" in answer.json()["error"]
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/v1/models/nope", 404, "Could not find any versions of model nope"),
        ("GET", "/v1/models/digits/versions/9", 404, "Could not find version 9 of model digits"),
        ("GET", "/v1/models/nope/metadata", 404, "Could not find any versions of model nope"),
        ("GET", "/v1/models/digits/labels/stable", 400, "Unrecognized servable version label: stable"),
        ("GET", "/v1/models/digits/oops", 400, "Malformed request: GET /v1/models/digits/oops"),
        ("DELETE", "/v1/models/digits", 400, "Malformed request: DELETE /v1/models/digits"),
        ("GET", "/v1/models/digits:predict", 400, "Malformed request: GET /v1/models/digits:predict"),
        ("GET", "/v2/models/nope", 404, "Request for unknown model: 'nope' is not found"),
        ("GET", "/v2/models/nope/ready", 404, "Request for unknown model: 'nope' is not found"),
        ("GET", "/v2/models/nope/config", 404, "Request for unknown model: 'nope' is not found"),
        (
            "GET",
            "/v2/models/digits/versions/9/config",
            404,
            "Request for unknown model: 'digits' version 9 is not found",
        ),
        ("GET", "/v2/models/nope/stats", 400, "requested model 'nope' is not available"),
        ("GET", "/V1/Models/nope", 404, "Could not find any versions of model nope"),
        ("GET", "/V1/Models/digits:predict", 400, "Malformed request: GET /V1/Models/digits:predict"),
        ("POST", "/v2/models/digits/config", 405, "Method Not Allowed"),
        ("GET", "/v2/nowhere", 404, "Not Found"),
        ("GET", "/v2/models/digits/infer", 405, "Method Not Allowed"),
        ("POST", "/v2/health/live", 405, "Method Not Allowed"),
        ("GET", "/nowhere", 404, "Not Found"),
    ],
)
def test_what_is_not_there_is_named(api: str, method: str, path: str, status: int, text: str) -> None:
    answer = httpx.request(method, api + path)
    assert (answer.status_code, answer.json()) == (status, {"error": text})


def test_bad_rows_hurt_nobody_elses_request(api: str, seven: list[Any]) -> None:
    """Good and bad requests at once: each bad one has its error, each good one its answer."""
    from concurrent.futures import ThreadPoolExecutor

    bad = {"instances": [{"b64": "aGVsbG8="}]}
    bodies = [{"instances": [seven]} if i % 2 else bad for i in range(40)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda body: post(api, DIGITS, body), bodies))
    assert [a.status_code for a in answers] == [200 if i % 2 else 400 for i in range(40)]
    assert all(int(np.argmax(a.json()["predictions"][0])) == 7 for a in answers[1::2])


@pytest.mark.parametrize("value", ["soon", "-5", "0", "nan"])
def test_a_timeout_that_is_no_time_is_refused(api: str, seven: list[Any], value: str) -> None:
    answer = post(api, DIGITS, {"instances": [seven]}, **{"X-Request-Timeout-Ms": value})
    assert answer.status_code == 400
    assert "X-Request-Timeout-Ms must be a number above 0" in answer.json()["error"]


def test_a_damaged_image_is_refused_and_ends_no_worker(api: str, examples: Path, seven: list[Any]) -> None:
    png = (examples / "seven.png").read_bytes()
    for damaged in (png[:-30], png[:40], png.replace(b"IDAT", b"IDAQ")):
        answer = post(api, DIGITS, {"instances": [{"b64": base64.b64encode(damaged).decode()}]})
        assert answer.status_code == 400, answer.text
    assert post(api, DIGITS, {"instances": [seven]}).status_code == 200


def test_a_broken_colour_profile_keeps_no_image_from_being_read(api: str, examples: Path) -> None:
    """It has no content and stands after the pixels, which Pillow alone meets with an IndexError."""
    png = (examples / "seven.png").read_bytes()
    ends = png.rindex(b"IEND") - 4
    crafted = png[:ends] + b"\x00\x00\x00\x00iCCP\x00\x00\x00\x00" + png[ends:]
    answer = post(api, DIGITS, {"instances": [{"b64": base64.b64encode(crafted).decode()}]})
    assert int(np.argmax(answer.json()["predictions"][0])) == 7


def test_a_large_image_is_read(api: str) -> None:
    from PIL import Image, ImageDraw

    image = Image.new("L", (4000, 4000), 255)
    ImageDraw.Draw(image).line([(1200, 800), (2800, 800), (1800, 3200)], fill=0, width=300)
    out = io.BytesIO()
    image.save(out, "PNG")
    (row,) = post(api, DIGITS, {"instances": [{"b64": base64.b64encode(out.getvalue()).decode()}]}).json()[
        "predictions"
    ]
    assert int(np.argmax(row)) == 7


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_packed_body_means_the_same(api: str, seven: list[Any], coding: str, pack: Any) -> None:
    for count in (1, 300):  # on the event loop, and in a thread
        body = pack(json.dumps({"instances": [seven] * count}).encode())
        answer = post(api, DIGITS, body, **{"Content-Encoding": coding})
        assert [int(np.argmax(row)) for row in answer.json()["predictions"]] == [7] * count


def test_a_bomb_is_refused(api: str) -> None:
    bomb = gzip.compress(b'{"instances": [' + b" " * 100_000_000)
    answer = post(api, DIGITS, bomb, **{"Content-Encoding": "gzip"})
    assert answer.status_code == 413
    assert "unpacks to more than" in answer.json()["error"]


def test_another_coding_is_refused_with_those_that_are_taken(api: str) -> None:
    answer = post(api, DIGITS, b"?", **{"Content-Encoding": "br"})
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip, deflate")
    assert answer.json() == {"error": "the content coding 'br' is not supported; use gzip or deflate"}
    answer = post(api, DIGITS, b"no gzip", **{"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["error"][:29]) == (400, "the request body is not gzip:")


def test_answers_of_some_size_are_packed_where_the_open_inference_protocol_asks(api: str, seven: list[Any]) -> None:
    for count in (1, 40, 4000):  # not worth it, on the event loop, and in a thread
        pixels: dict[str, object] = {"name": "image", "shape": [count, 28, 28, 1], "datatype": "FP32"}
        pixels["parameters"] = {"binary_data_size": count * 3136}
        document = json.dumps({"inputs": [pixels]}).encode()
        body = document + np.array(seven, np.float32).tobytes() * count
        headers = {"Inference-Header-Content-Length": str(len(document)), "Accept-Encoding": "gzip"}
        answer = post(api, V2_DIGITS, body, **headers)
        assert answer.headers.get("content-encoding") == (None if count == 1 else "gzip")
        scores = np.reshape(answer.json()["outputs"][0]["data"], (count, 10))
        assert set(scores.argmax(1).tolist()) == {7}


@pytest.mark.parametrize("with_json", [True, False])
def test_binary_tensors_go_in_and_come_out(api: str, seven: list[Any], with_json: bool) -> None:
    described = {"name": "image", "shape": [1, 28, 28, 1], "datatype": "FP32", "parameters": {"binary_data_size": 3136}}
    document = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
    head = document if with_json else b""
    body = head + np.array(seven, np.float32).tobytes()
    answer = post(api, V2_DIGITS, body, **{"Inference-Header-Content-Length": str(len(head))})
    length = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.content[:length])["outputs"]
    assert (output["shape"], output["parameters"]) == ([1, 10], {"binary_data_size": 40})
    assert answer.headers["content-type"] == "application/octet-stream"
    assert int(np.argmax(np.frombuffer(answer.content[length:], np.float32))) == 7
