"""The Open Inference Protocol (version 2) over REST, as JSON and with binary tensors, in Triton's error texts."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import orjson

import millrace
from millrace.protocol.errors import (
    InvalidRequest,
    MillraceError,
    ModelNotFound,
    NotFound,
    NotReady,
    NotSupported,
    VersionOutOfRange,
)
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import (
    BYTES,
    DEFAULT_SIGNATURE,
    DTYPES,
    Tensor,
    TensorSpec,
    decode_strings,
    encode_strings,
    read_layout,
)
from serving.models.registry import ServedModel
from serving.protocols import json_numbers, json_tensors, uploads
from serving.protocols.examples import top_classes
from serving.protocols.limits import MAX_NAMED, QUICK_BYTES, ReadLimits, check_count
from serving.protocols.verb import Body, Rendered, Verb, are_small, check_quick_to_write
from serving.queueing.admission import Inference, check_rows, check_shape

_EXTENSIONS = (
    "binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters", "schedule_policy",
    "statistics",
)  # fmt: skip
_REFUSED = (
    (r"/v2/models/[^/]+(/versions/\d+)?/generate(_stream)?", "generate is not supported; use infer"),
    (r"/v2(/models/[^/]+)?/trace/setting", "tracing is not supported; every answer has its stages in Server-Timing"),
    (r"/v2/logging", "log settings cannot be changed at run time; start the server with MILLRACE_LOG_LEVEL"),
    (
        r"/v2/(system|cuda)sharedmemory(/region/[^/]+)?/(register|unregister)",
        "shared memory is not supported; send tensors with the request",
    ),
)
_MAX_REMEMBERED_BYTES = 4096
_HIGH = 1  # Triton's highest priority; 0 is "the default"
_MAX_PLAIN_BYTES = 65_536  # of parameters, outputs and shapes
_SHORT_TENSOR = 256  # strings, which are counted as fast as a shape is checked
_ANY = ReadLimits()
_KNOWN = ("id", "parameters", "outputs")
_MAX_DEPTH = 100  # of lists in `data`, as in Triton
_TOO_DEEP = b"[" * (_MAX_DEPTH + 1)

_HeaderFields = tuple[tuple[str, str], ...]


class WantedOutput(NamedTuple):
    """An output, whether it is to be binary, and how many of its classes are wanted: 0 for the tensor itself."""

    name: str
    is_binary: bool
    classes: int = 0


class Wanted(NamedTuple):
    """How the answer is to look: the request's id, and the outputs in order.

    Without outputs, all are wanted, `binary` or not.
    """

    identity: str = ""
    outputs: tuple[WantedOutput, ...] = ()
    binary: bool = False


class _Raw(NamedTuple):
    """An input whose elements follow the JSON: `size` bytes of them."""

    datatype: str
    shape: tuple[int, ...]
    size: int


class Document(NamedTuple):
    """A request, checked in itself. Over gRPC its inputs stand beside it."""

    inputs: tuple[tuple[str, Tensor | _Raw], ...]
    wanted: Wanted
    timeout_ms: float | None
    priority: str


def parse_infer(
    body: bytes | memoryview,
    header_length: bytes | None,
    model: ServedModel,
    limits: ReadLimits = _ANY,
    reader: json_numbers.NumberReader = json_numbers.READER,
) -> tuple[Inference, Wanted]:
    """What an `/infer` body asks for, and how its answer is to look. Raises `InvalidRequest`, `NotQuick`.

    `header_length` is the header Inference-Header-Content-Length: the length of the JSON at the start of the body,
    behind which the binary tensors follow in the order of the JSON; "0" is a body of one input's elements alone.
    """
    length = len(body) if header_length is None else _json_length(header_length, len(body))
    if length == 0 and body:
        return _of_raw_body(body, model, limits)
    limits.check_quick_json(body, length)
    if length == len(body):
        document, binary = _document(bytes(body), limits, reader), memoryview(b"")
    elif length <= _MAX_REMEMBERED_BYTES:
        document, binary = _remembered_document(bytes(body[:length]), limits), memoryview(body)[length:]
    else:
        document, binary = _document(bytes(body[:length]), limits), memoryview(body)[length:]
    tensors = _with_binary(document.inputs, binary, model, limits)
    return _asked(document, document.inputs, tensors, model)


def read_document(document: dict[str, Any]) -> Document:
    """A request whose inputs are read elsewhere: `document` is the rest of it, as in JSON. Raises `InvalidRequest`."""
    return _checked(document, ())


def read_infer(
    document: Document, inputs: Sequence[tuple[str, Tensor]], model: ServedModel
) -> tuple[Inference, Wanted]:
    """As `parse_infer`, for a request that was read already."""
    return _asked(document, inputs, dict(inputs), model)


def _asked(
    document: Document, named: Sequence[tuple[str, object]], inputs: dict[str, Tensor], model: ServedModel
) -> tuple[Inference, Wanted]:
    if len(inputs) != len(named):
        names = [name for name, _ in named]
        again = next(name for i, name in enumerate(names) if name in names[:i])
        raise InvalidRequest(f"input '{again}' already exists in request")
    for name, _, _ in document.wanted.outputs:
        if name not in model.output_names:
            raise InvalidRequest(f"unexpected inference output '{name}' for model '{model.name}'")
    inference = Inference(model, DEFAULT_SIGNATURE, inputs, timeout_ms=document.timeout_ms, priority=document.priority)
    return inference, document.wanted


def _json_length(header: bytes, total: int) -> int:
    if not header.isdigit() or len(header) > 19 or int(header) > total:
        raise InvalidRequest(
            f"inference header size should be in range (0, {total}), got: {header[:64].decode('latin-1')}"
        )
    return int(header)


def _document(body: bytes, limits: ReadLimits, reader: json_numbers.NumberReader = json_numbers.READER) -> Document:
    return _like_remembered(body, reader) or _fast(body, reader) or _slow(body, limits)


_remembered_document = lru_cache(maxsize=256)(_document)  # of a client's requests only the binary part differs


def _with_binary(
    inputs: Sequence[tuple[str, Tensor | _Raw]], binary: memoryview, model: ServedModel, limits: ReadLimits
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    offset = 0
    for name, tensor in inputs:
        if isinstance(tensor, _Raw):
            data = binary[offset : offset + tensor.size]
            offset += tensor.size
            if offset > len(binary):
                raise InvalidRequest(
                    f"unexpected size for input '{name}', expecting {offset - len(binary)} additional bytes "
                    f"for model '{model.name}'"
                )
            tensors[name] = binary_tensor(name, tensor.datatype, tensor.shape, data, model, limits)
        else:
            tensors[name] = tensor
    if offset != len(binary):
        raise InvalidRequest(f"unexpected additional input data for model '{model.name}'")
    return tensors


def binary_tensor(
    name: str,
    datatype: str,
    shape: tuple[int, ...],
    data: bytes | memoryview,
    model: ServedModel,
    limits: ReadLimits = _ANY,
) -> Tensor:
    """The tensor with these elements. Raises `InvalidRequest` where they are not as many, or not of the datatype."""
    count = math.prod(shape)
    if datatype == BYTES:
        return _string_tensor(name, shape, count, data, model, limits)
    if len(data) != (size := count * DTYPES[datatype].itemsize):
        raise InvalidRequest(
            f"input byte size mismatch for input '{name}' for model '{model.name}'. Expected {size}, got {len(data)}"
        )
    if datatype == "BOOL" and count and np.frombuffer(data, np.uint8).max() > 1:
        raise InvalidRequest(f"input '{name}' has a byte that is neither 0 nor 1, as BOOL must be")
    return Tensor(datatype, shape, data)


def _string_tensor(
    name: str, shape: tuple[int, ...], count: int, data: bytes | memoryview, model: ServedModel, limits: ReadLimits
) -> Tensor:
    if shape:
        check_rows(model, shape[0], limits.max_rows)
    if count <= _SHORT_TENSOR and len(data) <= QUICK_BYTES:
        if len(elements := decode_strings(data)) != count:
            raise InvalidRequest(
                f"expected {count} string elements for inference input '{name}' for model '{model.name}', "
                f"got {len(elements)}"
            )
        return Tensor(BYTES, shape, data)
    spec = next((spec for spec in model.signature().inputs if spec.name == name), None)
    check_shape(model, spec, BYTES, shape, limits.max_rows)
    limits.check_quick(max(count, len(data) >> 4))
    try:
        return Tensor(BYTES, shape, data, read_layout(data, shape))
    except InvalidRequest as error:
        raise InvalidRequest(f"inference input '{name}' for model '{model.name}': {error}") from None


def _of_raw_body(body: bytes | memoryview, model: ServedModel, limits: ReadLimits) -> tuple[Inference, Wanted]:
    """A body that is the elements of a model's only input, one row of it; the answer's outputs are all binary."""
    spec = model.only_input
    if spec is None:
        raise InvalidRequest(
            "Raw request must only have 1 input (found 1) to be deduced but got "
            f"{len(model.signature().inputs)} inputs in '{model.name}' model configuration"
        )
    row = (1, *spec.shape[1:]) if model.max_batch_size else spec.shape
    if spec.unknown_rank or row.count(-1) > 1:
        raise InvalidRequest(
            f"The shape of the raw input '{spec.name}' can not be deduced because there are more than one "
            "variable-sized dimension"
        )
    if spec.datatype == BYTES:
        if math.prod(row) != 1:
            raise InvalidRequest(
                f"For BYTE datatype raw input '{spec.name}', the model must have input shape [1], it has "
                f"{list(spec.shape)}"
            )
        limits.check_quick(len(body) >> 7)
        whole = Tensor(BYTES, row, encode_strings([bytes(body)]))
        return Inference(model, DEFAULT_SIGNATURE, {spec.name: whole}), Wanted(binary=True)
    fixed = abs(math.prod(row)) * DTYPES[spec.datatype].itemsize
    shape = tuple(len(body) // max(1, fixed) if size < 0 else size for size in row)
    tensor = binary_tensor(spec.name, spec.datatype, shape, body, model, limits)
    return Inference(model, DEFAULT_SIGNATURE, {spec.name: tensor}), Wanted(binary=True)


def _timeout_ms(parameters: dict[str, Any]) -> float | None:
    timeout_us = parameters.get("timeout", 0)
    if isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or not 0 <= timeout_us < 2**63:
        raise InvalidRequest(
            f"parameter 'timeout' must be a number of microseconds, got {json_tensors.quote(timeout_us)}"
        )
    return timeout_us / 1000 if timeout_us else None


def _like_remembered(body: bytes, reader: json_numbers.NumberReader) -> Document | None:
    """The document of one input whose JSON, but for its numbers, is remembered; None where it may be another.

    Requests of one client differ in nothing else. What is around the numbers is read with an empty list in their place.
    Without a backslash every quote begins or ends a string, so there the key is what it seems to be.
    """
    if len(body) > QUICK_BYTES or _TOO_DEEP in body:  # of a long one the numbers take nearly all the time
        return None
    parts = json_numbers.around_numbers(body, b'"data"')
    if parts is None:
        return None
    before, numbers, behind = parts
    around = b"%b[]%b" % (before, behind)
    if len(around) > _MAX_REMEMBERED_BYTES or b"\\" in around:
        return None
    document = _remembered_frame(around, reader)
    if document is None or len(document.inputs) != 1:
        return None
    ((name, expected),) = document.inputs
    flat = json_tensors.numbers_of(numbers, expected.datatype, reader)
    if flat is None or flat.size != math.prod(expected.shape):
        return None
    return document._replace(inputs=((name, Tensor(expected.datatype, expected.shape, flat.view(np.uint8).data)),))


@lru_cache(maxsize=256)
def _remembered_frame(around: bytes, reader: json_numbers.NumberReader) -> Document | None:
    """The document with empty lists in the place of numbers; its inputs have shapes and no elements."""
    try:
        return _read_fast(reader.parse(around, "data"), reader, are_left_out=True)
    except json_numbers.UNREADABLE:
        return None


def _fast(body: bytes, reader: json_numbers.NumberReader) -> Document | None:
    """The document with its numbers read in bulk; None where any part of it needs the slow way."""
    if _TOO_DEEP in body:
        return None
    try:
        return _read_fast(reader.parse(body, "data"), reader)
    except json_numbers.UNREADABLE:
        return None


def _read_fast(document: Any, reader: json_numbers.NumberReader, *, are_left_out: bool = False) -> Document | None:
    """The document; `are_left_out`: an empty list is in the place of each input's numbers."""
    inputs: list[tuple[str, Tensor | _Raw]] = []
    if len(document["inputs"]) > MAX_NAMED:
        return None
    for item in document["inputs"]:
        name, datatype, shape = item["name"], item["datatype"], _plain(item["shape"], reader)
        if not isinstance(name, str) or not isinstance(datatype, str) or datatype not in DTYPES or "parameters" in item:
            return None
        count = json_tensors.element_count(name, shape, datatype)
        if are_left_out:
            if len(item["data"]):
                return None
            inputs.append((name, _Raw(datatype, tuple(shape), 0)))
            continue
        flat = json_tensors.numbers(item["data"], datatype, reader)
        if flat is None or flat.size != count:
            return None
        inputs.append((name, Tensor(datatype, tuple(shape), flat.view(np.uint8).data)))
    if len(document) > MAX_NAMED or len(document.get("outputs", ())) > MAX_NAMED:
        return None
    return _checked({key: _plain(document[key], reader) for key in _KNOWN if key in document}, inputs)


