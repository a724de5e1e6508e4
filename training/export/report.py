"""The parity report, part of every export: how each format compares with the trained model, for people and programs."""

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from matplotlib.figure import Figure

from training import outputs, parity

BATCH_ROWS = 32
_RUNS, _LONGEST_S = 15, 0.5


class Row(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One format. Sizes are bytes, times milliseconds; `sample_ms` is one row, `batch_ms` a batch of `BATCH_ROWS`.

    `missed` says why the format was kept back, or published all the same (`is_published`); `note` what was not
    measured; `outputs` how each output compares.
    """

    format: str
    title: str
    file: str
    is_published: bool = True
    size_bytes: int | None = None
    max_abs_difference: float | None = None
    top1_agreement: float | None = None
    score: float | None = None
    sample_ms: float | None = None
    batch_ms: float | None = None
    missed: str = ""
    note: str = ""
    outputs: list[parity.Judged] = []


class Report(msgspec.Struct, kw_only=True):
    """What an export found. `rows` begin with the trained model itself, whose format is `trained`."""

    model: str
    examples: int
    compared_on: str
    score_examples: int
    representative: str
    machine: str
    rows: list[Row]


def machine() -> str:
    """What the times were measured on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def times_ms(run: parity.Run, batch: parity.Arrays, *, is_batched: bool) -> tuple[float, float | None]:
    """The median time of one row, and of `BATCH_ROWS` rows, of the kind of the batch's first row.

    Of a model that takes one size only (not `is_batched`), the time of the batch as it is.
    """
    if not is_batched:
        return _median_ms(run, batch), None
    one, many = (
        {name: np.repeat(array[:1], rows, axis=0) for name, array in batch.items()} for rows in (1, BATCH_ROWS)
    )
    return _median_ms(run, one), _median_ms(run, many)


def _median_ms(run: parity.Run, batch: parity.Arrays) -> float:
    run(batch)  # the first run reserves memory
    taken: list[float] = []
    while len(taken) < _RUNS and sum(taken) < _LONGEST_S:
        begun = time.perf_counter()
        run(batch)
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken)) * 1000


def write(report: Report, folder: Path) -> None:
    """Write `parity.json`, `parity.md` and `parity.png` into the folder."""
    (folder / "parity.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    (folder / "parity.md").write_text(markdown(report), encoding="utf-8")
    _plot(report.rows).savefig(folder / "parity.png", dpi=80)


def markdown(report: Report) -> str:
    """The report as a page."""
    head = ("format", "file", "largest difference", "same answer", "score", "size", "1 row", f"{BATCH_ROWS} rows", "")
    lines = [f"# {report.model}: its formats beside the trained model", ""]
    lines += [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *map(_cells, report.rows))]
    lines += ["", "## Each output", "", *_outputs(report.rows)]
    lines += [
        "",
        f"Differences and answers: {report.examples} rows, {report.compared_on}.",
        "",
        *_BOUNDS,
        "",
        f"Score: the part of {report.score_examples} test examples that get their label."
        if report.score_examples
        else "No test data were given (`--data`), so no score was measured.",
        "",
        f"Full int8 was calibrated on: {report.representative}.",
        "",
        f"Times are medians on {report.machine}; LiteRT with one thread, the other runtimes with all cores.",
    ]
    return "\n".join(lines) + "\n"


_BOUNDS = (
    f"With 32-bit weights a number may differ by {outputs.RTOL:g} of itself and {outputs.ATOL:g} of its column's root"
    f" mean square; {outputs.OTHER_VALUES:.2%} of whole numbers may be others. With rounded weights numbers may be off"
    f" by {outputs.OF_SPREAD:.0%} of the data's standard deviation (16-bit weights: {outputs.OF_SPREAD_16:.0%}), and"
    f" {outputs.OTHER_ANSWERS:.1%} of the answers may be others, or {parity.SCORE_POINTS} points of the score be lost:"
    " as far as that many examples can show it, with 95 % confidence.",
)


def _outputs(rows: Sequence[Row]) -> list[str]:
    head = ("format", "output", "kind", "largest difference", "error beside the spread", "same answer", "NaN")
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head))]
    for row in rows:
        for output in row.outputs:
            cells = [row.title, f"`{output.name}`", str(output.kind), _shown(output.max_abs_difference, ".1e")]
            cells += [_shown(output.relative_error, ".2%"), _shown(output.same_answers, ".2%")]
            cells.append(f"{output.nans} of {output.values}" if output.nans else "")
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _cells(row: Row) -> list[str]:
    state = row.missed and f"{'published by force' if row.is_published else 'not published'}: {row.missed}"
    return [
        row.title,
        f"`{row.file}`" if row.file else "",
        _shown(row.max_abs_difference, ".1e"),
        _shown(row.top1_agreement, ".2%"),
        _shown(row.score, ".2%"),
        "" if row.size_bytes is None else f"{row.size_bytes / 1024:,.0f} KiB",
        "" if row.sample_ms is None else f"{row.sample_ms:.3f} ms",
        "" if row.batch_ms is None else f"{row.batch_ms:.3f} ms",
        (state or row.note).replace("|", "\\|").replace("\n", " "),
    ]


def _plot(rows: Sequence[Row]) -> Figure:
    """Size, difference and time of each format, as bars."""
    figure = Figure(figsize=(13, 0.5 * len(rows) + 1.2), layout="constrained")
    panels: list[tuple[str, list[Any]]] = [
        ("size, KiB", [row.size_bytes and row.size_bytes / 1024 for row in rows]),
        ("largest difference", [row.max_abs_difference for row in rows]),
        ("one row, ms", [row.sample_ms for row in rows]),
        (f"{BATCH_ROWS} rows, ms", [row.batch_ms for row in rows]),
    ]
    for place, (title, values) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), place, title=title)
        axes.barh([row.title for row in rows], [value or 0 for value in values])
        axes.invert_yaxis()
        if place > 1:
            axes.set_yticklabels([])
        if title == "largest difference":
            axes.set_xscale("symlog", linthresh=1e-8)
            axes.axvline(outputs.RTOL, color="grey", linestyle=":")
            axes.tick_params(axis="x", labelrotation=45)
    return figure
