"""The samples of TensorFlow Serving's and Triton's REST documentation, sent by curl as they stand there."""

import base64
import gzip
import json
import math
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tensorflow as tf

from tests.contract.claims import proves
from tests.support.running import ROOT, Stack, start_up


def curl(*arguments: str) -> bytes:
    run = subprocess.run(["curl", "--silent", "--show-error", *arguments], capture_output=True, check=True, timeout=60)
    return run.stdout


def asked(*arguments: str) -> Any:
    """The answer's JSON."""
    return json.loads(curl(*arguments))


def refused(*arguments: str) -> tuple[int, str]:
    """The answer's status and error."""
    body, status = curl("--write-out", "\n%{http_code}", *arguments).rsplit(b"\n", 1)
    return int(status), json.loads(body)["error"]


@pytest.fixture
def v1(stack: Stack) -> str:
    return f"{stack.url}/v1/models"


# TensorFlow Serving: predict


@proves("curl", "predict, row form")
def test_half_plus_two(v1: str) -> None:
    answer = asked("-d", '{"instances": [1.0, 2.0, 5.0]}', "-X", "POST", f"{v1}/half_plus_two:predict")
    assert answer == {"predictions": [2.5, 3.0, 4.5]}


@proves("curl", "predict, column form")
def test_half_plus_two_in_columns(v1: str) -> None:
    for inputs in ([1.0, 2.0, 5.0], {"x": [1.0, 2.0, 5.0]}):
        body = json.dumps({"signature_name": "serving_default", "inputs": inputs})
        assert asked("-d", body, f"{v1}/half_plus_two:predict") == {"outputs": [2.5, 3.0, 4.5]}


@proves("curl", "predict, several inputs and outputs, row form")
def test_rows_name_their_inputs(v1: str) -> None:
    rows = [{"INPUT0": list(range(16)), "INPUT1": [1] * 16}, {"INPUT0": [5] * 16, "INPUT1": [3] * 16}]
    predictions = asked("-d", json.dumps({"instances": rows}), f"{v1}/simple:predict")["predictions"]
    assert predictions[0] == {"OUTPUT0": list(range(1, 17)), "OUTPUT1": list(range(-1, 15))}
    assert predictions[1] == {"OUTPUT0": [8] * 16, "OUTPUT1": [2] * 16}


@proves("curl", "predict, several inputs and outputs, column form")
def test_columns_name_their_inputs(v1: str) -> None:
    body = {"inputs": {"INPUT0": [list(range(16))], "INPUT1": [[1] * 16]}}
    outputs = asked("-d", json.dumps(body), f"{v1}/simple:predict")["outputs"]
    assert outputs == {"OUTPUT0": [list(range(1, 17))], "OUTPUT1": [list(range(-1, 15))]}


@proves("curl", "predict, strings and b64")
def test_bytes_are_strings_or_base64(v1: str) -> None:
    text = {"b64": base64.b64encode(b"a wonderful film").decode()}
    (plain, encoded) = asked("-d", json.dumps({"instances": ["a wonderful film", text]}), f"{v1}/sentiment:predict")[
        "predictions"
    ]
    np.testing.assert_allclose(plain, encoded, atol=1e-6)


@proves("curl", "predict, an image file as b64")
def test_an_image_file_is_taken(v1: str, tmp_path: Path) -> None:
    encoded = base64.b64encode((ROOT / "examples" / "seven.png").read_bytes()).decode()
    (tmp_path / "request.json").write_text(json.dumps({"instances": [{"b64": encoded}]}))
    (row,) = asked("-d", f"@{tmp_path}/request.json", f"{v1}/digits:predict")["predictions"]
    assert int(np.argmax(row)) == 7


@proves("curl", "predict, an image file as the body, and several as a form")
def test_an_image_file_is_sent_as_it_is(v1: str) -> None:
    seven = ROOT / "examples" / "seven.png"
    sent = [["--data-binary", f"@{seven}", "-H", "Content-Type: image/png"], ["-F", f"a=@{seven}", "-F", f"b=@{seven}"]]
    alone, form = (asked(*arguments, f"{v1}/digits:predict")["predictions"] for arguments in sent)
    assert np.argmax(alone + form, axis=1).tolist() == [7, 7, 7]


@proves("curl", "predict, NaN and Infinity, both ways")
def test_numbers_that_json_lacks_go_and_come(v1: str) -> None:
    text = curl("-d", '{"instances": [NaN, Infinity, -Infinity]}', f"{v1}/half_plus_two:predict")
    values = json.loads(text)["predictions"]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf]
    assert b"NaN" in text
    assert b"-Infinity" in text


