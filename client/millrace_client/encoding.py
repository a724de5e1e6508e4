"""How tensors become a request's body, and an answer's body tensors again: one class per form.

    form                     path                      takes
    OpenInferenceJson        /v2/models/<m>/infer      all but FP16, and bytes that are no UTF-8
    TensorFlowServingJson    /v1/models/<m>:predict    those too, as {"b64": ...}; and names a signature

A further form is a class with `encode` and `decode`, and a line in `encoding_for`.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np

from millrace_client.errors import InvalidResponse, excerpt
from millrace_client.inputs import Array, Tensor
from millrace_client.models import BYTES, DTYPES, TensorSpec

_MALFORMED = (AttributeError, KeyError, OverflowError, TypeError, ValueError)  # what reading a strange document raises


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Which model is asked, and with what."""

    model: str
    version: str | None
    signature: str | None
    tensors: list[Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the body of an answer says; `version` is None where it does not say."""

    outputs: dict[str, Array]
    version: str | None


class Encoding(Protocol):
    """One form in which requests and answers are written."""

    def encode(self, call: Call) -> tuple[str, bytes]:
        """The path and the body of the request, which is JSON."""

    def decode(self, body: bytes, outputs: tuple[TensorSpec, ...]) -> Answer:
        """The tensors in the body; `outputs` is what the metadata says of them. Raises `InvalidResponse`."""


def encoding_for(call: Call) -> Encoding:
    """The form that can carry the call."""
    if call.signature is not None or any(map(_needs_tensorflow_serving, call.tensors)):
        return TensorFlowServingJson()
    return OpenInferenceJson()


def _needs_tensorflow_serving(tensor: Tensor) -> bool:
    return tensor.datatype == "FP16" or (tensor.datatype == BYTES and any(map(_is_binary, tensor.array.flat)))


class OpenInferenceJson:
    """Open Inference Protocol v2: flat row-major data beside a shape and a datatype."""

    def encode(self, call: Call) -> tuple[str, bytes]:
        """The path and the body of the request."""
        inputs = [
            {
                "name": t.name,
                "shape": list(t.array.shape),
                "datatype": t.datatype,
                "data": _json_values(t.array.ravel().tolist()),
            }
            for t in call.tensors
        ]
        return f"/v2{model_path(call.model, call.version)}/infer", json.dumps({"inputs": inputs}).encode()

    def decode(self, body: bytes, outputs: tuple[TensorSpec, ...]) -> Answer:  # noqa: ARG002 - the body says it all
        """The tensors in the body. Raises `InvalidResponse`."""
        document = json_of(body)
        try:
            tensors = {str(output["name"]): _open_inference_array(output) for output in document["outputs"]}
            version = document.get("model_version")
        except _MALFORMED as error:
            raise InvalidResponse(f"the answer is no Open Inference response ({error!r}): {excerpt(body)}") from None
        return Answer(outputs=tensors, version=None if version is None else str(version))


class TensorFlowServingJson:
    """TensorFlow Serving's column format: nested lists by name, bytes as {"b64": ...}."""

    def encode(self, call: Call) -> tuple[str, bytes]:
        """The path and the body of the request."""
        document: dict[str, Any] = {"inputs": {t.name: _json_values(t.array.tolist()) for t in call.tensors}}
        if call.signature is not None:
            document["signature_name"] = call.signature
        return f"/v1{model_path(call.model, call.version)}:predict", json.dumps(document).encode()

    def decode(self, body: bytes, outputs: tuple[TensorSpec, ...]) -> Answer:
        """The tensors in the body. A sole output comes without its name, which is then taken from `outputs`."""
        document = json_of(body)
        try:
            values = document["outputs"]
            if not isinstance(values, dict) or values.keys() == {"b64"}:
                values = {outputs[0].name if len(outputs) == 1 else "output": values}
            dtypes = {spec.name: DTYPES.get(spec.datatype) for spec in outputs}
            tensors = {name: _tensorflow_array(value, dtypes.get(name)) for name, value in values.items()}
        except _MALFORMED as error:
            raise InvalidResponse(
                f"the answer is no TensorFlow Serving response ({error!r}): {excerpt(body)}"
            ) from None
        return Answer(outputs=tensors, version=None)


def model_path(model: str, version: str | None) -> str:
    """`/models/<model>`, with the version where one is asked for."""
    path = f"/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"


def json_of(body: bytes) -> Any:
    """The JSON document in the body, NaN and Infinity allowed. Raises `InvalidResponse`."""
    try:
        return json.loads(body)
    except ValueError:
        raise InvalidResponse(f"the answer is not JSON: {excerpt(body)}") from None


def _is_binary(item: object) -> bool:
    if isinstance(item, bytes):
        try:
            item.decode()
        except UnicodeDecodeError:
            return True
    return False


def _json_values(value: Any) -> Any:
    """Nested lists with each `bytes` as text where it is text, else in base64."""
    if isinstance(value, list):
        if value and isinstance(value[0], float | int):
            return value
        return [_json_values(item) for item in value]
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()} if _is_binary(value) else value.decode()
    return value


def _open_inference_array(output: dict[str, Any]) -> Array:
    if output["datatype"] == BYTES:
        return _text_array(_flat(output["data"])).reshape(output["shape"])
    return np.asarray(output["data"], DTYPES[output["datatype"]]).reshape(output["shape"])


def _tensorflow_array(value: Any, dtype: np.dtype[Any] | None) -> Array:
    elements = np.array(value, object)
    if elements.size and isinstance(elements.flat[0], str | dict):
        return _text_array(elements.ravel().tolist()).reshape(elements.shape)
    return np.asarray(value, dtype)


def _flat(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in (_flat(item) if isinstance(item, list) else [item])]


def _text_array(items: list[Any]) -> Array:
    """An array of `str`; an element that came in base64 and is no text stays `bytes`."""
    array = np.empty(len(items), object)
    array[:] = [_text(item) for item in items]
    return array


def _text(item: Any) -> str | bytes:
    if isinstance(item, str):
        return item
    try:
        raw = base64.b64decode(item["b64"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"bad base64: {error}") from None
    return raw if _is_binary(raw) else raw.decode()
