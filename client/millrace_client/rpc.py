"""Operations over gRPC: the Open Inference Protocol, and TensorFlow Serving's where a signature or a label is named.

Needs the extra: `pip install './client[grpc]'` in Millrace's checkout.
"""

import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError

from millrace_client.errors import InvalidResponse
from millrace_client.exchange import Request, Response
from millrace_client.inputs import Array, Tensor
from millrace_client.messages import message, pool
from millrace_client.models import (
    BYTES,
    DTYPES,
    ModelMetadata,
    ModelStatus,
    TensorSpec,
    VersionStatus,
    metadata_from_json,
)
from millrace_client.protocol import MALFORMED, InferenceRequest, InferenceResult, Operation
from millrace_client.raw import from_raw, text_array, to_raw

_INFERENCE = "/inference.GRPCInferenceService/"
_PREDICTION = "/tensorflow.serving.PredictionService/"
_MODEL = "/tensorflow.serving.ModelService/"
# How the states of Triton's repository index are called here; it has no word for one that is gone.
_STATES = {"READY": "AVAILABLE", "LOADING": "LOADING", "UNLOADING": "UNLOADING", "UNAVAILABLE": "END"}
# Open Inference datatype -> TensorFlow's, and the field of a TensorProto that has its elements one by one.
_TENSORFLOW = {
    "BOOL": ("DT_BOOL", "bool_val"),
    "UINT8": ("DT_UINT8", "int_val"),
    "UINT16": ("DT_UINT16", "int_val"),
    "UINT32": ("DT_UINT32", "uint32_val"),
    "UINT64": ("DT_UINT64", "uint64_val"),
    "INT8": ("DT_INT8", "int_val"),
    "INT16": ("DT_INT16", "int_val"),
    "INT32": ("DT_INT32", "int_val"),
    "INT64": ("DT_INT64", "int64_val"),
    "FP16": ("DT_HALF", "half_val"),
    "FP32": ("DT_FLOAT", "float_val"),
    "FP64": ("DT_DOUBLE", "double_val"),
    BYTES: ("DT_STRING", "string_val"),
}
_SIGNATURE = "serving_default"
# The field of InferTensorContents that has the elements of a datatype.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
T = TypeVar("T")


class GrpcProtocol:
    """See `protocol.InferenceProtocol`."""

    def ready(self, model: str | None, version: str | None) -> Operation[bool]:
        """As Open Inference says it."""
        if model is None:
            request, answer = _request(_INFERENCE, "ServerReady", "inference.ServerReadyRequest"), "ServerReadyResponse"
        else:
            request = _request(_INFERENCE, "ModelReady", "inference.ModelReadyRequest", name=model, version=version)
            answer = "ModelReadyResponse"
        return Operation((request,), lambda responses: bool(_read(f"inference.{answer}", responses[0]).ready))

    def models(self) -> Operation[list[ModelStatus]]:
        """From the repository's index, which has neither labels nor descriptions."""
        request = _request(_INFERENCE, "RepositoryIndex", "inference.RepositoryIndexRequest")
        return Operation((request,), _statuses)

    def metadata(self, model: str, version: str | None) -> Operation[ModelMetadata]:
        """The tensors are in the metadata; what else we want to know of them, in the configuration."""
        requests = (
            _request(_INFERENCE, "ModelMetadata", "inference.ModelMetadataRequest", name=model, version=version),
            _request(_INFERENCE, "ModelConfig", "inference.ModelConfigRequest", name=model, version=version),
        )
        return Operation(requests, _metadata)

    def signature(self, model: str, version: str | None) -> Operation[ModelMetadata]:
        """The default signature, as TensorFlow Serving tells it."""
        body = message("tensorflow.serving.GetModelMetadataRequest")()
        body.model_spec.name = model
        if version is not None:
            body.model_spec.version.value = int(version)
        body.metadata_field.append("signature_def")
        request = Request(method="POST", path=f"{_PREDICTION}GetModelMetadata", body=body.SerializeToString())
        return Operation((request,), lambda responses: _signature(model, responses[0]))

    def version_of(self, model: str, label: str) -> Operation[str]:
        """From the status of the labelled version."""
        body = message("tensorflow.serving.GetModelStatusRequest")()
        body.model_spec.name, body.model_spec.version_label = model, label
        request = Request(method="POST", path=f"{_MODEL}GetModelStatus", body=body.SerializeToString())
        return Operation((request,), _version_in)

    def predict(self, call: InferenceRequest, outputs: tuple[TensorSpec, ...]) -> Operation[InferenceResult]:  # noqa: ARG002
        """ModelInfer with raw contents, or Predict."""
        if call.signature is None and call.label is None:
            request = Request(method="POST", path=f"{_INFERENCE}ModelInfer", body=_infer_body(call))
            return Operation((request,), _guarded(_infer_answer))
        request = Request(method="POST", path=f"{_PREDICTION}Predict", body=_predict_body(call))
        return Operation((request,), _guarded(_predict_answer))


