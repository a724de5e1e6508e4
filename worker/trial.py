"""A trial at load: may rows of several requests run together? Different sample rows run apart and together.

A free first dimension does not say that rows are independent: a softmax over it, a dynamic quantization or time as the
first axis mixes rows. Nor do rows that were padded to the longest of a batch always keep their answers. So both are
shown by runs: every row's answer must be the same alone and among others, cut to the row's own length where an output
has the padded axis.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.protocol.errors import DeadlineExceeded, Unavailable
from millrace.protocol.tensors import BYTES, DEFAULT_SIGNATURE, DTYPES, Signature, TensorSpec
from worker.backends.base import Arrays, Backend, Device
from worker.preprocess import Preparation

_Run = Callable[[Arrays], Arrays]
_Alike = Callable[[npt.NDArray[Any], npt.NDArray[Any]], bool]
_LENGTHS = (5, 2, 11)  # of the sample rows, where rows may differ in length
_SCALES = (1.0, 8.0, 0.25)  # of the sample rows' numbers: what is computed over a batch shows where rows differ in size
_GUESSES = ((4, 10), (1, 10), (4, 2), (1, 2))  # sizes of free axes, and what whole numbers stay below
_WORDS, _NUMERALS = (b"a", b"good film", b"it's", b"B"), (b"7", b"1", b"22", b"3")
# Of a row's largest number, by device: runs of another size round differently, most where a GPU computes with TF32.
_TOLERANCES = {
    "cpu": {"f2": 2e-2, "f4": 1e-4, "f8": 1e-6},
    "cuda": {"f2": 2e-2, "f4": 5e-3, "f8": 1e-6},
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a model's trial showed. `reason` says why rows must not run together, "" where they may.

    `length_axes` are, by signature, the outputs that have the padded axis, and which one it is: there every row's
    answer is as long as the row was before padding.
    """

    reason: str = ""
    length_axes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


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
) -> Evidence:
    """Try each of these signatures of a model, as callers see them, on up to three rows.

    A signature that takes serialized examples is not tried: it answers example by example. Raises `Unavailable` or
    `DeadlineExceeded` when the model depends on something that is away.
    """
    length_axes = {}
    alike = partial(_are_alike, _TOLERANCES[(device or Device()).kind])
    for name, signature in signatures.items():
        if max_batch_size < 2 or signature.examples_input:
            continue
        outputs = [spec.name for spec in signature.outputs]
        try:
            run = partial(_run, backend, name, outputs)
            axes = _tried(run, alike, backend.signatures[name], preparation, max_batch_size)
        except (_NotShown, _Dependent) as error:
            return Evidence(str(error) if name == DEFAULT_SIGNATURE else f"signature {name!r}: {error}")
        if axes:
            length_axes[name] = axes
    return Evidence(length_axes=length_axes)


def _run(backend: Backend, signature: str, outputs: Sequence[str], inputs: Arrays) -> Arrays:
    answers = backend.run(signature, inputs)
    return {name: np.asarray(answers[name]) for name in outputs}


def _tried(
    run: _Run, alike: _Alike, signature: Signature, preparation: Preparation, max_rows: int
) -> Mapping[str, int]:
    """The length axes that the first telling sample shows. Raises `_NotShown` or `_Dependent`."""
    error = _NotShown("")
    for size, below in _GUESSES:
        rows = _samples(signature, preparation, min(len(_SCALES), max_rows), size, below)
        try:
            return _compared(run, alike, rows, preparation)
        except _NotShown as shows_nothing:
            error = shows_nothing
        except _Dependent:
            if _repeats(run, alike, rows[0]):
                raise
            raise _NotShown("its answers to one row differ from run to run, so a trial shows nothing") from None
    raise error


def _repeats(run: _Run, alike: _Alike, row: Arrays) -> bool:
    """Whether the row's answer is the same twice: else a trial shows nothing of other rows."""
    one, other = run(row), run(row)
    return all(alike(one[name], other[name]) for name in one)


def _compared(run: _Run, alike: _Alike, rows: Sequence[Arrays], preparation: Preparation) -> Mapping[str, int]:
    """The length axes. Raises `_Dependent` for rows that depend on one another."""
    alone = [_answer(run, row, _NotShown) for row in rows]
    together = _answer(run, preparation.joined(rows), _Dependent)
    lengths = [preparation.length(row) for row in rows]
    for name, array in together.items():
        if array.shape[:1] != (len(rows),):
            raise _Dependent(f"output {name!r} has shape {list(array.shape)} for {len(rows)} rows")
    axes = {name: axis for name in together if (axis := _length_axis(name, alone, together[name], lengths))}
    for i, answer in enumerate(alone):
        _compare(alike, answer, together, slice(i, i + 1), lengths[i], axes)
    if preparation.pads and len(rows) > 1:  # a request of two rows, padded to its own longest
        pair = _answer(run, preparation.joined(rows[:2]), _Dependent)
        _compare(alike, pair, together, slice(0, 2), max(lengths[:2]), axes)
    if len(rows) > 1 and all(alike(alone[0][name], other[name]) for other in alone[1:] for name in alone[0]):
        raise _NotShown("its answers to different samples are the same, which shows nothing")
    return axes


def _answer(run: _Run, inputs: Arrays, kind: type[_NotShown] | type[_Dependent]) -> Arrays:
    try:
        return run(inputs)
    except (Unavailable, DeadlineExceeded):
        raise
    except Exception as error:  # whatever the runtime raises
        rows = max((len(array) for array in inputs.values()), default=0)
        raise kind(f"the model fails on {rows} sample rows: {_first_line(error)}") from error


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


def _samples(signature: Signature, preparation: Preparation, count: int, size: int, below: int) -> list[Arrays]:
    rng = np.random.default_rng(0)
    lengths = [
        min(length, preparation.max_length) for length in (_LENGTHS if preparation.max_length > 2 else (1, 2, 1))
    ]
    return [
        {
            spec.name: _sample(
                rng,
                spec,
                _row_shape(spec, preparation, size, lengths[(i + preparation.length_group(spec.name)) % len(lengths)]),
                row=i,
                below=below,
                ids=preparation.ids(spec.name),
            )
            for spec in signature.inputs
            if not spec.optional
        }
        for i in range(count)
    ]


def _row_shape(spec: TensorSpec, preparation: Preparation, size: int, length: int) -> tuple[int, ...]:
    shape = (1, *(size if axis < 0 else axis for axis in spec.shape[1:]))
    return (*shape[:-1], length) if preparation.may_pad(spec.name) else shape


def _sample(
    rng: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...], *, row: int, below: int, ids: range | None
) -> npt.NDArray[Any]:
    """Random numbers, or words, for one row."""
    if spec.datatype == BYTES:
        words = _WORDS if below > 2 else _NUMERALS
        return np.array([words[(row + i) % len(words)] for i in range(math.prod(shape))], object).reshape(shape)
    dtype = DTYPES[spec.datatype]
    if dtype.kind == "f":
        return (rng.standard_normal(shape) * _SCALES[row]).astype(dtype)
    plain = range(256) if spec.datatype == "UINT8" else range(1, below)
    numbers = range(2) if below == 2 or dtype.kind == "b" else ids or plain
    sample = rng.integers(numbers.start, numbers.stop, shape)
    sample.flat[:1] = numbers[row % len(numbers)]  # so that short rows differ, too
    return sample.astype(dtype)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
