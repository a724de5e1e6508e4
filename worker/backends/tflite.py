"""TFLite models, by LiteRT."""

import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from millrace.protocol.errors import InvalidRequest, MillraceError, ModelFailed
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec, datatype_of
from worker.backends.base import Arrays, Device, LoadError, RowErrors
from worker.backends.texts import place, public

_NODE = re.compile(r"Node number \d+ \((\w+)\) ")  # which LiteRT writes right after the reason
_RESOURCES = re.compile(r"alloc|memory", re.IGNORECASE)


class TfliteBackend:
    """A LiteRT interpreter. Interpreters are for one thread at a time, so runs wait for one another.

    A model whose tensors have a fixed first dimension of 1 is run row by row.
    """

    platform = "litert_tflite"
    fault = ""
    notes: Sequence[str] = ()
    labels: Sequence[str] = ()
    mixed_rows: Mapping[str, str] = {}
    axes: Mapping[str, Sequence[str]] = {}
    keeps_state = ""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._lock = threading.Lock()
        names = list(interpreter.get_signature_list())
        self._runners = {name: interpreter.get_signature_runner(name) for name in names}
        self.signatures = {name: _signature(runner) for name, runner in self._runners.items()}

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
        self._runners, self._interpreter = {}, None

    def _answer(self, signature: str, inputs: Arrays) -> Arrays:
        try:
            return {name: np.array(array) for name, array in self._runners[signature](**inputs).items()}
        except (RuntimeError, ValueError) as error:  # LiteRT has no classes of errors: an operator refuses its inputs
            reason = public(_NODE.sub(r": \1 ", str(error)))
            if _RESOURCES.search(reason):
                raise ModelFailed(f"LiteRT: {reason}") from error
            raise InvalidRequest(reason) from error


def load(folder: Path, device: Device) -> TfliteBackend:
    """The model in `model.tflite`. Raises `LoadError`."""
    if device.kind == "cuda":
        raise LoadError("TFLite models run on the CPU only; start the worker with --device cpu")
    try:
        interpreter = Interpreter(model_path=str(folder / "model.tflite"), num_threads=device.threads)
        backend = TfliteBackend(interpreter)
    except (RuntimeError, ValueError) as error:
        raise LoadError(f"{place(folder, 'model.tflite')}: {public(str(error), folder)}") from error
    if DEFAULT_SIGNATURE not in backend.signatures:
        raise LoadError(
            f"{place(folder, 'model.tflite')} has no signature named {DEFAULT_SIGNATURE}; convert it with one"
        )
    return backend


def _signature(runner: Any) -> Signature:
    return Signature(
        inputs=tuple(_spec(name, details) for name, details in runner.get_input_details().items()),
        outputs=tuple(_spec(name, details) for name, details in runner.get_output_details().items()),
    )


def _spec(name: str, details: dict[str, Any]) -> TensorSpec:
    shape = tuple(int(size) for size in details.get("shape_signature", details["shape"]))
    return TensorSpec(name=name, datatype=datatype_of(np.dtype(details["dtype"])), shape=shape)
