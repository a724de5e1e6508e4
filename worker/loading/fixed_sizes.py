"""A model once for each of a few sizes of a batch, for runtimes that prepare themselves for each shape anew.

ONNX Runtime does on a GPU: whenever a run has another shape than the session's run before, it plans each convolution
again, which takes a tenth of a second for fifty of them, where the run itself takes some milliseconds. Batches differ
in size from run to run. So there is a session for each size, which sees no other, and a batch is filled up to the next
size with copies of its last row, whose answers are dropped.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from worker.backends.base import Arrays, Backend
from worker.backends.texts import reason_of

_log = logging.getLogger(__name__)
_MOST_SIZES = 8  # each holds the model's weights


class FixedSizes:
    """The backends by how many rows they run, each with the same model."""

    def __init__(self, backends: Mapping[int, Backend]) -> None:
        self._backends = dict(sorted(backends.items()))

    def filled(self, parts: Sequence[Arrays]) -> Sequence[Arrays]:
        """The parts of a batch, and copies of the last row until there are as many rows as one of the sizes."""
        rows = sum(len(next(iter(part.values()))) for part in parts)
        size = next((size for size in self._backends if size >= rows), rows)
        if size == rows:
            return parts
        copies = {
            name: np.broadcast_to(array[-1:], (size - rows, *array.shape[1:])) for name, array in parts[-1].items()
        }
        return [*parts, copies]

    def of(self, rows: int) -> Backend | None:
        """The backend for batches of exactly so many rows."""
        return self._backends.get(rows)

    def close(self) -> None:
        """Give back what the models hold; nothing runs any more."""
        for backend in self._backends.values():
            backend.close()


def sizes_up_to(most: int) -> list[int]:
    """The sizes for batches of up to so many rows: that, and its halves."""
    sizes = [most]
    while sizes[-1] > 1 and len(sizes) < _MOST_SIZES:
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


def load(make: Callable[[], Backend], most: int, signature: str, row: Arrays) -> FixedSizes:
    """Load and warm up a model for each size of up to `most` rows; `row` is one that it runs.

    A size for which there is no memory is left out, and the smaller ones are tried all the same.
    """
    backends: dict[int, Backend] = {}
    for size in sizes_up_to(most):
        try:
            backends[size] = make()
            backends[size].run(signature, {name: np.repeat(array, size, axis=0) for name, array in row.items()})
        except Exception as error:  # whatever the runtime raises, for memory most of all
            _log.warning("a model is not ready for a size of batches", extra={"rows": size, "reason": reason_of(error)})
            if failed := backends.pop(size, None):
                failed.close()
    return FixedSizes(backends)