def _plain(value: Any, reader: json_numbers.NumberReader) -> Any:
    """The value as Python's. Raises `ValueError` where it is long, so that it is counted before it is read."""
    text = reader.text(value)
    if text is None:
        return value
    if len(text) > _MAX_PLAIN_BYTES:
        raise ValueError
    return orjson.loads(text)


def _slow(body: bytes, limits: ReadLimits) -> Document:
    try:
        document = json_tensors.load(body, limits)
    except InvalidRequest as error:
        raise InvalidRequest(f"failed to parse the request JSON buffer: {error}") from None
    if not isinstance(document, dict):
        raise InvalidRequest("failed to parse the request JSON buffer: the document is not an object")
    inputs = document.get("inputs")
    if not isinstance(inputs, list):
        raise InvalidRequest("Unable to parse 'inputs': attempt to access JSON non-array")
    check_count("inputs", len(inputs))
    return _checked(document, [_input(item) for item in inputs])


def _checked(document: dict[str, Any], inputs: Iterable[tuple[str, Tensor | _Raw]]) -> Document:
    identity, parameters, outputs = document.get("id", ""), document.get("parameters", {}), document.get("outputs", [])
    if not isinstance(identity, str):
        raise InvalidRequest("Unable to parse 'id': attempt to access JSON non-string as string")
    if not identity.isprintable():  # half of a surrogate pair among them, which no answer can carry
        raise InvalidRequest("Unable to parse 'id': it must be printable text")
    if not isinstance(parameters, dict):
        raise InvalidRequest("Unable to parse 'parameters': attempt to access JSON non-object as object")
    if isinstance(outputs, list):
        check_count("outputs", len(outputs))
    check_count("parameters", len(parameters))
    if not isinstance(outputs, list) or not all(
        isinstance(o, dict) and isinstance(o.get("name"), str) for o in outputs
    ):
        raise InvalidRequest("Unable to parse 'outputs': each needs a 'name'")
    binary = _flag(parameters, "binary_data_output", default=False)
    wanted = tuple([_wanted_output(output, is_binary=binary) for output in outputs])
    if len(wanted) > 1:
        _check_distinct([output.name for output in wanted])
    return Document(
        inputs=tuple(inputs),
        wanted=Wanted(identity, wanted, binary),
        timeout_ms=_timeout_ms(parameters),
        priority="high" if parameters.get("priority") == _HIGH else "normal",
    )


