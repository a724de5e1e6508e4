"""A model's answer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_ENTRY = re.compile(r'(?:[^,"]|"[^"]*")+')
_DURATION = re.compile(r';\s*dur\s*=\s*"?(\d+(?:\.\d+)?)', re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """The outputs for the rows that were asked about, in their order.

    `outputs` holds an array by output name; text outputs are arrays of `str` objects. `version` is the version that
    answered, as the server writes it, None where the answer does not say. `timings` are the parts of the server's time
    (its Server-Timing header) in milliseconds, empty where it sent none.
    """

    model: str
    version: str | None
    outputs: Mapping[str, Array]
    labels: tuple[str, ...] = ()
    request_id: str | None = None
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_labelled(self) -> bool:
        """Whether the model has labels and an output with one number for each, so that `top` has an answer."""
        return self._scores() is not None

    def best(self) -> list[tuple[str, float]]:
        """The most probable label of each row with its probability. Raises `ValueError` like `top`."""
        return [row[0] for row in self.top(1)]

    def top(self, k: int = 3) -> list[list[tuple[str, float]]]:
        """For each row its `k` most probable (label, probability), best first.

        Raises `ValueError` where the answer is not labelled.
        """
        if (scores := self._scores()) is None:
            raise ValueError(f"model {self.model!r} has no labels, or no output with one number for each of them")
        order = np.argsort(-scores, axis=1, kind="stable")[:, : max(k, 0)]
        return [
            [(self.labels[i], float(row[i])) for i in indices.tolist()]
            for row, indices in zip(scores, order, strict=True)
        ]

    def _scores(self) -> Array | None:
        for array in self.outputs.values():
            if self.labels and array.ndim == 2 and array.shape[1] == len(self.labels) and array.dtype.kind == "f":
                return array
        return None


def timings_of(server_timing: str) -> dict[str, float]:
    """Milliseconds by name from a Server-Timing header; entries without a duration are left out."""
    timings = {}
    for entry in _ENTRY.findall(server_timing):
        if duration := _DURATION.search(entry):
            timings[entry.partition(";")[0].strip()] = float(duration[1])
    return timings
