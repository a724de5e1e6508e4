"""JSON numbers and strings to tensors and back.

The common case, one numeric tensor as nested lists, is read straight into a buffer (`json_numbers`), at a tenth of the
time that building Python lists takes (benchmarks/micro). Whatever that path cannot read goes the slow way, which also
words the errors; so the fast path never raises.
"""

import base64
import binascii
import itertools
import json
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import BYTES, DTYPES, Tensor, TensorSpec, string_tensor
from serving.protocols.json_errors import json_error
from serving.protocols.json_numbers import READER, UNREADABLE, Kind, NumberReader
from serving.protocols.limits import ReadLimits, most_values, too_many

# The words that TensorFlow Serving uses for types in its messages.
TYPE_WORDS = {
    **{"FP16": "half", "FP32": "float", "FP64": "double", "BOOL": "bool", "BYTES": "string"},
    **{f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}
_decoding = json.JSONDecoder()
_quoting = json.JSONEncoder(default=str)
_NOT_STRUCTURE = b"0123456789.eE+- \t\r\n"
_MAX_RANK = 32
_MAX_SIZE = 2**31 - 1
_MOST = 2**63 - 1
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_PIECE_BYTES = 1 << 20
_REMEMBERED_ELEMENTS = 1 << 16
_HEADS = (("instances", b'{"instancs":'), ("inputs", b'{"inputs":'))  # the letter e goes with the numbers


def count_values(body: bytes, limits: ReadLimits, most_strings: float | None = None) -> None:
    """Compare the number of the document's values with the limits, before anything is built from them.

    Raises `PayloadTooLarge` for more than `limits.max_values` values, or more than `most_strings` strings, keys among
    them; `NotQuick` for more than the event loop has time for.
    """
    if most_strings is None and len(body) <= (limits.max_quick or limits.max_values):
        return  # there cannot be as many
    if most_strings is not None:
        strings = (body.count(b'"') - body.count(b'\\"')) // 2
        if strings > most_strings:
            raise too_many("strings in JSON", int(most_strings))
    values = most_values(body)
    limits.check_quick(values)
    if values > limits.max_values and most_values(_STRING.sub(b"", body)) > limits.max_values:
        raise too_many("values in JSON", limits.max_values)


def load(body: bytes, limits: ReadLimits = ReadLimits()) -> Any:  # noqa: B008 - it is immutable
    """The document. Raises `InvalidRequest`; NaN, Infinity and -Infinity are numbers, as in TensorFlow Serving.

    See `count_values` for what is too much.
    """
    if not body.strip():
        raise InvalidRequest("JSON Parse error: The document is empty")
    count_values(body, limits)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise json_error(error) from None


def load_first(
    body: bytes,
    limits: ReadLimits = ReadLimits(),  # noqa: B008 - it is immutable
    most_strings: float | None = None,
) -> Any:
    """The document that the body begins with, read like `load`; text behind it is tolerated, as in TensorFlow Serving.

    Bytes that are not UTF-8 are left to whoever takes the string that they are in. Raises `InvalidRequest`; see
    `count_values` for what is too much.
    """
    count_values(body, limits, most_strings)
    text = body.decode("utf-8-sig", "surrogateescape").lstrip(" \t\r\n")
    if not text:
        raise InvalidRequest("JSON Parse error: The document is empty")
    try:
        return _decoding.raw_decode(text)[0]
    except (ValueError, RecursionError) as error:
        raise json_error(error) from None


def quote(value: Any) -> str:
    """The beginning of the value as JSON, for an error message: 256 characters."""
    text = ""
    for part in _quoting.iterencode(value[:257] if isinstance(value, str) else value):
        text += part[:257]
        if len(text) > 256:
            return text[:256] + "..."
    return text


def buffer_kind(datatype: str) -> Kind:
    """The type that a datatype's numbers are to be read as; "" where the slow way must be taken."""
    if datatype in ("FP32", "FP64"):
        return "d"
    if datatype.startswith("INT"):
        return "i"
    return "u" if datatype.startswith("UINT") else ""


def numbers(array: object, datatype: str, reader: NumberReader = READER) -> npt.NDArray[Any] | None:
    """The numbers of a nested array, flat and in order, or None where they are not all of that datatype."""
    return _read(reader.numbers, array, datatype)


def numbers_of(text: bytes, datatype: str, reader: NumberReader = READER) -> npt.NDArray[Any] | None:
    """The same for the text of a nested array."""
    return _read(reader.listed, text, datatype)


def _read(read: Callable[[Any, Kind], npt.NDArray[Any]], value: Any, datatype: str) -> npt.NDArray[Any] | None:
    kind = buffer_kind(datatype)
    if not kind:
        return None
    try:
        return _narrow(read(value, kind), datatype)
    except UNREADABLE:
        return None


def _narrow(wide: npt.NDArray[Any], datatype: str) -> npt.NDArray[Any] | None:
    """The numbers as that datatype's; None where whole numbers do not fit."""
    with np.errstate(over="ignore"):
        narrow = wide.astype(DTYPES[datatype])
    return narrow if wide.dtype.kind == "f" or np.array_equal(narrow, wide) else None


def fast_rows(body: bytes, spec: TensorSpec, reader: NumberReader = READER) -> tuple[str, Tensor] | None:
    """Read a body that is {"instances": [[…], …]} or {"inputs": …} with one numeric tensor and nothing else.

    Returns the key and the tensor, or None where the body is anything else, or its lists are not regular.
    """
    if not spec.shape or not buffer_kind(spec.datatype):
        return None
    structure = body.translate(None, _NOT_STRUCTURE)
    for key, head in _HEADS:
        if structure.startswith(head):
            row_shape = spec.shape[1:]
            if -1 in row_shape:
                row_shape = _first_row(structure[len(head) :], row_shape)
            return _fast_rows(body, reader, spec.datatype, row_shape, structure, key, head)
    return None


def _first_row(structure: bytes, declared: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the first row seems to have, as far as it is not declared; the whole structure shows if it has."""
    shape: list[int] = []
    for depth in range(1, len(declared) + 1):
        row = structure[: structure.find(b"]" * depth) + depth - 1]  # without its own bracket
        shape.append(row.count(b"]" * (depth - 1)) if depth > 1 else row.count(b",") + 1)
    return tuple([given if size < 0 else size for given, size in zip(reversed(shape), declared, strict=True)])


def _fast_rows(
    body: bytes,
    reader: NumberReader,
    datatype: str,
    row_shape: tuple[int, ...],
    structure: bytes,
    key: str,
    head: bytes,
) -> tuple[str, Tensor] | None:
    try:
        flat = _narrow(reader.rows(body, key, buffer_kind(datatype)), datatype)
    except UNREADABLE:
        return None
    row_elements = math.prod(row_shape)
    if flat is None or not flat.size or not row_elements or flat.size % row_elements:
        return None
    rows = flat.size // row_elements
    row = _row_structure(row_shape) if row_elements <= _REMEMBERED_ELEMENTS else _row_structure.__wrapped__(row_shape)
    if structure != head + b"[" + b",".join([row] * rows) + b"]}":
        return None
    return key, Tensor(datatype, (rows, *row_shape), flat.view(np.uint8).data)


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
    if not leaves:
        shape = _with_lost_axes(shape, spec)
    if spec.datatype == BYTES or (spec.media and leaves and is_b64(leaves[0])):
        return string_tensor(_strings(leaves), shape)
    array = _regular(leaves, spec.datatype)
    with np.errstate(over="ignore"):  # beyond FP32 is Infinity
        if array is None:
            array = np.array([_number(leaf, spec.datatype) for leaf in leaves])
        return Tensor.from_numpy(array.astype(DTYPES[spec.datatype]).reshape(shape))


def _strings(leaves: list[Any]) -> list[bytes]:
    if len(leaves) > 1 and {*map(type, leaves)} == {str}:
        try:
            return [*map(str.encode, leaves)]
        except UnicodeEncodeError:
            pass  # to be told by name below
    return [to_bytes(leaf) for leaf in leaves]


def _regular(leaves: list[Any], datatype: str) -> npt.NDArray[Any] | None:
    """The numbers as an array, None where any of them needs a closer look."""
    kinds, dtype = {*map(type, leaves)}, DTYPES[datatype]
    if datatype == "BOOL":
        return np.array(leaves, dtype) if kinds == {bool} else None
    if dtype.kind == "f":
        try:
            return np.array(leaves, np.float64) if kinds <= {int, float} else None
        except OverflowError:
            return None
    if kinds != {int}:
        return None
    limits = np.iinfo(dtype)
    return np.array(leaves, dtype) if limits.min <= min(leaves) and max(leaves) <= limits.max else None


def element_count(name: str, shape: Any, datatype: str) -> int:
    """How many elements a tensor of that shape has. Raises `InvalidRequest` for what is no shape, or out of bounds."""
    is_shape = isinstance(shape, list) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape)
    if not is_shape or len(shape) > _MAX_RANK or max(shape, default=0) > _MAX_SIZE:
        if is_shape and len(shape) <= _MAX_RANK:
            _check_overflow(name, shape, DTYPES[datatype].itemsize)
        raise InvalidRequest(
            f"Unable to parse 'shape' of input '{name}': it must be a list of at most {_MAX_RANK} whole numbers "
            f"from 0 to {_MAX_SIZE}"
        )
    return math.prod(shape)


def _check_overflow(name: str, shape: list[int], item_bytes: int) -> None:
    """Raises `InvalidRequest` in Triton's words for a tensor beyond what numbers of 64 bits can count."""
    count = math.prod(shape)
    if count > _MOST:
        raise InvalidRequest(
            f"invalid shape for input '{name}': shape [{','.join(map(str, shape))}] causes total element count to "
            f"exceed maximum size of {_MOST}"
        )
    if count * item_bytes > _MOST:
        raise InvalidRequest(
            f"byte size overflow for input '{name}': element count ({count}) * data type size ({item_bytes}) exceeds "
            f"maximum allowed size ({_MOST})"
        )


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


def _with_lost_axes(shape: tuple[int, ...], spec: TensorSpec) -> tuple[int, ...]:
    """The shape with the axes behind an empty list, which JSON cannot say, as the signature has them."""
    lost = spec.shape[len(shape) :]
    if -1 in lost:
        raise InvalidRequest(
            f"input '{spec.name}' has an empty list, and JSON cannot say how large the axes behind it are; "
            "send the shape, as the Open Inference Protocol does"
        )
    return (*shape, *lost)


def _leaves(value: Any, shape: tuple[int, ...]) -> list[Any]:
    items, rank = [value], len(shape)
    for level, size in enumerate(shape):
        for item in items:
            if not isinstance(item, list):
                raise InvalidRequest(
                    f"JSON Value: {quote(item)} found at incorrect level: {level + 1} in the JSON DOM. "
                    f"Expected at level: {rank}"
                )
            if len(item) != size:
                raise InvalidRequest(
                    f"Encountered list at unexpected size: {len(item)} at level: {level} expected size: {size}"
                )
        items = [leaf for item in items for leaf in item]
    if any(isinstance(leaf, list) for leaf in items):
        raise InvalidRequest(f"Encountered list at unexpected level: {rank} expected < {rank}")
    return items


def to_bytes(value: Any) -> bytes:
    """The bytes that a JSON string or {"b64": …} stands for. Raises `InvalidRequest`."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(f"JSON Value: {quote(value)} is not valid UTF-8") from None
    if isinstance(value, dict) and not is_b64(value):
        raise InvalidRequest(f"JSON Value: {quote(value)} not formatted correctly for base64 data")
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
        flat = array.reshape(-1)
        return _with_words(text, flat[~np.isfinite(flat)])
    return text


def _with_words(text: bytes, values: npt.NDArray[Any]) -> bytes:
    """The text of an array, each null in it replaced by the word for the value; there are as many of both."""
    if np.isnan(values).all():
        return text.replace(b"null", b"NaN")
    words = np.where(np.isnan(values), b"NaN", np.where(values > 0, b"Infinity", b"-Infinity")).astype(object)
    parts: list[bytes] = []
    start = used = 0
    while start < len(text):  # in pieces, since each null makes two objects
        end = text.find(b",", start + _PIECE_BYTES) + 1 or len(text)
        between = text[start:end].split(b"null")
        piece = words[used : used + len(between) - 1].tolist()
        parts.append(b"".join(itertools.chain.from_iterable(zip(between, [*piece, b""], strict=True))))
        start, used = end, used + len(piece)
    return b"".join(parts)