@proves("curl", "predict, gzip body")
def test_a_gzip_body_is_unpacked(v1: str, tmp_path: Path) -> None:
    (tmp_path / "body.gz").write_bytes(gzip.compress(b'{"instances": [1.0, 2.0, 5.0]}'))
    body = ("--data-binary", f"@{tmp_path}/body.gz", "-H", "Content-Encoding: gzip")
    assert asked(*body, f"{v1}/half_plus_two:predict") == {"predictions": [2.5, 3.0, 4.5]}


@proves("curl", "predict, a large body sent after 100 Continue, and in chunks")
def test_a_large_body_is_taken_however_it_is_sent(v1: str, tmp_path: Path) -> None:
    count = 300_000
    (tmp_path / "body.json").write_text(json.dumps({"inputs": [[0.5] * count]}))
    for header in ("Expect: 100-continue", "Transfer-Encoding: chunked"):
        (row,) = asked("-H", header, "-d", f"@{tmp_path}/body.json", f"{v1}/identity_FP32:predict")["outputs"]
        assert row == [0.5] * count


@proves("curl", "predict, text behind the JSON")
def test_text_behind_the_document_is_tolerated(v1: str) -> None:
    assert asked("-d", '{"instances": [1.0]} and more', f"{v1}/half_plus_two:predict") == {"predictions": [2.5]}


@proves("curl", "URLs in any case, and encoded names")
def test_urls_are_read_as_tensorflow_serving_reads_them(stack: Stack) -> None:
    for path in ("V1/Models/half_plus_two:PREDICT", "v1/models/half%5Fplus%5Ftwo/versions/1:predict"):
        assert asked("-d", '{"instances": [1.0]}', f"{stack.url}/{path}") == {"predictions": [2.5]}


# TensorFlow Serving: classify and regress


@proves(
    "curl",
    "classify",
    differs="also on a model without a classify signature: its labels name the classes of its one output of scores",
)
def test_examples_are_classified(v1: str) -> None:
    encoded = base64.b64encode(b"a dull, lifeless film").decode()
    body = {"examples": [{"text": "a wonderful film"}, {"text": [{"b64": encoded}]}]}
    results = asked("-d", json.dumps(body), f"{v1}/sentiment:classify")["results"]
    assert [[label for label, _ in row] for row in results] == [["negative", "positive"]] * 2
    assert [max(row, key=lambda pair: pair[1])[0] for row in results] == ["positive", "negative"]


@proves("curl", "regress", differs="also on a model without a regress signature that has one output of a value per row")
def test_examples_are_regressed(v1: str) -> None:
    answer = asked("-d", '{"examples": [{"x": 1.0}, {"x": 2.0}]}', f"{v1}/half_plus_two:regress")
    assert answer == {"results": [2.5, 3.0]}


@proves("curl", "classify and regress: context, int, float, bool and list features")
def test_the_context_goes_for_all_examples(v1: str) -> None:
    body = {"context": {"x": 4}, "examples": [{}, {"x": [1.0]}, {"x": True}, {"x": 2, "other": "ignored"}]}
    assert asked("-d", json.dumps(body), f"{v1}/half_plus_two:regress") == {"results": [4.0, 2.5, 2.5, 3.0]}


def _save_half_plus_three(folder: Path) -> None:
    """The model of the documentation's samples as its authors export it: with signatures that take examples."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None], name="tf_example")
        parsed = v1.parse_example(examples, {"x": tf.io.FixedLenFeature([1], tf.float32)})
        x = tf.identity(parsed["x"], name="x")
        y = tf.add(tf.multiply(x, 0.5), 3.0, name="y")
        make = v1.saved_model
        builder = make.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                "tensorflow/serving/regress": make.regression_signature_def(examples, y),
                "classify_x_to_y": make.classification_signature_def(examples, None, y),
                "serving_default": make.predict_signature_def({"x": x}, {"y": y}),
            },
        )
        builder.save()


def _save_softmax(folder: Path) -> None:
    """`x` FP32 [-1, 2] → `y`, a softmax over the last axis, whatever the rank."""
    softmax = tf.function(lambda x: {"y": tf.nn.softmax(x)})
    concrete = softmax.get_concrete_function(x=tf.TensorSpec([None, 2], tf.float32))
    tf.saved_model.save(tf.Module(), str(folder), signatures={"serving_default": concrete})


@pytest.fixture(scope="module")
def open_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with these models, which web pages may call."""
    models = tmp_path_factory.mktemp("saved") / "models"
    _save_half_plus_three(models / "half_plus_three" / "1")
    _save_softmax(models / "softmax" / "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_SERVING_CORS_ORIGIN", "*")
        running = start_up("--models", str(models), "--log-level", "info")
    assert running.process.poll() is None, running.output
    yield running
    assert running.stop() == 0, running.output
    running.log.unlink()


