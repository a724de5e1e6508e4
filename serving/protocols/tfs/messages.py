"""TensorFlow Serving's gRPC messages of inference: a request's to what it asks, outputs to a response's."""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from millrace import rpc
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import BYTES, DEFAULT_SIGNATURE, Signature, Tensor
from millrace.rpc import tensorprotos, wire
from serving.models.registry import ServedModel
from serving.protocols import counted_messages, examples
from serving.protocols.examples import Example
from serving.protocols.limits import MAX_NAMED, MAX_RANK, NotQuick, ReadLimits, check_count
from serving.protocols.tfs import rest as tfs
from serving.protocols.tfs.shapes import fitted, fitted_shape, without_last_axes
from serving.protocols.verb import Body, Rendered, Verb, check_quick_to_write
from serving.queueing.admission import Inference, check_rows, check_shape


def message_class(name: str) -> Any:
    """The class of one of TensorFlow Serving's messages."""
    return rpc.message(f"tensorflow.serving.{name}")


PredictRequest = message_class("PredictRequest")
ClassificationRequest = message_class("ClassificationRequest")
RegressionRequest = message_class("RegressionRequest")
MultiInferenceRequest = message_class("MultiInferenceRequest")
_PredictResponse = message_class("PredictResponse")
_ClassificationResponse = message_class("ClassificationResponse")
_RegressionResponse = message_class("RegressionResponse")
_InferenceResult = message_class("InferenceResult")
_OUTPUTS = wire.number_of(_PredictResponse, "outputs")
_KEY, _VALUE = 1, 2  # of every map's entries
_LABEL, _CLASSES, _ROWS = 1, 1, 1  # Class, Classifications and ClassificationResult begin with these fields
_SCORE = b"\x15"  # the tag of a Class's score, whose four bytes follow
_EXAMPLE_VALUES = 8  # reading an example costs as much as so many other values
_SHORT_TENSOR = 256
_MAX_FEATURES = 16_384  # of one example
_HEAVY = {
    PredictRequest: (wire.number_of(PredictRequest, "inputs"),),
    ClassificationRequest: (wire.number_of(ClassificationRequest, "input"),),
    RegressionRequest: (wire.number_of(RegressionRequest, "input"),),
    MultiInferenceRequest: (wire.number_of(MultiInferenceRequest, "input"),),
}


def read_request(message: Any, data: bytes | memoryview, max_rows: int, max_quick: int) -> tuple[Any, Any]:
    """What of a request says who is asked for what; and all of it, None where that takes too long for the event loop.

    Raises `InvalidRequest`, `PayloadTooLarge`.
    """
    try:
        whole = counted_messages.counted(message, data, _most(max_rows), ReadLimits(max_rows, max_quick=max_quick))
    except NotQuick:
        return counted_messages.without(message, data, _HEAVY[message]).message, None
    return whole, whole


def _most(max_rows: int) -> dict[str, int]:
    """The limits of what is repeated in requests."""
    return {
        **dict.fromkeys(("inputs", "output_filter", "tasks"), MAX_NAMED),
        **{"dim": MAX_RANK, "examples": max_rows, "feature": _MAX_FEATURES},
    }


def _message(message: Any, body: Body, limits: ReadLimits) -> Any:
    if body.message is not None:
        return body.message
    return counted_messages.counted(message, body.data, _most(limits.max_rows), limits)


# Predict


class PredictForm(msgspec.Struct, frozen=True):
    """How the response to Predict looks: the signature that answers, and the outputs that are wanted, () for all.

    `lacking` is how many last axes of size 1 the outputs lose, as the inputs lacked them.
    """

    signature: str
    wanted: tuple[str, ...] = ()
    lacking: int = 0


def _predict(body: Body, model: ServedModel, limits: ReadLimits) -> tuple[Inference, PredictForm]:
    message = _message(PredictRequest, body, limits)
    name = message.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = model.signature(name)
    check_count("names in its output_filter", len(message.output_filter), MAX_NAMED)
    wanted = tuple(message.output_filter)
    _check_filter(wanted, signature)
    check_count("inputs", len(message.inputs), MAX_NAMED)
    inputs = {alias: _tensor(alias, proto, model, signature, limits) for alias, proto in message.inputs.items()}
    _check_inputs(inputs, signature)
    if not tfs.is_tensorflow(model):
        inputs, lacking = fitted(inputs, signature)
        return Inference(model, name, inputs), PredictForm(name, wanted, lacking)
    return tfs.inference_of(model, name, inputs), PredictForm(name, wanted)


