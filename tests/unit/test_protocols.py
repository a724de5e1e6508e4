"""Bodies in, bodies out: TensorFlow Serving's REST and the Open Inference Protocol."""

import contextlib
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from millrace import rpc
from millrace.protocol.errors import (
    InvalidRequest,
    ModelNotFound,
    NotReady,
    NotSupported,
    SignatureNotFound,
    VersionOutOfRange,
)
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import Signature, Tensor, TensorSpec, encode_strings
from serving.models.registry import ServedModel
from serving.protocols.oip import rest as oip
from serving.protocols.oip.config import render_config
from serving.protocols.tfs import rest as tfs
from serving.queueing.admission import Inference, admit


def _spec(name: str, datatype: str = "FP32", shape: tuple[int, ...] = (-1,), **more: Any) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape, **more)


def model(*inputs: TensorSpec) -> ServedModel:
    signature = Signature(inputs=inputs, outputs=(_spec("y"),))
    signatures = {
        "serving_default": signature,
        "other": Signature(inputs=(_spec("z", "INT32"),), outputs=(_spec("y"),)),
    }
    return ServedModel(
        ModelAnnouncement(name="m", version=1, state="AVAILABLE", signatures=signatures, max_batch_size=8)
    )


ONE = model(_spec("x", shape=(-1, 2)))
TWO = model(_spec("a"), _spec("b", "BYTES"))
DEFAULTED = model(_spec("x", shape=(1,), optional=True))
OPTIONAL = model(_spec("tokens", "BYTES", (-1, -1)), _spec("weights", shape=(-1, -1), optional=True))


def _predict(body: Any, on: ServedModel) -> tuple[dict[str, Any], str, str]:
    inference, form = tfs.parse_predict(body if isinstance(body, bytes) else json.dumps(body).encode(), on)
    return {name: tensor.to_numpy().tolist() for name, tensor in inference.inputs.items()}, form, inference.signature


@pytest.mark.parametrize(
    ("body", "on", "inputs", "form"),
    [
        ({"instances": [[1, 2], [3, 4]]}, ONE, {"x": [[1, 2], [3, 4]]}, "row"),
        ({"instances": [{"x": [1, 2]}]}, ONE, {"x": [[1, 2]]}, "row"),
        ({"inputs": [[1, 2]]}, ONE, {"x": [[1, 2]]}, "column"),
        ({"inputs": {"x": [[1, 2]]}}, ONE, {"x": [[1, 2]]}, "column"),
        (
            {"instances": [{"a": 1, "b": "s"}, {"a": 2, "b": {"b64": "dA=="}}]},
            TWO,
            {"a": [1, 2], "b": [b"s", b"t"]},
            "row",
        ),
        ({"inputs": {"a": [1], "b": ["s"], "extra": 0}}, TWO, {"a": [1], "b": [b"s"]}, "column"),
        ({"instances": [1, 2]}, DEFAULTED, {"x": [1, 2]}, "row"),
        ({"inputs": [1, 2]}, DEFAULTED, {"x": [1, 2]}, "column"),
        ({"inputs": {}}, DEFAULTED, {}, "column"),
        ({"instances": [["k", "m"]]}, OPTIONAL, {"tokens": [[b"k", b"m"]]}, "row"),
        (
            {"instances": [{"tokens": ["k", "m"], "weights": [1, -1]}]},
            OPTIONAL,
            {"tokens": [[b"k", b"m"]], "weights": [[1, -1]]},
            "row",
        ),
        ({"inputs": {"tokens": [["k"]], "weights": [[1]]}}, OPTIONAL, {"tokens": [[b"k"]], "weights": [[1]]}, "column"),
        ({"signature_name": "", "instances": [[1, 2]]}, ONE, {"x": [[1, 2]]}, "row"),
    ],
)
def test_predict_reads_rows_and_columns(body: Any, on: ServedModel, inputs: dict[str, Any], form: str) -> None:
    assert _predict(body, on) == (inputs, form, "serving_default")


def test_predict_takes_another_signature() -> None:
    assert _predict({"signature_name": "other", "instances": [1, 2]}, ONE) == ({"z": [1, 2]}, "row", "other")
    with pytest.raises(SignatureNotFound, match='Serving signature name: "nope" not found in signature def'):
        _predict({"signature_name": "nope", "instances": [1]}, ONE)