def _check_distinct(names: list[str]) -> None:
    """Raises `InvalidRequest` where an output is asked for twice."""
    if len(set(names)) != len(names):
        again = next(name for i, name in enumerate(names) if name in names[:i])
        raise InvalidRequest(f"output '{again}' already exists in request")


def _wanted_output(output: dict[str, Any], *, is_binary: bool) -> WantedOutput:
    parameters = _parameters(output)
    classes = parameters.get("classification", 0)
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 0:
        raise InvalidRequest("Unable to set 'classification': it must be a number of classes")
    return WantedOutput(output["name"], _flag(parameters, "binary_data", default=is_binary), classes)


def _parameters(item: dict[str, Any]) -> dict[str, Any]:
    """The parameters of one input or output."""
    parameters = item.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"Unable to parse 'parameters' of '{item['name']}': attempt to access JSON non-object")
    if "shared_memory_region" in parameters:
        raise NotSupported("tensors in shared memory are not supported; send them with the request")
    return parameters


def _flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"Unable to parse '{name}': attempt to access JSON non-boolean as boolean")
    return value


def _input(item: Any) -> tuple[str, Tensor | _Raw]:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise InvalidRequest("Unable to parse 'inputs': each needs a 'name'")
    name, datatype, shape = item["name"], item.get("datatype"), item.get("shape", [])
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise InvalidRequest(f"invalid datatype for input '{name}': {json_tensors.quote(datatype)}")
    count = json_tensors.element_count(name, shape, datatype)
    size = _parameters(item).get("binary_data_size")
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise InvalidRequest(f"Unable to parse 'binary_data_size' of input '{name}': it must be a number of bytes")
        return name, _Raw(datatype, tuple(shape), size)
    return name, _json_tensor(item, name, datatype, shape, count)