def _tensor(alias: str, proto: Any, model: ServedModel, signature: Signature, limits: ReadLimits) -> Tensor:
    """The tensor in a TensorProto; a large one is compared with the signature before its elements are looked at."""
    shape = tensorprotos.shape_of(proto, alias)
    count = math.prod(shape)
    if count > _SHORT_TENSOR:
        datatype = tensorprotos.datatype_of(proto.dtype)
        known = () if tfs.is_tensorflow(model) else signature.inputs
        spec = next((spec for spec in known if spec.name == alias), None)
        fitting = fitted_shape(shape, spec) if spec else shape
        check_shape(model, spec, datatype, fitting, limits.max_rows)
        limits.check_quick(count if datatype == BYTES else count >> 5 if proto.tensor_content else count >> 3)
    return tensorprotos.to_tensor(proto, alias)


def _check_filter(wanted: tuple[str, ...], signature: Signature) -> None:
    known = {spec.name for spec in signature.outputs}
    for i, alias in enumerate(wanted):
        if alias not in known:
            raise InvalidRequest(f"output tensor alias not found in signature: {alias}")
        if alias in wanted[:i]:
            raise InvalidRequest(f"duplicate output tensor alias: {alias}")


def _check_inputs(inputs: Mapping[str, Tensor], signature: Signature) -> None:
    known = {spec.name for spec in signature.inputs}
    missing = {spec.name for spec in signature.inputs if not spec.optional} - inputs.keys()
    extra = inputs.keys() - known
    if missing or extra:
        raise InvalidRequest(
            f"input size does not match signature: {len(inputs)}!={len(known)} len({_set(inputs)}) != "
            f"len({_set(known)}). Sent extra: {_set(extra)}. Missing but required: {_set(missing)}."
        )


def _set(names: Any) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _predicted_as(*, as_content: bool) -> Callable[..., Rendered]:
    def render(model: ServedModel, outputs: Mapping[str, Tensor], form: PredictForm, limits: ReadLimits) -> Rendered:
        check_quick_to_write(outputs, limits)
        if form.lacking:
            outputs = without_last_axes(outputs, form.lacking)
        answer = _PredictResponse()
        _name_model(answer.model_spec, model, form.signature)
        parts: list[bytes | memoryview] = [answer.SerializeToString()]
        for alias in form.wanted or outputs:
            tensor = tensorprotos.to_wire(outputs[alias], as_content=as_content)
            parts += wire.field(_OUTPUTS, *wire.field(_KEY, alias.encode()), *wire.field(_VALUE, *tensor))
        return Rendered(b"".join(parts), ())

    return render


def _name_model(spec: Any, model: ServedModel, signature: str) -> None:
    """Say in an answer's ModelSpec what answered."""
    spec.name, spec.signature_name, spec.version.value = model.name, signature, model.version


# Classify, Regress and MultiInference


class ExamplesForm(msgspec.Struct, frozen=True):
    """How the response about examples looks: the signature that answers; of MultiInference the method, too."""

    signature: str
    method: str = ""


def _parse_examples(given: Any, form: ExamplesForm, model: ServedModel, limits: ReadLimits) -> tuple[Inference, Any]:
    inputs = examples.inputs_of(_examples(given, model, limits), model.signature(form.signature))
    return Inference(model, form.signature, inputs), form


def _classify(body: Body, model: ServedModel, limits: ReadLimits) -> tuple[Inference, ExamplesForm]:
    message = _message(ClassificationRequest, body, limits)
    name = message.model_spec.signature_name or DEFAULT_SIGNATURE
    return _parse_examples(message.input, ExamplesForm(name), model, limits)


def _regress(body: Body, model: ServedModel, limits: ReadLimits) -> tuple[Inference, ExamplesForm]:
    message = _message(RegressionRequest, body, limits)
    name = message.model_spec.signature_name or DEFAULT_SIGNATURE
    return _parse_examples(message.input, ExamplesForm(name), model, limits)


def _one_task(body: Body, model: ServedModel, limits: ReadLimits) -> tuple[Inference, ExamplesForm]:
    message = _message(MultiInferenceRequest, body, limits)
    task = message.tasks[body.task]
    name = task.model_spec.signature_name or DEFAULT_SIGNATURE
    return _parse_examples(message.input, ExamplesForm(name, task.method_name), model, limits)


