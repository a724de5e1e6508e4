"""What is counted of rows whose right answer is known, part by part, and added up in the parts' order."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from millrace.protocol.errors import InvalidRequest

BINS = 10
MOST_CLASSES = 2000  # whose matrix of pairs a report can have
_Scores = npt.NDArray[Any]


class Mistake(msgspec.Struct, frozen=True):
    """A row that was answered wrongly, and how sure the model was of it. `row` counts from 0."""

    confidence: float
    row: int
    right: int
    answered: int


class Counts(msgspec.Struct):
    """What some rows add up to.

    `pairs` counts rows by "RIGHT ANSWERED"; `bins` has, for each tenth of confidence, rows, right ones, and the sum of
    their confidence. `mistakes` are the surest ones.
    """

    pairs: dict[str, int] = {}
    bins: list[tuple[int, int, float]] = msgspec.field(default_factory=lambda: [(0, 0, 0.0)] * BINS)
    mistakes: list[Mistake] = []

    def add(self, row: int, right: int, chances: _Scores) -> None:
        """Count one row; `chances` are those that the model gives to each class."""
        answered = int(np.argmax(chances))
        confidence = float(chances[answered])
        pair = f"{right} {answered}"
        self.pairs[pair] = self.pairs.get(pair, 0) + 1
        at = min(BINS - 1, int(confidence * BINS))
        rows, hits, total = self.bins[at]
        self.bins[at] = (rows + 1, hits + (right == answered), total + confidence)
        if right != answered:
            self.mistakes.append(Mistake(confidence, row, right, answered))

    def trim(self, most: int) -> None:
        """Keep the surest mistakes alone."""
        self.mistakes = sorted(self.mistakes, key=lambda each: (-each.confidence, each.row))[:most]


def added(parts: Iterable[Counts], worst: int) -> Counts:
    """The counts of all parts together."""
    total = Counts(pairs={})
    for part in parts:
        for pair, rows in part.pairs.items():
            total.pairs[pair] = total.pairs.get(pair, 0) + rows
        zipped = zip(total.bins, part.bins, strict=True)
        total.bins = [(a[0] + b[0], a[1] + b[1], a[2] + b[2]) for a, b in zipped]
        total.mistakes = [*total.mistakes, *part.mistakes]
    total.trim(worst)
    return total


def chances_of(scores: _Scores) -> _Scores:
    """One row's scores as chances: as they are, of one score the two classes', and of others their softmax.

    Raises `InvalidRequest` where they are no numbers.
    """
    values = np.asarray(scores, np.float64)
    if not values.size or not np.isfinite(values).all():
        raise InvalidRequest("the model's scores of this row are not numbers")
    if values.size == 1:
        one = float(values[0]) if 0 <= values[0] <= 1 else float(1 / (1 + np.exp(-values[0])))
        return np.array([1 - one, one])
    if values.size > MOST_CLASSES:
        raise InvalidRequest(f"a report is for at most {MOST_CLASSES} classes, and the model has {values.size}")
    if values.min() >= 0 and abs(values.sum() - 1) < 1e-2:
        return values
    raised = np.exp(values - values.max())
    chances: _Scores = raised / raised.sum()
    return chances


def class_of(value: Any, labels: Mapping[str, int], classes: int) -> int:
    """The class that a row's right answer names: a label, or a number. Raises `InvalidRequest`."""
    if isinstance(value, str) and value in labels:
        return labels[value]
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequest(f"the right answer {repr(value)[:100]} is no label and no number of a class") from None
    if not 0 <= number < classes or number != float(value):
        raise InvalidRequest(f"the right answer {repr(value)[:100]} is no class: there are {classes}")
    return number
