"""When requests are due, made before the run: seconds from its start, the same for the same seed.

rate            means
500             500 requests a second
100,200,400     steps of equal length
100..2000       a ramp
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]
Arrivals = Literal["poisson", "constant"]
_GRID = 4097  # points of the cumulated rate: a ramp is followed to a millionth of its length


@dataclass(frozen=True, slots=True)
class Profile:
    """The rate over time: straight lines between (share of the run's length, requests a second)."""

    points: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, text: str) -> "Profile":
        """The profile that the text describes. Raises `ValueError`, which says what is wrong."""
        try:
            if ".." in text:
                first, last = (float(part) for part in text.split(".."))
                points: tuple[tuple[float, float], ...] = ((0.0, first), (1.0, last))
            else:
                rates = [float(part) for part in text.split(",")]
                edges = [index / len(rates) for index in range(len(rates) + 1)]
                points = tuple(
                    point
                    for rate, start, end in zip(rates, edges, edges[1:], strict=False)
                    for point in ((start, rate), (end, rate))
                )
        except ValueError:
            raise ValueError(
                f"{text!r} is no rate: give 500, steps like 100,200,400, or a ramp like 100..2000"
            ) from None
        if not all(0 < rate < float("inf") for _, rate in points):
            raise ValueError(f"{text!r}: a rate has to be more than 0")
        return cls(points)

    @property
    def first(self) -> float:
        """The rate at the start."""
        return self.points[0][1]


def arrivals(profile: Profile, seconds: float, kind: Arrivals, seed: int) -> Times:
    """The times of a run, in ascending order, in [0, seconds). Poisson arrivals are those of independent callers."""
    shares, rates = (np.array(column) for column in zip(*profile.points, strict=True))
    at = np.unique(np.concatenate([np.linspace(0, 1, _GRID), shares]))
    # The two rates at a step's edge are told apart by a hair.
    shares = shares + np.arange(len(shares)) * 1e-12
    rate = np.interp(at, shares, rates)
    cumulated = np.concatenate([[0.0], np.cumsum((rate[1:] + rate[:-1]) / 2 * np.diff(at))]) * seconds
    count = cumulated[-1]
    if kind == "constant":
        due = np.arange(int(np.ceil(count - 1e-9)), dtype=np.float64)
    else:
        rng = np.random.default_rng(seed)
        due = np.cumsum(rng.exponential(size=int(count + 10 * np.sqrt(count) + 20)))
        due = due[due < count]
    return np.asarray(np.interp(due, cumulated, at * seconds), np.float64)


def trace(file: Path) -> Times:
    """The recorded times in a file, one a line: a number of seconds, or a JSON object with `at_s`. They begin at 0.

    Raises `OSError`, and `ValueError` where a line is neither.
    """
    times = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            read = json.loads(line)
            times.append(float(read["at_s"] if isinstance(read, dict) else read))
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{file}, line {number}: neither a number of seconds nor an object with at_s") from None
    if not times:
        raise ValueError(f"{file} has no times")
    due = np.sort(np.array(times))
    return np.asarray(due - due[0], np.float64)
