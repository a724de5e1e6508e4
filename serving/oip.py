"""The Open Inference Protocol (version 2) over REST in its JSON form, with Triton's error texts."""

from typing import Any

import orjson
import simdjson

import millrace
from millrace.protocol.errors import InvalidRequest, MillraceError, ModelNotFound, NotSupported
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import BYTES, DEFAULT_SIGNATURE, DTYPES, Tensor, TensorSpec
from serving import jsontensors
from serving.admission import Inference
from serving.models import ServedModel

_HIGH = 1  # Triton's highest priority; 0 is "the default"


def refuse_binary(header_length: bytes | None, body: bytes) -> None:
    """Refuse the binary tensor data extension, which the server does not name among its extensions.

    `header_length` is the header Inference-Header-Content-Length: the length of the JSON at the start of the body.
    """
    if header_length is not None and header_length != str(len(body)).encode():
        raise NotSupported(
            "the binary tensor data extension is not supported; send the tensors as JSON (binary_data=False)"
        )


def parse_infer(body: bytes, model: ServedModel) -> tuple[Inference, str]:
    """What an `/infer` body asks for, and the request's own id ("" where it gives none). Raises `InvalidRequest`."""
    document = _fast(body) or _slow(body)
    signature = model.signature()
    inputs = dict(document["inputs"])
    if len(inputs) != len(document["inputs"]):
        raise InvalidRequest(f"an input is given twice for model '{model.name}'")
    known = {spec.name for spec in signature.outputs}
    for name in document["outputs"]:
        if name not in known:
            raise InvalidRequest(f"unexpected inference output '{name}' for model '{model.name}'")
    parameters = document["parameters"]
    inference = Inference(
        model,
        DEFAULT_SIGNATURE,
        inputs,
        tuple(document["outputs"]),
        timeout_ms=_timeout_ms(parameters),
        priority="high" if parameters.get("priority") == _HIGH else "normal",
    )
    return inference, document["id"]


def _timeout_ms(parameters: dict[str, Any]) -> float | None:
    timeout_us = parameters.get("timeout", 0)
    if isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or not 0 <= timeout_us < 2**63:
        raise InvalidRequest(
            f"parameter 'timeout' must be a number of microseconds, got {jsontensors.quote(timeout_us)}"
        )
    return timeout_us / 1000 if timeout_us else None


def _fast(body: bytes) -> dict[str, Any] | None:
    """The document with its numbers read by simdjson; None where any part of it needs the slow way."""
    try:
        return _read_fast(jsontensors.parse(body))
    except jsontensors.UNREADABLE:
        return None


def _read_fast(document: Any) -> dict[str, Any] | None:
    inputs = []
    for item in document["inputs"]:
        name, datatype, shape = item["name"], item["datatype"], _plain(item["shape"])
        if not isinstance(name, str) or not isinstance(datatype, str) or datatype not in DTYPES:
            return None
        count = jsontensors.element_count(name, shape)
        flat = jsontensors.numbers(item["data"], datatype)
        if flat is None or flat.size != count:
            return None
        inputs.append((name, Tensor.from_numpy(flat.reshape(shape))))
    rest = {key: document[key] for key in document if key != "inputs"}
    return _checked_head({key: _plain(value) for key, value in rest.items()}) | {"inputs": inputs}


def _plain(value: Any) -> Any:
    return orjson.loads(value.mini) if isinstance(value, simdjson.Object | simdjson.Array) else value


def _slow(body: bytes) -> dict[str, Any]:
    try:
        document = jsontensors.load(body)
    except InvalidRequest as error:
        raise InvalidRequest(f"failed to parse the request JSON buffer: {error}") from None
    if not isinstance(document, dict):
        raise InvalidRequest("failed to parse the request JSON buffer: the document is not an object")
    inputs = document.get("inputs")
    if not isinstance(inputs, list):
        raise InvalidRequest("Unable to parse 'inputs': attempt to access JSON non-array")
    return _checked_head(document) | {"inputs": [_input(item) for item in inputs]}


