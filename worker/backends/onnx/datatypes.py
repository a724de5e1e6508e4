"""Datatypes of ONNX Runtime's tensors as callers have them.

BFLOAT16, the kinds of FLOAT8 and integers of 4 or 2 bits have no NumPy type, and of them a protocol carries BFLOAT16 at
most. Callers send and get the next type that holds all of their values: FP32, INT8 or UINT8. ONNX Runtime's own Cast
converts: of inputs in a session of its own, of outputs as a node that is added to the model.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from millrace.protocol.errors import InvalidRequest, MillraceError
from millrace.protocol.tensors import DTYPES
from millrace.rpc.wire import field, varint
from worker.backends.base import RowErrors

DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
    **{f"tensor({sign}int{bits})": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
# ONNX Runtime's name -> (number in TensorProto.DataType, what callers have instead)
NARROW = {
    "tensor(bfloat16)": (16, "FP32"),
    "tensor(float8e4m3fn)": (17, "FP32"),
    "tensor(float8e4m3fnuz)": (18, "FP32"),
    "tensor(float8e5m2)": (19, "FP32"),
    "tensor(float8e5m2fnuz)": (20, "FP32"),
    "tensor(uint4)": (21, "UINT8"),
    "tensor(int4)": (22, "INT8"),
    "tensor(float4e2m1)": (23, "FP32"),
    "tensor(uint2)": (25, "UINT8"),
    "tensor(int2)": (26, "INT8"),
}
_NUMBERS = {"FP32": 1, "UINT8": 2, "INT8": 3}  # in TensorProto.DataType
_RANGES = {"tensor(uint4)": (0, 15), "tensor(int4)": (-8, 7), "tensor(uint2)": (0, 3), "tensor(int2)": (-2, 1)}
_IR_VERSION, _OPSET = 10, 21  # the first to have all of these types but those of `_NEW_FROM` on
_IR_VERSION_NEW, _OPSET_NEW, _NEW_FROM = 13, 25, 23
_INTEGER = 2  # AttributeProto.type


@dataclass(frozen=True, slots=True)
class NarrowInput:
    """An input of the type `type_name`, in ONNX Runtime's words; callers send the wider `datatype`."""

    name: str
    type_name: str
    session: Any

    @property
    def datatype(self) -> str:
        """What callers send."""
        return NARROW[self.type_name][1]

    def from_caller(self, array: npt.NDArray[Any]) -> Any:
        """The values as the runtime takes them, rounded. Raises `InvalidRequest` for integers that do not fit."""
        low, high = _RANGES.get(self.type_name, (0, 0))
        if low < high and array.size and (array.min() < low or array.max() > high):
            raise InvalidRequest(f"input '{self.name}' takes integers from {low} to {high}: it is {self.type_name}")
        given = np.asarray(array, DTYPES[self.datatype], order="C")
        return self.session.run_with_ort_values(["y"], {"x": onnxruntime.OrtValue.ortvalue_from_numpy(given)})[0]


def narrow_input(name: str, type_name: str, options: Any) -> NarrowInput:
    """The input of such a type; `options` are for the session that casts. Raises what ONNX Runtime raises."""
    number, datatype = NARROW[type_name]
    model = _cast_model(_NUMBERS[datatype], number)
    return NarrowInput(name, type_name, onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"]))


def _cast_model(source: int, target: int) -> bytes:
    """The ONNX model y = x, with y of another element type; a tensor of any rank."""
    is_new = max(source, target) >= _NEW_FROM
    ir_version, opset = (_IR_VERSION_NEW, _OPSET_NEW) if is_new else (_IR_VERSION, _OPSET)
    value = [*field(11, *_value("x", source)), *field(12, *_value("y", target))]
    graph = [*field(1, *_cast("x", "y", target)), *field(2, b"cast"), *value]
    parts = [varint(1 << 3), varint(ir_version), *field(8, varint(2 << 3), varint(opset)), *field(7, *graph)]
    return b"".join(parts)


def _value(name: str, element_type: int) -> list[bytes | memoryview]:
    """A ValueInfoProto of unknown rank."""
    tensor = field(1, varint(1 << 3), varint(element_type))
    return [*field(1, name.encode()), *field(2, *tensor)]


def _cast(source: str, target: str, element_type: int) -> list[bytes | memoryview]:
    """A NodeProto."""
    to = [*field(1, b"to"), varint(3 << 3), varint(element_type), varint(20 << 3), varint(_INTEGER)]
    return [*field(1, source.encode()), *field(2, target.encode()), *field(4, b"Cast"), *field(5, *to)]


def more_output(name: str) -> bytes:
    """What makes a tensor of the graph an output, too, when it is put behind the model's own bytes.

    Protobuf joins a message that comes twice, and adds to its lists. ONNX Runtime finds out the output's type.
    """
    return b"".join(field(7, *field(12, *field(1, name.encode()))))


def widened_output(name: str, wide_name: str, type_name: str) -> bytes:
    """What adds an output with another one's values in the type that callers have, put behind the model's bytes."""
    node = _cast(name, wide_name, _NUMBERS[NARROW[type_name][1]])
    return b"".join(field(7, *field(1, *node))) + more_output(wide_name)


def strings_from_caller(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The strings as ONNX Runtime takes them. Raises `RowErrors` for rows that are not UTF-8."""
    try:
        return _mapped(array, bytes.decode)
    except UnicodeDecodeError:
        bad: dict[int, MillraceError] = {}
        width = max(1, math.prod(array.shape[1:]))
        for position, value in enumerate(array.ravel()):
            try:
                value.decode()
            except UnicodeDecodeError as error:
                bad.setdefault(position // width, InvalidRequest(f"ONNX Runtime takes strings as UTF-8: {error}"))
        raise RowErrors(bad) from None


def strings_to_caller(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """ONNX Runtime's strings as bytes."""
    return _mapped(array, str.encode)


def _mapped(array: npt.NDArray[Any], convert: Callable[[Any], Any]) -> npt.NDArray[Any]:
    """The array of objects with each one converted: ONNX Runtime's strings are text, ours are bytes."""
    converted = np.empty(array.size, object)
    converted[:] = [convert(value) for value in array.ravel()]
    return converted.reshape(array.shape)
