"""Two runs beside each other: by how much a figure differs, and in which range the true difference lies (95 %).

The seconds of each run are drawn again, with replacement, a thousand times: neighbours in time are alike (a stall makes
all requests of a second slow), so whole seconds are drawn, and not requests. A difference is called one where its
interval does not contain "the same".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace_client.load.histogram import Histogram
from millrace_client.load.tally import Tally

_DRAWS = 1000
_PERCENTS = {"p50": 50.0, "p90": 90.0, "p99": 99.0}
MIN_SECONDS = 5
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one figure between run A and run B; `low` and `high` bound B ÷ A. `word` is better, worse or same."""

    figure: str
    a: float
    b: float
    ratio: float
    low: float
    high: float
    word: str


def compare(a: Mapping[str, Any], b: Mapping[str, Any], seed: int = 7) -> list[Difference]:
    """The differences of latencies (ms) and of successes a second. Raises `ValueError` for runs that are too short."""
    rng = np.random.default_rng(seed)
    drawn_a, drawn_b = _drawn(a, rng), _drawn(b, rng)
    differences = []
    for figure in [*_PERCENTS, "ok_per_s"]:
        (value_a, draws_a), (value_b, draws_b) = drawn_a[figure], drawn_b[figure]
        low, high = np.nanpercentile(draws_b / draws_a, [2.5, 97.5])
        differences.append(_difference(figure, value_a, value_b, float(low), float(high)))
    return differences


def _difference(figure: str, a: float, b: float, low: float, high: float) -> Difference:
    is_better_if_more = figure == "ok_per_s"
    word = "same"
    if low > 1 or high < 1:
        word = "better" if (low > 1) == is_better_if_more else "worse"
    return Difference(figure, a, b, b / a if a else float("nan"), low, high, word)


def _drawn(document: Mapping[str, Any], rng: np.random.Generator) -> dict[str, tuple[float, Floats]]:
    """Each figure of the run, and the figure in each draw."""
    if "raw" not in document:
        raise ValueError("what is compared is one run, and not a list of several or something else")
    tally = Tally.of(document["raw"])
    seconds = max(int(document["seconds"]), 1)
    windows = [tally.windows.get(second, Histogram()).bars() for second in range(seconds)]
    if seconds < MIN_SECONDS or not tally.latency.count:
        raise ValueError(f"a run to compare has at least {MIN_SECONDS} seconds, and answers")
    times = sorted({us for bars in windows for us, _ in bars})
    column = {us: index for index, us in enumerate(times)}
    counts = np.zeros((seconds, len(times)))
    for row, bars in zip(counts, windows, strict=True):
        for us, count in bars:
            row[column[us]] = count
    draws = rng.multinomial(seconds, np.full(seconds, 1 / seconds), _DRAWS) @ counts
    cumulated, totals = draws.cumsum(axis=1), draws.sum(axis=1)
    ms = np.array(times) / 1000
    figures = {}
    for name, percent in _PERCENTS.items():
        at = (cumulated < (totals * percent / 100)[:, None]).sum(axis=1)
        figures[name] = tally.latency.percentile_us(percent) / 1000, ms[np.minimum(at, len(ms) - 1)]
    figures["ok_per_s"] = float(document["ok_per_s"]), totals / seconds
    return figures
