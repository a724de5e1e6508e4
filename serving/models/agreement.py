"""Whether a shadow answers as the version whose request was copied: compared row by row, off the event loop.

    classes (floats, one for each label)    the same class is the most probable
    other floats                            no further apart than a hundredth, or 0.001 near 0
    all else                                equal

A row agrees where all its outputs do. The rows of a copy that its version refuses, or fails with, differ where the
caller's request is answered. Answers that are large, or come while many are compared, are left out.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.protocol.errors import DeadlineExceeded, MillraceError, QueueFull, Unavailable
from millrace.protocol.tensors import Tensor
from serving.models.registry import ServedModel
from serving.queueing.requests import size_of

Outputs = Mapping[str, Tensor]
Count = Callable[[int, int], None]  # of the rows that agree, and of those that differ
_log = logging.getLogger(__name__)
_LARGEST_BYTES = 1_000_000
_MOST_AT_ONCE = 16
_OF_THE_LOAD = (QueueFull.status, Unavailable.status, DeadlineExceeded.status)
_RELATIVE, _ABSOLUTE = 0.01, 0.001
_Array = npt.NDArray[Any]


class Comparisons:
    """Compares in threads, a few at a time. `left_out` counts answers that were not compared."""

    def __init__(self) -> None:
        self.left_out = 0
        self._running = 0

    def begin(self, model: ServedModel, rows: int, count: Count) -> "Comparison":
        """Of one request, of so many rows, and its copy for that shadow."""
        return Comparison(self, model, rows, count)

    def compare(self, model: ServedModel, mine: Outputs, copied: Outputs, count: Count) -> None:
        """Compare two answers, and tell the rows that agree and differ later, on the event loop."""
        if self._running >= _MOST_AT_ONCE or size_of(mine) + size_of(copied) > _LARGEST_BYTES:
            self.left_out += 1
            return

        def done(future: "asyncio.Future[tuple[int, int]]") -> None:
            self._running -= 1
            if future.cancelled():
                return
            if error := future.exception():
                _log.error("a shadow's answer could not be compared", exc_info=error, extra={"model": model.name})
                return
            count(*future.result())

        self._running += 1
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, agreeing, model, mine, copied).add_done_callback(done)


class Comparison:
    """One request's answer and its copy's, in whichever order they come; a request that fails ends it."""

    __slots__ = ("_comparisons", "_copied", "_count", "_has_failed", "_mine", "_model", "_rows")

    def __init__(self, comparisons: Comparisons, model: ServedModel, rows: int, count: Count) -> None:
        self._comparisons = comparisons
        self._model = model
        self._rows = rows if model.max_batch_size else 1
        self._has_failed = False
        self._count = count
        self._mine: Outputs | None = None
        self._copied: Outputs | None = None

    def answered(self, outputs: Outputs) -> None:
        """The caller's request has its answer."""
        self._mine = outputs
        self._look()

    def copy_answered(self, outputs: Outputs) -> None:
        """The copy has its answer."""
        self._copied = outputs
        self._look()

    def copy_failed(self, error: MillraceError) -> None:
        """The copy has an error in the place of an answer. One of the load says nothing of the version."""
        self._has_failed = error.status not in _OF_THE_LOAD
        self._look()

    def _look(self) -> None:
        if self._mine is not None and self._has_failed:
            self._count(0, self._rows)
        elif self._mine is not None and self._copied is not None:
            self._comparisons.compare(self._model, self._mine, self._copied, self._count)


def agreeing(model: ServedModel, mine: Outputs, copied: Outputs) -> tuple[int, int]:
    """How many rows agree, and how many differ."""
    rows = next((tensor.shape[0] for tensor in mine.values() if tensor.shape), 1) if model.max_batch_size else 1
    if mine.keys() != copied.keys():
        return 0, rows
    agree = np.ones(rows, np.bool_)
    for name, tensor in mine.items():
        agree &= _agree(tensor.to_numpy(), copied[name].to_numpy(), rows, len(model.announcement.labels))
    agreed = int(np.count_nonzero(agree))
    return agreed, rows - agreed


def _agree(mine: _Array, copied: _Array, rows: int, labels: int) -> _Array:
    """Of each row, whether it agrees in this output."""
    if mine.shape != copied.shape or mine.dtype.kind != copied.dtype.kind:
        return np.zeros(rows, np.bool_)
    if mine.dtype.kind != "f":
        same = mine == copied
    elif labels > 1 and mine.ndim > 1 and mine.shape[-1] == labels:
        same = mine.argmax(-1) == copied.argmax(-1)
    else:
        same = np.isclose(copied.astype(np.float64), mine.astype(np.float64), _RELATIVE, _ABSOLUTE, equal_nan=True)
    return np.asarray(np.all(np.reshape(same, (rows, -1)), axis=1))
