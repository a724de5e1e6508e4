"""A trial at load: may rows of several requests run together? Different sample rows run apart and together.

A free first dimension does not say that rows are independent: a softmax over it, a dynamic quantization or time as the
first axis mixes rows. Nor do rows that were padded to the longest of a batch always keep their answers. So both are
shown by runs: every row's answer must be the same alone and among others, cut to the row's own length where an output
has the padded axis. The others are samples first, then rows of very large numbers, of zeros and of NaN, which change
whatever is computed over the batch, and at last as many as a batch may have.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.protocol.errors import DeadlineExceeded, ModelFailed, Unavailable
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature
from worker.backends.base import Arrays, Backend, Device
from worker.backends.texts import reason_of
from worker.loading.budget import Budget, Run
from worker.loading.samples import SCALES, Subject
from worker.preprocessing.preparation import Preparation

_Alike = Callable[[npt.NDArray[Any], npt.NDArray[Any]], bool]
# What neighbours are filled with, by kinds of numbers (NumPy's letters). Whole numbers may be places in a table.
_EXTREMES = (("f", 1e6), ("f", 0.0), ("f", np.nan), ("iu", 250), ("iu", 0))
# Of a row's largest number: runs of another size round differently, most where a GPU computes with TF32.
_TOLERANCES = {"f2": 2e-2, "f4": 1e-4, "f8": 1e-6}
_ON_GPU, _WITH_TF32 = {"f4": 5e-4}, {"f4": 5e-3}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a model's trial showed. `reason` says why rows must not run together, "" where they may.

    `length_axes` are, by signature, the outputs that have the padded axis, and which one it is: there every row's
    answer is as long as the row was before padding. `rows` is the largest batch that ran, and `lacked` why no larger
    one did: what "larger ones" do.
    """

    reason: str = ""
    length_axes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    rows: int = 0
    lacked: str = ""


class _NotShown(Exception):
    """This sample shows nothing: the model cannot run it, or answers every row alike."""


class _Dependent(Exception):
    """A row's answer changed with the rows beside it."""


def of_model(
    backend: Backend,
    signatures: Mapping[str, Signature],
    preparation: Preparation,
    max_batch_size: int,
    device: Device | None = None,
    *,
    subjects: Mapping[str, Subject] | None = None,
    budget: Budget | None = None,
) -> Evidence:
    """Try each of these signatures of a model, as callers see them, on up to three rows, then on larger batches.

    `subjects` are what to try of each one, by default what its graph says. A signature that takes serialized examples
    is not tried: it answers example by example. Raises `Unavailable` or `DeadlineExceeded` when the model depends on
    something that is away.
    """
    budget = budget or Budget()
    length_axes, largest, lacked = {}, max_batch_size, ""
    alike = partial(_are_alike, _tolerances(device or Device()))
    for name, signature in signatures.items():
        if max_batch_size < 2 or signature.examples_input:
            continue
        subject = subjects[name] if subjects else _subject(backend.signatures[name], preparation)
        run = budget.watched(partial(_run, backend, name, [spec.name for spec in signature.outputs]))
        try:
            trial = _tried(run, alike, subject, max_batch_size, budget)
            rows, lack = trial.grow(max_batch_size, budget)
        except (_NotShown, _Dependent) as error:
            return Evidence(str(error) if name == DEFAULT_SIGNATURE else f"signature {name!r}: {error}")
        if rows < largest:
            largest, lacked = rows, lack
        if trial.axes:
            length_axes[name] = trial.axes
    return Evidence(length_axes=length_axes, rows=largest, lacked=lacked)


def _tolerances(device: Device) -> dict[str, float]:
    if device.kind == "cpu":
        return _TOLERANCES
    return _TOLERANCES | (_WITH_TF32 if device.tf32 else _ON_GPU)


def _subject(signature: Signature, preparation: Preparation) -> Subject:
    return Subject(signature=signature, preparation=preparation, axes={})


def _run(backend: Backend, signature: str, outputs: Sequence[str], inputs: Arrays) -> Arrays:
    answers = backend.run(signature, inputs)
    return {name: np.asarray(answers[name]) for name in outputs}


