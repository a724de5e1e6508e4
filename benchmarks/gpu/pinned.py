"""Memory that a GPU reads and writes by itself: pages that stay where they are, as CUDA's runtime hands them out."""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_RUNTIME = "libcudart.so.13"


class PinnedError(Exception):
    """CUDA gives no such memory; the text says why."""


def array(shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array in pinned memory, which is kept until the process ends. Raises `PinnedError`."""
    kind = np.dtype(dtype)
    size = max(1, math.prod(shape) * kind.itemsize)
    place = ctypes.c_void_p()
    try:
        status = ctypes.CDLL(_RUNTIME).cudaHostAlloc(ctypes.byref(place), ctypes.c_size_t(size), 1)
    except OSError as error:
        raise PinnedError(str(error)) from error
    if status or not place.value:
        raise PinnedError(f"cudaHostAlloc: error {status}")
    content = (ctypes.c_char * size).from_address(place.value)
    return np.ndarray(tuple(shape), kind, memoryview(content))
