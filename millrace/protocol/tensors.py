"""Tensors as they travel: a datatype, a shape and raw little-endian bytes.

Datatypes carry the names of the Open Inference Protocol. A BYTES tensor is the protocol's own form: each element is a
4-byte little-endian length followed by its bytes, elements in row-major order, nothing between.
"""

import itertools
import math
import struct
from collections.abc import Iterable, Sequence
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
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False
    media: str = ""
    max_bytes: int = 0


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


class Tensor(msgspec.Struct, frozen=True, gc=False):
    """One tensor: `data` holds the elements, little-endian and row-major (BYTES: see the module)."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview

    @classmethod
    def from_numpy(cls, array: npt.NDArray[Any]) -> "Tensor":
        """A tensor with the array's elements; text is UTF-8. Raises `InvalidRequest` for a type that is not carried."""
        datatype = datatype_of(array.dtype)
        if datatype == BYTES:
            return cls(BYTES, array.shape, encode_strings(array.ravel().tolist()))
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


def encode_strings(elements: Iterable[bytes | str]) -> bytes:
    """BYTES data of the elements; a `str` is taken as UTF-8."""
    parts: list[bytes] = []
    for element in elements:
        raw = element.encode() if isinstance(element, str) else element
        parts += (_LENGTH.pack(len(raw)), raw)
    return b"".join(parts)


def decode_strings(data: bytes | memoryview) -> list[bytes]:
    """The elements of BYTES data. Raises `InvalidRequest` where a length runs past the end."""
    view, elements, offset = memoryview(data), [], 0
    while offset < len(view):
        if offset + 4 > len(view):
            raise InvalidRequest("BYTES data end inside a length")
        (length,) = _LENGTH.unpack_from(view, offset)
        offset += 4
        if offset + length > len(view):
            raise InvalidRequest("BYTES data end inside an element")
        elements.append(bytes(view[offset : offset + length]))
        offset += length
    return elements


def split_rows(tensor: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Views of consecutive runs of rows, one per count; the counts add up to the first dimension."""
    view, ends = memoryview(tensor.data), list(itertools.accumulate(counts, initial=0))
    offsets = _string_offsets(view, tensor.shape) if tensor.datatype == BYTES else _row_offsets(tensor)
    return [
        Tensor(tensor.datatype, (stop - start, *tensor.shape[1:]), view[offsets[start] : offsets[stop]])
        for start, stop in itertools.pairwise(ends)
    ]


def _row_offsets(tensor: Tensor) -> Sequence[int]:
    row_bytes = math.prod(tensor.shape[1:]) * DTYPES[tensor.datatype].itemsize
    return range(0, row_bytes * tensor.shape[0] + 1, row_bytes) if row_bytes else [0] * (tensor.shape[0] + 1)


def _string_offsets(view: memoryview, shape: tuple[int, ...]) -> list[int]:
    row_elements, offset, offsets = math.prod(shape[1:]), 0, [0]
    for _ in range(shape[0]):
        for _ in range(row_elements):
            offset += 4 + _LENGTH.unpack_from(view, offset)[0]
        offsets.append(offset)
    return offsets


def concatenate_rows(tensors: Sequence[Tensor]) -> Tensor:
    """The rows of all the tensors, end to end; they share datatype and row shape."""
    first = tensors[0]
    if len(tensors) == 1:
        return first
    rows = sum(tensor.shape[0] for tensor in tensors)
    return Tensor(first.datatype, (rows, *first.shape[1:]), b"".join([tensor.data for tensor in tensors]))
