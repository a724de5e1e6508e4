"""ONNX models, by ONNX Runtime.

file.py           what the file says of its graph      tensors.py   what callers send and get
external_data.py  files beside it that hold weights    datatypes.py types that callers have in another form
refusals.py       what its errors mean        providers.py CPU or CUDA, and with which options
"""

import importlib
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature
from worker.backends.base import Arrays, Device, LoadError, check_not_empty
from worker.backends.onnx import external_data, refusals
from worker.backends.onnx import file as onnx_file
from worker.backends.onnx import providers as onnx_providers
from worker.backends.onnx import tensors as onnx_tensors
from worker.backends.onnx.datatypes import NarrowInput, narrow_input, strings_from_caller, strings_to_caller
from worker.backends.onnx.file import OnnxFile
from worker.backends.onnx.tensors import OnnxTensors
from worker.graphs import rowaxes
from worker.protofields import Malformed

FILE_NAME = "model.onnx"
# Its log cannot be led anywhere but to standard error, so only what ends the process is left of it.
_FATAL = 4
_ANY_MEMORY = onnxruntime.OrtMemType.DEFAULT
# The model y = x, as ONNX has it: the smallest that makes a session.
_SMALLEST = bytes.fromhex(
    "080812003a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a01"
    "79120a0a08080112040a02080142040a00100d"
)
# What operators refuse comes as any of these; memory and devices do, too. `ValueError` is for an input that is missing.
_REFUSALS = (
    errors.InvalidArgument,
    errors.Fail,
    errors.RuntimeException,
    errors.NotImplemented,
    errors.InvalidGraph,
    ValueError,
)
# Or its Python part would print to standard output what a model refused, and load it again, on the CPU.
_NO_FALLBACK = {"enable_fallback": 0}


# They end the process with SIGABRT where a sequence or a batch is empty.
_ENDED_BY_EMPTY = {"GRU", "LSTM"}
# On a GPU they are planned anew for a run with another shape than the one before.
_PLANNED_BY_SHAPE = {"Conv", "ConvTranspose"}


class OnnxBackend:
    """An ONNX Runtime session; sessions may be run from several threads."""

    platform = "onnxruntime_onnx"
    fault = ""
    keeps_state = ""

    def __init__(
        self,
        session: Any,
        tensors: OnnxTensors,
        narrow: Sequence[NarrowInput] = (),
        mixed_rows: str = "",
        ended_by_empty: Collection[str] = (),
        *,
        prepares_shapes: bool = False,
    ) -> None:
        self.prepares_shapes = prepares_shapes
        self._session = session
        self._ended_by_empty = ended_by_empty
        self.mixed_rows: Mapping[str, str] = {DEFAULT_SIGNATURE: mixed_rows} if mixed_rows else {}
        self.axes: Mapping[str, Sequence[str]] = tensors.axes
        self._outputs = [spec.name for spec in tensors.outputs]
        self._fetched = tensors.fetched
        self._narrow = {one.name: one for one in narrow}
        self.notes: Sequence[str] = tensors.notes
        self.labels: Sequence[str] = tensors.labels
        inputs, outputs = tuple(tensors.inputs), tuple(tensors.outputs)
        self.signatures = {DEFAULT_SIGNATURE: Signature(inputs=inputs, outputs=outputs)}

    def run(self, signature: str, inputs: Arrays) -> Arrays:  # noqa: ARG002 - ONNX has one signature
        """See `Backend`."""
        if self._ended_by_empty:
            check_not_empty(inputs, self._ended_by_empty, has_rows=False)
        strings = {name: strings_from_caller(array) for name, array in inputs.items() if array.dtype.kind == "O"}
        given: dict[str, Any] = inputs | strings
        if self._narrow:
            given |= {name: one.from_caller(given[name]) for name, one in self._narrow.items() if name in given}
        try:
            values = self._session.run(self._fetched, given)
        except _REFUSALS as error:
            raise refusals.of_run(str(error)) from error
        values = (strings_to_caller(value) if value.dtype.kind == "O" else value for value in values)
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


def load(folder: Path, device: Device, file: str = FILE_NAME) -> OnnxBackend:
    """The model in that file of the folder. Raises `LoadError`."""
    path = folder / file
    providers = onnx_providers.providers(device)
    found = OnnxFile()
    try:
        found = _read(path)
        session = _session(path, found, device, providers)
        tensors = onnx_tensors.tensors_of(session, found)
        if tensors.addition:
            session = _session(path, found, device, providers, tensors.addition)
        narrow = [narrow_input(name, type_name, _options(1)) for name, type_name in tensors.narrow.items()]
    except LoadError:
        raise
    except Exception as error:  # its errors share no base class
        raise LoadError(refusals.of_load(str(error), path, found)) from error
    onnx_providers.check_session(session, device)
    ended_by_empty = sorted(name for domain, name in found.operators if not domain and name in _ENDED_BY_EMPTY)
    mixed, on_gpu = rowaxes.of_file(path).mixed, device.kind == "cuda"
    prepares = on_gpu and any(name in _PLANNED_BY_SHAPE for _, name in found.operators)
    return OnnxBackend(session, tensors, narrow, mixed, ended_by_empty, prepares_shapes=prepares)


def _options(threads: int) -> Any:
    onnxruntime.set_default_logger_severity(_FATAL)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _FATAL
    options.add_session_config_entry("session.use_env_allocators", "1")
    return options


def _read(path: Path) -> OnnxFile:
    """What the file says; nothing where it cannot be read, and ONNX Runtime has the better words."""
    try:
        return onnx_file.read(path)
    except Malformed:
        return OnnxFile()


def _session(path: Path, found: OnnxFile, device: Device, providers: list[Any], addition: bytes = b"") -> Any:
    """A session of the file with the addition behind it. Raises `LoadError`, and what ONNX Runtime raises."""
    options = _options(device.threads)
    if any(domain in refusals.EXTENSIONS_DOMAINS for domain, _ in found.operators):
        _register_extensions(options)
    files = external_data.paths(path.parent, path.name, found.data_files)
    if found.has_nested_data:
        with external_data.copied_folder(path, files, addition) as copy:
            return onnxruntime.InferenceSession(copy, options, providers, **_NO_FALLBACK)
    with external_data.copied(files, path.parent) as contents:
        if contents:
            sizes = [len(content) for content in contents.values()]
            options.add_external_initializers_from_files_in_memory([*contents], [*contents.values()], sizes)
        source = path.read_bytes() + addition if contents or addition or _is_ort_format(path) else path
        return onnxruntime.InferenceSession(source, options, providers, **_NO_FALLBACK)


def _is_ort_format(path: Path) -> bool:
    """Whether the file is in ONNX Runtime's own format, which it knows by the name `.ort`, or by its bytes."""
    with path.open("rb") as file:
        return file.read(8)[4:] == b"ORTM"


def _register_extensions(options: Any) -> None:
    """Let sessions use the operators of `onnxruntime-extensions` (tokenizers and the like), where it is installed."""
    if find_spec(refusals.EXTENSIONS):
        options.register_custom_ops_library(importlib.import_module(refusals.EXTENSIONS).get_library_path())