@pytest.mark.parametrize(
    ("body", "on", "message"),
    [
        (b"", ONE, "JSON Parse error: The document is empty"),
        (b"[1]", ONE, r"JSON Value: \[1\] Is not object"),
        (b'{"instances": [1', ONE, r"Missing a comma or \] after an array element. at offset: 16"),
        ({"signature_name": 3, "instances": [1]}, ONE, "'signature_name' key must be a string value"),
        ({"instances": [1], "inputs": [1]}, ONE, "expecting only one of 'inputs' or 'instances' keys to exist"),
        ({}, ONE, "Missing 'inputs' or 'instances' key"),
        ({"instances": []}, ONE, "No values in 'instances' array"),
        ({"instances": {"x": 1}}, ONE, "Expecting 'instances' to be an list/array"),
        (
            {"instances": [{"y": [1, 2]}]},
            ONE,
            "process element: 0 key: y of 'instances' list. .* JSON object: does not have named input: y",
        ),
        ({"instances": [{"a": 1}]}, TWO, 'process element: 0 .* JSON object: {"a": 1} keys must be equal to: a,b'),
        ({"instances": [[1, 2]]}, TWO, "instances is a plain list, but expecting list of objects"),
        ({"instances": [{"a": 1, "b": "s"}, [1]]}, TWO, "Expecting object but got list at item 1 of input list"),
        ({"instances": [[1, 2], {"x": 1}]}, ONE, "Expecting value/list but got object at item 1 of input list"),
        ({"instances": [[1, 2], [3]]}, ONE, "element: 1 of .* INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1"),
        ({"instances": [[1, 2], [[3, 4]]]}, ONE, r"Expecting shape \[2\] but got: \[1,2\]"),
        ({"instances": [[1, 2], [3, "4"]]}, ONE, 'element: 1 of .* "4" Type: String is not of expected type: float'),
        ({"instances": [{"a": 1, "b": "s"}, {"a": 2, "b": 3}]}, TWO, "element: 1 key: b of .* Type: Number is not of"),
        ({"instances": [{"tokens": ["k"], "weights": [1]}, {"tokens": ["k"]}]}, OPTIONAL, "keys must be equal to"),
        ({"inputs": {"a": [1]}}, TWO, "Missing named input: b in 'inputs' object"),
        ({"inputs": [1]}, TWO, "inputs is a plain value/list, but expecting an object"),
    ],
)
def test_predict_says_what_is_wrong(body: Any, on: ServedModel, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        _predict(body, on)


def _tensor(values: Any, dtype: Any = np.float32) -> Tensor:
    return Tensor.from_numpy(np.array(values, dtype))


@pytest.mark.parametrize(
    ("outputs", "form", "expected"),
    [
        ({"y": _tensor([[1, 2.5]])}, "row", {"predictions": [[1.0, 2.5]]}),
        ({"y": _tensor([[1, 2.5]])}, "column", {"outputs": [[1.0, 2.5]]}),
        (
            {"y": _tensor([1, 2]), "s": _tensor(["a", "b"], object)},
            "row",
            {"predictions": [{"y": 1.0, "s": "a"}, {"y": 2.0, "s": "b"}]},
        ),
        ({"y": _tensor([1]), "s": _tensor([b"a"], object)}, "column", {"outputs": {"y": [1.0], "s": ["a"]}}),
        ({"raw_bytes": _tensor([b"\xff"], object)}, "row", {"predictions": [{"b64": "/w=="}]}),
    ],
)
def test_predict_answers_in_the_form_of_the_request(outputs: dict[str, Tensor], form: Any, expected: Any) -> None:
    assert json.loads(tfs.render_predict(outputs, form).body) == expected


def _examples(body: Any, on: ServedModel) -> dict[str, Any]:
    inference = tfs.parse_examples(body if isinstance(body, bytes) else json.dumps(body).encode(), on)
    return {name: tensor.to_numpy().tolist() for name, tensor in inference.inputs.items()}


def test_examples_are_features_of_any_kind_and_the_context_goes_for_all() -> None:
    examples = [{"a": 1, "b": "é"}, {"a": [2.5], "b": [{"b64": "/w=="}]}, {"b": "x"}]
    assert _examples({"examples": examples, "context": {"a": True}}, TWO) == {
        "a": [1.0, 2.5, 1.0],
        "b": ["é".encode(), b"\xff", b"x"],
    }
    assert _examples({"examples": [{"z": 7}], "signature_name": "other"}, ONE) == {"z": [7]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"[]", "Is not object"),
        ({}, "key 'examples' is expected and was not found"),
        ({"examples": {}}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got 1"),
        ({"examples": [{"a": 1}], "context": [1]}, r"Example must be JSON object but got \[1\]"),
        ({"examples": [{"a": None}]}, "Feature: a has element with unexpected JSON type: null"),
        ({"examples": [{"a": [[1]]}]}, r"Feature: a has element with unexpected JSON type: \[1\]"),
        ({"examples": [{"a": 1}]}, "Feature: b .* is required"),
        ({"examples": [{"a": "s", "b": "s"}]}, "Data types don't match"),
        ({"examples": [{}], "signature_name": 1}, "must be a string"),
        ({"examples": [{}], "signature_name": "x"}, "not found in signature def"),
    ],
)
def test_examples_that_are_wrong_are_refused(body: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        _examples(body, TWO)


def test_classes_and_values_are_answered_as_results() -> None:
    signature = Signature(inputs=(), outputs=(_spec("p", shape=(-1, 2)),))
    answer = tfs.render_classify({"p": _tensor([[0.1, np.nan]])}, signature, ["é", "b"])
    assert answer.body == b'{"results":[[["\\u00e9",0.1],["b",NaN]]]}'
    signature = Signature(inputs=(), outputs=(_spec("y"),))
    assert tfs.render_regress({"y": _tensor([0.1, 2])}, signature).body == b'{"results":[0.1,2.0]}'


@pytest.mark.parametrize("behind", [b"\n", b"}", b" text", b"\xff\xfe", b'{"instances": 1}'])
def test_text_behind_the_document_is_tolerated(behind: bytes) -> None:
    assert _predict(b' {"instances": [[1, 2]]}' + behind, ONE)[0] == {"x": [[1, 2]]}


def test_bytes_that_are_not_utf8_are_refused_where_they_are_a_string() -> None:
    with pytest.raises(InvalidRequest, match="is not valid UTF-8"):
        _predict(b'{"inputs": {"a": [1], "b": ["\xff"]}}', TWO)


def test_whole_floats_keep_their_point_and_numbers_json_lacks_are_written() -> None:
    assert tfs.render_predict({"y": _tensor([1, np.nan])}, "row").body == b'{"predictions":[1.0,NaN]}'


def test_outputs_of_different_length_cannot_be_shown_by_row() -> None:
    with pytest.raises(InvalidRequest, match="inconsistent batch size"):
        tfs.render_predict({"a": _tensor([1]), "b": _tensor([1, 2])}, "row")


def test_unknown_models_have_each_protocols_words() -> None:
    latest, third = ModelNotFound("half"), ModelNotFound("half", 3)
    assert tfs.predict_error_text(latest) == "Servable not found for request: Latest(half)"
    assert tfs.predict_error_text(third) == "Servable not found for request: Specific(half, 3)"
    assert tfs.status_error_text(latest) == "Could not find any versions of model half"
    assert tfs.status_error_text(third) == "Could not find version 3 of model half"
    assert oip.error_text(latest) == "Request for unknown model: 'half' is not found"
    assert oip.error_text(third) == "Request for unknown model: 'half' version 3 is not found"
    latest, third = ModelNotFound("half", was_here=True), ModelNotFound("half", 3, was_here=True)
    assert oip.error_text(latest) == "Request for unknown model: 'half' has no available versions"
    assert oip.error_text(third) == "Request for unknown model: 'half' version 3 is not at ready state"
    assert tfs.predict_error_text(third) == "Servable not found for request: Specific(half, 3)"
    not_ready = NotReady("half", 3, "its state is LOADING")
    assert oip.error_text(not_ready).startswith("Request for unknown model: 'half' version 3 is not at ready state")
    assert oip.error_text(VersionOutOfRange(2**63)).endswith("version should be an integral value > 0")
    assert tfs.status_error_text(VersionOutOfRange(2**63)) == f"Failed to convert version: {2**63} to numeric."


def test_metadata_has_the_doubled_signature_def_and_sizes_as_strings() -> None:
    document = tfs.render_metadata(ONE)
    assert document["model_spec"] == {"name": "m", "signature_name": "", "version": "1"}
    x = document["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]["x"]
    assert x["dtype"] == "DT_FLOAT"
    assert x["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}], "unknown_rank": False}


def test_tensorflow_gets_more_rows_than_the_signature_says() -> None:
    announced = msgspec.structs.replace(DEFAULTED.announcement, platform="tensorflow_savedmodel", max_batch_size=0)
    inference, form = tfs.parse_predict(b'{"instances": [1.0, 2.0]}', ServedModel(announced))
    assert (inference.inputs["x"].to_numpy().tolist(), form, inference.is_alone) == ([1, 2], "row", True)


def test_metadata_has_what_the_file_says_of_its_tensors() -> None:
    y = TensorSpec(name="y", datatype="FP32", shape=(), unknown_rank=True, graph_name="Add:0")
    signature = Signature(inputs=(), outputs=(y,), method_name="tensorflow/serving/regress")
    signatures = {"serving_default": signature}
    announced = ModelAnnouncement(name="m", version=1, state="AVAILABLE", signatures=signatures, max_batch_size=0)
    document = tfs.render_metadata(ServedModel(announced))
    definition = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert definition["method_name"] == "tensorflow/serving/regress"
    assert definition["outputs"]["y"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [], "unknown_rank": True},
        "name": "Add:0",
    }


def test_metadata_tell_what_the_integers_of_quantized_tensors_stand_for() -> None:
    quantized = model(_spec("x", "UINT8", scale=0.5, zero_point=128), _spec("plain"))
    assert oip.render_model(quantized, [])["parameters"] == {"quantization": {"x": {"scale": 0.5, "zero_point": 128}}}


def test_the_configuration_is_tritons_without_the_rows() -> None:
    config = render_config(OPTIONAL)
    assert (config["name"], config["max_batch_size"]) == ("m", 8)
    both = {"is_shape_tensor": False, "is_non_linear_format_io": False}
    of_input = {"format": "FORMAT_NONE", "allow_ragged_batch": False, **both}
    assert config["input"] == [
        {"name": "tokens", "data_type": "TYPE_STRING", "dims": [-1], "optional": False, **of_input},
        {"name": "weights", "data_type": "TYPE_FP32", "dims": [-1], "optional": True, **of_input},
    ]
    assert config["output"] == [{"name": "y", "data_type": "TYPE_FP32", "dims": [], "label_filename": "", **both}]
    assert {"dynamic_batching", "sequence_batching", "ensemble_scheduling"} & config.keys() == {"dynamic_batching"}
    assert config["version_policy"] == {"latest": {"num_versions": 1}}
    assert (config["instance_group"][0]["name"], config["instance_group"][0]["count"]) == ("m", 1)
    assert config["optimization"]["input_pinned_memory"] == {"enable": True}


def test_the_configuration_has_what_the_models_file_says_and_what_is_true_here() -> None:
    text = """
        backend: "onnxruntime" max_batch_size: 16 default_model_filename: "net.onnx"
        version_policy { specific { versions: [3, 5] } }
        input { name: "x" data_type: TYPE_FP32 dims: [2] format: FORMAT_NCHW reshape { shape: [2] } }
        output { name: "y" data_type: TYPE_FP32 dims: [2] label_filename: "labels.txt" }
        instance_group { count: 2 kind: KIND_GPU gpus: [0] }
        dynamic_batching { max_queue_delay_microseconds: 100 preferred_batch_size: [4] }
        parameters { key: "mine" value { string_value: "yes" } }
        """
    message = text_format.Parse(text, rpc.message("inference.ModelConfig")(), descriptor_pool=rpc.pool())
    signatures = {"serving_default": Signature(inputs=(_spec("x", shape=(-1, 2)),), outputs=(_spec("y"), _spec("z")))}
    announcement = ModelAnnouncement(
        name="m",
        version=1,
        state="AVAILABLE",
        platform="onnxruntime_onnx",
        signatures=signatures,
        max_batch_size=8,
        triton_config=message.SerializeToString(),
    )
    config = render_config(ServedModel(announcement))
    assert (config["backend"], config["max_batch_size"]) == ("onnxruntime", 8)
    assert config["default_model_filename"] == "net.onnx"
    assert config["version_policy"] == {"specific": {"versions": [3, 5]}}
    assert config["input"][0]["format"] == "FORMAT_NCHW"
    assert config["input"][0]["reshape"] == {"shape": [2]}
    assert [(output["name"], output["dims"], output["label_filename"]) for output in config["output"]] == [
        ("y", [], "labels.txt"),
        ("z", [], ""),
    ]
    assert (config["instance_group"][0]["kind"], config["instance_group"][0]["gpus"]) == ("KIND_GPU", [0])
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 100
    assert config["dynamic_batching"]["preferred_batch_size"] == [4]
    assert config["parameters"] == {"mine": {"string_value": "yes"}}


def test_the_configuration_of_a_model_that_does_not_batch_has_the_whole_shape() -> None:
    whole = ModelAnnouncement(name="m", version=1, state="AVAILABLE", signatures=ONE.announcement.signatures)
    config = render_config(ServedModel(whole))
    assert config["input"][0]["dims"] == [-1, 2]
    assert "dynamic_batching" not in config


def test_the_configurations_parameters_carry_what_triton_has_no_field_for() -> None:
    signatures = ONE.announcement.signatures
    named = ModelAnnouncement(name="m", version=1, state="AVAILABLE", signatures=signatures, labels=("no", "yes"))
    assert render_config(ServedModel(named))["parameters"] == {"labels": {"string_value": '["no","yes"]'}}
    assert render_config(ONE)["parameters"] == {}


def _infer(body: Any, on: ServedModel = ONE, binary: bytes | None = None) -> tuple[Inference, oip.Wanted]:
    document = body if isinstance(body, bytes) else json.dumps(body).encode()
    if binary is None:
        return oip.parse_infer(document, None, on)
    return oip.parse_infer(document + binary, str(len(document)).encode(), on)


def _input(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]} | changes


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [[[1], [2.0]], [[3], [4]]]])
def test_infer_reads_flat_and_nested_data(data: Any) -> None:
    inference, wanted = _infer({"id": "42", "inputs": [_input(data=data)]})
    assert wanted.identity == "42"
    np.testing.assert_array_equal(inference.inputs["x"].to_numpy(), [[1, 2], [3, 4]])