def _json_tensor(item: dict[str, Any], name: str, datatype: str, shape: list[int], count: int) -> Tensor:
    if datatype == "FP16":
        raise InvalidRequest(
            f"receiving FP16 data via JSON is not supported. Please use the binary data format for input {name}"
        )
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
    tensor = json_tensors.to_tensor(flat, TensorSpec(name=name, datatype=datatype, shape=(-1,)))
    return Tensor(datatype, tuple(shape), tensor.data)


def _flat(value: list[Any]) -> list[Any]:
    """The leaves of a list nested in any way, in order. Raises `InvalidRequest` where it is nested too deep."""
    flat, stack = [], [iter(value)]
    while stack:
        for item in stack[-1]:
            if isinstance(item, list):
                if len(stack) >= _MAX_DEPTH:
                    raise InvalidRequest(
                        f"Unable to parse 'data': JSON nesting depth exceeds maximum allowed limit ({_MAX_DEPTH})"
                    )
                stack.append(iter(item))
                break
            flat.append(item)
        else:
            stack.pop()
    return flat


def render_infer(model: ServedModel, outputs: Mapping[str, Tensor], wanted: Wanted) -> Rendered:
    """The answer to `/infer`, with the outputs that were asked for in the order that they were.

    Binary outputs follow the JSON, whose length is then in the header Inference-Header-Content-Length.
    """
    shown = wanted_tensors(model, outputs, wanted)
    pieces = [_beginning(model.name, model.version, wanted.identity)]
    for number, each in enumerate(shown):
        if number:
            pieces.append(b",")
        pieces += _output(*each)
    pieces.append(b"]}")
    buffers = [tensor.data for _, tensor, is_binary in shown if is_binary]
    if not buffers:
        return Rendered(b"".join(pieces))
    return Rendered(b"".join([*pieces, *buffers]), _binary_headers(sum(map(len, pieces))))


