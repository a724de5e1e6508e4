"""JSON numbers and strings to tensors and back.

The common case, one numeric tensor as nested lists, is read by simdjson straight into a buffer, at a tenth of the time
that building Python lists takes (benchmarks/micro). Whatever that path cannot read goes the slow way, which also words
the errors; so the fast path never raises.
"""

import base64
import binascii
import json
import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
import simdjson

from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import BYTES, DTYPES, Tensor, TensorSpec, encode_strings

# The words that TensorFlow Serving uses for types in its messages.
TYPE_WORDS = {
    **{"FP16": "half", "FP32": "float", "FP64": "double", "BOOL": "bool", "BYTES": "string"},
    **{f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}
_decoding = json.JSONDecoder()
_quoting = json.JSONEncoder(default=str)
_NOT_STRUCTURE = b"0123456789.eE+- \t\r\n"
UNREADABLE = (ValueError, KeyError, TypeError, RuntimeError)  # what simdjson raises, numbers above 64 bits included
_MAX_RANK = 32
_MAX_SIZE = 2**31 - 1
_HEADS = (("instances", b'{"instancs":'), ("inputs", b'{"inputs":'))  # the letter e goes with the numbers


def parse(body: bytes) -> Any:
    """The document as simdjson sees it: nothing is read before it is asked for. Raises `UNREADABLE`.

    A parser serves one document at a time, and an error on its way up may hold a document: so each gets its own.
    """
    return simdjson.Parser().parse(body)


def load(body: bytes) -> Any:
    """The document. Raises `InvalidRequest`; NaN, Infinity and -Infinity are numbers, as in TensorFlow Serving."""
    if not body.strip():
        raise InvalidRequest("JSON Parse error: The document is empty")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"JSON Parse error: {error}") from None


def load_first(body: bytes) -> Any:
    """The document that the body begins with, read like `load`; text behind it is tolerated, as in TensorFlow Serving.

    Bytes that are not UTF-8 are left to whoever takes the string that they are in. Raises `InvalidRequest`.
    """
    text = body.decode("utf-8-sig", "surrogateescape").lstrip(" \t\r\n")
    if not text:
        raise InvalidRequest("JSON Parse error: The document is empty")
    try:
        return _decoding.raw_decode(text)[0]
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"JSON Parse error: {error}") from None


def quote(value: Any) -> str:
    """The beginning of the value as JSON, for an error message: 256 characters."""
    text = ""
    for part in _quoting.iterencode(value[:257] if isinstance(value, str) else value):
        text += part[:257]
        if len(text) > 256:
            return text[:256] + "..."
    return text


def buffer_kind(datatype: str) -> Literal["d", "i", "u", ""]:
    """The type that simdjson is to read a datatype's numbers as; "" where the slow way must be taken."""
    if datatype in ("FP32", "FP64"):
        return "d"
    if datatype.startswith("INT"):
        return "i"
    return "u" if datatype.startswith("UINT") else ""


def numbers(array: object, datatype: str) -> npt.NDArray[Any] | None:
    """The numbers of a nested array, flat and in order, or None where they are not all of that datatype."""
    kind = buffer_kind(datatype)
    if not kind or not isinstance(array, simdjson.Array):
        return None
    try:
        wide = np.frombuffer(array.as_buffer(of_type=kind), {"d": "<f8", "i": "<i8", "u": "<u8"}[kind])
    except UNREADABLE:
        return None
    with np.errstate(over="ignore"):
        narrow = wide.astype(DTYPES[datatype])
    if kind == "d":
        return narrow
    return narrow if np.array_equal(narrow, wide) else None


def fast_rows(body: bytes, spec: TensorSpec) -> tuple[str, Tensor] | None:
    """Read a body that is {"instances": [[…], …]} or {"inputs": …} with one numeric tensor and nothing else.

    Returns the key and the tensor, or None where the body is anything else, or its lists are not regular.
    """
    row_shape = spec.shape[1:]
    if not spec.shape or -1 in row_shape or not buffer_kind(spec.datatype):
        return None
    structure = body.translate(None, _NOT_STRUCTURE)
    for key, head in _HEADS:
        if structure.startswith(head):
            return _fast_rows(body, spec, structure, key, head)
    return None


def _fast_rows(body: bytes, spec: TensorSpec, structure: bytes, key: str, head: bytes) -> tuple[str, Tensor] | None:
    row_shape = spec.shape[1:]
    try:
        flat = numbers(parse(body)[key], spec.datatype)
    except UNREADABLE:
        return None
    if flat is None or not flat.size or flat.size % (row_elements := math.prod(row_shape)):
        return None
    rows = flat.size // row_elements
    row = _row_structure(row_shape)
    if structure != head + b"[" + b",".join([row] * rows) + b"]}":
        return None
    return key, Tensor(spec.datatype, (rows, *row_shape), flat.view(np.uint8).data)


