"""Python code as a model: a class in `model.py` that loads and predicts. Only where the operator allows code.

It runs in a process of its own (`OWN_PROCESS`), in a new interpreter. What it says of its tensors and its rows is taken
at its word: there is no trial, and no run on made-up numbers; it may warm itself up in `load`.
"""

import inspect
import logging
import os
import threading
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from millrace.model import Models
from millrace.protocol.errors import DeadlineExceeded, ModelFailed, Unavailable
from millrace.protocol.tensors import DEFAULT_SIGNATURE
from worker.backends.base import Arrays, Device, LoadError, ends_the_program
from worker.backends.texts import place, public
from worker.python import requirements, source, values
from worker.python.declaration import Declaration, DeclarationError, read
from worker.python.loop_thread import LoopThread

_log = logging.getLogger(__name__)
_MAY_PASS = (Unavailable, DeadlineExceeded, ConnectionError, TimeoutError)


class PythonBackend:
    """An instance of a model's class. No more calls run at once than the class declares (`concurrency`)."""

    platform = "python"
    fault = ""
    mixed_rows: Mapping[str, str] = {}
    axes: Mapping[str, Sequence[str]] = {}
    keeps_state = ""

    def __init__(self, model: Any, declaration: Declaration, loop: LoopThread) -> None:
        self._model = model
        self._declaration = declaration
        self._loop = loop
        self._pid = os.getpid()
        self._slots = threading.Semaphore(declaration.concurrency)
        self.batching = declaration.batching
        self.instances = declaration.concurrency
        self.labels: Sequence[str] = declaration.labels
        self.signatures = {DEFAULT_SIGNATURE: declaration.signature}
        self.notes: Sequence[str] = (_how_rows_run(declaration),)

    def run(self, signature: str, inputs: Arrays) -> Arrays:  # noqa: ARG002 - such a model has one signature
        """See `Backend`. Code says `InvalidRequest` where its caller is to blame, and `RowErrors` of some rows."""
        if not self.batching.max_batch_size:
            return self._called(inputs, None)
        rows = len(next(iter(inputs.values())))
        if rows == 1 or not self._declaration.is_row_by_row:
            return self._called(inputs, rows)
        answers = [self._called({name: array[i : i + 1] for name, array in inputs.items()}, 1) for i in range(rows)]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def _called(self, inputs: Arrays, rows: int | None) -> Arrays:
        given = values.given(self._declaration.inputs, inputs)
        with self._slots:
            answer = self._model.predict(**given)
            if inspect.isawaitable(answer):
                answer = self._loop.submit(_guarded(answer)).result()
        if os.getpid() != self._pid:  # a copy of the process that the code has forked and not ended
            os._exit(0)
        return values.returned(self._declaration.outputs, answer, rows)

    def close(self) -> None:
        """See `Backend`. Calls the model's `close`, if it has one."""
        if callable(close := getattr(self._model, "close", None)):
            try:
                closed = close()
                if inspect.isawaitable(closed):
                    self._loop.submit(_guarded(closed)).result()
            except Exception:
                _log.exception("a model's code failed to close")
        self._loop.close()


async def _guarded(work: Awaitable[Any]) -> Any:
    """The outcome; what would end the program, and so the loop, fails the work alone."""
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise ModelFailed(f"{type(error).__name__}: {error}") from error


def load(folder: Path, device: Device, models: Models) -> PythonBackend:
    """The model in `model.py`; `models` is its way to others. Raises `LoadError`."""
    _check_requirements(folder)
    cls = source.model_class(source.imported(folder), folder)
    try:
        declaration = read(cls)
    except DeclarationError as error:
        raise LoadError(f"{place(folder, source.FILE)}: class {cls.__name__}: {error}") from error
    loop = LoopThread("async code")
    try:
        model = cls()
        if callable(getattr(model, "load", None)):
            _call_load(model.load, {"folder": folder, "device": device.name, "models": models}, loop)
    except BaseException as error:
        if ends_the_program(error):
            raise
        _log.exception("a model's code failed to load")
        reason = source.told(error, folder)
        can_retry = isinstance(error, _MAY_PASS)
        raise LoadError(f"{place(folder, source.FILE)}: {reason}", can_retry=can_retry) from error
    return PythonBackend(model, declaration, loop)


def _check_requirements(folder: Path) -> None:
    try:
        unmet = requirements.unmet(folder)
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{place(folder, requirements.FILE)}: {public(str(error), folder)}") from error
    if unmet:
        raise LoadError(
            f"{place(folder, requirements.FILE)} asks for what the worker's Python has not: {'; '.join(unmet)}"
        )


def _call_load(load: Any, offered: Mapping[str, Any], loop: LoopThread) -> None:
    """Call it with what it has parameters for."""
    parameters = inspect.signature(load).parameters.values()
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
    names = {each.name for each in parameters}
    loaded = load(**{name: value for name, value in offered.items() if takes_all or name in names})
    if inspect.isawaitable(loaded):
        loop.submit(_guarded(loaded)).result()


def _how_rows_run(declaration: Declaration) -> str:
    most = declaration.batching.max_batch_size
    if most == 0:
        return "Requests are not batched: the model's code takes each one as it is."
    words = "Rows run one by one" if most == 1 else f"Batches have at most {most} rows"
    return f"{words}: the model's code says so."
