"""Values of Python code as the tensors that they are declared to be: exactly, or not at all."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.protocol.tensors import BYTES, DTYPES


def fitted(value: Any, datatype: str, shape: Sequence[int] | None) -> npt.NDArray[Any]:
    """The value, an array or what makes one, as an array of that datatype; BYTES as `bytes` objects, text as UTF-8.

    `shape` has -1 where any size fits, and is None where any shape does. Raises `ValueError`, which says what does not
    fit: numbers are only converted where none is changed but by rounding.
    """
    array = _strings(value) if datatype == BYTES else _numbers(value, datatype)
    got = array.shape
    if shape is None:
        return array
    if len(got) != len(shape) or any(want not in (-1, size) for want, size in zip(shape, got, strict=True)):
        raise ValueError(f"has the shape {list(got)} in place of {list(shape)}")
    return array


def _strings(value: Any) -> npt.NDArray[Any]:
    array = np.asarray(value, object)
    elements = [_bytes(element) for element in array.ravel()]
    encoded = np.empty(len(elements), object)
    encoded[:] = elements
    return encoded.reshape(array.shape)


def _bytes(element: Any) -> bytes:
    if isinstance(element, str):
        return element.encode()
    if isinstance(element, bytes | bytearray | memoryview):
        return bytes(element)
    raise ValueError(f"has an element of type {type(element).__name__}, which is neither bytes nor text")


def _numbers(value: Any, datatype: str) -> npt.NDArray[Any]:
    if hasattr(value, "detach"):  # a tensor of PyTorch's, which may be on another device and have a gradient
        value = value.detach().cpu()
        value = value.float() if "bfloat16" in str(value.dtype) else value  # which NumPy has not
    array, wanted = np.asarray(value), DTYPES[datatype]
    kinds = array.dtype.kind + wanted.kind
    if array.dtype.kind not in "biuf" or (wanted.kind != array.dtype.kind and kinds not in _WIDER):
        raise ValueError(f"is {array.dtype} in place of {datatype}")
    with np.errstate(over="ignore"):
        converted = array.astype(wanted, copy=False)
    if not _is_kept(array, converted):
        raise ValueError(f"has numbers that {datatype} cannot hold")
    return converted


# Kinds of numbers that may become another kind: from, to.
_WIDER = {"bi", "bu", "bf", "iu", "ui", "if", "uf"}


def _is_kept(array: npt.NDArray[Any], converted: npt.NDArray[Any]) -> bool:
    """Whether the conversion has only rounded: no number has wrapped around or become infinite."""
    if array.dtype == converted.dtype or array.dtype.kind == "b":
        return True
    if converted.dtype.kind == "f":
        return bool((np.isinf(converted) == (np.isinf(array) if array.dtype.kind == "f" else False)).all())
    return bool((converted == array).all()) and not bool(((converted < 0) != (array < 0)).any())
