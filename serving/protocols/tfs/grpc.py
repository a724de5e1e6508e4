"""TensorFlow Serving's gRPC services: its messages in, its messages and its error texts out.

Follows the code of TensorFlow Serving 2.19 (`servables/tensorflow/*.cc`, `model_servers/*_service_impl.cc`).
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import grpc
from google.protobuf import json_format
from msgspec.structs import replace

from millrace import rpc
from millrace.artifacts.configs import version_policy
from millrace.protocol.desired_state import ModelSettings
from millrace.protocol.errors import InvalidRequest, MillraceError, NotSupported, SignatureNotFound
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, Tensor
from millrace.rpc import tensorprotos, wire
from serving.access.callers import Caller
from serving.models.registry import ServedModel
from serving.protocols import examples
from serving.protocols import grpc_calls as calls
from serving.protocols.examples import Example
from serving.protocols.grpc_calls import Context
from serving.protocols.tfs import rest as tfs
from serving.queueing.admission import Inference
from serving.queueing.requests import InferenceResponse
from serving.service import Render, Service, Target, Verb
from serving.transport.responses import Content

_PREDICTION = "tensorflow.serving.PredictionService"
_MODEL = "tensorflow.serving.ModelService"
_PROTOCOL = "tfs-grpc"


def _message(name: str) -> Any:
    return rpc.message(f"tensorflow.serving.{name}")


_PredictResponse = _message("PredictResponse")
_OUTPUTS = wire.number_of(_PredictResponse, "outputs")
_KEY, _VALUE = 1, 2  # of every map's entries
_RESULTS = wire.number_of(_message("MultiInferenceResponse"), "results")
_MOST_TASKS = 16


class TensorFlowServing:
    """The methods of both services."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def handlers(self) -> Mapping[str, grpc.RpcMethodHandler]:
        """What answers each path."""
        return {
            f"/{_PREDICTION}/Predict": self._hot("PredictRequest", self._predict),
            f"/{_PREDICTION}/Classify": self._hot("ClassificationRequest", _classify),
            f"/{_PREDICTION}/Regress": self._hot("RegressionRequest", _regress),
            f"/{_PREDICTION}/MultiInference": grpc.unary_unary_rpc_method_handler(self._multi),
            f"/{_PREDICTION}/GetModelMetadata": self._plain("GetModelMetadataRequest", self._metadata, words),
            f"/{_MODEL}/GetModelStatus": self._plain("GetModelStatusRequest", self._status, status_words),
            f"/{_MODEL}/HandleReloadConfigRequest": calls.control(
                self._service, _message("ReloadConfigRequest"), self._reload, status_words
            ),
        }

    def _hot(self, name: str, question: calls.Question) -> grpc.RpcMethodHandler:
        return calls.hot(self._service, _message(name), question, words)

    def _plain(self, name: str, method: Any, words: calls.Words) -> grpc.RpcMethodHandler:
        return calls.plain(self._service, _message(name), method, words)

    # What goes through the queue

    def _predict(self, message: Any, timeout_ms: float | None) -> Target:
        def parse(model: ServedModel) -> tuple[Inference, Render]:
            return parse_predict(message, model, as_content=self._service.settings.grpc_tensor_content)

        return _target(message, timeout_ms, parse)

    async def _multi(self, request: bytes, context: Context) -> bytes:
        """Several classifications and regressions of the same examples by one model, at the same time."""
        headers = calls.headers_of(context)
        try:
            message = await calls.read(_message("MultiInferenceRequest"), request)
            targets = _tasks(message, calls.milliseconds_left(context))
        except MillraceError as error:
            await calls.abort(context, self._service.refused(headers, error, "grpc"), error, words)
        answers = await asyncio.gather(*(calls.ask(self._service, target, headers, request) for target in targets))
        for answer in answers:
            if answer.error:
                await calls.abort(context, answer, answer.error, words)
        context.set_trailing_metadata(calls.metadata_of(answers[0]))
        return b"".join(itertools.chain.from_iterable(wire.field(_RESULTS, answer.body) for answer in answers))

    # What needs no queue

    async def _metadata(self, message: Any) -> Any:
        _check_spec(message)
        if not message.metadata_field:
            raise InvalidRequest("GetModelMetadataRequest must specify at least one metadata_field")
        for name in message.metadata_field:
            if name != "signature_def":
                raise InvalidRequest(f"Metadata field {name} is not supported")
        model = self._service.models.find(*_choice(message.model_spec))
        definitions = tfs.render_metadata(model)["metadata"]["signature_def"]
        answer = _message("GetModelMetadataResponse")()
        _name_model(answer.model_spec, model, "")
        answer.metadata["signature_def"].Pack(json_format.ParseDict(definitions, _message("SignatureDefMap")()))
        return answer

    async def _status(self, message: Any) -> Any:
        _check_spec(message)
        name, version, label = _choice(message.model_spec)
        versions = self._service.models.versions(name, version, label)
        return json_format.ParseDict(tfs.render_status(versions), _message("GetModelStatusResponse")())

    async def _reload(self, message: Any, caller: Caller) -> Any:
        if message.config.WhichOneof("config") != "model_config_list":
            raise NotSupported("only a model_config_list can be loaded")
        configs = [_settings(config) for config in message.config.model_config_list.config]
        await self._service.repository.reload(configs, caller=caller)
        return _message("ReloadConfigResponse")(status={"error_code": "OK"})


