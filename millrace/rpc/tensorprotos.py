"""TensorFlow's TensorProto to a tensor and back.

A TensorProto has its elements either in `tensor_content`, as they are in memory, or as numbers in the field of their
type. Fewer numbers than elements stand for the last one repeated, none for zeros (TensorFlow's `Tensor::FromProto`).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace import rpc
from millrace.protocol.errors import InvalidRequest, NotSupported
from millrace.protocol.tensors import (
    BYTES,
    DTYPES,
    TENSORFLOW_NAMES,
    Tensor,
    encode_strings,
    read_layout,
    string_tensor,
)
from millrace.rpc import wire

_MAX_RANK = 32
_MAX_FILLED_BYTES = 64 * 2**20  # what a few elements may stand for
_STRING_BYTES = 64  # what a string takes up where a model gets it, besides its own bytes

_TensorProto = rpc.message("tensorflow.TensorProto")
_NUMBERS = rpc.enum("tensorflow.DataType")
_NAMES = {number: name for name, number in _NUMBERS.items()}
_DATATYPES = {_NUMBERS[tensorflow]: name for name, tensorflow in TENSORFLOW_NAMES.items()}
_VALUES = {
    **dict.fromkeys(("INT8", "INT16", "INT32", "UINT8", "UINT16"), "int_val"),
    **{"INT64": "int64_val", "UINT32": "uint32_val", "UINT64": "uint64_val"},
    **{"BOOL": "bool_val", "FP16": "half_val", "FP32": "float_val", "FP64": "double_val", BYTES: "string_val"},
}
_AS_IN_MEMORY = {name: wire.number_of(_TensorProto, _VALUES[name]) for name in ("FP32", "FP64", "BOOL")}
_CONTENT = wire.number_of(_TensorProto, "tensor_content")


def number_of(datatype: str) -> int:
    """TensorFlow's number of a datatype."""
    return _NUMBERS[TENSORFLOW_NAMES[datatype]]


def datatype_of(number: int) -> str:
    """The datatype of TensorFlow's number. Raises `NotSupported`."""
    try:
        return _DATATYPES[number]
    except KeyError:
        raise NotSupported(f"tensors of type {_NAMES.get(number, number)} are not supported") from None


def to_tensor(proto: Any, name: str) -> Tensor:
    """The tensor in a TensorProto; `name` is for the errors.

    Raises `InvalidRequest` where elements and shape do not fit, `NotSupported` for a type that is not carried.
    """
    datatype, shape = datatype_of(proto.dtype), shape_of(proto, name)
    count = math.prod(shape)
    content = proto.tensor_content
    if content:
        if datatype == BYTES:
            return string_tensor(_strings_in(content, count, name), shape)
        if len(content) != count * DTYPES[datatype].itemsize:
            raise InvalidRequest(f"tensor '{name}' of shape {list(shape)} has {len(content)} bytes in tensor_content")
        return Tensor(datatype, shape, content)
    values = getattr(proto, _VALUES[datatype])
    if len(values) > count:
        raise InvalidRequest(f"tensor '{name}' has {len(values)} values for {count} elements")
    if datatype == BYTES:
        return _string_tensor(values, shape, count, name)
    return Tensor(datatype, shape, _numbers_in(values, datatype, count, name))


def shape_of(proto: Any, name: str) -> tuple[int, ...]:
    """The shape of a TensorProto, of which nothing else is read. Raises `InvalidRequest` for what is none."""
    dims = proto.tensor_shape.dim
    shape = tuple([dim.size for dim in dims]) if len(dims) <= _MAX_RANK else ()
    if proto.tensor_shape.unknown_rank or len(dims) > _MAX_RANK or (shape and min(shape) < 0):
        said = list(shape) if len(dims) <= _MAX_RANK else f"{len(dims)} dimensions, at most {_MAX_RANK} are taken"
        raise InvalidRequest(f"tensor '{name}' has no valid shape: {said}")
    return shape


def _string_tensor(values: Any, shape: tuple[int, ...], count: int, name: str) -> Tensor:
    missing = count - len(values)
    if not missing:
        return string_tensor(values, shape)
    last = values[-1] if values else b""
    _check_filled(name, missing * (_STRING_BYTES + len(last)))
    data = encode_strings(values) + encode_strings([last]) * missing
    return Tensor(BYTES, shape, data, read_layout(data, shape))


def _numbers_in(values: Any, datatype: str, count: int, name: str) -> bytes | memoryview:
    dtype = DTYPES[datatype]
    _check_filled(name, (count - len(values)) * dtype.itemsize)
    given = _numbers(values, datatype, name)
    if len(given) == count:
        return given.view(np.uint8).data
    filled = np.empty(count, dtype)
    filled[: len(given)] = given
    filled[len(given) :] = given[-1] if len(given) else 0
    return filled.view(np.uint8).data


def _check_filled(name: str, size: int) -> None:
    if size > _MAX_FILLED_BYTES:
        raise InvalidRequest(
            f"tensor '{name}' leaves {size} bytes to be filled with its last value; at most {_MAX_FILLED_BYTES} may be"
        )


def _numbers(values: Any, datatype: str, name: str) -> npt.NDArray[Any]:
    if datatype == "FP16":  # its bits, as integers
        return _within(values, np.dtype("<u2"), name).view("<f2")
    if _VALUES[datatype] == "int_val":  # which carries several types
        return _within(values, DTYPES[datatype], name)
    return np.fromiter(values, DTYPES[datatype], len(values))


def _within(values: Any, dtype: np.dtype[Any], name: str) -> npt.NDArray[Any]:
    wide = np.fromiter(values, np.int32, len(values))
    narrow = wide.astype(dtype)
    if not np.array_equal(wide, narrow):
        raise InvalidRequest(f"tensor '{name}' has a value outside of its type's range")
    return narrow


def _strings_in(content: bytes, count: int, name: str) -> list[bytes]:
    """Strings as TensorFlow writes them into `tensor_content`: all lengths, then all bytes."""
    lengths, offset = [], 0
    for _ in range(count):
        length, offset = _read_varint(content, offset, name)
        lengths.append(length)
    if offset + sum(lengths) != len(content):
        raise InvalidRequest(f"tensor '{name}' has strings of other lengths than it says")
    elements = []
    for length in lengths:
        elements.append(content[offset : offset + length])
        offset += length
    return elements


def _read_varint(data: bytes, offset: int, name: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if offset >= len(data):
            break
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
    raise InvalidRequest(f"tensor '{name}' ends inside the lengths of its strings")


def to_wire(tensor: Tensor, *, as_content: bool) -> list[bytes | memoryview]:
    """A TensorProto on the wire, as the parts to join; elements in `tensor_content` or in the field of their type."""
    head = _TensorProto(dtype=number_of(tensor.datatype))
    _add_dimensions(head, tensor.shape)
    if tensor.datatype == BYTES:
        head.string_val.extend(tensor.to_numpy().ravel().tolist())
        return [head.SerializeToString()]
    if as_content:
        return [head.SerializeToString(), *wire.field(_CONTENT, tensor.data)]
    if number := _AS_IN_MEMORY.get(tensor.datatype):
        return [head.SerializeToString(), *wire.field(number, tensor.data)]
    array = tensor.to_numpy().ravel()
    values = array.view("<u2") if tensor.datatype == "FP16" else array
    getattr(head, _VALUES[tensor.datatype]).extend(values.tolist())
    return [head.SerializeToString()]


def _add_dimensions(proto: Any, shape: Sequence[int]) -> None:
    dims = proto.tensor_shape.dim
    for size in shape:
        dims.add(size=size)
