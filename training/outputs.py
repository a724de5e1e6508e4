"""One output of a model, compared in two runs of it: what was seen of the differences, and whether they are too large.

An output is of one kind, which says what its values are for, and so what an exported format may do to them:

    numbers   prices, coordinates, boxes, embeddings, pixels: how far off they are
    classes   a distribution, or scores of which the largest is the answer: whether the answer is the same
    labels    probabilities of labels that exclude one another not: on which side of one half each is
    ids       candidates in the order of their scores: whether the first is the same
    exact     whole numbers, booleans and texts: whether each is the same

The kind is guessed from the values (`Seen.kind`) unless it is said. Formats with 32-bit weights repeat the model's own
computation, so whatever the kind, their floats may differ by rounding only. Formats with rounded weights are judged by
what their answers are for.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from training import confidence

RTOL = 1e-4  # 32-bit floats have 6e-8; sums of thousands in another order, and other exp and tanh, lose the rest
ATOL = 1e-4  # of a column's root mean square: where large terms cancel, what is left has their error
LEAST_ATOL = 1e-6  # where a whole column is next to nothing, it is rounding
OF_SPREAD = 0.05  # 8-bit weights: the error beside the data's standard deviation; 99.75 % of the variance is kept
OF_SPREAD_16 = 0.01  # 16-bit weights: they have three digits
OTHER_ANSWERS = 0.003  # rounded weights: the part of the answers that may be another
OTHER_VALUES = 1e-4  # 32-bit weights: whole numbers that come from comparing scores, two of which are next to equal
OTHER_IDS = 0.01  # candidates whose scores are next to equal change places
OFF_PROBABILITY = 0.05  # root mean square, of labels' probabilities
_UNDECIDED = 0.01  # two probabilities as close as that are no decision; of scores, a part of their spread
_FEW = 8  # rows, whose spread says nothing: then numbers are compared with their own size

Array = npt.NDArray[Any]


class Kind(StrEnum):
    """What the values of an output are for; see the module."""

    NUMBERS = "numbers"
    CLASSES = "classes"
    LABELS = "labels"
    IDS = "ids"
    EXACT = "exact"


@dataclass(slots=True)
class Seen:
    """What was seen of one output, batch after batch. Arrays have one place for each column (the last axis)."""

    name: str
    dtype: str = ""
    rank: int = 0
    values: int = 0
    rows: int = 0
    other_values: int = 0
    decisions: int = 0
    other_decisions: int = 0
    sides: int = 0
    other_sides: int = 0
    first_ids: int = 0
    other_first_ids: int = 0
    max_abs_difference: float = 0.0
    nans: int = 0
    other_finiteness: int = 0
    is_distribution: bool = True
    is_in_unit: bool = True
    is_ranked: bool = False
    columns: "Columns | None" = None

    def add(self, wanted: Array, found: Array) -> None:
        """Compare one batch; both have the same shape and kind of type."""
        self.dtype, self.rank = wanted.dtype.name, wanted.ndim
        self.values += wanted.size
        self.rows += wanted.shape[0] if wanted.ndim else 1
        if wanted.dtype.kind == "f":
            self._add_floats(wanted.astype(np.float64), found.astype(np.float64))
        elif wanted.size:
            if wanted.dtype.kind in "iu":
                self._add_columns(wanted.astype(np.float64), np.abs(wanted.astype(np.float64) - found))
            differ = wanted != found
            self.other_values += int(np.count_nonzero(differ))
            first = differ[..., 0] if wanted.ndim > 1 else differ
            self.first_ids += first.size
            self.other_first_ids += int(np.count_nonzero(first))

    def kind(self) -> Kind:
        """What the values look like."""
        if not self.is_float:
            return Kind.IDS if self.is_ranked else Kind.EXACT
        if self.values and self.is_distribution and self.rank > 1:
            return Kind.CLASSES
        is_narrow = self.rank == 1 or self.rank == 2
        return Kind.LABELS if self.values and self.is_in_unit and is_narrow else Kind.NUMBERS

    def fitting(self, said: Kind) -> Kind:
        """The kind that is said, as far as such values can be of it: a class is a row of floats, or a whole number."""
        if self.is_float:
            if said is Kind.CLASSES and not self.decisions:
                return Kind.LABELS
            return Kind.EXACT if said is Kind.IDS else said
        is_number = said is Kind.NUMBERS and self.columns is not None
        return said if said is Kind.IDS or is_number else Kind.EXACT

    @property
    def is_float(self) -> bool:
        """Whether the output holds floats."""
        return self.dtype.startswith(("float", "bfloat"))

    def same_answers(self, kind: Kind) -> float | None:
        """The part of the answers that are the trained model's; None where the values are no answers."""
        differ, count = self._answers(kind)
        return None if kind is Kind.NUMBERS or not count else 1 - differ / count

    def relative_error(self) -> float | None:
        """The largest error of a column beside the spread of its values; None where there are no floats."""
        return None if self.columns is None else self.columns.relative_error(self.rows)

    def missed(self, kind: Kind, *, is_exact: bool, of_spread: float) -> str:
        """What is wrong with the output, in a sentence; empty where it may be published."""
        if self.other_finiteness:
            what = "are NaN or infinite in one of the two models only"
            return f"output '{self.name}' differs from the trained model by nan: {self.other_finiteness} values {what}"
        if kind is Kind.NUMBERS or (self.is_float and (is_exact or kind is Kind.EXACT)):
            return self._missed_numbers(is_exact=is_exact or kind is Kind.EXACT, of_spread=of_spread)
        return self._missed_answers(kind, is_exact=is_exact) or self._missed_probabilities(kind)

    def _add_floats(self, wanted: Array, found: Array) -> None:
        is_nan = np.isnan(wanted)
        self.nans += int(is_nan.sum())
        is_finite = np.isfinite(wanted) & np.isfinite(found)
        equal = (wanted == found) | (is_nan & np.isnan(found))
        self.other_finiteness += int((~is_finite & ~equal).sum())
        clean, other = np.where(is_finite, wanted, 0.0), np.where(is_finite, found, 0.0)
        if not wanted.size:
            return
        difference = np.abs(clean - other)
        self.max_abs_difference = max(self.max_abs_difference, float(difference.max()))
        self.is_in_unit &= bool(((clean >= 0) & (clean <= 1)).all())
        if wanted.ndim > 1 and wanted.shape[-1] > 1:
            self._add_rows(clean, other)
        else:
            self.is_distribution = False
        self.sides += clean.size
        self.other_sides += int((((clean > 0.5) != (other > 0.5)) & (np.abs(clean - 0.5) > _UNDECIDED)).sum())
        self._add_columns(clean, difference)

    def _add_columns(self, values: Array, differences: Array) -> None:
        seen = Columns.of(values, differences)
        self.columns = seen if self.columns is None else self.columns.with_more(seen)

    def _add_rows(self, wanted: Array, found: Array) -> None:
        is_one = np.abs(wanted.sum(axis=-1) - 1) < 1e-3
        self.is_distribution &= bool(is_one.all()) and bool((wanted >= 0).all())
        margin = _UNDECIDED if self.is_distribution else _UNDECIDED * float(wanted.std())
        answer, other = wanted.argmax(axis=-1)[..., None], found.argmax(axis=-1)[..., None]
        gap = np.take_along_axis(wanted, answer, -1) - np.take_along_axis(wanted, other, -1)
        self.decisions += answer.size
        self.other_decisions += int((gap > margin).sum())

    def _answers(self, kind: Kind) -> tuple[int, int]:
        """How many of the answers differ, and how many there are."""
        return {
            Kind.CLASSES: (self.other_decisions, self.decisions),
            Kind.LABELS: (self.other_sides, self.sides),
            Kind.IDS: (self.other_first_ids, self.first_ids),
            Kind.EXACT: (self.other_values, self.values),
            Kind.NUMBERS: (0, 0),
        }[kind]

    def _missed_numbers(self, *, is_exact: bool, of_spread: float) -> str:
        if self.columns is None:
            return ""
        differs = f"output '{self.name}' differs from the trained model by {self.max_abs_difference:.2g}"
        if is_exact:
            beyond = self.columns.beyond()
            allowed = f"; at most {RTOL:g} of a value and {ATOL:g} of its column's root mean square are allowed"
            return differs + allowed if beyond else ""
        error = self.columns.relative_error(self.rows)
        return "" if error <= of_spread else f"{differs}, {error:.1%} of the data's spread; {of_spread:.0%} are allowed"

    def _missed_answers(self, kind: Kind, *, is_exact: bool) -> str:
        differ, count = self._answers(Kind.EXACT if is_exact else kind)
        allowed = OTHER_IDS if kind is Kind.IDS else OTHER_VALUES if is_exact else OTHER_ANSWERS
        if self.dtype.startswith(("object", "str", "bytes")):
            allowed = 0.0  # no rounding makes another text
        if not confidence.shows_more(differ, count, allowed, one_is_none=not is_exact):
            return ""
        what = "values" if is_exact or kind is Kind.EXACT else "answers"
        only = f"output '{self.name}': only {1 - differ / count:.2%} of the {what} are the trained model's"
        return f"{only}; {1 - allowed:.2%} are needed"

    def _missed_probabilities(self, kind: Kind) -> str:
        if kind is not Kind.LABELS or self.columns is None:
            return ""
        error = self.columns.root_mean_square_error()
        off = (
            f"output '{self.name}': the probabilities are off by {error:.3f} on average; {OFF_PROBABILITY} are allowed"
        )
        return off if error > OFF_PROBABILITY else ""


