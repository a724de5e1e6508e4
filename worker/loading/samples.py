"""Inputs to try a model with before callers use it: those that its files give, else guesses.

A file says which datatypes and shapes a model takes, but not which sizes its free axes may have or which values make
sense. So there are several guesses, from the likeliest on: small sizes, then those of images and of sound; numbers
below 10, then below 2; words, then numerals, images and empty strings. Axes that bear one name have one size, and
`past + new` has both.
"""

import itertools
import math
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from millrace.protocol.tensors import BYTES, DTYPES, Signature, TensorSpec
from worker.backends.base import Arrays
from worker.preprocessing.preparation import Preparation

SCALES = (1.0, 8.0, 0.25)  # of the rows' numbers: what is computed over a batch shows where rows differ in size
_LENGTHS = (5, 2, 11)  # of the rows, where rows may differ in length
_SIZES = (4, 1, 10, 32, 64, 224, 512, 16_000)  # of free axes
_MOST_BYTES = 2**25  # of one guess
_BELOW = (10, 2, 1)  # what whole numbers stay below


def _png(side: int = 8) -> bytes:
    """A grey image with a gradient."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + b"".join(bytes([shade * 30] * 3) for shade in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * side)) + chunk(b"IEND", b"")
    )


_WORDS, _NUMERALS = (b"a", b"good film", b"it's", b"B"), (b"7", b"1", b"22", b"3")
_STRINGS = (_WORDS, _NUMERALS, (_png(8), _png(6), _png(7)), (b"",))


class Guess(NamedTuple):
    """The size of free axes, whether axes named after the past are empty, and which values there are."""

    size: int
    has_past: bool
    below: int
    strings: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A signature that is to be tried, as its graph has it: sizes that are known beyond the file are filled in.

    `axes` are the names of each tensor's dimensions, "" where there is none. `given` are inputs that the model's files
    hold for this, of one request each.
    """

    signature: Signature
    preparation: Preparation
    axes: Mapping[str, Sequence[str]]
    given: Sequence[Arrays] = ()

    @property
    def required(self) -> list[TensorSpec]:
        """The inputs that a request must have."""
        return [spec for spec in self.signature.inputs if not spec.optional]

    def guesses(self, *, has_rows: bool = True) -> Iterator[Guess]:
        """From the likeliest on, of one row or of a request that is not cut into rows."""
        specs = self.required
        free = any(size < 0 for spec in specs for size in spec.shape[1 if has_rows else 0 :])
        free |= any(spec.unknown_rank for spec in specs)
        has_past = any("past" in name for spec in specs for name in self.axes.get(spec.name, ()))
        has_numbers = any(spec.datatype != BYTES and DTYPES[spec.datatype].kind in "iu" for spec in specs)
        has_strings = any(spec.datatype == BYTES for spec in specs)
        kinds = max(len(_BELOW) if has_numbers else 1, len(_STRINGS) if has_strings else 1)
        for size, past, kind in itertools.product(
            _SIZES if free else _SIZES[:1], (True, False) if has_past else (True,), range(kinds)
        ):
            below, strings = _BELOW[min(kind, len(_BELOW) - 1)], _STRINGS[min(kind, len(_STRINGS) - 1)]
            guess = Guess(size, past, below, strings)
            if self._fits(guess, 1):
                yield guess

    def _fits(self, guess: Guess, first: int) -> bool:
        """Whether one request is small enough to be tried; a free first axis has that size."""
        return sum(_byte_count(spec, self._whole_shape(spec, guess, first)) for spec in self.required) <= _MOST_BYTES

    def _whole_shape(self, spec: TensorSpec, guess: Guess, first: int) -> tuple[int, ...]:
        shape = self.shape(spec, guess)
        return (first, *shape[1:]) if spec.shape[:1] == (-1,) else shape

    def shape(self, spec: TensorSpec, guess: Guess) -> tuple[int, ...]:
        """The shape of one request's tensor."""
        names = self.axes.get(spec.name, ())
        shape = (-1,) if spec.unknown_rank else spec.shape
        return tuple(
            _size(names[axis] if axis < len(names) else "", guess) if size < 0 else size
            for axis, size in enumerate(shape)
        )

    def wholes(self) -> Iterator[Arrays]:
        """Requests that are not cut into rows; where their tensors' first axis is free, it is 1, or as the others."""
        for guess in self.guesses(has_rows=False):
            yield from (self.whole(guess, first) for first in sorted({1, guess.size}) if self._fits(guess, first))

    def whole(self, guess: Guess, first: int) -> Arrays:
        """One request that is not cut into rows; a free first axis has that size."""
        rng = np.random.default_rng(0)
        shapes = {spec.name: self._whole_shape(spec, guess, first) for spec in self.required}
        return {spec.name: _sample(rng, spec, shapes[spec.name], 0, guess, None) for spec in self.required}

    def rows(self, guess: Guess, count: int) -> list[Arrays]:
        """So many requests of one row each, which differ."""
        rng, preparation = np.random.default_rng(0), self.preparation
        lengths = [
            min(length, preparation.max_length) for length in (_LENGTHS if preparation.max_length > 2 else (1, 2, 1))
        ]
        rows = []
        for i in range(count):
            row = {}
            for spec in self.required:
                shape = (1, *self.shape(spec, guess)[1:])
                if preparation.may_pad(spec.name):
                    shape = (*shape[:-1], lengths[(i + preparation.length_group(spec.name)) % len(lengths)])
                row[spec.name] = _sample(rng, spec, shape, i, guess, preparation.ids(spec.name))
            rows.append(row)
        return rows

    def given_rows(self, count: int) -> list[Arrays]:
        """So many different rows of what the model's files give; what is missing is made of the first."""
        rows: list[Arrays] = []
        for request in self.given:
            sizes = {len(array) if array.ndim else 0 for array in request.values()}
            if len(sizes) == 1:
                rows += [{name: a[i : i + 1] for name, a in request.items()} for i in range(min(sizes.pop(), count))]
        rows = rows[:count]
        return rows + [_varied(rows[0], i) for i in range(len(rows), count)] if rows else []


