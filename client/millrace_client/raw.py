"""Tensors as the bytes that binary requests carry: little-endian, row-major; a string is its length and itself."""

import math
import struct
from collections.abc import Iterator

import numpy as np

from millrace_client.inputs import Array
from millrace_client.models import BYTES, DTYPES

_LENGTH = struct.Struct("<I")


def to_raw(array: Array) -> bytes:
    """The array's elements; those of an array of objects are `str` or `bytes`."""
    if array.dtype != object:
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    strings = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
    return b"".join([part for string in strings for part in (_LENGTH.pack(len(string)), string)])


def from_raw(datatype: str, shape: list[int], data: bytes | memoryview) -> Array:
    """The array of that Open Inference datatype and shape; strings are `str` where they are text, else `bytes`.

    Raises `KeyError` for a datatype that numpy has not, `ValueError` where the bytes do not fill the shape.
    """
    if datatype == BYTES:
        return text_array(_strings(data), shape)
    return np.frombuffer(data, DTYPES[datatype].newbyteorder("<")).reshape(shape).astype(DTYPES[datatype])


def text_array(strings: list[bytes], shape: list[int]) -> Array:
    """An array of `str`, with `bytes` where an element is no text. Raises `ValueError` where they do not fill it."""
    if len(strings) != math.prod(shape):
        raise ValueError(f"{len(strings)} strings do not fill shape {shape}")
    array = np.empty(len(strings), object)
    array[:] = [text_of(string) for string in strings]
    return array.reshape(shape)


def text_of(string: bytes) -> str | bytes:
    """The text that the bytes are, or the bytes where they are none."""
    try:
        return string.decode()
    except UnicodeDecodeError:
        return string


def _strings(data: bytes | memoryview) -> list[bytes]:
    return list(_split(memoryview(data)))


def _split(data: memoryview) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        if start + _LENGTH.size > len(data):
            raise ValueError("the last string has no whole length")
        (length,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size
        if start + length > len(data):
            raise ValueError(f"a string of {length} bytes is cut")
        yield bytes(data[start : start + length])
        start += length
