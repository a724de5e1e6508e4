"""TFLite models, by LiteRT.

tflitefile.py    what the file says beside what the interpreter tells    tflitecalls.py   the ways to call a model
tflitepacked.py  labels and vocabularies in the file
"""

import importlib
import os
import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from millrace.protocol.errors import InvalidRequest, MillraceError, ModelFailed
from worker.backends.base import Arrays, Device, LoadError, RowErrors, check_not_empty
from worker.backends.texts import place, public
from worker.backends.tflite import calls, packed
from worker.backends.tflite.file import TfliteFile
from worker.backends.tflite.packed import Packed

FILE_NAME = "model.tflite"
_NODE = re.compile(r"Node number \d+ \((\w+)\) ")  # which LiteRT writes right after the reason
_RESOURCES = re.compile(r"alloc|memory", re.IGNORECASE)
# They end the process with SIGSEGV where an image has no height or no width.
_ENDED_BY_EMPTY = {"RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"}
_GIT_LFS = b"version https://git-lfs"
_Make = partial[Any]  # makes an interpreter


class TfliteBackend:
    """A LiteRT interpreter. Interpreters are for one thread at a time, so runs wait for one another.

    A model whose tensors have a fixed first dimension of 1 is run row by row. State does not outlive a run: variables
    begin with zeros again, and a model that writes resources gets a new interpreter, which `make` makes.
    """

    platform = "litert_tflite"
    fault = ""
    mixed_rows: Mapping[str, str] = {}
    axes: Mapping[str, Sequence[str]] = {}
    keeps_state = ""

    def __init__(self, make: _Make, file: TfliteFile, content: bytes) -> None:
        self._make = make
        self._file = file
        self._lock = threading.Lock()
        self._interpreter = make()
        self._has_variables = bool(file.variables())
        self._writes_resources = file.writes_resources()
        self._ended_by_empty = sorted(file.operators() & _ENDED_BY_EMPTY)
        self._is_used = self._has_failed = False
        found = calls.calls(self._interpreter, file)
        self._calls = found.by_signature
        self.signatures = {name: call.signature for name, call in self._calls.items()}
        packed = self._packed(content)
        self.labels: Sequence[str] = packed.labels
        quantized = (note for call in self._calls.values() for note in calls.quantization_notes(call))
        self.notes: Sequence[str] = list(
            dict.fromkeys([*found.notes, *self._notes_on_state(), *quantized, *packed.notes])
        )

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        """See `Backend`."""
        fixed = {spec.name for spec in self.signatures[signature].inputs if spec.shape[:1] == (1,)}
        rows = max((len(array) for name, array in inputs.items() if name in fixed), default=0)
        with self._lock:
            if rows <= 1:
                return self._answer(signature, inputs)
            answers, bad = [], dict[int, MillraceError]()
            for i in range(rows):
                try:
                    answers.append(self._answer(signature, {name: array[i : i + 1] for name, array in inputs.items()}))
                except InvalidRequest as error:
                    bad[i] = error
        if bad:
            raise RowErrors(bad)
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def close(self) -> None:
        """See `Backend`."""
        self._calls, self._interpreter, self._make = {}, None, partial(dict)

    def _answer(self, signature: str, inputs: Arrays) -> Arrays:
        if self._ended_by_empty:
            check_not_empty(inputs, self._ended_by_empty, has_rows=True)
        self._forget()
        try:
            outputs = self._calls[signature].run(inputs)
            self._has_failed = False
            return outputs
        except (RuntimeError, ValueError) as error:  # LiteRT has no classes of errors: an operator refuses its inputs
            reason = public(_NODE.sub(r": \1 ", str(error)))
            if _RESOURCES.search(reason):
                raise ModelFailed(f"LiteRT: {reason}") from error
            raise InvalidRequest(reason) from error

    def _forget(self) -> None:
        """Begin without what the last run left behind; after one that failed, variables may have no memory to reset."""
        if self._is_used and (self._writes_resources or (self._has_variables and self._has_failed)):
            self._interpreter = self._make()
            self._calls = calls.calls(self._interpreter, self._file).by_signature
        elif self._is_used and self._has_variables:
            self._interpreter.reset_all_variables()
        self._is_used = self._has_failed = True  # until it is done

    def _notes_on_state(self) -> list[str]:
        if not (self._has_variables or self._writes_resources):
            return []
        return ["The model keeps state from run to run. Here each request begins with the state of the file."]

    def _packed(self, content: bytes) -> Packed:
        """What is packed in the file; what cannot be read of it is a note."""
        names = next(iter(self._calls.values())).names
        inputs, outputs = (
            [names.get(details["name"], details["name"]) for details in tensors]
            for tensors in (self._interpreter.get_input_details(), self._interpreter.get_output_details())
        )
        try:
            return packed.read(content, self._file.metadata(packed.ENTRY), inputs, outputs)
        except ValueError as error:
            return Packed(notes=[f"The file's metadata cannot be read: {error}."])


def load(folder: Path, device: Device, file: str = FILE_NAME) -> TfliteBackend:
    """The model in that file of the folder. Raises `LoadError`.

    The file is read, and not mapped into memory: it may be overwritten while it is served.
    """
    if device.kind == "cuda":
        raise LoadError("TFLite models run on the CPU only; start the worker with --device cpu")
    try:
        content = (folder / file).read_bytes()
        return _loaded(content, device.threads)
    except (RuntimeError, ValueError, OSError, LoadError) as error:
        raise LoadError(f"{place(folder, file)}: {public(str(error), folder)}") from error


def _loaded(content: bytes, threads: int) -> TfliteBackend:
    if not content:
        raise LoadError("the file is empty")
    if content.startswith(_GIT_LFS):
        raise LoadError("the file is a pointer of Git LFS: get the model itself with `git lfs pull`")
    make = partial(Interpreter, model_content=content, num_threads=threads)
    make()  # which checks the content
    file = TfliteFile(content)
    if custom := sorted(file.custom_operators()):
        make = _with_custom_operators(make, custom)
    return TfliteBackend(make, file, content)


def _with_custom_operators(make: _Make, names: Sequence[str]) -> _Make:
    """What makes interpreters that have these operators. Raises `LoadError` where there is none."""
    needs_tensorflow = any(name.startswith("Flex") for name in names)
    if needs_tensorflow:
        make = _tensorflows(make, names)
    try:
        make().allocate_tensors()
    except RuntimeError as error:
        if "Select TensorFlow op" in str(error):
            raise LoadError(
                f"the model has operators of TensorFlow ({', '.join(names)}), and the installed TensorFlow brings none "
                "for TFLite (its Flex delegate); serve the SavedModel that the file was made of"
            ) from error
        if "custom op" in str(error):
            named = f"The model has the custom operators {', '.join(names)}; export it without them"
            raise LoadError(f"{' '.join(str(error).split())} {named}") from error
        # The sizes that the file has may not be those that callers send, so what else fails shows nothing.
    return make


def _tensorflows(make: _Make, names: Sequence[str]) -> _Make:
    """TensorFlow's own interpreter, which may have its operators."""
    if not find_spec("tensorflow"):
        raise LoadError(
            f"the model has operators of TensorFlow ({', '.join(names)}), and TensorFlow is not installed; serve the "
            "SavedModel that the file was made of"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter is deprecated", UserWarning)
    return partial(importlib.import_module("tensorflow").lite.Interpreter, **make.keywords)
