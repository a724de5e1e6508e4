"""The charts of a report as PNG files, by matplotlib: it is an extra of the client."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from millrace_client.load.reports.charts import Chart, Document, over_load, over_time, spread

_COLOURS = {"p50": "#0b6bcb", "p99": "#c2410c"}  # as on the page
_SIZE_INCHES, _DPI = (8.0, 3.4), 160


def require_matplotlib() -> None:
    """Raises `ValueError`, which says what to install."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--png needs matplotlib, which is not installed: pip install './client[plots]'")


def write_plots(folder: Path, runs: Sequence[Document], capacity: Document | None = None) -> list[Path]:
    """Write the charts of the last run, and of all where there are several. Returns the files. Raises `OSError`."""
    charts = {"latency-over-time": over_time(runs[-1]), "latencies": spread(runs[-1])}
    if len(runs) > 1:
        charts["latency-over-load"] = over_load(runs, capacity)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, chart in charts.items():
        if chart is not None:
            written.append(folder / f"{name}.png")
            _write(chart, written[-1], ", ".join(runs[-1]["target"]["models"]))
    return written


def _write(chart: Chart, file: Path, models: str) -> None:
    from matplotlib.figure import Figure  # without pyplot, which would look for a display

    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    for low, high in chart.bands:
        x, lower = zip(*low, strict=True)
        axes.fill_between(x, lower, [y for _, y in high], color=_COLOURS["p50"], alpha=0.15)
    for name, points in chart.lines.items():
        axes.plot(*zip(*points, strict=True), ".-", color=_COLOURS[name], label=name)
    for left, right, height in chart.bars:
        axes.bar(left, height, right - left, align="edge", color=_COLOURS["p50"])
    for name, y in chart.levels.items():
        axes.axhline(y, color="grey", linestyle="--", label=name)
    if chart.log_x:
        axes.set_xscale("log")
    axes.set(xlim=chart.x, ylim=(chart.y[0], chart.y[1] or 1), xlabel=chart.labels[0], ylabel=chart.labels[1])
    axes.set_title(f"{models}: {chart.title}")
    axes.grid(alpha=0.3)
    if chart.lines:
        axes.legend()
    figure.savefig(file)