@lru_cache(maxsize=256)
def _row_structure(shape: tuple[int, ...]) -> bytes:
    """What is left of a regular nested list of that shape without its numbers and white space."""
    row = b""
    for size in reversed(shape):
        row = b"[" + b",".join([row] * size) + b"]"
    return row


def to_tensor(value: Any, spec: TensorSpec) -> Tensor:
    """A nested list (or a scalar) of JSON values as a tensor of the spec's datatype.

    Encoded files ({"b64": …}) are taken where the spec names a medium. Raises `InvalidRequest`.
    """
    shape = _shape(value)
    leaves = _leaves(value, shape)
    if spec.datatype == BYTES or (spec.media and leaves and is_b64(leaves[0])):
        return Tensor(BYTES, shape, encode_strings([to_bytes(leaf) for leaf in leaves]))
    values = [_number(leaf, spec.datatype) for leaf in leaves]
    with np.errstate(over="ignore"):  # beyond FP32 is Infinity
        return Tensor.from_numpy(np.array(values, DTYPES[spec.datatype]).reshape(shape))


def element_count(name: str, shape: Any) -> int:
    """How many elements a tensor of that shape has. Raises `InvalidRequest` for what is no shape, or out of bounds."""
    is_shape = isinstance(shape, list) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape)
    if not is_shape or len(shape) > _MAX_RANK or max(shape, default=0) > _MAX_SIZE:
        raise InvalidRequest(
            f"Unable to parse 'shape' of input '{name}': it must be a list of at most {_MAX_RANK} whole numbers "
            f"from 0 to {_MAX_SIZE}"
        )
    return math.prod(shape)


def is_b64(value: Any) -> bool:
    """Whether the value is encoded bytes: an object with that one key and a string."""
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _shape(value: Any) -> tuple[int, ...]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > _MAX_RANK:
            raise InvalidRequest(f"a tensor has at most {_MAX_RANK} dimensions")
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _leaves(value: Any, shape: tuple[int, ...]) -> list[Any]:
    level = [value]
    for size in shape:
        for item in level:
            if not isinstance(item, list) or len(item) != size:
                raise InvalidRequest(
                    f"Encountered list at unexpected size: JSON Value: {quote(item)} expected size {size}: "
                    "the lists of a tensor must be of equal length"
                )
        level = [leaf for item in level for leaf in item]
    if any(isinstance(leaf, list) for leaf in level):
        raise InvalidRequest(f"Encountered a list where a value was expected: {quote(value)}")
    return level


def to_bytes(value: Any) -> bytes:
    """The bytes that a JSON string or {"b64": …} stands for. Raises `InvalidRequest`."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(f"JSON Value: {quote(value)} is not valid UTF-8") from None
    if not is_b64(value):
        raise _unexpected(value, BYTES)
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"Unable to base64 decode {quote(value)}: {error}") from None


def _number(value: Any, datatype: str) -> Any:
    if datatype == "BOOL":
        if isinstance(value, bool):
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if datatype in ("FP16", "FP32", "FP64"):
            try:
                return float(value)
            except OverflowError:
                raise _unexpected(value, datatype) from None
        if isinstance(value, int):
            limits = np.iinfo(DTYPES[datatype])
            if limits.min <= value <= limits.max:
                return value
    raise _unexpected(value, datatype)


def _unexpected(value: Any, datatype: str) -> InvalidRequest:
    kinds = {bool: "Bool", int: "Number", float: "Number", str: "String", dict: "Object", type(None): "Null"}
    kind = kinds.get(type(value), "Array")
    return InvalidRequest(f"JSON Value: {quote(value)} Type: {kind} is not of expected type: {TYPE_WORDS[datatype]}")


def dumps_array(array: npt.NDArray[Any]) -> bytes:
    """A numeric array as nested JSON lists: the shortest decimals that read back the same, NaN and Infinity as such."""
    if not array.ndim:
        return dumps_array(array.reshape(1))[1:-1]
    array = np.ascontiguousarray(array)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    text = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in text:  # NaN and Infinity, which it has no words for
        shortest = [float(str(value)) for value in array.ravel()]
        return json.dumps(_nested(shortest, array.shape)).encode()
    return text


def _nested(flat: list[Any], shape: tuple[int, ...]) -> Any:
    for size in reversed(shape[1:]):
        flat = (
            [flat[i : i + size] for i in range(0, len(flat), size)]
            if size
            else [[] for _ in range(math.prod(shape[:-1]))]
        )
    return flat
