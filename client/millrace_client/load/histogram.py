"""A histogram of times in microseconds with three significant digits: small, exact to 0.1 %, and made to be merged.

The buckets are those of an HDR histogram: one per microsecond below 2,048 µs; above, each doubling has 1,024 of the
same width. Only buckets that hold something take memory.
"""

import math
from collections.abc import Mapping
from typing import Self

_EXACT = 2048  # µs with a bucket each
_BITS = 10  # 1,024 buckets for each doubling above


class Histogram:
    """Counts of times: `buckets` by their number. `count`, `total_us` and `max_us` are exact."""

    __slots__ = ("buckets", "count", "max_us", "total_us")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.count = self.total_us = self.max_us = 0

    def record(self, us: int) -> None:
        """Count a time; less than 0 counts as 0."""
        us = max(us, 0)
        if us < _EXACT:
            bucket = us
        else:
            shift = us.bit_length() - _BITS - 1
            bucket = (shift << _BITS) + (us >> shift)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.count += 1
        self.total_us += us
        if us > self.max_us:
            self.max_us = us

    def percentile_us(self, percent: float) -> float:
        """The smallest time that at least `percent` of the times do not exceed, in µs; NaN where there are none."""
        if not self.count:
            return math.nan
        rank = max(1, math.ceil(self.count * percent / 100 - 1e-9))
        for bucket in sorted(self.buckets):
            rank -= self.buckets[bucket]
            if rank <= 0:
                return min(_middle_us(bucket), self.max_us)
        return float(self.max_us)

    def mean_us(self) -> float:
        """The mean in µs; NaN where there are none."""
        return self.total_us / self.count if self.count else math.nan

    def within(self, us: float) -> int:
        """How many times are at most `us`."""
        return sum(count for bucket, count in self.buckets.items() if min(_middle_us(bucket), self.max_us) <= us)

    def merge(self, other: "Histogram") -> None:
        """Add the other's times."""
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.count += other.count
        self.total_us += other.total_us
        self.max_us = max(self.max_us, other.max_us)

    def bars(self) -> list[tuple[float, int]]:
        """The times in µs, middle of their bucket, with how often each came; in ascending order."""
        return [(_middle_us(bucket), count) for bucket, count in sorted(self.buckets.items())]

    def document(self) -> dict[str, object]:
        """All of it in the types of JSON; `of` reads it back."""
        pairs = [[bucket, count] for bucket, count in sorted(self.buckets.items())]
        return {"total_us": self.total_us, "max_us": self.max_us, "buckets": pairs}

    @classmethod
    def of(cls, document: Mapping[str, object]) -> Self:
        """The histogram of a `document`. Raises `KeyError`, `TypeError`, `ValueError` for something else."""
        made = cls()
        pairs = document["buckets"]
        if not isinstance(pairs, list):
            raise TypeError("the buckets of a histogram are a list of pairs")
        made.buckets = {int(bucket): int(count) for bucket, count in pairs}
        made.count = sum(made.buckets.values())
        made.total_us, made.max_us = int(str(document["total_us"])), int(str(document["max_us"]))
        return made


def _middle_us(bucket: int) -> float:
    if bucket < _EXACT:
        return float(bucket)
    shift = (bucket >> _BITS) - 1
    return float(((bucket - (shift << _BITS)) << shift) + ((1 << shift) - 1) / 2)