def _tried(run: Run, alike: _Alike, subject: Subject, max_rows: int, budget: Budget) -> "_Trial":
    """The trial of the first telling sample, which shows that rows are independent. Raises this file's errors."""
    error = _NotShown("it has no inputs")
    for rows in _samples(subject, min(len(SCALES), max_rows)):
        trial = _Trial(run, alike, rows, subject.preparation, budget)
        try:
            trial.compare()
        except _NotShown as shows_nothing:
            error = shows_nothing
            if budget.is_spent:
                raise
            continue
        except _Dependent:
            if trial.repeats():
                raise
            raise _NotShown("its answers to one row differ from run to run, so a trial shows nothing") from None
        return trial
    raise error


def _samples(subject: Subject, count: int) -> Iterator[list[Arrays]]:
    if given := subject.given_rows(count):
        yield given
    if subject.required:
        for guess in subject.guesses():
            yield subject.rows(guess, count)


class _Trial:
    """A few rows whose answers alone are known; `axes` are the length axes that they show."""

    def __init__(
        self, run: Run, alike: _Alike, rows: Sequence[Arrays], preparation: Preparation, budget: Budget
    ) -> None:
        self._run = run
        self._alike = alike
        self._rows = rows
        self._preparation = preparation
        self._budget = budget
        self._lengths = [preparation.length(row) for row in rows]
        self._alone: list[Arrays] = []
        self.axes: Mapping[str, int] = {}

    def compare(self) -> None:
        """Run the rows apart and together. Raises `_Dependent` for rows that depend on one another, or `_NotShown`."""
        rows, lengths, preparation = self._rows, self._lengths, self._preparation
        self._alone = [self._answer(rows[0], _NotShown)]
        if lacked := self._budget.lacks(2 * len(rows), lambda: self._run(rows[0])):
            raise _NotShown(f"a trial {lacked}")
        self._alone += [self._answer(row, _NotShown) for row in rows[1:]]
        together = self._together(range(len(rows)))
        self.axes = {
            name: axis for name in together if (axis := _length_axis(name, self._alone, together[name], lengths))
        }
        self._check(together, range(len(rows)))
        if preparation.pads and len(rows) > 1:  # a request of two rows, padded to its own longest
            pair = self._answer(preparation.joined(rows[:2]), _Dependent)
            _compare(self._alike, pair, together, slice(0, 2), max(lengths[:2]), self.axes)
        if len(rows) > 1 and all(
            self._alike(self._alone[0][name], other[name]) for other in self._alone[1:] for name in self._alone[0]
        ):
            raise _NotShown("its answers to different samples are the same, which shows nothing")
        self._compare_beside_extremes()

    def repeats(self) -> bool:
        """Whether a row's answer is the same twice: else a trial shows nothing of other rows."""
        one, other = self._run(self._rows[0]), self._run(self._rows[0])
        return all(self._alike(one[name], other[name]) for name in one)

    def grow(self, max_rows: int, budget: Budget) -> tuple[int, str]:
        """Compare in larger and larger batches: how many rows the largest had, and why no larger one ran.

        Raises `_Dependent`.
        """
        rows = len(self._rows)
        again: Callable[[], object] = partial(self._together, range(rows))
        while rows < max_rows:
            larger = min(2 * rows, max_rows)
            if lacked := budget.lacks(larger / rows, again):
                return rows, lacked
            places = [i % len(self._rows) for i in range(larger)]
            try:
                together = self._together(places)
            except MemoryError:
                return rows, "have no memory"
            except _Dependent as error:
                if isinstance(error.__cause__, ModelFailed):  # the model, and not what it was asked
                    return rows, f"fail: {reason_of(error.__cause__)}"
                raise
            self._check(together, places)
            rows, again = larger, partial(self._together, places)
        return rows, ""

    def _together(self, places: Sequence[int]) -> Arrays:
        together = self._answer(self._preparation.joined([self._rows[place] for place in places]), _Dependent)
        for name, array in together.items():
            if array.shape[:1] != (len(places),):
                raise _Dependent(f"output {name!r} has shape {list(array.shape)} for {len(places)} rows")
        return together

    def _check(self, together: Arrays, places: Sequence[int]) -> None:
        for i, place in enumerate(places):
            _compare(self._alike, self._alone[place], together, slice(i, i + 1), self._lengths[place], self.axes)

    def _compare_beside_extremes(self) -> None:
        """The first row's answer beside rows that callers may send, too; a model that fails on them shows nothing."""
        for kinds, number in _EXTREMES:
            extreme = {name: self._filled(name, array, kinds, number) for name, array in self._rows[0].items()}
            if all(extreme[name] is array for name, array in self._rows[0].items()):
                continue
            try:
                together = self._answer(self._preparation.joined([extreme, self._rows[0], extreme]), _NotShown)
            except _NotShown:
                continue
            if any(array.shape[:1] != (3,) for array in together.values()):
                raise _Dependent("its answers to rows of extreme numbers are not as many as the rows")
            _compare(self._alike, self._alone[0], together, slice(1, 2), self._lengths[0], self.axes)

    def _filled(self, name: str, array: npt.NDArray[Any], kinds: str, number: float) -> npt.NDArray[Any]:
        """The array with that number everywhere, signs alternating; itself where it is of another kind, or of ids."""
        if array.dtype.kind not in kinds or self._preparation.ids(name) is not None:
            return array
        if array.dtype.kind in "iu":
            return np.full_like(array, min(int(number), np.iinfo(array.dtype).max))
        signs = np.where(np.arange(array.size) % 2, -1.0, 1.0).reshape(array.shape)
        with np.errstate(over="ignore"):
            return np.asarray(signs * number).astype(array.dtype)

    def _answer(self, inputs: Arrays, kind: type[_NotShown] | type[_Dependent]) -> Arrays:
        try:
            return self._run(inputs)
        except (Unavailable, DeadlineExceeded, MemoryError):
            raise
        except Exception as error:  # whatever the runtime raises
            rows = max((len(array) for array in inputs.values() if array.ndim), default=0)
            raise kind(f"the model fails on {rows} sample rows: {reason_of(error)}") from error