def _size(name: str, guess: Guess) -> int:
    """The size of a free axis; sums of names and numbers are added up."""
    total = 0
    for term in name.split("+"):
        term = term.strip()
        if re.fullmatch(r"\d{1,6}", term):
            total += int(term)
        elif guess.has_past or "past" not in term:
            total += guess.size
    return total


def _byte_count(spec: TensorSpec, shape: Sequence[int]) -> int:
    return math.prod(shape) * (1 if spec.datatype == BYTES else DTYPES[spec.datatype].itemsize)


def _sample(
    rng: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...], row: int, guess: Guess, ids: range | None
) -> npt.NDArray[Any]:
    """Random numbers, or words, for one row."""
    if spec.datatype == BYTES:
        words = guess.strings
        return np.array([words[(row + i) % len(words)] for i in range(math.prod(shape))], object).reshape(shape)
    dtype = DTYPES[spec.datatype]
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape) * SCALES[row % len(SCALES)]).astype(dtype)
    plain = range(256) if spec.datatype == "UINT8" and guess.below > 2 else range(min(1, guess.below - 1), guess.below)
    numbers = range(2) if guess.below == 2 or dtype.kind == "b" else ids or plain
    sample = np.asarray(rng.integers(numbers.start, numbers.stop, shape))
    sample.flat[:1] = numbers[row % len(numbers)]  # so that short rows differ, too
    return sample.astype(dtype)


def _varied(row: Arrays, number: int) -> Arrays:
    """Another row of the same shape: other numbers, or the same ones in another order."""
    return {name: _other(array, SCALES[number % len(SCALES)]) for name, array in row.items()}


def _other(array: npt.NDArray[Any], scale: float) -> npt.NDArray[Any]:
    if array.dtype.kind == "f":
        return (array * scale + scale).astype(array.dtype)
    if array.dtype == np.uint8:
        return 255 - array
    return np.roll(array.reshape(-1), 1 + int(scale)).reshape(array.shape)