def _examples(given: Any, model: ServedModel, limits: ReadLimits) -> list[Example]:
    """The examples of an Input; the context's features stand for those that one lacks. Raises `InvalidRequest`."""
    kind = given.WhichOneof("kind")
    if kind is None:
        return []
    items = getattr(given, kind)
    context = _features(items.context) if kind == "example_list_with_context" else {}
    check_rows(model, len(items.examples), limits.max_rows)
    limits.check_quick(_EXAMPLE_VALUES * len(items.examples) * (1 + len(context)))
    return examples.with_context(context, [_features(example) for example in items.examples])


def _features(example: Any) -> dict[str, Any]:
    features = [(name, feature, feature.WhichOneof("kind")) for name, feature in example.features.feature.items()]
    return {name: list(getattr(feature, kind).value) for name, feature, kind in features if kind}


def _classified(model: ServedModel, outputs: Mapping[str, Tensor], form: ExamplesForm, limits: ReadLimits) -> Rendered:
    limits.check_quick(sum(math.prod(tensor.shape) for tensor in outputs.values()))
    found = examples.classifications(outputs, model.signature(form.signature), model.announcement.labels)
    answer = (_InferenceResult if form.method else _ClassificationResponse)()
    _name_model(answer.model_spec, model, form.signature)
    field = wire.number_of(type(answer), "classification_result" if form.method else "result")
    return Rendered(b"".join([answer.SerializeToString(), *wire.field(field, *_classes_on_wire(found))]), ())


def _classes_on_wire(found: examples.ScoredClasses) -> list[bytes | memoryview]:
    """A ClassificationResult as the parts to join."""
    rows, count = found.scores.shape
    shared, parts = len(found.names) == count, list[bytes | memoryview]()
    heads = [_class_head(name) for name in found.names_of(0)] if shared and rows else []
    with np.errstate(over="ignore"):  # beyond FP32 is Infinity
        scores = np.ascontiguousarray(found.scores, "<f4")
    for row in range(rows):
        of_row = heads if shared else [_class_head(name) for name in found.names_of(row)]
        raw = scores[row].tobytes()
        classes = map(operator.add, of_row, [raw[at : at + 4] for at in range(0, 4 * count, 4)])
        parts += wire.field(_ROWS, b"".join(classes))
    return parts


def _class_head(name: str) -> bytes:
    """A Class but for the four bytes of its score, as a field of Classifications."""
    label = name.encode("utf-8", "replace")
    content = b"".join(wire.field(_LABEL, label)) + _SCORE
    return wire.delimited(_CLASSES, len(content) + 4) + content


def _regressed(model: ServedModel, outputs: Mapping[str, Tensor], form: ExamplesForm, limits: ReadLimits) -> Rendered:
    limits.check_quick(sum(math.prod(tensor.shape) for tensor in outputs.values()))
    answer = (_InferenceResult if form.method else _RegressionResponse)()
    _name_model(answer.model_spec, model, form.signature)
    result = answer.regression_result if form.method else answer.result
    for value in examples.regressions(outputs, model.signature(form.signature)).tolist():
        result.regressions.add(value=value)
    return Rendered(answer.SerializeToString(), ())


def _of_task(model: ServedModel, outputs: Mapping[str, Tensor], form: ExamplesForm, limits: ReadLimits) -> Rendered:
    render = _classified if form.method == CLASSIFY_METHOD else _regressed
    return render(model, outputs, form, limits)


CLASSIFY_METHOD, REGRESS_METHOD = "tensorflow/serving/classify", "tensorflow/serving/regress"
_words = tfs.predict_error_text
PREDICT, PREDICT_AS_CONTENT = (
    Verb(name, "tfs-grpc", PredictForm, _predict, _predicted_as(as_content=as_content), _words, "normal")
    for name, as_content in (("tfs-grpc/predict", False), ("tfs-grpc/predict-as-content", True))
)
CLASSIFY = Verb("tfs-grpc/classify", "tfs-grpc", ExamplesForm, _classify, _classified, _words, "normal")
REGRESS = Verb("tfs-grpc/regress", "tfs-grpc", ExamplesForm, _regress, _regressed, _words, "normal")
TASK = Verb("tfs-grpc/task", "tfs-grpc", ExamplesForm, _one_task, _of_task, _words, "normal")