def _request(service: str, method: str, kind: str, **fields: str | None) -> Request:
    body = message(kind)(**{name: value for name, value in fields.items() if value is not None})
    return Request(method="POST", path=service + method, body=body.SerializeToString())


def _read(kind: str, response: Response) -> Any:
    try:
        return message(kind).FromString(response.body)
    except DecodeError as error:
        raise InvalidResponse(f"the answer is no {kind}: {error}") from None


def _guarded(read: Callable[[Response], T]) -> Callable[[list[Response]], T]:
    """`read` of the one response; what it stumbles over is an `InvalidResponse`."""

    def guarded(responses: list[Response]) -> T:
        try:
            return read(responses[0])
        except MALFORMED as error:
            raise InvalidResponse(f"the tensors of the answer cannot be read: {error!r}") from None

    return guarded


def _statuses(responses: list[Response]) -> list[ModelStatus]:
    index = _read("inference.RepositoryIndexResponse", responses[0])
    versions: dict[str, list[VersionStatus]] = {}
    for entry in index.models:
        status = VersionStatus(
            version=entry.version, state=_STATES.get(entry.state, "UNKNOWN"), error_message=entry.reason
        )
        versions.setdefault(entry.name, []).append(status)
    return [ModelStatus(name=name, versions=tuple(statuses)) for name, statuses in versions.items()]


def _metadata(responses: list[Response]) -> ModelMetadata:
    found = _read("inference.ModelMetadataResponse", responses[0])
    config = _read("inference.ModelConfigResponse", responses[1]).config
    extra = {name: value.string_value for name, value in config.parameters.items()}
    try:
        labels, media = json.loads(extra.get("labels", "[]")), json.loads(extra.get("media", "{}"))
        notes = json.loads(extra.get("notes", "[]"))
    except ValueError as error:
        raise InvalidResponse(f"the parameters of the model's configuration cannot be read: {error}") from None
    return metadata_from_json(
        {
            "name": found.name,
            "versions": list(found.versions),
            "platform": found.platform,
            "inputs": [_described(tensor) for tensor in found.inputs],
            "outputs": [_described(tensor) for tensor in found.outputs],
            "parameters": {
                "description": extra.get("description", ""),
                "labels": labels,
                "optional_inputs": [tensor.name for tensor in config.input if tensor.optional],
                "media": media,
                "notes": notes,
            },
        }
    )