def _checked_head(document: dict[str, Any]) -> dict[str, Any]:
    identity, parameters, outputs = document.get("id", ""), document.get("parameters", {}), document.get("outputs", [])
    if not isinstance(identity, str):
        raise InvalidRequest("Unable to parse 'id': attempt to access JSON non-string as string")
    if not identity.isprintable():  # half of a surrogate pair among them, which no answer can carry
        raise InvalidRequest("Unable to parse 'id': it must be printable text")
    if not isinstance(parameters, dict):
        raise InvalidRequest("Unable to parse 'parameters': attempt to access JSON non-object as object")
    if not isinstance(outputs, list) or not all(
        isinstance(o, dict) and isinstance(o.get("name"), str) for o in outputs
    ):
        raise InvalidRequest("Unable to parse 'outputs': each needs a 'name'")
    return {"id": identity, "parameters": parameters, "outputs": [output["name"] for output in outputs]}


def _input(item: Any) -> tuple[str, Tensor]:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise InvalidRequest("Unable to parse 'inputs': each needs a 'name'")
    name, datatype, shape = item["name"], item.get("datatype"), item.get("shape", [])
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise InvalidRequest(f"invalid datatype for input '{name}': {jsontensors.quote(datatype)}")
    count = jsontensors.element_count(name, shape)
    if datatype == "FP16":
        raise InvalidRequest(f"sending FP16 data via JSON is not supported, input '{name}'")
    if not isinstance(item.get("data"), list):
        raise InvalidRequest(f"Unable to parse 'data' of input '{name}': attempt to access JSON non-array")
    flat = _flat(item["data"])
    if len(flat) != count:
        raise InvalidRequest(
            f"Unable to parse 'data': Shape does not match true shape of 'data' field: input '{name}' of shape "
            f"{shape} needs {count} values, got {len(flat)}"
        )
    if datatype == BYTES and not all(isinstance(value, str) for value in flat):
        raise InvalidRequest(f"Unable to parse 'data' of input '{name}': attempt to access JSON non-string as string")
    tensor = jsontensors.to_tensor(flat, TensorSpec(name=name, datatype=datatype, shape=(-1,)))
    return name, Tensor(datatype, tuple(shape), tensor.data)


def _flat(value: list[Any]) -> list[Any]:
    """The leaves of a list nested in any way, in order."""
    flat, stack = [], [iter(value)]
    while stack:
        for item in stack[-1]:
            if isinstance(item, list):
                stack.append(iter(item))
                break
            flat.append(item)
        else:
            stack.pop()
    return flat


def render_infer(inference: Inference, outputs: dict[str, Tensor], identity: str) -> bytes:
    """The body of the answer to `/infer`, with the outputs that were asked for in the order that they were."""
    model = inference.model
    head: dict[str, Any] = {"id": identity} if identity else {}
    head |= {"model_name": model.name, "model_version": str(model.version)}
    head["outputs"] = [_output(name, outputs[name]) for name in inference.outputs or outputs]
    return orjson.dumps(head)


def _output(name: str, tensor: Tensor) -> dict[str, Any]:
    flat = tensor.to_numpy().ravel()
    if tensor.datatype == BYTES:
        data: Any = [value.decode("utf-8", "replace") for value in flat.tolist()]
    else:
        data = orjson.Fragment(jsontensors.dumps_array(flat))
    return {"name": name, "datatype": tensor.datatype, "shape": tensor.shape, "data": data}


def render_server() -> dict[str, Any]:
    """The body of `GET /v2`: only the extensions that work are named."""
    return {"name": "millrace", "version": millrace.__version__, "extensions": ["parameters", "schedule_policy"]}


def render_model(model: ServedModel, versions: list[ModelAnnouncement]) -> dict[str, Any]:
    """The body of `GET /v2/models/NAME`; `parameters`, which the protocol leaves open, has what it lacks words for."""
    announcement, signature = model.announcement, model.signature()
    parameters = {
        "description": announcement.description,
        "labels": announcement.labels,
        "optional_inputs": [spec.name for spec in signature.inputs if spec.optional],
        "media": {spec.name: spec.media for spec in signature.inputs if spec.media},
    }
    return {
        "name": model.name,
        "versions": [str(version.version) for version in reversed(versions) if version.state == "AVAILABLE"],
        "platform": announcement.platform,
        "inputs": [_tensor_metadata(spec) for spec in signature.inputs],
        "outputs": [_tensor_metadata(spec) for spec in signature.outputs],
        "parameters": {key: value for key, value in parameters.items() if value},
    }


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def error_text(error: MillraceError) -> str:
    """The error in Triton's words."""
    if isinstance(error, ModelNotFound):
        version = "" if error.version is None else f" version {error.version}"
        return f"Request for unknown model: '{error.model}'{version} is not found"
    return str(error)
