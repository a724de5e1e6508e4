"""How tensors become an HTTP request's body, and an answer's body tensors again: one class per form.

    form                     path                      takes
    OpenInferenceJson        /v2/models/<m>/infer      all but FP16, and bytes that are no UTF-8
    OpenInferenceBinary      /v2/models/<m>/infer      all
    TensorFlowServingJson    /v1/models/<m>:predict    all; and names a signature or a label

A further form is a class with `encode` and `decode`, and a line in `encoding_for`.
"""

import base64
import binascii
import json
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np

from millrace_client.errors import InvalidResponse, excerpt
from millrace_client.exchange import Request, Response
from millrace_client.inputs import Array, Tensor
from millrace_client.models import BYTES, DTYPES, TensorSpec
from millrace_client.protocol import MALFORMED, InferenceRequest, InferenceResult
from millrace_client.raw import from_raw, text_of, to_raw

_JSON_LENGTH = "Inference-Header-Content-Length"


class Encoding(Protocol):
    """One form in which requests and answers are written."""

    def encode(self, call: InferenceRequest) -> Request:
        """The request."""

    def decode(self, response: Response, outputs: tuple[TensorSpec, ...]) -> InferenceResult:
        """The tensors in the answer; `outputs` is what the metadata says of them. Raises `InvalidResponse`."""


def encoding_for(call: InferenceRequest, *, is_binary: bool) -> Encoding:
    """The form that can carry the call, the binary one if wanted."""
    if call.signature is not None or call.label is not None:
        return TensorFlowServingJson()
    if is_binary:
        return OpenInferenceBinary()
    return TensorFlowServingJson() if any(map(_needs_tensorflow_serving, call.tensors)) else OpenInferenceJson()


def _needs_tensorflow_serving(tensor: Tensor) -> bool:
    return tensor.datatype == "FP16" or (tensor.datatype == BYTES and any(map(_is_binary, tensor.array.flat)))


class OpenInferenceJson:
    """Open Inference Protocol v2: flat row-major data beside a shape and a datatype."""

    def encode(self, call: InferenceRequest) -> Request:
        """The request."""
        inputs = [_described(t) | {"data": _json_values(t.array.ravel().tolist())} for t in call.tensors]
        return _infer_request(call, json.dumps({"inputs": inputs}).encode(), {"Content-Type": "application/json"})

    def decode(self, response: Response, outputs: tuple[TensorSpec, ...]) -> InferenceResult:  # noqa: ARG002
        """The tensors in the answer. Raises `InvalidResponse`."""
        return _open_inference_answer(response.body, b"")


class OpenInferenceBinary:
    """The same with the elements behind the JSON, both ways."""

    def encode(self, call: InferenceRequest) -> Request:
        """The request."""
        raw = [to_raw(t.array) for t in call.tensors]
        inputs = [
            _described(t) | {"parameters": {"binary_data_size": len(data)}}
            for t, data in zip(call.tensors, raw, strict=True)
        ]
        head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        headers = {"Content-Type": "application/octet-stream", _JSON_LENGTH: str(len(head))}
        return _infer_request(call, b"".join([head, *raw]), headers)

    def decode(self, response: Response, outputs: tuple[TensorSpec, ...]) -> InferenceResult:  # noqa: ARG002
        """The tensors in the answer. Raises `InvalidResponse`."""
        length = response.headers.get(_JSON_LENGTH.lower(), str(len(response.body)))
        if not length.isdecimal():
            raise InvalidResponse(f"the answer's {_JSON_LENGTH} is no number: {length!r}")
        return _open_inference_answer(response.body[: int(length)], response.body[int(length) :])


class TensorFlowServingJson:
    """TensorFlow Serving's column format: nested lists by name, bytes as {"b64": ...}."""

    def encode(self, call: InferenceRequest) -> Request:
        """The request."""
        document: dict[str, Any] = {"inputs": {t.name: _json_values(t.array.tolist()) for t in call.tensors}}
        if call.signature is not None:
            document["signature_name"] = call.signature
        return Request(
            method="POST",
            path=f"/v1{model_path(call.model, call.version, call.label)}:predict",
            body=json.dumps(document).encode(),
            headers={"Content-Type": "application/json"},
        )

    def decode(self, response: Response, outputs: tuple[TensorSpec, ...]) -> InferenceResult:
        """The tensors in the answer. A sole output comes without its name, which is then taken from `outputs`."""
        document = json_of(response.body)
        try:
            values = document["outputs"]
            if not isinstance(values, dict) or values.keys() == {"b64"}:
                values = {outputs[0].name if len(outputs) == 1 else "output": values}
            dtypes = {spec.name: DTYPES.get(spec.datatype) for spec in outputs}
            tensors = {name: _tensorflow_array(value, dtypes.get(name)) for name, value in values.items()}
        except MALFORMED as error:
            raise InvalidResponse(
                f"the answer is no TensorFlow Serving response ({error!r}): {excerpt(response.body)}"
            ) from None
        return InferenceResult(outputs=tensors, version=None)


def model_path(model: str, version: str | None, label: str | None = None) -> str:
    """`/models/<model>`, with the version or the label where one is asked for."""
    path = f"/models/{quote(model, safe='')}"
    if label is not None:
        return f"{path}/labels/{quote(label, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"


def json_of(body: bytes) -> Any:
    """The JSON document in the body, NaN and Infinity allowed. Raises `InvalidResponse`."""
    try:
        return json.loads(body)
    except ValueError:
        raise InvalidResponse(f"the answer is not JSON: {excerpt(body)}") from None


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(tensor.array.shape), "datatype": tensor.datatype}


def _infer_request(call: InferenceRequest, body: bytes, headers: dict[str, str]) -> Request:
    path = f"/v2{model_path(call.model, call.version)}/infer"
    return Request(method="POST", path=path, body=body, headers=headers)


def _open_inference_answer(head: bytes, binary: bytes) -> InferenceResult:
    """The answer whose JSON is `head`; the elements of its binary outputs are in `binary`, one after the other."""
    document = json_of(head)
    try:
        tensors, start = {}, 0
        for output in document["outputs"]:
            size = output.get("parameters", {}).get("binary_data_size", 0)
            tensors[str(output["name"])] = _open_inference_array(output, memoryview(binary)[start : start + size])
            start += size
        version = document.get("model_version")
    except MALFORMED as error:
        raise InvalidResponse(f"the answer is no Open Inference response ({error!r}): {excerpt(head)}") from None
    return InferenceResult(outputs=tensors, version=None if version is None else str(version))


def _is_binary(item: object) -> bool:
    return isinstance(item, bytes) and isinstance(text_of(item), bytes)


def _json_values(value: Any) -> Any:
    """Nested lists with each `bytes` as text where it is text, else in base64."""
    if isinstance(value, list):
        if value and isinstance(value[0], float | int):
            return value
        return [_json_values(item) for item in value]
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()} if _is_binary(value) else value.decode()
    return value


def _open_inference_array(output: dict[str, Any], binary: memoryview) -> Array:
    if "data" not in output:
        return from_raw(output["datatype"], output["shape"], binary)
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
    return text_of(raw)