def _beginning(name: str, version: int, identity: str) -> bytes:
    """The JSON of an answer up to its first output."""
    if identity:
        return b'{"id":%b,%b' % (orjson.dumps(identity), _remembered_beginning(name, version)[1:])
    return _remembered_beginning(name, version)


@lru_cache(maxsize=256)
def _remembered_beginning(name: str, version: int) -> bytes:
    return b'%b,"outputs":[' % orjson.dumps({"model_name": name, "model_version": str(version)})[:-1]


@lru_cache(maxsize=256)
def _binary_headers(json_length: int) -> _HeaderFields:
    return ("content-type", "application/octet-stream"), ("inference-header-content-length", str(json_length))


def wanted_tensors(model: ServedModel, outputs: Mapping[str, Tensor], wanted: Wanted) -> list[tuple[str, Tensor, bool]]:
    """What is to be shown, in order: its name, the tensor, and whether it is to be binary.

    Raises `InvalidRequest` where classes are wanted of what is no number.
    """
    if not wanted.outputs:
        return [(name, tensor, wanted.binary) for name, tensor in outputs.items()]
    return [(name, _classes(model, outputs[name], classes), is_binary) for name, is_binary, classes in wanted.outputs]


def _classes(model: ServedModel, tensor: Tensor, count: int) -> Tensor:
    """The tensor's largest values, or where none are wanted the tensor itself."""
    if not count:
        return tensor
    return top_classes(tensor, count, model.announcement.labels, has_rows=bool(model.max_batch_size))


def _output(name: str, tensor: Tensor, is_binary: bool) -> tuple[bytes, ...]:
    """One output as JSON in pieces, the same for all answers of one shape but for its elements."""
    if is_binary:
        return (_remembered_description(name, tensor.datatype, tensor.shape, len(tensor.data)),)
    return _remembered_description(name, tensor.datatype, tensor.shape), b',"data":', _elements(tensor), b"}"


def _elements(tensor: Tensor) -> bytes:
    if tensor.datatype != BYTES:
        return json_tensors.dumps_array(tensor.to_numpy().ravel())
    texts = [value.decode("utf-8", "replace") for value in tensor.to_numpy().ravel().tolist()]
    return orjson.dumps(texts)


