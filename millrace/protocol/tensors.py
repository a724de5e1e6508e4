"""Tensors as they travel: a datatype, a shape and raw little-endian bytes.

Datatypes carry the names of the Open Inference Protocol. A BYTES tensor is the protocol's own form: each element is a
4-byte little-endian length followed by its bytes, elements in row-major order, nothing between. Where they end can only
be found by walking over them, so a large tensor is walked once and keeps its `StringLayout`, across the queue too.
"""

import itertools
import math
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from millrace.protocol.errors import InvalidRequest

BYTES = "BYTES"

# Open Inference Protocol name -> (numpy type, TensorFlow name). BF16 has no numpy type and is not carried.
_DATATYPES: dict[str, tuple[str, str]] = {
    "BOOL": ("?", "DT_BOOL"),
    "UINT8": ("<u1", "DT_UINT8"),
    "UINT16": ("<u2", "DT_UINT16"),
    "UINT32": ("<u4", "DT_UINT32"),
    "UINT64": ("<u8", "DT_UINT64"),
    "INT8": ("<i1", "DT_INT8"),
    "INT16": ("<i2", "DT_INT16"),
    "INT32": ("<i4", "DT_INT32"),
    "INT64": ("<i8", "DT_INT64"),
    "FP16": ("<f2", "DT_HALF"),
    "FP32": ("<f4", "DT_FLOAT"),
    "FP64": ("<f8", "DT_DOUBLE"),
    "BYTES": ("O", "DT_STRING"),
}
DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(numpy) for name, (numpy, _) in _DATATYPES.items()}
TENSORFLOW_NAMES: dict[str, str] = {name: tensorflow for name, (_, tensorflow) in _DATATYPES.items()}
_EXAMPLES_INPUTS = ("inputs", "examples")
_LENGTH = struct.Struct("<I")
_LENGTHS = tuple(_LENGTH.pack(length) for length in range(1024))  # of short elements, packed
_ONLY_BYTES = {bytes}
_MOST_COUNTED_BYTES = 2**20  # of strings that are counted for an error's text
_FEW = 16
_LAYOUT_FROM = 256  # elements; walking over fewer again costs less than keeping where they end


@lru_cache(maxsize=64)
def datatype_of(dtype: np.dtype[Any]) -> str:
    """The datatype's name for a numpy type; text and object arrays are BYTES. Raises `InvalidRequest` for the rest."""
    if dtype.kind in "OSU":
        return BYTES
    for name, candidate in DTYPES.items():
        if candidate == dtype.newbyteorder("<"):
            return name
    raise InvalidRequest(f"tensors of type {dtype} are not supported")


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a signature says of one tensor. `shape` has -1 where any size fits; the first dimension counts rows.

    `optional` inputs may be left out. `media` names a kind of file ("image") that is taken too, as BYTES of shape
    [-1], in place of the declared datatype and shape. `max_bytes` bounds each element of a BYTES tensor (0: no bound).
    A tensor of `unknown_rank` may have any number of dimensions; its `shape` is then (). `graph_name` is what the
    file's own graph calls it, "" where nothing does. The integers of a quantized tensor stand for `scale` x
    (value - `zero_point`); a `scale` of 0 is any other tensor.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False
    media: str = ""
    max_bytes: int = 0
    unknown_rank: bool = False
    graph_name: str = ""
    scale: float = 0.0
    zero_point: int = 0