@proves("curl", "classify and regress on a SavedModel's own signatures, which take serialized examples")
def test_half_plus_three(open_stack: Stack) -> None:
    url = f"{open_stack.url}/v1/models/half_plus_three"
    body = '{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}, {"x": 2.0}]}'
    assert asked("-d", body, "-X", "POST", f"{url}:regress") == {"results": [3.5, 4.0]}
    body = '{"signature_name": "classify_x_to_y", "context": {"x": 5.0}, "examples": [{"x": 1.0}, {}]}'
    assert asked("-d", body, f"{url}:classify") == {"results": [[["", 3.5]], [["", 5.5]]]}
    assert asked("-d", '{"instances": [[1.0], [2.0]]}', f"{url}:predict") == {"predictions": [[3.5], [4.0]]}
    for example, text in (('{"x": 1}', "Data types don't match"), ('{"z": 1.0}', "required but could not be found")):
        body = f'{{"signature_name": "tensorflow/serving/regress", "examples": [{example}]}}'
        status, error = refused("-d", body, f"{url}:regress")
        assert (status, text in error) == (400, True), error


@proves("curl", "model metadata of a SavedModel: its own methods, and its tensors' own names")
def test_the_metadata_are_the_files_own(open_stack: Stack) -> None:
    metadata = asked(f"{open_stack.url}/v1/models/half_plus_three/metadata")["metadata"]
    definitions = metadata["signature_def"]["signature_def"]
    regress = definitions["tensorflow/serving/regress"]
    assert regress["method_name"] == "tensorflow/serving/regress"
    assert definitions["classify_x_to_y"]["method_name"] == "tensorflow/serving/classify"
    assert (regress["inputs"]["inputs"]["name"], regress["outputs"]["outputs"]["name"]) == ("tf_example:0", "y:0")


@proves("curl", "predict, other shapes than the signature's, on a SavedModel: it runs alone, and the model may refuse")
def test_a_request_is_not_held_against_the_signatures_shape(open_stack: Stack) -> None:
    url = f"{open_stack.url}/v1/models"
    half = f"{url}/half_plus_three:predict"
    assert asked("-d", '{"instances": [1.0, 2.0, 5.0]}', half) == {"predictions": [3.5, 4.0, 5.5]}
    assert asked("-d", '{"inputs": 3.0}', half) == {"outputs": 4.5}
    status, text = refused("-d", '{"instances": [[1.0], [2.0, 3.0]]}', half)
    assert (status, "Expecting tensor size: 1 but got: 2" in text) == (400, True), text
    status, text = refused("-d", '{"instances": 3.0}', half)
    assert (status, "Expecting 'instances' to be an list/array" in text) == (400, True), text


def test_a_request_of_another_shape_is_not_mixed_with_its_neighbours(open_stack: Stack) -> None:
    url = f"{open_stack.url}/v1/models/softmax:predict"
    bodies = [{"instances": [0.0, float(n)]} if n % 2 else {"instances": [[0.0, float(n)]] * 2} for n in range(32)]

    def ask(body: dict[str, Any]) -> Any:
        return httpx.post(url, json=body).json()["predictions"]

    with ThreadPoolExecutor(16) as threads:
        for body, found in zip(bodies * 4, threads.map(ask, bodies * 4), strict=True):
            x = np.exp(np.array(body["instances"]))
            np.testing.assert_allclose(found, x / x.sum(-1, keepdims=True), atol=1e-6)


def test_standard_error_has_lines_of_one_form(open_stack: Stack) -> None:
    """TensorFlow has lines of its own, which it writes while it is imported."""
    lines = [line for line in open_stack.output.splitlines() if line.strip()]
    events = [json.loads(line)["event"] for line in lines if line.startswith("{")]
    assert any("WARNING: All log messages before absl" in event for event in events)
    of_up = ("API process", "Millrace is ready", "curl -s", "Stop it with Ctrl-C")
    assert [line for line in lines if not line.startswith("{") and not any(word in line for word in of_up)] == []


