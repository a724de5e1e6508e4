"""The report of an evaluation: as a document, as a page, and as drawings."""

from collections.abc import Sequence

import msgspec

from jobs.evaluation import BINS, Counts
from jobs.labels import label_of

_CELL, _MARGIN, _SIDE = 26, 70, 260
_MOST_DRAWN = 40  # classes in a drawing or a table of pairs


class ClassRow(msgspec.Struct, frozen=True):
    """One class: how many rows have it, and how well they were found."""

    label: str
    rows: int
    precision: float
    recall: float
    f1: float


class BinRow(msgspec.Struct, frozen=True):
    """Rows whose confidence is between two tenths: how sure the model was, and how often it was right."""

    above: float
    rows: int
    confidence: float
    accuracy: float


class MistakeRow(msgspec.Struct, frozen=True):
    """A wrong answer. `row` counts the file's rows from 1."""

    row: int
    right: str
    answered: str
    confidence: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluation found. `confusion` has a row for each right class and a column for each answer."""

    model: str
    version: int
    rows: int
    errors: int
    accuracy: float
    macro_f1: float
    calibration_error: float
    classes: tuple[ClassRow, ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration: tuple[BinRow, ...]
    worst: tuple[MistakeRow, ...]


def report_of(counts: Counts, labels: Sequence[str], classes: int, *, model: str, version: int, errors: int) -> Report:
    """The report; where nothing was counted, its rates are 0."""
    confusion = [[0] * classes for _ in range(classes)]
    for pair, rows in counts.pairs.items():
        right, answered = map(int, pair.split())
        confusion[right][answered] += rows
    total = sum(map(sum, confusion))
    hits = sum(confusion[each][each] for each in range(classes))
    by_class = tuple(_class(confusion, labels, each) for each in range(classes))
    seen = [each.f1 for each in by_class if each.rows]
    bins = tuple(_bin(at, *each) for at, each in enumerate(counts.bins))
    return Report(
        model=model,
        version=version,
        rows=total,
        errors=errors,
        accuracy=_share(hits, total),
        macro_f1=_share(sum(seen), len(seen)),
        calibration_error=_share(sum(each.rows * abs(each.confidence - each.accuracy) for each in bins), total),
        classes=by_class,
        confusion=tuple(map(tuple, confusion)),
        calibration=bins,
        worst=tuple(
            MistakeRow(each.row + 1, label_of(labels, each.right), label_of(labels, each.answered), each.confidence)
            for each in counts.mistakes
        ),
    )


def markdown(report: Report) -> str:
    """The report as a page that shows the drawings beside it."""
    lines = [
        f"# {report.model}, version {report.version}",
        "",
        f"{report.rows} rows, {report.errors} with an error and not counted.",
        "",
        "| accuracy | macro F1 | calibration error |",
        "| --- | --- | --- |",
        f"| {report.accuracy:.4f} | {report.macro_f1:.4f} | {report.calibration_error:.4f} |",
        "",
        "## Classes",
        "",
        "| class | rows | precision | recall | F1 |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {_cell(each.label)} | {each.rows} | {each.precision:.4f} | {each.recall:.4f} | {each.f1:.4f} |"
            for each in report.classes
        ),
        "",
        "## Confusion",
        "",
        "![Confusion matrix](confusion.svg)",
        "",
        "## Calibration",
        "",
        "![Calibration](calibration.svg)",
        "",
        "| confidence from | rows | confidence | accuracy |",
        "| --- | --- | --- | --- |",
        *(f"| {e.above:.1f} | {e.rows} | {e.confidence:.4f} | {e.accuracy:.4f} |" for e in report.calibration),
        "",
        "## Surest mistakes",
        "",
        "| row | right | answered | confidence |",
        "| --- | --- | --- | --- |",
        *(f"| {e.row} | {_cell(e.right)} | {_cell(e.answered)} | {e.confidence:.4f} |" for e in report.worst),
    ]
    return "\n".join(lines) + "\n"


def confusion_svg(report: Report) -> str:
    """The confusion matrix: the darker a cell, the larger its share of the rows that have the right class."""
    shown = min(len(report.classes), _MOST_DRAWN)
    size = _MARGIN + shown * _CELL
    found = []
    for right in range(shown):
        total = max(1, sum(report.confusion[right]))
        label = _escaped(report.classes[right].label[:10])
        middle = _MARGIN + (right + 0.65) * _CELL
        found.append(f'<text x="{_MARGIN - 4}" y="{middle:.1f}" text-anchor="end">{label}</text>')
        found.append(f'<text x="{middle:.1f}" y="{_MARGIN - 6}" text-anchor="middle">{label}</text>')
        for answered in range(shown):
            count = report.confusion[right][answered]
            x, y = _MARGIN + answered * _CELL, _MARGIN + right * _CELL
            found.append(
                f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="#1f5fa8" '
                f'fill-opacity="{count / total:.3f}" stroke="#ccc"><title>{count}</title></rect>'
            )
    return _svg(size, size, found)


def calibration_svg(report: Report) -> str:
    """How often the model was right (bars) against how sure it was (the line, where both are equal)."""
    width = _SIDE / BINS
    found = [
        f'<rect x="{at * width:.1f}" y="{_SIDE * (1 - each.accuracy):.1f}" width="{width:.1f}" '
        f'height="{_SIDE * each.accuracy:.1f}" fill="#1f5fa8"><title>{each.rows} rows</title></rect>'
        for at, each in enumerate(report.calibration)
    ]
    found.append(f'<line x1="0" y1="{_SIDE}" x2="{_SIDE}" y2="0" stroke="#c33"/>')
    return _svg(_SIDE, _SIDE, found)


def _svg(width: int, height: int, elements: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-size="10">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="#fff"/>', *elements, "</svg>"]) + "\n"


def _class(confusion: Sequence[Sequence[int]], labels: Sequence[str], number: int) -> ClassRow:
    hits, rows = confusion[number][number], sum(confusion[number])
    precision, recall = _share(hits, sum(each[number] for each in confusion)), _share(hits, rows)
    return ClassRow(
        label_of(labels, number), rows, precision, recall, _share(2 * precision * recall, precision + recall)
    )


def _bin(at: int, rows: int, hits: int, confidence: float) -> BinRow:
    return BinRow(at / BINS, rows, _share(confidence, rows), _share(hits, rows))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