class Signature(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The named inputs and outputs of one way to call a model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    method_name: str = "tensorflow/serving/predict"

    @property
    def examples_input(self) -> str:
        """The name of the one input that may take serialized `tensorflow.Example`s, "" where there is none.

        It is a string called as TensorFlow calls it where it exports a signature to classify or to regress; a runtime
        tells no more of the difference to other strings.
        """
        if len(self.inputs) != 1:
            return ""
        spec = self.inputs[0]
        is_theirs = spec.datatype == BYTES and spec.shape == (-1,) and spec.name in _EXAMPLES_INPUTS
        return spec.name if is_theirs else ""


DEFAULT_SIGNATURE = "serving_default"


class StringLayout(msgspec.Struct, frozen=True, gc=False):
    """Where the rows of a BYTES tensor end: `row_ends` has each row's end in `data`, as 8-byte little-endian numbers.

    `longest` is the length of the longest element in bytes, -1 where it is not known.
    """

    row_ends: bytes
    longest: int = -1

    def offsets(self) -> npt.NDArray[Any]:
        """Where each row begins, and behind the last one where it ends."""
        return np.concatenate((np.zeros(1, "<i8"), np.frombuffer(self.row_ends, "<i8")))


class Tensor(msgspec.Struct, frozen=True, gc=False, eq=False):
    """One tensor: `data` holds the elements, little-endian and row-major (BYTES: see the module).

    `layout` is known for large BYTES tensors; two tensors are equal without it.
    """

    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview
    layout: StringLayout | None = None

    def __eq__(self, other: object) -> bool:
        """Whether the other is a tensor with the same elements."""
        if not isinstance(other, Tensor):
            return NotImplemented
        return (self.datatype, self.shape, self.data) == (other.datatype, other.shape, other.data)

    __hash__ = None  # type: ignore[assignment]  # `data` may be a memoryview, which has no hash

    @classmethod
    def from_numpy(cls, array: npt.NDArray[Any]) -> "Tensor":
        """A tensor with the array's elements; text is UTF-8. Raises `InvalidRequest` for a type that is not carried."""
        datatype = datatype_of(array.dtype)
        if datatype == BYTES:
            return string_tensor(array.ravel().tolist(), array.shape)
        flat = np.ascontiguousarray(array, DTYPES[datatype]).reshape(-1)
        return cls(datatype, array.shape, flat.view(np.uint8).data)

    def to_numpy(self) -> npt.NDArray[Any]:
        """The elements as an array: read-only and without a copy where the datatype allows, `bytes` objects for BYTES.

        Raises `InvalidRequest` when the data do not fill the shape.
        """
        if self.datatype == BYTES:
            elements = decode_strings(self.data)
            if len(elements) != math.prod(self.shape):
                raise InvalidRequest(
                    f"expected {math.prod(self.shape)} strings for shape {list(self.shape)}, got {len(elements)}"
                )
            array = np.empty(len(elements), object)
            array[:] = elements
            return array.reshape(self.shape)
        try:
            return np.frombuffer(self.data, DTYPES[self.datatype]).reshape(self.shape)
        except ValueError:
            raise InvalidRequest(f"{len(self.data)} bytes do not fill {self.datatype} {list(self.shape)}") from None


def string_tensor(elements: Iterable[bytes | str], shape: tuple[int, ...]) -> Tensor:
    """A BYTES tensor of that shape with these elements; a `str` is taken as UTF-8."""
    raw = _raw(elements)
    data = _join(raw)
    if len(raw) <= _LAYOUT_FROM:
        return Tensor(BYTES, shape, data)
    lengths = np.fromiter(map(len, raw), "<i8", len(raw))
    rows = shape[0] if shape else 1
    ends = np.cumsum(lengths + _LENGTH.size).reshape(rows, -1)[:, -1]
    return Tensor(BYTES, shape, data, StringLayout(ends.tobytes(), int(lengths.max())))


def encode_strings(elements: Iterable[bytes | str]) -> bytes:
    """BYTES data of the elements; a `str` is taken as UTF-8."""
    return _join(_raw(elements))


def _raw(elements: Iterable[bytes | str]) -> list[bytes]:
    """The elements as bytes. Raises `InvalidRequest` for others: many an object would give its memory instead."""
    given = [*elements]
    kinds = {*map(type, given)}
    if kinds == _ONLY_BYTES:
        return given  # type: ignore[return-value]  # all of them are bytes
    for kind in kinds:
        if not issubclass(kind, bytes | str):
            raise InvalidRequest(f"a string tensor has an element of type {kind.__name__}")
    return [element.encode() if isinstance(element, str) else element for element in given]


def _join(raw: list[bytes]) -> bytes:
    if len(raw) < _FEW:
        return b"".join([part for element in raw for part in (_LENGTH.pack(len(element)), element)])
    lengths = [*map(len, raw)]
    packed = map(_LENGTHS.__getitem__ if max(lengths, default=0) < len(_LENGTHS) else _LENGTH.pack, lengths)
    return b"".join(itertools.chain.from_iterable(zip(packed, raw, strict=True)))


def decode_strings(data: bytes | memoryview) -> list[bytes]:
    """The elements of BYTES data. Raises `InvalidRequest` where a length runs past the end."""
    view, elements, offset, size = memoryview(data), [], 0, len(data)
    if size > _LAYOUT_FROM * _LENGTH.size and (length := _common_length(view)) is not None:
        whole, step = bytes(view), _LENGTH.size + length
        return [whole[at : at + length] for at in range(_LENGTH.size, size, step)] if length else [b""] * (size // step)
    while offset < size:
        if offset + 4 > size:
            raise InvalidRequest("BYTES data end inside a length")
        (length,) = _LENGTH.unpack_from(view, offset)
        offset += 4
        if offset + length > size:
            raise InvalidRequest("BYTES data end inside an element")
        elements.append(bytes(view[offset : offset + length]))
        offset += length
    return elements


def _common_length(view: memoryview) -> int | None:
    """The length that all elements have; None where they differ. No walk."""
    if len(view) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(view)
    step = _LENGTH.size + length
    if len(view) % step:
        return None
    lengths = np.frombuffer(view, np.uint8).reshape(-1, step)[:, : _LENGTH.size]
    return length if (np.ascontiguousarray(lengths).view("<u4") == length).all() else None


def read_layout(data: bytes | memoryview, shape: tuple[int, ...]) -> StringLayout:
    """Where the rows of BYTES data end, in one walk, which also checks them.

    Raises `InvalidRequest` where the data are not exactly the strings that fill the shape.
    """
    view, count = memoryview(data), math.prod(shape)
    rows = shape[0] if shape else 1
    if count > _LAYOUT_FROM and (length := _common_length(view)) is not None:
        found = len(view) // (_LENGTH.size + length)
        if found != count:
            raise InvalidRequest(f"shape {list(shape)} needs {count} strings, got {found}")
        row_bytes = len(view) // rows
        return StringLayout((np.arange(1, rows + 1, dtype="<i8") * row_bytes).tobytes(), length)
    ends, longest = _walk(view, rows, count // rows if rows else 0)
    if ends is None or (ends[-1] if ends else 0) != len(view):
        found_text = str(_count(view)) if len(view) <= _MOST_COUNTED_BYTES else "another number"
        raise InvalidRequest(f"shape {list(shape)} needs {count} strings, got {found_text}")
    return StringLayout(np.array(ends, "<i8").tobytes(), longest)


def _walk(view: memoryview, rows: int, row_elements: int) -> tuple[list[int] | None, int]:
    """The end of each row, and the length of the longest element; no ends where the data are too short."""
    unpack_from, head = _LENGTH.unpack_from, _LENGTH.size
    offset, longest, ends = 0, 0, []
    try:
        for _ in range(rows):
            for _ in range(row_elements):
                (length,) = unpack_from(view, offset)
                offset += head + length
                if length > longest:
                    longest = length
            ends.append(offset)
    except struct.error:
        return None, longest
    return ends, longest


def _count(view: memoryview) -> int:
    """How many strings the data are. Raises `InvalidRequest` where a length runs past the end."""
    unpack_from, size, offset, count = _LENGTH.unpack_from, len(view), 0, 0
    while offset < size:
        if offset + 4 > size:
            raise InvalidRequest("BYTES data end inside a length")
        offset += 4 + unpack_from(view, offset)[0]
        count += 1
    if offset > size:
        raise InvalidRequest("BYTES data end inside an element")
    return count


def split_rows(tensor: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Views of consecutive runs of rows, one per count; the counts add up to the first dimension."""
    view = memoryview(tensor.data)
    if len(counts) == 1:
        return [Tensor(tensor.datatype, tensor.shape, view, tensor.layout)]
    ends = list(itertools.accumulate(counts, initial=0))
    if tensor.datatype == BYTES:
        return _split_strings(tensor, view, ends)
    row_bytes = math.prod(tensor.shape[1:]) * DTYPES[tensor.datatype].itemsize
    return [
        Tensor(tensor.datatype, (stop - start, *tensor.shape[1:]), view[start * row_bytes : stop * row_bytes])
        for start, stop in itertools.pairwise(ends)
    ]


def _split_strings(tensor: Tensor, view: memoryview, ends: list[int]) -> list[Tensor]:
    layout = tensor.layout or read_layout(view, tensor.shape)
    offsets = layout.offsets()
    row_elements, parts = math.prod(tensor.shape[1:]), []
    for start, stop in itertools.pairwise(ends):
        first, last, rows = int(offsets[start]), int(offsets[stop]), stop - start
        kept = None
        if rows * row_elements > _LAYOUT_FROM:
            kept = StringLayout((offsets[start + 1 : stop + 1] - first).tobytes(), layout.longest)
        parts.append(Tensor(BYTES, (rows, *tensor.shape[1:]), view[first:last], kept))
    return parts


def concatenate_rows(tensors: Sequence[Tensor]) -> Tensor:
    """The rows of all the tensors, end to end; they share datatype and row shape."""
    first = tensors[0]
    if len(tensors) == 1:
        return first
    rows = sum(tensor.shape[0] for tensor in tensors)
    layout = _joined_layout(tensors) if any(tensor.layout for tensor in tensors) else None
    data = b"".join([tensor.data for tensor in tensors])
    return Tensor(first.datatype, (rows, *first.shape[1:]), data, layout)


def _joined_layout(tensors: Sequence[Tensor]) -> StringLayout:
    layouts = [tensor.layout or read_layout(tensor.data, tensor.shape) for tensor in tensors]
    starts = itertools.accumulate((len(tensor.data) for tensor in tensors), initial=0)
    ends = [np.frombuffer(layout.row_ends, "<i8") + start for layout, start in zip(layouts, starts, strict=False)]
    longest = [layout.longest for layout in layouts]
    return StringLayout(np.concatenate(ends).tobytes(), -1 if min(longest) < 0 else max(longest))