@dataclass(frozen=True, slots=True)
class Columns:
    """Sums over the rows, for each column: of values, of squares, of squared errors; and the largest excess.

    The excess is how much a difference is beyond `RTOL` of its value.
    """

    count: int
    total: Array
    squares: Array
    errors: Array
    excess: Array

    @classmethod
    def of(cls, values: Array, differences: Array) -> "Columns":
        """The sums of one batch."""
        width = values.shape[-1] if values.ndim > 1 else 1
        columns, off = values.reshape(-1, width), differences.reshape(-1, width)
        excess = (off - RTOL * np.abs(columns)).max(axis=0)
        return cls(len(columns), columns.sum(axis=0), (columns**2).sum(axis=0), (off**2).sum(axis=0), excess)

    def with_more(self, other: "Columns") -> "Columns":
        """Both together; as one column, where they have not as many."""
        if self.total.shape != other.total.shape:
            return self._as_one().with_more(other._as_one())
        return Columns(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            self.errors + other.errors,
            np.maximum(self.excess, other.excess),
        )

    def beyond(self) -> bool:
        """Whether a value differs by more than `RTOL` of it and `ATOL` of its column's root mean square."""
        allowed = np.maximum(ATOL * np.sqrt(self.squares / self.count), LEAST_ATOL)
        return bool((self.excess > allowed).any())

    def relative_error(self, rows: int) -> float:
        """The root mean square error beside the standard deviation, of the column where it is largest."""
        square = self.squares / self.count
        spread = np.sqrt(np.maximum(square - (self.total / self.count) ** 2, 0))
        if rows < _FEW:
            spread = np.maximum(spread, np.sqrt(square))
        floor = max(0.01 * float(np.sqrt(square.mean())), LEAST_ATOL)  # of columns that hold next to nothing
        return float((np.sqrt(self.errors / self.count) / np.maximum(spread, floor)).max())

    def root_mean_square_error(self) -> float:
        """Over all columns."""
        return float(np.sqrt((self.errors / self.count).mean()))

    def _as_one(self) -> "Columns":
        total, squares, errors = (np.array([part.sum()]) for part in (self.total, self.squares, self.errors))
        return Columns(self.count * len(self.total), total, squares, errors, np.array([self.excess.max()]))
