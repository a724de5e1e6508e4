"""TensorFlow Serving's gRPC services: its messages in, its messages and its error texts out.

Follows the code of TensorFlow Serving 2.19 (`servables/tensorflow/*.cc`, `model_servers/*_service_impl.cc`).
"""

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

import grpc
from google.protobuf import json_format
from msgspec.structs import replace

from millrace import rpc
from millrace.broker.producer import Response
from millrace.protocol.errors import InvalidRequest, MillraceError, SignatureNotFound
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, Tensor
from millrace.rpc import tensorprotos, wire
from serving import tfs
from serving.admission import Inference
from serving.answers import Content
from serving.grpc import calls
from serving.models import ServedModel
from serving.service import Render, Service, Target, Verb

_PREDICTION = "tensorflow.serving.PredictionService"
_MODEL = "tensorflow.serving.ModelService"
_PROTOCOL = "tfs-grpc"


def _message(name: str) -> Any:
    return rpc.message(f"tensorflow.serving.{name}")


_PredictResponse = _message("PredictResponse")
_OUTPUTS = wire.number_of(_PredictResponse, "outputs")
_KEY, _VALUE = 1, 2  # of every map's entries


class TensorFlowServing:
    """The methods of both services."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def handlers(self) -> Mapping[str, grpc.RpcMethodHandler]:
        """What answers each path."""
        predict = calls.hot(self._service, _message("PredictRequest"), self._predict, words)
        return {
            f"/{_PREDICTION}/Predict": predict,
            f"/{_PREDICTION}/GetModelMetadata": self._plain("GetModelMetadataRequest", self._metadata),
            f"/{_MODEL}/GetModelStatus": self._plain("GetModelStatusRequest", self._status),
        }

    def _plain(self, name: str, method: Any) -> grpc.RpcMethodHandler:
        return calls.plain(self._service, _message(name), method, words)

    # Predict

    def _predict(self, message: Any, timeout_ms: float | None) -> Target:
        def parse(_headers: object, _body: bytes, model: ServedModel) -> tuple[Inference, Render]:
            inference, render = parse_predict(message, model, as_content=self._service.settings.grpc_tensor_content)
            return replace(inference, timeout_ms=timeout_ms), render

        return _target(message, parse)

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
        answer.model_spec.name = model.name
        answer.model_spec.version.value = model.version
        answer.metadata["signature_def"].Pack(json_format.ParseDict(definitions, _message("SignatureDefMap")()))
        return answer

    async def _status(self, message: Any) -> Any:
        _check_spec(message)
        name, version, label = _choice(message.model_spec)
        versions = self._service.models.versions(name, version, label)
        return json_format.ParseDict(tfs.render_status(versions), _message("GetModelStatusResponse")())


def _target(message: Any, parse: Any) -> Target:
    _check_spec(message)
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
    spec = _spec_on_wire(model.name, model.version, name)
    return Inference(model, name, inputs), partial(_render_predict, spec, wanted, as_content)


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


@lru_cache(maxsize=1024)
def _spec_on_wire(model: str, version: int, signature: str) -> bytes:
    """The part of a PredictResponse that says what answered."""
    answer = _PredictResponse()
    answer.model_spec.name, answer.model_spec.signature_name = model, signature
    answer.model_spec.version.value = version
    written: bytes = answer.SerializeToString()
    return written


def _render_predict(spec: bytes, wanted: tuple[str, ...], as_content: bool, response: Response) -> Content:
    parts: list[bytes | memoryview] = [spec]
    for alias in wanted or response.outputs:
        tensor = tensorprotos.to_wire(response.outputs[alias], as_content=as_content)
        parts += wire.field(_OUTPUTS, *wire.field(_KEY, alias.encode()), *wire.field(_VALUE, *tensor))
    return Content(b"".join(parts), ())


def words(error: MillraceError) -> tuple[grpc.StatusCode, str]:
    """The error in TensorFlow Serving's words."""
    if isinstance(error, SignatureNotFound):
        return grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{error.signature}" not found.'
    return calls.status_of(error), tfs.predict_error_text(error)
