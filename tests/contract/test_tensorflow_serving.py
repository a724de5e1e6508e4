"""TensorFlow Serving's own stubs and messages (tensorflow-serving-api) against the running stack: every method."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from millrace.protocol.tensors import DTYPES
from tests.contract.claims import proves
from tests.support.running import Stack, until

_CLIENT = "tensorflow-serving-api"
_IMAGES = np.linspace(0, 255, 2 * 784, dtype=np.float32).reshape(2, 28, 28, 1)


class Stubs:
    """Both services of one server."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def status(self, model: str) -> dict[int, str]:
        """Each version's state."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        answer = self.model.GetModelStatus(request)
        states = get_model_status_pb2.ModelVersionStatus.State
        return {status.version: states.Name(status.state) for status in answer.model_version_status}


@pytest.fixture
def stubs(stack: Stack) -> Iterator[Stubs]:
    made = Stubs(stack.grpc)
    yield made
    made.channel.close()


def predict_request(model: str, **inputs: Any) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(value if isinstance(value, TensorProto) else proto(value))
    return request


def proto(value: Any) -> Any:
    return tf.make_tensor_proto(value)


def typed(array: np.ndarray[Any, Any]) -> Any:
    """The array as numbers in the field of their type, as clients in other languages send it."""
    made = proto(array.ravel().tolist() if array.dtype.kind == "O" else array)
    made.ClearField("tensor_content")
    made.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    fields = {
        "f2": "half_val", "f4": "float_val", "f8": "double_val", "i8": "int64_val", "u4": "uint32_val",
        "u8": "uint64_val", "b1": "bool_val",
    }  # fmt: skip
    if array.dtype.kind != "O":
        field = fields.get(array.dtype.str[1:], "int_val")
        flat = array.ravel().view(np.uint16) if field == "half_val" else array.ravel()
        made.ClearField(field)
        getattr(made, field).extend(flat.tolist())
    return made


def simple(**changes: Any) -> Any:
    inputs = {"INPUT0": np.arange(16, dtype=np.int32)[None], "INPUT1": np.ones((1, 16), np.int32)}
    return predict_request("simple", **(inputs | changes))


def refusal(call: Callable[..., Any], request: Any, **options: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as refused:
        call(request, **options)
    return refused.value.code().name, refused.value.details()


# Predict


@proves(_CLIENT, "Predict")
@pytest.mark.parametrize("model", ["digits"])
def test_an_answer_is_that_of_the_rest_api(stubs: Stubs, stack: Stack, model: str) -> None:
    answer = stubs.prediction.Predict(predict_request(model, image=_IMAGES), timeout=30)
    rest = httpx.post(f"{stack.url}/v1/models/{model}:predict", json={"instances": _IMAGES.tolist()}).json()
    np.testing.assert_allclose(tf.make_ndarray(answer.outputs["probabilities"]), rest["predictions"], atol=1e-6)
    spec = answer.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == (model, 1, "serving_default")


@proves(_CLIENT, "Predict: TensorProto with tensor_content, and with typed values, of every type")
@pytest.mark.parametrize("model", [f"identity_{datatype}" for datatype in DTYPES])
@pytest.mark.parametrize("encode", [proto, typed], ids=["content", "typed"])
def test_elements_come_back_as_typed_values_whichever_way_they_came(
    stubs: Stubs, model: str, encode: Callable[..., Any]
) -> None:
    dtype = DTYPES[model.removeprefix("identity_")]
    array = np.array([[b"a", b"\x00"], ["ü".encode(), b""]], object)
    if dtype.kind != "O":
        array = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    answer = stubs.prediction.Predict(predict_request(model, INPUT0=encode(array))).outputs["OUTPUT0"]
    assert not answer.tensor_content
    back = tf.make_ndarray(answer)
    assert back.dtype == dtype
    assert back.tolist() == array.tolist()


@proves(_CLIENT, "Predict: one value for all elements")
def test_one_value_stands_for_all(stubs: Stubs) -> None:
    ones = tf.make_tensor_proto(1, tf.int32, shape=(1, 16))
    assert list(ones.int_val) == [1]
    answer = stubs.prediction.Predict(simple(INPUT1=ones))
    assert tf.make_ndarray(answer.outputs["OUTPUT0"]).tolist() == [list(range(1, 17))]


@proves(_CLIENT, "Predict: output_filter")
def test_only_the_outputs_in_the_filter_come(stubs: Stubs) -> None:
    request = simple()
    request.output_filter.append("OUTPUT1")
    assert list(stubs.prediction.Predict(request).outputs) == ["OUTPUT1"]
    request.output_filter.append("OUTPUT9")
    assert refusal(stubs.prediction.Predict, request) == (
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: OUTPUT9",
    )


@proves(_CLIENT, "Predict: version")
def test_a_version_is_chosen_or_refused(stubs: Stubs) -> None:
    request = simple()
    request.model_spec.version.value = 1
    assert stubs.prediction.Predict(request).model_spec.version.value == 1
    request.model_spec.version.value = 7
    assert refusal(stubs.prediction.Predict, request) == (
        "NOT_FOUND",
        "Servable not found for request: Specific(simple, 7)",
    )


@proves(_CLIENT, "Predict: signature_name")
def test_a_signature_is_chosen_or_refused(stubs: Stubs) -> None:
    request = simple()
    request.model_spec.signature_name = "serving_default"
    assert stubs.prediction.Predict(request).model_spec.signature_name == "serving_default"
    request.model_spec.signature_name = "other"
    assert refusal(stubs.prediction.Predict, request) == (
        "FAILED_PRECONDITION",
        'Serving signature key "other" not found.',
    )


@proves(_CLIENT, "Predict: errors")
def test_a_wrong_request_is_refused_in_tensorflow_servings_words(stubs: Stubs) -> None:
    predict = stubs.prediction.Predict
    assert refusal(predict, predict_request("other", x=1.0)) == (
        "NOT_FOUND",
        "Servable not found for request: Latest(other)",
    )
    assert refusal(predict, predict_pb2.PredictRequest()) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    wrong = predict_request("simple", INPUT0=np.ones((1, 16), np.int32), other=1)
    assert refusal(predict, wrong) == (
        "INVALID_ARGUMENT",
        "input size does not match signature: 2!=2 len({INPUT0,other}) != len({INPUT0,INPUT1}). "
        "Sent extra: {other}. Missing but required: {INPUT1}.",
    )
    status, text = refusal(predict, simple(INPUT1=np.ones((1, 8), np.int32)))
    assert status == "INVALID_ARGUMENT"
    assert "Expected [-1,16], got [1,8]" in text
    status, text = refusal(predict, simple(INPUT1=np.ones((1, 16), np.complex64)))
    assert status == "UNIMPLEMENTED"
    assert "DT_COMPLEX64" in text


@proves(_CLIENT, "Predict: the client's deadline")
def test_a_deadline_that_passes_is_told(stubs: Stubs, stack: Stack) -> None:
    workers = stack.children("-m worker")  # and what they started
    assert workers
    for worker in workers:  # so that no answer can come first
        worker.suspend()
    try:
        assert refusal(stubs.prediction.Predict, simple(), timeout=0.2)[0] == "DEADLINE_EXCEEDED"
    finally:
        for worker in workers:
            worker.resume()


@proves(_CLIENT, "Predict: gzip")
def test_a_compressed_message_is_read(stubs: Stubs) -> None:
    answer = stubs.prediction.Predict(simple(), compression=grpc.Compression.Gzip)
    assert tf.make_ndarray(answer.outputs["OUTPUT0"]).tolist() == [list(range(1, 17))]


# Classify, Regress, MultiInference


def example(**features: Any) -> Any:
    kinds = {float: ("float_list", tf.train.FloatList), int: ("int64_list", tf.train.Int64List)}
    made = tf.train.Example()
    for name, values in features.items():
        kind, make = kinds[type(values[0])]
        getattr(made.features.feature[name], kind).CopyFrom(make(value=values))
    return made


def examples_request(kind: Any, model: str, *examples: Any) -> Any:
    request = kind()
    request.model_spec.name = model
    request.input.example_list.examples.extend(examples)
    return request


def image_example(row: int) -> Any:
    return example(image=_IMAGES[row].ravel().tolist())


def scores(result: Any) -> list[list[float]]:
    return [[each.score for each in row.classes] for row in result.classifications]


@proves(_CLIENT, "Classify", differs="any signature with one output of scores is taken, labels are the manifest's")
@pytest.mark.parametrize("model", ["digits"])
def test_examples_are_classified(stubs: Stubs, model: str) -> None:
    request = examples_request(classification_pb2.ClassificationRequest, model, image_example(0), image_example(1))
    answer = stubs.prediction.Classify(request)
    expected = tf.make_ndarray(stubs.prediction.Predict(predict_request(model, image=_IMAGES)).outputs["probabilities"])
    np.testing.assert_allclose(scores(answer.result), expected, atol=1e-6)
    assert [each.label for each in answer.result.classifications[0].classes] == [str(n) for n in range(10)]
    assert answer.model_spec.version.value == 1


@proves(_CLIENT, "Classify: example_list_with_context")
def test_the_context_stands_for_what_an_example_lacks(stubs: Stubs) -> None:
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "digits"
    request.input.example_list_with_context.examples.extend([tf.train.Example(), image_example(1)])
    request.input.example_list_with_context.context.CopyFrom(image_example(0))
    plain = examples_request(classification_pb2.ClassificationRequest, "digits", image_example(0), image_example(1))
    with_context, without = (stubs.prediction.Classify(each) for each in (request, plain))
    np.testing.assert_allclose(scores(with_context.result), scores(without.result), atol=1e-6)


@proves(_CLIENT, "Regress", differs="any signature with one output of one value a row is taken")
@pytest.mark.parametrize("model", ["half_plus_two"])
def test_examples_are_regressed(stubs: Stubs, model: str) -> None:
    request = examples_request(regression_pb2.RegressionRequest, model, example(x=[1.0]), example(x=[5.0]))
    answer = stubs.prediction.Regress(request)
    assert [each.value for each in answer.result.regressions] == [2.5, 4.5]
    assert answer.model_spec.name == model


@proves(_CLIENT, "Classify, Regress: errors")
def test_wrong_examples_are_refused(stubs: Stubs) -> None:
    regress = stubs.prediction.Regress
    empty = examples_request(regression_pb2.RegressionRequest, "half_plus_two")
    assert refusal(regress, empty) == ("INVALID_ARGUMENT", "Input is empty.")
    lacks = examples_request(regression_pb2.RegressionRequest, "half_plus_two", example(other=[1.0]))
    assert refusal(regress, lacks)[0] == "INVALID_ARGUMENT"
    unfit = examples_request(regression_pb2.RegressionRequest, "digits", image_example(0))
    assert refusal(regress, unfit)[0] == "INVALID_ARGUMENT"
    unknown = examples_request(regression_pb2.RegressionRequest, "other", example(x=[1.0]))
    assert refusal(regress, unknown) == ("NOT_FOUND", "Servable not found for request: Latest(other)")


def multi_request(model: str, *methods: str) -> Any:
    request = inference_pb2.MultiInferenceRequest()
    for method in methods:
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name = model
    request.input.example_list.examples.extend([example(x=[1.0]), example(x=[5.0])])
    return request


@proves(_CLIENT, "MultiInference")
def test_several_tasks_share_their_examples(stubs: Stubs) -> None:
    (result,) = stubs.prediction.MultiInference(multi_request("half_plus_two", "regress")).results
    assert [each.value for each in result.regression_result.regressions] == [2.5, 4.5]
    assert (result.model_spec.name, result.model_spec.version.value) == ("half_plus_two", 1)
    request = multi_request("digits", "classify")
    request.input.example_list.CopyFrom(
        examples_request(classification_pb2.ClassificationRequest, "digits", image_example(0)).input.example_list
    )
    (result,) = stubs.prediction.MultiInference(request).results
    assert len(result.classification_result.classifications[0].classes) == 10


@proves(_CLIENT, "MultiInference: errors")
def test_wrong_tasks_are_refused(stubs: Stubs) -> None:
    multi = stubs.prediction.MultiInference
    assert refusal(multi, multi_request("half_plus_two", "regress", "regress")) == (
        "INVALID_ARGUMENT",
        "Duplicate evaluation of signature: serving_default",
    )
    two = multi_request("half_plus_two", "regress", "classify")
    two.tasks[1].model_spec.name = "digits"
    assert refusal(multi, two) == (
        "INVALID_ARGUMENT",
        "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
    )
    assert refusal(multi, multi_request("half_plus_two", "other")) == (
        "UNIMPLEMENTED",
        "Unsupported signature method_name: tensorflow/serving/other",
    )
    assert refusal(multi, multi_request("half_plus_two", "regress", "classify"))[0] == "INVALID_ARGUMENT"
    assert refusal(multi, inference_pb2.MultiInferenceRequest())[0] == "INVALID_ARGUMENT"


# Metadata and status


@proves(_CLIENT, "GetModelMetadata")
@pytest.mark.parametrize("model", ["digits", "simple"])
def test_signatures_are_described(stubs: Stubs, model: str) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = model
    answer = stubs.prediction.GetModelMetadata(request)
    assert (answer.model_spec.name, answer.model_spec.version.value) == (model, 1)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    signature = signatures.signature_def["serving_default"]
    assert signature.method_name == "tensorflow/serving/predict"
    name = {"digits": "image", "simple": "INPUT0"}[model]
    shape = {"digits": [-1, 28, 28, 1], "simple": [-1, 16]}[model]
    assert [dim.size for dim in signature.inputs[name].tensor_shape.dim] == shape
    assert not signature.inputs[name].tensor_shape.unknown_rank


@proves(_CLIENT, "GetModelMetadata: errors")
def test_only_signatures_can_be_asked_for(stubs: Stubs) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "simple"
    assert refusal(stubs.prediction.GetModelMetadata, request) == (
        "INVALID_ARGUMENT",
        "GetModelMetadataRequest must specify at least one metadata_field",
    )
    request.metadata_field.append("other")
    assert refusal(stubs.prediction.GetModelMetadata, request) == (
        "INVALID_ARGUMENT",
        "Metadata field other is not supported",
    )


@proves(_CLIENT, "GetModelStatus")
def test_states_and_errors_of_versions(stubs: Stubs) -> None:
    assert stubs.status("simple") == {1: "AVAILABLE"}
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "other"
    text = "Could not find any versions of model other"
    assert refusal(stubs.model.GetModelStatus, request) == ("NOT_FOUND", text)
    request.model_spec.name = "simple"
    request.model_spec.version.value = 9
    text = "Could not find version 9 of model simple"
    assert refusal(stubs.model.GetModelStatus, request) == ("NOT_FOUND", text)


# Reload and labels, on a stack of their own


@proves(_CLIENT, "HandleReloadConfigRequest; version_label")
def test_a_configuration_loads_versions_sets_labels_and_unloads_the_rest(
    up: Callable[..., Stack], tmp_path: Path, make_onnx: Callable[..., Path]
) -> None:
    for version in (1, 2):
        make_onnx(tmp_path, "mine", version)
    make_onnx(tmp_path, "other")
    stubs = Stubs(up("--models", str(tmp_path)).grpc)
    assert stubs.status("mine") == {2: "AVAILABLE"}

    request = model_management_pb2.ReloadConfigRequest()
    config = request.config.model_config_list.config.add(name="mine", base_path=str(tmp_path / "mine"))
    config.model_version_policy.specific.versions.extend([1, 2])
    config.version_labels["stable"] = 1
    config.version_labels["canary"] = 2
    assert stubs.model.HandleReloadConfigRequest(request).status.error_code == 0

    until(lambda: stubs.status("mine") == {1: "AVAILABLE", 2: "AVAILABLE"})
    until(lambda: stubs.status("other") == {1: "END"})
    ask = predict_request("mine", x=np.ones((1, 3), np.float32))
    for label, version in (("stable", 1), ("canary", 2)):
        ask.model_spec.version_label = label
        answer = stubs.prediction.Predict(ask)
        assert answer.model_spec.version.value == version
        assert tf.make_ndarray(answer.outputs["scores"]).tolist() == [[6.0 * version, 60.0 * version]]
    ask.model_spec.version_label = "nightly"
    assert refusal(stubs.prediction.Predict, ask) == (
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: nightly",
    )

    config.version_labels["canary"] = 9
    assert refusal(stubs.model.HandleReloadConfigRequest, request)[0] == "INVALID_ARGUMENT"
    wrong = model_management_pb2.ReloadConfigRequest()
    assert refusal(stubs.model.HandleReloadConfigRequest, wrong)[0] == "UNIMPLEMENTED"
    stubs.channel.close()


# What is not offered


@proves(_CLIENT, "SessionService.SessionRun, PredictStreamed", refused="UNIMPLEMENTED, naming Predict")
def test_sessions_and_streams_are_refused_by_name(stubs: Stubs) -> None:
    for path in ("SessionService/SessionRun", "PredictionService/PredictStreamed"):
        call = stubs.channel.unary_unary(f"/tensorflow.serving.{path}", lambda request: request.SerializeToString())
        status, text = refusal(call, predict_pb2.PredictRequest())
        assert status == "UNIMPLEMENTED"
        assert path in text
        assert "use Predict" in text