def _described(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _signature(model: str, response: Response) -> ModelMetadata:
    found = _read("tensorflow.serving.GetModelMetadataResponse", response)
    try:
        signatures = message("tensorflow.serving.SignatureDefMap").FromString(found.metadata["signature_def"].value)
        if _SIGNATURE not in signatures.signature_def:
            raise InvalidResponse(f"model {model!r} has no signature {_SIGNATURE!r}")
        signature = signatures.signature_def[_SIGNATURE]
        inputs, outputs = (tuple(map(_declared, side.items())) for side in (signature.inputs, signature.outputs))
    except (*MALFORMED, DecodeError) as error:
        raise InvalidResponse(f"the signature of {model!r} cannot be read: {error!r}") from None
    version = (str(found.model_spec.version.value),) if found.model_spec.HasField("version") else ()
    return ModelMetadata(name=model, versions=version, platform="", inputs=inputs, outputs=outputs)


def _declared(item: tuple[str, Any]) -> TensorSpec:
    name, tensor = item
    shape = tuple(dimension.size for dimension in tensor.tensor_shape.dim)
    return TensorSpec(name=name, datatype=_datatype(tensor.dtype), shape=shape)


def _version_in(responses: list[Response]) -> str:
    found = _read("tensorflow.serving.GetModelStatusResponse", responses[0]).model_version_status
    if not found:
        raise InvalidResponse("the status of a label names no version")
    return str(found[0].version)


def _infer_body(call: InferenceRequest) -> bytes:
    body = message("inference.ModelInferRequest")(
        model_name=call.model,
        model_version=call.version or "",
        inputs=[{"name": t.name, "datatype": t.datatype, "shape": t.array.shape} for t in call.tensors],
        raw_input_contents=[to_raw(t.array) for t in call.tensors],
    )
    return bytes(body.SerializeToString())


def _infer_answer(response: Response) -> InferenceResult:
    found = _read("inference.ModelInferResponse", response)
    if found.raw_output_contents:
        outputs = {
            output.name: from_raw(output.datatype, list(output.shape), raw)
            for output, raw in zip(found.outputs, found.raw_output_contents, strict=True)
        }
    else:
        outputs = {output.name: _typed_array(output) for output in found.outputs}
    return InferenceResult(outputs=outputs, version=found.model_version or None)


def _typed_array(output: Any) -> Array:
    """An output whose elements are in the message, one by one."""
    values = list(getattr(output.contents, _CONTENTS[output.datatype]))
    shape = list(output.shape)
    if output.datatype == BYTES:
        return text_array(values, shape)
    return np.array(values, DTYPES[output.datatype]).reshape(shape)


def _predict_body(call: InferenceRequest) -> bytes:
    body = message("tensorflow.serving.PredictRequest")()
    body.model_spec.name = call.model
    body.model_spec.signature_name = call.signature or ""
    if call.label is not None:
        body.model_spec.version_label = call.label
    elif call.version is not None:
        body.model_spec.version.value = int(call.version)
    for tensor in call.tensors:
        _fill(body.inputs[tensor.name], tensor)
    return bytes(body.SerializeToString())


def _fill(proto: Any, tensor: Tensor) -> None:
    datatypes = pool().FindEnumTypeByName("tensorflow.DataType")
    proto.dtype = datatypes.values_by_name[_TENSORFLOW[tensor.datatype][0]].number
    for size in tensor.array.shape:
        proto.tensor_shape.dim.add(size=size)
    if tensor.datatype == BYTES:
        items = tensor.array.ravel().tolist()
        proto.string_val.extend([item.encode() if isinstance(item, str) else item for item in items])
    else:
        proto.tensor_content = to_raw(tensor.array)


def _predict_answer(response: Response) -> InferenceResult:
    found = _read("tensorflow.serving.PredictResponse", response)
    outputs = {name: _array(found.outputs[name]) for name in found.outputs}
    return InferenceResult(outputs=outputs, version=str(found.model_spec.version.value))


def _datatype(number: int) -> str:
    name = pool().FindEnumTypeByName("tensorflow.DataType").values_by_number[number].name
    return next(datatype for datatype, (theirs, _) in _TENSORFLOW.items() if theirs == name)


def _array(proto: Any) -> Array:
    """The tensor in either of its encodings; a single element stands for all."""
    datatype = _datatype(proto.dtype)
    shape = [dimension.size for dimension in proto.tensor_shape.dim]
    if proto.tensor_content:
        return from_raw(datatype, shape, proto.tensor_content)
    values = list(getattr(proto, _TENSORFLOW[datatype][1]))
    if len(values) == 1:
        values *= math.prod(shape)
    if datatype == BYTES:
        return text_array(values, shape)
    if datatype == "FP16":  # as the bits of each
        return np.array(values, np.uint16).view(np.float16).reshape(shape)
    return np.array(values, DTYPES[datatype]).reshape(shape)