@proves("curl", "CORS (MILLRACE_SERVING_CORS_ORIGIN): preflight and answers")
def test_web_pages_may_call_where_the_setting_says_so(open_stack: Stack) -> None:
    url = f"{open_stack.url}/v1/models/half_plus_three"
    headers = ("-H", "Origin: https://example.org", "-H", "Access-Control-Request-Method: POST")
    for arguments in (
        ("-X", "OPTIONS", *headers, f"{url}:predict"),
        ("-d", '{"instances": [[1.0]]}', f"{url}:predict"),
        ("-d", "{}", f"{url}:predict"),
        (url,),
    ):
        head = curl("--dump-header", "-", "--output", "/dev/null", *arguments).decode().lower()
        assert "access-control-allow-origin: *\r\n" in head
        assert "access-control-allow-methods: post, get\r\n" in head
        assert "access-control-allow-headers: authorization, content-type" in head


# TensorFlow Serving: status, metadata, metrics, errors


@proves("curl", "model status", differs="has the keys `name` and `ready` of KServe's v1 protocol, too")
def test_the_state_of_each_version_is_told(v1: str) -> None:
    status = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("half_plus_two", "half_plus_two/versions/1", "half_plus_two/"):
        answer = {"name": "half_plus_two", "ready": True, "model_version_status": [status]}  # KServe's keys, too
        assert asked(f"{v1}/{path}") == answer