@lru_cache(maxsize=256)
def _remembered_description(name: str, datatype: str, shape: tuple[int, ...], binary_bytes: int = -1) -> bytes:
    """What is said of an output: up to its elements, or all of it where so many bytes of them follow the JSON."""
    described = {"name": name, "datatype": datatype, "shape": shape}
    if binary_bytes < 0:
        return orjson.dumps(described)[:-1]
    return orjson.dumps(described | {"parameters": {"binary_data_size": binary_bytes}})


def render_server() -> dict[str, Any]:
    """The body of `GET /v2`: only the extensions that work are named."""
    return {"name": "millrace", "version": millrace.__version__, "extensions": list(_EXTENSIONS)}


def render_model(model: ServedModel, versions: list[ModelAnnouncement]) -> dict[str, Any]:
    """The body of `GET /v2/models/NAME`; `parameters`, which the protocol leaves open, has what it lacks words for."""
    announcement, signature = model.announcement, model.signature()
    parameters = {
        "description": announcement.description,
        "labels": announcement.labels,
        "optional_inputs": [spec.name for spec in signature.inputs if spec.optional],
        "media": {spec.name: spec.media for spec in signature.inputs if spec.media},
        "quantization": {
            spec.name: {"scale": spec.scale, "zero_point": spec.zero_point}
            for spec in (*signature.inputs, *signature.outputs)
            if spec.scale
        },
        "notes": announcement.notes,
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
    return {"name": spec.name, "datatype": spec.datatype, "shape": (-1,) if spec.unknown_rank else spec.shape}


def refusal(path: str) -> NotSupported | None:
    """The error for the path of an extension of Triton's that is not here; None for a path that nobody has."""
    for pattern, text in _REFUSED:
        if re.fullmatch(pattern, path):
            return NotSupported(text)
    return None


def check_no_region(kind: str, name: str) -> None:
    """Raises `NotFound` for the name of a region of shared memory, "" stands for all: none is ever registered."""
    if name:
        raise NotFound(f"Unable to find {kind} shared memory region: '{name}'")


def error_text(error: MillraceError) -> str:
    """The error in Triton's words."""
    if isinstance(error, ModelNotFound):
        if error.was_here and error.version is None:
            return f"Request for unknown model: '{error.model}' has no available versions"
        version = "" if error.version is None else f" version {error.version}"
        if error.was_here:
            return f"Request for unknown model: '{error.model}'{version} is not at ready state"
        return f"Request for unknown model: '{error.model}'{version} is not found"
    if isinstance(error, NotReady):
        where = f"'{error.model}'" + (f" version {error.version}" if error.version >= 0 else "")
        return f"Request for unknown model: {where} is not at ready state: {error.reason}"
    if isinstance(error, VersionOutOfRange):
        return version_text(str(error.version))
    return str(error)


def version_text(text: str) -> str:
    """Triton's words for a version that is no number, or too large a one."""
    return (
        f"failed to get model version from specified version string '{text}' (details: stol), "
        "version should be an integral value > 0"
    )


def _infer(body: Body, model: ServedModel, limits: ReadLimits) -> tuple[Inference, Wanted]:
    if body.content_type is not None:
        return Inference(model, *uploads.read(body, body.content_type, model, limits)), Wanted()
    return parse_infer(body.data, body.json_length, model, limits)


def _inferred(model: ServedModel, outputs: Mapping[str, Tensor], wanted: Wanted, limits: ReadLimits) -> Rendered:
    check_quick_to_show(outputs, wanted, limits)
    return render_infer(model, outputs, wanted)


def check_quick_to_show(
    outputs: Mapping[str, Tensor], wanted: Wanted, limits: ReadLimits, *, is_binary: bool = False
) -> None:
    """Raises `NotQuick` where showing what is wanted takes longer than the limits allow."""
    if not limits.max_quick or are_small(outputs):
        return
    of_classes = {each.name for each in wanted.outputs if each.classes}
    limits.check_quick(sum(math.prod(tensor.shape) for name, tensor in outputs.items() if name in of_classes))
    are_binary = is_binary or (all(each.is_binary for each in wanted.outputs) if wanted.outputs else wanted.binary)
    if are_binary:
        limits.check_quick(sum(len(tensor.data) for tensor in outputs.values()) >> 10)
    else:
        check_quick_to_write(outputs, limits)


INFER = Verb("oip/infer", "oip", Wanted, _infer, _inferred, error_text, "high", packs=True)
