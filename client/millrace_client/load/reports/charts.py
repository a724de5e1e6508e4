"""What the charts of a report show, however they are drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from millrace_client.load.histogram import Histogram

_BARS = 60
Document = Mapping[str, Any]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Two axes with labels; `x` and `y` are (smallest, largest). With `log_x` the x-axis is logarithmic, from above 0.

    `lines` and `levels` (values of the y-axis) are by name, `bands` are areas between two lines, and `bars` are
    (left, right, height).
    """

    title: str
    x: Point
    y: Point
    labels: tuple[str, str]
    log_x: bool = False
    lines: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    levels: Mapping[str, float] = field(default_factory=dict)
    bands: Sequence[tuple[Sequence[Point], Sequence[Point]]] = ()
    bars: Sequence[tuple[float, float, float]] = ()


def over_time(run: Document) -> Chart | None:
    """p50 and p99 of each second of a run; None where no request was answered."""
    windows = [window for window in run["windows"] if window["p50"] is not None]
    if not windows:
        return None
    p50, p99 = ([(window["second"], window[name]) for window in windows] for name in ("p50", "p99"))
    return Chart(
        title="latency over time",
        x=(0, max(windows[-1]["second"], 1)),
        y=(0, max(height for _, height in p99) * 1.05),
        labels=("second of the run", "ms"),
        lines={"p50": p50, "p99": p99},
        bands=[(p50, p99)],
    )


def over_load(runs: Sequence[Document], capacity: Document | None) -> Chart | None:
    """p50 and p99 of the valid runs, by their rate; None where there are none."""
    valid = [run for run in runs if run["latency_ms"]["p99"] is not None and run["valid"]]
    measured = sorted(((run["requests_per_s"], run["latency_ms"]) for run in valid), key=lambda each: each[0])
    if not measured:
        return None
    highest = max(latency["p99"] for _, latency in measured)
    levels = {}
    if capacity:
        objective = capacity["objective_ms"]
        highest, levels = min(highest, objective * 4), {f"objective: {objective:g} ms": objective}
    return Chart(
        title="latency over load",
        x=(0, measured[-1][0] * 1.05),
        y=(0, highest * 1.05),
        labels=("requests a second", "ms"),
        lines={name: [(rate, latency[name]) for rate, latency in measured] for name in ("p50", "p99")},
        levels=levels,
    )


def spread(run: Document) -> Chart | None:
    """How many requests took how long; None where none was answered."""
    times = Histogram.of(run["raw"]["latency"]).bars()
    if not times:
        return None
    low, high = max(times[0][0] * 0.9, 1.0), max(times[-1][0] * 1.1, 2.0)
    step = (high / low) ** (1 / _BARS)
    edges = [low * step**index / 1000 for index in range(_BARS + 1)]
    counts = [0] * _BARS
    index = 0
    for us, count in times:
        while index < _BARS - 1 and us / 1000 >= edges[index + 1]:
            index += 1
        counts[index] += count
    return Chart(
        title="latencies",
        x=(edges[0], edges[-1]),
        y=(0, max(counts)),
        labels=("ms", "requests"),
        log_x=True,
        bars=[(*edge, count) for *edge, count in zip(edges, edges[1:], counts, strict=False) if count],
    )