@proves("curl", "model metadata")
def test_the_signatures_are_told(v1: str) -> None:
    for path in ("half_plus_two/metadata", "half_plus_two/versions/1/metadata"):
        document = asked(f"{v1}/{path}")
        assert document["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "1"}
        signature = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert signature["method_name"] == "tensorflow/serving/predict"
        assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
        assert signature["outputs"]["y"]["tensor_shape"] == {
            "dim": [{"size": "-1", "name": ""}],
            "unknown_rank": False,
        }


@proves("curl", "GET /v1/models", differs="lists the models, where TensorFlow Serving answers 400")
def test_the_models_are_listed(v1: str) -> None:
    assert {"half_plus_two", "digits"} <= {model["name"] for model in asked(v1)["models"]}


@proves(
    "curl",
    "GET /monitoring/prometheus/metrics",
    differs="request_count, request_latency and runtime_latency, by model and version; no label API or entrypoint",
)
def test_metrics_have_tensorflow_servings_names(stack: Stack, v1: str) -> None:
    asked("-d", '{"instances": [1.0]}', f"{v1}/half_plus_two:predict")
    text = curl(f"{stack.url}/monitoring/prometheus/metrics").decode()
    assert ':tensorflow:serving:request_count{model_name="half_plus_two",status="OK"} ' in text
    assert ':tensorflow:serving:request_latency_bucket{model_name="half_plus_two",version="1",le="+Inf"} ' in text


@proves("curl", "errors: status and text")
def test_errors_are_worded_as_tensorflow_serving_words_them(v1: str) -> None:
    half = f"{v1}/half_plus_two"
    for status, text, arguments in (
        (404, "Servable not found for request: Latest(nope)", ("-d", '{"instances": [1]}', f"{v1}/nope:predict")),
        (404, "Specific(half_plus_two, 7)", ("-d", '{"instances": [1]}', f"{half}/versions/7:predict")),
        (400, "Unrecognized servable version label: x", ("-d", '{"instances": [1]}', f"{half}/labels/x:predict")),
        (
            400,
            'Serving signature name: "x" not',
            ("-d", '{"signature_name": "x", "instances": [1]}', f"{half}:predict"),
        ),
        (400, "Missing 'inputs' or 'instances' key", ("-d", "{}", f"{half}:predict")),
        (400, "JSON Parse error: The document is empty", ("-d", "", f"{half}:predict")),
        (400, "is not of expected type: float", ("-d", '{"instances": ["a"]}', f"{half}:predict")),
        (400, "Example must be JSON object", ("-d", '{"examples": [1]}', f"{half}:classify")),
        (400, "No classification outputs found", ("-d", '{"examples": [{"x": 1}]}', f"{half}:classify")),
        (404, "Could not find any versions of model nope", (f"{v1}/nope",)),
        (404, "Could not find version 7 of model half_plus_two", (f"{half}/versions/7",)),
        (400, "Malformed request: GET /v1/models/half_plus_two:predict", (f"{half}:predict",)),
        (400, "Malformed request: DELETE /v1/models/half_plus_two", ("-X", "DELETE", half)),
    ):
        met = refused(*arguments)
        assert met[0] == status, arguments
        assert text in met[1]


@proves("curl", "a content coding other than gzip and deflate", refused="415, naming those that are taken")
def test_other_codings_are_refused_by_name(v1: str) -> None:
    arguments = ("-H", "Content-Encoding: br", "-d", "?", f"{v1}/half_plus_two:predict")
    assert refused(*arguments) == (415, "the content coding 'br' is not supported; use gzip or deflate")


# Triton


@proves("curl", "infer, raw binary request (Inference-Header-Content-Length: 0)")
def test_a_body_may_be_the_elements_alone(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "row").write_bytes(np.arange(784, dtype=np.float32).tobytes())
    headers = ("-H", "Content-Type: application/octet-stream", "-H", "Inference-Header-Content-Length: 0")
    url = f"{stack.url}/v2/models/digits/infer"
    (tmp_path / "answer").write_bytes(curl(*headers, "--data-binary", f"@{tmp_path}/row", url))
    answer = (tmp_path / "answer").read_bytes()
    described = json.loads(answer[:-40])
    assert described["outputs"][0]["shape"] == [1, 10]
    assert np.frombuffer(answer[-40:], np.float32).sum() == pytest.approx(1, abs=1e-5)
    status, text = refused(*headers, "--data-binary", "a", f"{stack.url}/v2/models/identity_BYTES/infer")
    assert (status, "the model must have input shape [1]" in text) == (400, True), text


@proves("curl", "more rows than a queue may hold, 4,096", refused="413, naming MILLRACE_SERVING_MAX_QUEUE_ROWS")
def test_too_many_rows_name_the_setting(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "body").write_text(json.dumps({"instances": [1.0] * 4097}))
    status, text = refused("-d", f"@{tmp_path}/body", f"{stack.url}/v1/models/half_plus_two:predict")
    assert (status, "MILLRACE_SERVING_MAX_QUEUE_ROWS" in text) == (413, True), text


@proves("curl", "infer, JSON: lists nested deeper than 100", refused="400, in Triton's words")
def test_deep_lists_are_refused(stack: Stack, tmp_path: Path) -> None:
    tensor = {"name": "INPUT0", "shape": [1, 1], "datatype": "INT64", "data": "DATA"}
    url = f"{stack.url}/v2/models/identity_INT64/infer"
    (tmp_path / "body").write_text(json.dumps({"inputs": [tensor]}).replace('"DATA"', "[" * 100 + "7" + "]" * 100))
    assert asked("-d", f"@{tmp_path}/body", url)["outputs"][0]["data"] == [7]
    (tmp_path / "body").write_text(json.dumps({"inputs": [tensor]}).replace('"DATA"', "[" * 101 + "7" + "]" * 101))
    status, text = refused("-d", f"@{tmp_path}/body", url)
    assert (status, text) == (400, "Unable to parse 'data': JSON nesting depth exceeds maximum allowed limit (100)")


@proves("curl", "paths with a slash behind them")
def test_a_slash_behind_a_path_changes_nothing(stack: Stack) -> None:
    for path in ("v2", "v2/health/ready", "v2/models/simple", "v2/models/simple/config", "v2/models/simple/ready"):
        assert curl(f"{stack.url}/{path}/") == curl(f"{stack.url}/{path}"), path
    body = ("-d", '{"instances": [1.0]}')
    assert asked(*body, f"{stack.url}/v1/models/half_plus_two:predict/") == {"predictions": [2.5]}


@proves("curl", "infer, JSON, packed answer (--compressed)")
def test_a_packed_answer_is_read(stack: Stack) -> None:
    tensor = {"name": "INPUT0", "shape": [1, 2000], "datatype": "FP32", "data": [0.5] * 2000}
    arguments = ("-d", json.dumps({"inputs": [tensor]}), f"{stack.url}/v2/models/identity_FP32/infer")
    assert asked("--compressed", *arguments) == asked(*arguments)
    size = curl("--compressed", "--write-out", "%{size_download}", "--output", "/dev/null", *arguments)
    assert int(size) < 1000


@proves("curl", "POST generate, generate_stream", refused="501 `generate is not supported; use infer`")
def test_generate_is_refused_by_name(stack: Stack) -> None:
    for verb in ("generate", "generate_stream"):
        met = refused("-d", '{"text_input": "hello"}', f"{stack.url}/v2/models/sentiment/{verb}")
        assert met == (501, "generate is not supported; use infer")


@proves("curl", "a path that is not there, a method that is not allowed")
def test_paths_and_methods_are_refused_as_triton_refuses_them(stack: Stack) -> None:
    assert refused(f"{stack.url}/v2/nowhere") == (404, "Not Found")
    assert refused(f"{stack.url}/v2/models/digits/infer") == (405, "Method Not Allowed")
    assert refused("-d", "{}", f"{stack.url}/v2/models/digits/config") == (405, "Method Not Allowed")