def test_infer_reads_strings_parameters_and_wanted_outputs() -> None:
    body = {
        "inputs": [
            _input(name="b", datatype="BYTES", shape=[2], data=["é", "x"]),
            _input(name="a", shape=[2], data=[1, 2]),
        ],
        "outputs": [{"name": "y"}],
        "parameters": {"timeout": 2500, "priority": 1},
    }
    inference, wanted = _infer(body, TWO)
    assert inference.inputs["b"].to_numpy().tolist() == ["é".encode(), b"x"]
    assert wanted == oip.Wanted(outputs=(oip.WantedOutput("y", False),))
    assert (inference.timeout_ms, inference.priority) == (2.5, "high")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "failed to parse the request JSON buffer"),
        (b"[]", "the document is not an object"),
        ({}, "Unable to parse 'inputs'"),
        ({"inputs": [{}]}, "each needs a 'name'"),
        ({"inputs": [_input(datatype="FP99")]}, "invalid datatype for input 'x'"),
        ({"inputs": [_input(shape=[-1, 2])]}, "Unable to parse 'shape' of input 'x'"),
        ({"inputs": [_input(shape=[2**31, 2])]}, "Unable to parse 'shape' of input 'x'"),
        ({"inputs": [_input(shape=[2**4, 2**60 + 2])]}, "causes total element count to exceed maximum size of"),
        (
            {"inputs": [_input(shape=[2**2, 2**60 + 2])]},
            r"byte size overflow for input 'x': .* \* data type size \(4\)",
        ),
        (
            {"inputs": [_input(shape=[3, 2])]},
            "Shape does not match true shape of 'data' field: .* needs 6 values, got 4",
        ),
        ({"inputs": [_input(datatype="FP16")]}, "receiving FP16 data via JSON is not supported"),
        ({"inputs": [_input(data=["a", 2, 3, 4])]}, "is not of expected type: float"),
        ({"inputs": [_input(datatype="BYTES")]}, "non-string as string"),
        ({"inputs": [_input(data=7)]}, "Unable to parse 'data' of input 'x'"),
        ({"inputs": [_input(), _input()]}, "input 'x' already exists in request"),
        ({"inputs": [_input()], "outputs": [{"name": "z"}]}, "unexpected inference output 'z' for model 'm'"),
        ({"inputs": [_input()], "id": 7}, "Unable to parse 'id'"),
        ({"inputs": [_input()], "parameters": {"timeout": "soon"}}, "'timeout' must be a number of microseconds"),
        ({"inputs": [_input()], "parameters": {"binary_data_output": 1}}, "Unable to parse 'binary_data_output'"),
        ({"inputs": [_input(parameters=[])]}, "Unable to parse 'parameters' of 'x'"),
        (
            {"inputs": [_input(parameters={"binary_data_size": 16})]},
            "unexpected size for input 'x', expecting 16 additional bytes for model 'm'",
        ),
        ({"inputs": [_input(parameters={"binary_data_size": -1})]}, "'binary_data_size' of input 'x'"),
    ],
)
def test_infer_says_what_is_wrong(body: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        _infer(body)


def test_infer_answers_with_the_wanted_outputs_in_order_and_the_id() -> None:
    wanted = oip.Wanted("7", (oip.WantedOutput("y", False),))
    body = json.loads(oip.render_infer(ONE, {"z": _tensor([0]), "y": _tensor([[1, 2]])}, wanted).body)
    output = {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
    assert body == {"id": "7", "model_name": "m", "model_version": "1", "outputs": [output]}


def _raw(size: int, **changes: Any) -> dict[str, Any]:
    described = _input(parameters={"binary_data_size": size}, **changes)
    del described["data"]
    return described


def test_infer_reads_binary_tensors_in_the_order_of_the_json_among_others() -> None:
    a, b = np.array([1, 2], np.float32), encode_strings([b"s", b"\xff"])
    inputs = [_raw(len(b), name="b", datatype="BYTES", shape=[2]), _raw(8, name="a", shape=[2])]
    inference, _ = _infer({"inputs": inputs}, TWO, b + a.tobytes())
    assert inference.inputs["b"].to_numpy().tolist() == [b"s", b"\xff"]
    assert inference.inputs["a"].to_numpy().tolist() == [1, 2]
    inputs[1] = _input(name="a", shape=[2], data=[3, 4])
    inference, _ = _infer({"inputs": inputs}, TWO, b)
    assert inference.inputs["a"].to_numpy().tolist() == [3, 4]


@pytest.mark.parametrize("on", [ONE, model(_spec("x", shape=(-1, 2)), _spec("w", optional=True))])
def test_a_body_without_json_is_the_elements_of_the_only_input(on: ServedModel) -> None:
    inference, wanted = _infer(b"", on, np.array([1, 2], np.float32).tobytes())
    assert inference.inputs["x"].to_numpy().tolist() == [[1, 2]]
    assert wanted.binary
    text, _ = _infer(b"", model(_spec("b", "BYTES")), b"a text")
    assert text.inputs["b"].to_numpy().tolist() == [b"a text"]


@pytest.mark.parametrize(
    ("inputs", "binary", "message"),
    [
        ([_raw(16)], bytes(15), "unexpected size for input 'x', expecting 1 additional bytes for model 'm'"),
        ([_raw(16)], bytes(17), "unexpected additional input data for model 'm'"),
        ([_raw(12)], bytes(12), "input byte size mismatch for input 'x' for model 'm'. Expected 16, got 12"),
        ([_raw(4, datatype="BOOL")], b"\x00\x01\x02\x00", "neither 0 nor 1"),
        (
            [_raw(4, datatype="BYTES")],
            bytes(4),
            "expected 4 string elements for inference input 'x' for model 'm', got 1",
        ),
        ([_raw(5, datatype="BYTES", shape=[1])], b"\x09\x00\x00\x00a", "BYTES data end inside an element"),
    ],
)
def test_binary_tensors_that_do_not_fit_are_named(inputs: Any, binary: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        _infer({"inputs": inputs}, ONE, binary)


@pytest.mark.parametrize("length", [b"-1", b"9", b"", b"2.0", b"9" * 50])
def test_a_json_length_that_cannot_be_is_refused(length: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"inference header size should be in range \(0, 4\), got: "):
        oip.parse_infer(b"{}\x00\x00", length, ONE)


@pytest.mark.parametrize(
    ("on", "message"),
    [
        (TWO, "Raw request must only have 1 input"),
        (model(_spec("x", shape=(-1, -1, -1))), "more than one variable-sized dimension"),
        (model(_spec("x", "BYTES", (-1, -1))), r"the model must have input shape \[1\]"),
    ],
)
def test_a_body_without_json_needs_one_input_of_known_shape(on: ServedModel, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        _infer(b"", on, bytes(8))


def _nested(value: int, depth: int) -> Any:
    return value if not depth else [_nested(value, depth - 1)]


@pytest.mark.parametrize(("datatype", "value"), [("FP32", 1), ("BYTES", "a")])
def test_lists_are_nested_as_deep_as_triton_takes_them(datatype: str, value: Any) -> None:
    inference, _ = _infer({"inputs": [_input(datatype=datatype, shape=[1, 1], data=_nested(value, 100))]})
    assert inference.inputs["x"].shape == (1, 1)
    with pytest.raises(InvalidRequest, match=r"JSON nesting depth exceeds maximum allowed limit \(100\)"):
        _infer({"inputs": [_input(datatype=datatype, shape=[1, 1], data=_nested(value, 101))]})


@pytest.mark.parametrize(
    "wanted",
    [
        oip.Wanted("7", (oip.WantedOutput("z", True), oip.WantedOutput("y", False)), binary=binary)
        for binary in (False, True)
    ],
)
def test_binary_outputs_follow_the_json_whose_length_is_named(wanted: oip.Wanted) -> None:
    content = oip.render_infer(ONE, {"y": _tensor([[1, 2]]), "z": _tensor([5])}, wanted)
    headers = dict(content.headers)
    length = int(headers["inference-header-content-length"])
    z, y = json.loads(content.body[:length])["outputs"]
    assert (z["parameters"], y["data"], headers["content-type"]) == (
        {"binary_data_size": 4},
        [1.0, 2.0],
        "application/octet-stream",
    )
    assert np.frombuffer(content.body[length:], np.float32).tolist() == [5]


def test_outputs_are_binary_where_the_request_or_the_output_says_so() -> None:
    body = {"inputs": [_input()], "outputs": [{"name": "y"}], "parameters": {"binary_data_output": True}}
    assert _infer(body)[1].outputs == (oip.WantedOutput("y", True),)
    body["outputs"] = [{"name": "y", "parameters": {"binary_data": False}}]
    assert _infer(body)[1].outputs == (oip.WantedOutput("y", False),)
    del body["outputs"]
    assert _infer(body)[1] == ("", (), True)


def test_an_output_that_is_asked_for_twice_is_refused() -> None:
    again = {"name": "y", "parameters": {"classification": 1}}
    with pytest.raises(InvalidRequest, match="output 'y' already exists in request"):
        _infer({"inputs": [_input()], "outputs": [{"name": "y"}, again]})


def test_classes_are_wanted_in_place_of_an_output() -> None:
    body = {"inputs": [_input()], "outputs": [{"name": "y", "parameters": {"classification": 1}}]}
    assert _infer(body)[1].outputs == (oip.WantedOutput("y", False, 1),)
    wanted = oip.Wanted(outputs=(oip.WantedOutput("y", False, 1), oip.WantedOutput("z", True, 2)))
    content = oip.render_infer(ONE, {"y": _tensor([[1, 2]]), "z": _tensor([[1, 2]])}, wanted)
    length = int(dict(content.headers)["inference-header-content-length"])
    text, binary = json.loads(content.body[:length])["outputs"]
    assert text == {"name": "y", "datatype": "BYTES", "shape": [1, 1], "data": ["2.000000:1"]}
    assert binary["shape"] == [1, 2]
    assert content.body[length:] == encode_strings(["2.000000:1", "1.000000:0"])
    for classes in (-1, True, "2", 1.5):
        body["outputs"] = [{"name": "y", "parameters": {"classification": classes}}]
        with pytest.raises(InvalidRequest, match="Unable to set 'classification'"):
            _infer(body)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v2/models/m/generate", "generate"),
        ("/v2/models/m/versions/1/generate_stream", "generate"),
        ("/v2/trace/setting", "tracing"),
        ("/v2/models/m/trace/setting", "tracing"),
        ("/v2/logging", "log settings"),
        ("/v2/systemsharedmemory/region/r/register", "shared memory"),
        ("/v2/cudasharedmemory/unregister", "shared memory"),
    ],
)
def test_an_extension_that_is_not_here_is_refused_by_name(path: str, name: str) -> None:
    refusal = oip.refusal(path)
    assert refusal
    assert name in str(refusal)
    assert oip.refusal(path + "/more") is None


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"inputs": [_input(parameters={"shared_memory_region": "r"})]}, "shared memory"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(change: dict[str, Any], name: str) -> None:
    with pytest.raises(NotSupported, match=name):
        _infer({"inputs": [_input()]} | change)


_leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just({"b64": "aGk="})
json_values: st.SearchStrategy[Any] = st.deferred(
    lambda: (
        _leaves
        | st.lists(json_values, max_size=3)
        | st.dictionaries(st.sampled_from(["x", "a", "b", "b64"]), json_values, max_size=2)
    )
)


@given(
    st.dictionaries(st.sampled_from(["instances", "inputs", "signature_name", "other"]), json_values, max_size=3),
    st.sampled_from([ONE, TWO, OPTIONAL]),
)
def test_whatever_predict_is_sent_is_read_or_refused(body: Any, on: ServedModel) -> None:
    with contextlib.suppress(InvalidRequest):
        inference, _ = tfs.parse_predict(json.dumps(body).encode(), on)
        admit(inference, trace="t", deadline=0.0, max_queue_rows=100)


@given(
    st.dictionaries(
        st.sampled_from(["examples", "context", "signature_name"]),
        st.lists(json_values, max_size=3) | json_values,
        max_size=3,
    ),
    st.sampled_from([ONE, TWO, OPTIONAL]),
    st.binary(max_size=4),
)
def test_whatever_examples_are_sent_they_are_read_or_refused(body: Any, on: ServedModel, behind: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        inference = tfs.parse_examples(json.dumps(body).encode() + behind, on)
        admit(inference, trace="t", deadline=0.0, max_queue_rows=100)


@given(
    st.fixed_dictionaries(
        {
            "inputs": st.lists(
                st.fixed_dictionaries(
                    {
                        "name": st.sampled_from(["x", "a", "b", "tokens"]) | json_values,
                        "datatype": st.sampled_from(["FP32", "BYTES", "INT8", "BOOL", "FP16"]) | json_values,
                        "shape": st.lists(st.integers(-1, 4), max_size=3) | json_values,
                        "data": st.lists(st.integers(0, 9), max_size=9) | json_values,
                    },
                    optional={"parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 20)})},
                ),
                max_size=2,
            )
            | json_values
        },
        optional={"id": json_values, "outputs": json_values, "parameters": json_values},
    ),
    st.sampled_from([ONE, TWO, OPTIONAL]),
    st.none() | st.binary(max_size=40),
)
def test_whatever_infer_is_sent_is_read_or_refused(body: Any, on: ServedModel, binary: bytes | None) -> None:
    with contextlib.suppress(InvalidRequest):
        inference, _ = _infer(body, on, binary)
        admit(inference, trace="t", deadline=0.0, max_queue_rows=100)


def test_only_short_json_before_binary_tensors_is_remembered() -> None:
    oip._remembered_document.cache_clear()  # noqa: SLF001 - a cache that shows in nothing else
    for length, remembered in ((10, 1), (5000, 1)):
        body = {"id": "i" * length, "inputs": [_input(data=None, parameters={"binary_data_size": 16})]}
        inference, wanted = _infer(body, ONE, b"\0" * 16)
        assert len(wanted.identity) == length
        assert inference.inputs.keys() == {"x"}
        assert oip._remembered_document.cache_info().currsize == remembered  # noqa: SLF001 - a cache that shows in nothing else
