"""Translations of ONNX's operators into Core ML's language (MIL): where they are registered, and what they share."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from coremltools.converters.mil.mil import types
from onnx import TensorProto

Value = Any  # an array, or a MIL variable; None for an input that is left out
Attributes = dict[str, Any]  # and `outputs`, how many the node has
Translation = Callable[[Attributes, Sequence[Value]], Value]
NODES: dict[str, Translation] = {}

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_WHOLE = tuple(getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64))
CASTS = {**dict.fromkeys(FLOATS, "fp32"), **dict.fromkeys(_WHOLE, "int32"), TensorProto.BOOL: "bool"}
_NARROWER = {
    **{np.dtype(kind): np.float32 for kind in (np.float64, np.float16)},
    **{np.dtype(kind): np.int32 for kind in (np.int64, np.int16, np.int8, np.uint64, np.uint32, np.uint16, np.uint8)},
}


class NotInMil(Exception):
    """An operator in a form that has no translation."""


def node(operator: str) -> Callable[[Translation], Translation]:
    """Register the translation of an operator."""

    def register(translate: Translation) -> Translation:
        NODES[operator] = translate
        return translate

    return register


def narrowed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array in a type that MIL has; the largest of whole numbers stand for "to the end"."""
    kind = _NARROWER.get(array.dtype, array.dtype)
    if array.dtype.kind in "iu" and array.dtype.itemsize >= 4:
        array = np.clip(array, np.iinfo(np.int32).min, np.iinfo(np.int32).max)
    return np.asarray(array, kind)


def known_shape(value: Value) -> list[int | None]:
    """The sizes that are known while converting."""
    return [int(size) if isinstance(size, (int, np.integer)) else None for size in value.shape]


def ints(value: Value, what: str) -> list[int]:
    """The numbers of an array that has to be known while converting."""
    if not isinstance(value, np.ndarray):
        raise NotInMil(f"its {what} depend on the data")
    return [int(number) for number in value.ravel()]


def axes_of(attributes: Attributes, inputs: Sequence[Value]) -> list[int]:
    """Axes come as an attribute in older operators, as the second input in newer ones."""
    if "axes" in attributes:
        return list(attributes["axes"])
    given = inputs[1] if len(inputs) > 1 else None
    return list(range(inputs[0].rank)) if given is None else ints(given, "axes")


def is_of(value: Value, kind: Any) -> bool:
    """Whether an array or variable is of MIL's type `types.int32`, `types.bool` or `types.fp32`."""
    if isinstance(value, np.ndarray):
        return bool(types.numpy_type_to_builtin_type(value.dtype) == kind)
    return bool(value.dtype == kind)


def number(value: Value, like: float) -> Any:
    """A number in the type of a value: MIL mixes none."""
    return np.int32(like) if is_of(value, types.int32) else np.float32(like)
