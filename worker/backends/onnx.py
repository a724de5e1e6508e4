"""ONNX models, by ONNX Runtime."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from millrace.protocol.errors import InvalidRequest, MillraceError, ModelFailed
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec
from worker.backends.base import Arrays, Device, LoadError, RowErrors
from worker.backends.texts import place, public

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
    **{f"tensor({sign}int{bits})": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
# Its log cannot be led anywhere but to standard error, so only what ends the process is left of it.
_FATAL = 4
_ANY_MEMORY = onnxruntime.OrtMemType.DEFAULT
# The model y = x, as ONNX has it: the smallest that makes a session.
_SMALLEST = bytes.fromhex(
    "080812003a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a01"
    "79120a0a08080112040a02080142040a00100d"
)
# What operators refuse comes as any of these; memory and devices do, too.
_REFUSALS = (errors.InvalidArgument, errors.Fail, errors.RuntimeException)
_RESOURCES = re.compile(r"alloc|out of memory|bad_alloc|cuda|cublas|cudnn", re.IGNORECASE)
_AROUND = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_NODE = re.compile(r"^Non-zero status code returned while running (\w+) node\. Name:'.*?' Status Message: ?")


class OnnxBackend:
    """An ONNX Runtime session; sessions may be run from several threads."""

    platform = "onnxruntime_onnx"
    fault = ""
    notes: Sequence[str] = ()
    mixed_rows: Mapping[str, str] = {}

    def __init__(self, session: Any) -> None:
        self._session = session
        inputs = tuple(_spec(value) for value in session.get_inputs())
        outputs = tuple(_spec(value) for value in session.get_outputs())
        self._outputs = [spec.name for spec in outputs]
        self.signatures = {DEFAULT_SIGNATURE: Signature(inputs=inputs, outputs=outputs)}

    def run(self, signature: str, inputs: Arrays) -> Arrays:  # noqa: ARG002 - ONNX has one signature
        """See `Backend`."""
        strings = {name: _texts(array) for name, array in inputs.items() if array.dtype.kind == "O"}
        try:
            values = self._session.run(self._outputs, inputs | strings)
        except _REFUSALS as error:
            raise _failure(str(error)) from error
        values = (_mapped(value, str.encode) if value.dtype.kind == "O" else value for value in values)
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        """See `Backend`."""
        self._session = None


def prepare() -> None:
    """Make what all sessions of a process share, so that the processes that are forked from this one have it.

    Memory for tensors is one of these things: sessions with memory of their own keep 40 KB each that they rarely need.
    """
    memory = onnxruntime.OrtMemoryInfo("Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, _ANY_MEMORY)
    onnxruntime.create_and_register_allocator(memory, None)
    onnxruntime.InferenceSession(_SMALLEST, _options(threads=1), providers=["CPUExecutionProvider"])


def _options(threads: int) -> Any:
    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(_FATAL)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _FATAL
    options.add_session_config_entry("session.use_env_allocators", "1")
    return options


def load(folder: Path, device: Device) -> OnnxBackend:
    """The model in `model.onnx`. Raises `LoadError`."""
    options = _options(device.threads)
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
        reason = public(_AROUND.sub("", str(error)), folder)
        raise LoadError(f"{place(folder, 'model.onnx')}: {reason}") from error
    if device.kind == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise LoadError("CUDA was asked for, and ONNX Runtime found no usable GPU")
    return OnnxBackend(session)


def _spec(value: Any) -> TensorSpec:
    if value.type not in _DATATYPES:
        raise LoadError(f"tensor {value.name!r} is a {value.type}, which is not supported")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in value.shape)
    return TensorSpec(name=value.name, datatype=_DATATYPES[value.type], shape=shape)


def _failure(text: str) -> MillraceError:
    """What a run's error means: an operator that refuses what it is given blames the request's data."""
    reason = public(_NODE.sub(r"\1: ", _AROUND.sub("", text)))
    return ModelFailed(f"ONNX Runtime: {reason}") if _RESOURCES.search(text) else InvalidRequest(reason)


def _texts(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
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


def _mapped(array: npt.NDArray[Any], convert: Callable[[Any], Any]) -> npt.NDArray[Any]:
    """The array of objects with each one converted: ONNX Runtime's strings are text, ours are bytes."""
    converted = np.empty(array.size, object)
    converted[:] = [convert(value) for value in array.ravel()]
    return converted.reshape(array.shape)