def _settings(config: Any) -> ModelSettings:
    return ModelSettings(
        name=config.name,
        base_path=config.base_path,
        policy=version_policy(config.model_version_policy),
        labels=dict(config.version_labels),
    )


def _target(message: Any, timeout_ms: float | None, read: Callable[[ServedModel], tuple[Inference, Render]]) -> Target:
    """What a message with a `model_spec` asks for; `read` says how, once the model is known."""
    _check_spec(message)

    def parse(_headers: object, _body: bytes, model: ServedModel) -> tuple[Inference, Render]:
        inference, render = read(model)
        return replace(inference, timeout_ms=timeout_ms), render

    return Target(Verb(_PROTOCOL, parse, tfs.predict_error_text, "normal"), *_choice(message.model_spec))


def _check_spec(message: Any) -> None:
    if not message.HasField("model_spec"):
        raise InvalidRequest("Missing ModelSpec")


def _choice(spec: Any) -> tuple[str, int | None, str | None]:
    """The model's name, and the version or the label that is asked for."""
    choice = spec.WhichOneof("version_choice")
    return (
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def parse_predict(message: Any, model: ServedModel, *, as_content: bool) -> tuple[Inference, Render]:
    """What a PredictRequest asks for, and how its answer is written. Raises `InvalidRequest`, `NotSupported`."""
    name = message.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = model.signature(name)
    wanted = tuple(message.output_filter)
    _check_filter(wanted, signature)
    inputs = {alias: tensorprotos.to_tensor(proto, alias) for alias, proto in message.inputs.items()}
    _check_inputs(inputs, signature)
    return Inference(model, name, inputs), partial(_render_predict, model, name, wanted, as_content)


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


def _render_predict(
    model: ServedModel, name: str, wanted: tuple[str, ...], as_content: bool, response: InferenceResponse
) -> Content:
    answer = _PredictResponse()
    _name_model(answer.model_spec, model, name)
    parts: list[bytes | memoryview] = [answer.SerializeToString()]
    for alias in wanted or response.outputs:
        tensor = tensorprotos.to_wire(response.outputs[alias], as_content=as_content)
        parts += wire.field(_OUTPUTS, *wire.field(_KEY, alias.encode()), *wire.field(_VALUE, *tensor))
    return Content(b"".join(parts), ())


def _name_model(spec: Any, model: ServedModel, signature: str) -> None:
    """Say in an answer's ModelSpec what answered."""
    spec.name, spec.signature_name, spec.version.value = model.name, signature, model.version


# Classify, Regress and MultiInference


class _Method(NamedTuple):
    """What is made of a model's outputs: a message, and what fills its field `field`."""

    answer: Any
    field: str
    fill: Callable[[Any, Mapping[str, Tensor], Signature, Sequence[str]], None]


def _fill_classes(result: Any, outputs: Mapping[str, Tensor], signature: Signature, labels: Sequence[str]) -> None:
    for row in examples.classifications(outputs, signature, labels):
        classes = result.classifications.add().classes
        for label, score in row:
            classes.add(label=label, score=score)


def _fill_values(result: Any, outputs: Mapping[str, Tensor], signature: Signature, _labels: Sequence[str]) -> None:
    for value in examples.regressions(outputs, signature):
        result.regressions.add(value=value)


_CLASSIFY = _Method(_message("ClassificationResponse"), "result", _fill_classes)
_REGRESS = _Method(_message("RegressionResponse"), "result", _fill_values)
_TASKS = {
    "tensorflow/serving/classify": _Method(_message("InferenceResult"), "classification_result", _fill_classes),
    "tensorflow/serving/regress": _Method(_message("InferenceResult"), "regression_result", _fill_values),
}


def _classify(message: Any, timeout_ms: float | None) -> Target:
    return _target(message, timeout_ms, partial(_parse_examples, message.input, message.model_spec, _CLASSIFY))


def _regress(message: Any, timeout_ms: float | None) -> Target:
    return _target(message, timeout_ms, partial(_parse_examples, message.input, message.model_spec, _REGRESS))


def _tasks(message: Any, timeout_ms: float | None) -> list[Target]:
    """What a MultiInferenceRequest asks for. Raises `InvalidRequest`, `NotSupported`."""
    if not 0 < len(message.tasks) <= _MOST_TASKS:
        raise InvalidRequest(f"a request has from 1 to {_MOST_TASKS} tasks, got {len(message.tasks)}")
    asked = [(task.model_spec.signature_name or DEFAULT_SIGNATURE, task.method_name) for task in message.tasks]
    for i, task in enumerate(message.tasks):
        if not task.model_spec.name:
            raise InvalidRequest("Found ModelSpec with an empty model name.")
        if task.model_spec.name != message.tasks[0].model_spec.name:
            raise InvalidRequest("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        if asked[i] in asked[:i]:
            raise InvalidRequest(f"Duplicate evaluation of signature: {asked[i][0]}")
        if task.method_name not in _TASKS:
            raise NotSupported(f"Unsupported signature method_name: {task.method_name}")
    return [
        _target(task, timeout_ms, partial(_parse_examples, message.input, task.model_spec, _TASKS[task.method_name]))
        for task in message.tasks
    ]


def _parse_examples(given: Any, spec: Any, method: _Method, model: ServedModel) -> tuple[Inference, Render]:
    name = spec.signature_name or DEFAULT_SIGNATURE
    inputs = examples.inputs_of(_examples(given), model.signature(name))
    return Inference(model, name, inputs), partial(_render_examples, model, name, method)


def _examples(given: Any) -> list[Example]:
    """The examples of an Input; the context's features stand for those that one lacks. Raises `InvalidRequest`."""
    kind = given.WhichOneof("kind")
    if kind is None:
        return []
    items = getattr(given, kind)
    context = _features(items.context) if kind == "example_list_with_context" else {}
    return examples.with_context(context, [_features(example) for example in items.examples])


def _features(example: Any) -> dict[str, Any]:
    features = [(name, feature, feature.WhichOneof("kind")) for name, feature in example.features.feature.items()]
    return {name: list(getattr(feature, kind).value) for name, feature, kind in features if kind}


def _render_examples(model: ServedModel, name: str, method: _Method, response: InferenceResponse) -> Content:
    answer = method.answer()
    _name_model(answer.model_spec, model, name)
    method.fill(getattr(answer, method.field), response.outputs, model.signature(name), model.announcement.labels)
    return Content(answer.SerializeToString(), ())


def status_words(error: MillraceError) -> tuple[grpc.StatusCode, str]:
    """The error in the words of TensorFlow Serving's ModelService."""
    return calls.status_of(error), tfs.status_error_text(error)


def words(error: MillraceError) -> tuple[grpc.StatusCode, str]:
    """The error in TensorFlow Serving's words."""
    if isinstance(error, SignatureNotFound):
        return grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{error.signature}" not found.'
    return calls.status_of(error), tfs.predict_error_text(error)