def _length_axis(name: str, alone: Sequence[Arrays], together: npt.NDArray[Any], lengths: Sequence[int]) -> int:
    """The axis of the output that is as long as the row, 0 where its size does not depend on the length."""
    shapes = [answer[name].shape for answer in alone]
    if any(len(shape) != together.ndim for shape in shapes):
        raise _Dependent(f"output {name!r} has another number of axes for several rows")
    differing = [
        axis for axis in range(1, together.ndim) if any(shape[axis] != together.shape[axis] for shape in shapes)
    ]
    if not differing:
        return 0
    axis = differing[0]
    follows = [shape[axis] for shape in shapes] == list(lengths) and together.shape[axis] == max(lengths)
    if len(differing) > 1 or not follows:
        raise _Dependent(f"output {name!r} changes its shape with the rows beside it")
    return axis


def cut(array: npt.NDArray[Any], axis: int, length: int) -> npt.NDArray[Any]:
    """The first `length` places of that axis, without a copy; everything where `axis` is 0."""
    return array[(slice(None),) * axis + (slice(0, length),)] if axis else array


def _compare(
    alike: _Alike, answer: Arrays, together: Arrays, rows: slice, length: int, axes: Mapping[str, int]
) -> None:
    for name, array in together.items():
        expected, found = answer[name], cut(array[rows], axes.get(name, 0), length)
        if not alike(expected, found):
            raise _Dependent(f"output {name!r} of a sample row changes with the rows beside it")


def _are_alike(tolerances: Mapping[str, float], one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    if one.shape != other.shape:
        return False
    if (tolerance := tolerances.get(one.dtype.str[1:])) is None:
        return bool(np.array_equal(one, other))
    finite = np.abs(one[np.isfinite(one)])
    return np.allclose(one, other, rtol=0, atol=tolerance * float(finite.max(initial=0.0)), equal_nan=True)
