"""ONNX models, by ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec
from worker.backends.base import Arrays, Device, LoadError

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
    **{f"tensor({sign}int{bits})": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class OnnxBackend:
    """An ONNX Runtime session; sessions may be run from several threads."""

    platform = "onnxruntime_onnx"
    fault = ""

    def __init__(self, session: Any) -> None:
        self._session = session
        inputs = tuple(_spec(value) for value in session.get_inputs())
        outputs = tuple(_spec(value) for value in session.get_outputs())
        self._outputs = [spec.name for spec in outputs]
        self.signatures = {DEFAULT_SIGNATURE: Signature(inputs=inputs, outputs=outputs)}

    def run(self, signature: str, inputs: Arrays) -> Arrays:  # noqa: ARG002 - ONNX has one signature
        """See `Backend`."""
        try:
            strings = {name: _mapped(array, bytes.decode) for name, array in inputs.items() if array.dtype.kind == "O"}
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"ONNX Runtime takes strings as UTF-8: {error}") from None
        values = self._session.run(self._outputs, inputs | strings)
        values = (_mapped(value, str.encode) if value.dtype.kind == "O" else value for value in values)
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        """See `Backend`."""
        self._session = None


def load(folder: Path, device: Device) -> OnnxBackend:
    """The model in `model.onnx`. Raises `LoadError`."""
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = device.threads, 1
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    if device.kind == "cuda":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise LoadError(
                "the installed ONNX Runtime has no CUDA: install millrace[worker-gpu] in place of millrace[worker]"
            )
        onnxruntime.preload_dlls()  # CUDA's libraries are in wheels of their own, where the loader does not look
        providers.insert(0, "CUDAExecutionProvider")
    try:
        session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=providers)
    except Exception as error:  # its errors share no base class
        raise LoadError(f"{folder / 'model.onnx'}: {error}") from error
    if device.kind == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise LoadError("CUDA was asked for, and ONNX Runtime found no usable GPU")
    return OnnxBackend(session)


def _spec(value: Any) -> TensorSpec:
    if value.type not in _DATATYPES:
        raise LoadError(f"tensor {value.name!r} is a {value.type}, which is not supported")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in value.shape)
    return TensorSpec(name=value.name, datatype=_DATATYPES[value.type], shape=shape)


def _mapped(array: npt.NDArray[Any], convert: Callable[[Any], Any]) -> npt.NDArray[Any]:
    """The array of objects with each one converted: ONNX Runtime's strings are text, ours are bytes."""
    converted = np.empty(array.size, object)
    converted[:] = [convert(value) for value in array.ravel()]
    return converted.reshape(array.shape)
