"""Connected parts of a mask, found with NumPy alone; the time grows with its runs of pixels, whatever their shape."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """The parts of a mask. `of` [rows, columns] numbers each pixel's part from 1, 0 outside of all of them.

    `area`, `top`, `left`, `bottom`, `right` have an entry for each part, the first for number 1; the last row and
    column of a part are `bottom - 1` and `right - 1`.
    """

    of: Integers
    area: Integers
    top: Integers
    left: Integers
    bottom: Integers
    right: Integers

    def __len__(self) -> int:
        return len(self.area)

    def mask(self, chosen: Mask) -> Mask:
        """The pixels of the chosen parts (one truth value for each)."""
        return np.concatenate([[False], chosen])[self.of]


def components(mask: Mask) -> Components:
    """The parts of the mask whose pixels touch, be it at a corner."""
    rows, starts, ends = _runs(mask)
    number = _joined(len(rows), *_touching(rows, starts, ends, mask.shape[1] + 2))
    return Components(
        of=_painted(mask, number, ends - starts),
        area=np.bincount(number, ends - starts).astype(np.int64),
        top=_least(number, rows),
        left=_least(number, starts),
        bottom=-_least(number, -rows - 1),
        right=-_least(number, -ends),
    )


def _runs(mask: Mask) -> tuple[Integers, Integers, Integers]:
    """Row, first column and column after the last of each run of pixels in a row, in reading order."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    return rows, starts, np.nonzero(edges == -1)[1]


def _touching(rows: Integers, starts: Integers, ends: Integers, stride: int) -> tuple[Integers, Integers]:
    """Pairs of runs, the second in the row below the first, that touch."""
    first, last = rows * stride + starts, rows * stride + ends
    low = np.searchsorted(last, first + stride, "left")
    counts = np.maximum(np.searchsorted(first, last + stride, "right") - low, 0)
    upper = np.repeat(np.arange(len(rows)), counts)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return upper, np.repeat(low, counts) + place


def _joined(count: int, one: Integers, other: Integers) -> Integers:
    """A number from 0 for each run, the same for all that a chain of pairs connects."""
    root = np.arange(count)
    while True:
        least = np.minimum(root[one], root[other])
        if (least == root[one]).all() and (least == root[other]).all():
            return np.unique(root, return_inverse=True)[1]
        np.minimum.at(root, root[one], least)
        np.minimum.at(root, root[other], least)
        while (root[root] != root).any():
            root = root[root]


def _painted(mask: Mask, number: Integers, lengths: Integers) -> Integers:
    painted = np.zeros(mask.shape, np.int64)
    painted[mask] = np.repeat(number + 1, lengths)
    return painted


def _least(number: Integers, values: Integers) -> Integers:
    least = np.full(number.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, number, values)
    return least
