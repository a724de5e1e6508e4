"""What is known of a tensor in a graph without a run: which of its axes counts rows, and how large its axes are.

fixed      the same whatever the batch                     `axis` is None
counted    depends on how many rows there are, on nothing else of them
by row     row i along `axis` depends on row i alone
mixed      depends on several rows, or on a row's place among others: `reason` says how
unknown    it cannot be told: `reason` says where that began
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ROWS = "#rows"  # the name of how many rows there are
_fresh = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Size:
    """How large an axis is, or a number computed of such: `factor` times the sizes that have `names`."""

    factor: int
    names: tuple[str, ...] = ()

    @property
    def counts_rows(self) -> bool:
        """Whether it grows with the batch."""
        return ROWS in self.names

    def __mul__(self, other: "Size") -> "Size":
        return Size(self.factor * other.factor, tuple(sorted(self.names + other.names)))

    def over(self, other: "Size") -> "Size | None":
        """This size divided by the other; None where that cannot be told."""
        left = list(self.names)
        for name in other.names:
            if name not in left:
                return None
            left.remove(name)
        if not other.factor or self.factor % other.factor:
            return None
        return Size(self.factor // other.factor, tuple(left))


ONE = Size(1)


def unknown_size() -> Size:
    """The size of an axis that the rows have nothing to do with, and of which no more is known."""
    return Size(1, (f"#{next(_fresh)}",))


def product(sizes: Sequence[Size]) -> Size:
    """The sizes multiplied."""
    return Size(math.prod(size.factor for size in sizes), tuple(sorted(n for size in sizes for n in size.names)))


Kind = Literal["fixed", "counted", "by row", "mixed", "unknown"]


@dataclass(frozen=True, slots=True)
class Value:
    """See the module. `shape` is None where the rank is not known; a value by row always has one.

    `numbers` are the elements of a small tensor of whole numbers, each None where it is not known. Along the `axis` of
    a value by row, a row has one place or several, one after the other.
    """

    kind: Kind
    shape: tuple[Size, ...] | None = None
    axis: int = 0
    numbers: tuple[Size | None, ...] | None = None
    reason: str = ""

    @property
    def is_by_row(self) -> bool:
        """Whether it has rows that depend on nothing else."""
        return self.kind == "by row"

    @property
    def rank(self) -> int:
        """How many axes it has; the shape must be known."""
        assert self.shape is not None  # noqa: S101 - the caller looked
        return len(self.shape)

    def integers(self) -> list[int] | None:
        """The elements as plain numbers; None where they are not all known, or grow with the batch."""
        if self.numbers is None or any(number is None or number.names for number in self.numbers):
            return None
        return [number.factor for number in self.numbers if number is not None]


def fixed(shape: Sequence[Size] | None = None, numbers: Sequence[Size | None] | None = None) -> Value:
    """A value that is the same whatever the batch; counted where its numbers grow with it."""
    kind: Kind = "fixed"
    if any(number is not None and number.counts_rows for number in numbers or ()):
        kind = "counted"
    return Value(kind, None if shape is None else tuple(shape), 0, None if numbers is None else tuple(numbers))


def counted(shape: Sequence[Size] | None = None, numbers: Sequence[Size | None] | None = None) -> Value:
    """A value that may depend on how many rows there are."""
    known = numbers is not None and all(number is not None for number in numbers)
    if known:
        return fixed(shape, numbers)
    return Value("counted", None if shape is None else tuple(shape), 0, None if numbers is None else tuple(numbers))


def by_row(axis: int, shape: Sequence[Size]) -> Value:
    """A value with rows along that axis."""
    return Value("by row", tuple(shape), axis)


def mixed(reason: str) -> Value:
    """A value that depends on several rows."""
    return Value("mixed", reason=reason)


def unknown(reason: str) -> Value:
    """A value of which it cannot be told."""
    return Value("unknown", reason=reason)
