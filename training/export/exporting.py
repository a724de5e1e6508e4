"""Write formats into a folder, run each in its own runtime, and keep what answers as the trained model does."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import tensorflow as tf

from millrace.artifacts.manifest import Parity
from training import parity
from training.export import report
from training.export.formats import FORMATS, Format
from training.export.model import ExportError, Trained
from training.export.report import Report, Row


def export(trained: Trained, formats: Sequence[str], folder: Path, *, force: bool = False) -> Report:
    """Write those formats and the report into the folder, which has to be there and empty.

    A format that cannot be written, or misses its bound, is left out, and the report says why; with `force` one that
    misses its bound stays.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)  # on a GPU it rounds by more than the tolerance
    score = parity.score(trained.answer, trained.tested) if trained.tested else None
    rows = [_timed(Row(format="trained", title="trained model", file="", score=score), trained.answer, trained)]
    for name in formats:
        rows.append(_exported(name, FORMATS[name], trained, folder, score, force=force))
    found = Report(
        model=trained.description.name,
        examples=sum(len(next(iter(batch.values()))) for batch in trained.batches),
        compared_on=trained.compared_on,
        score_examples=sum(len(labels) for _, labels in trained.tested),
        representative=trained.representative_from,
        machine=report.machine(),
        rows=rows,
    )
    report.write(found, folder)
    return found


@contextmanager
def placed(out: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `out` when the block ends without an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir=out.parent) as scratch:
        staging = Path(scratch) / "new"
        staging.mkdir()
        yield staging
        if out.exists():
            out.rename(Path(scratch) / "old")
        staging.rename(out)


def parities(found: Report) -> dict[str, Parity]:
    """What the report says of the published formats, in the manifest's form."""
    return {
        row.format.replace("savedmodel", "saved_model").replace("-", "_"): Parity(
            max_abs_difference=row.max_abs_difference,
            top1_agreement=row.top1_agreement,
            examples=found.examples,
            score=row.score,
            missed=row.missed,
        )
        for row in found.rows
        if row.is_published and row.max_abs_difference is not None and row.format != "trained"
    }


def _exported(name: str, form: Format, trained: Trained, folder: Path, score: float | None, *, force: bool) -> Row:
    row = Row(format=name, title=form.title, file=form.file or "saved_model.pb")
    path = folder / form.file
    try:
        form.write(trained, path)
        row.size_bytes = form.size_bytes(folder)
        if form.open is None:
            row.note = "written and its structure checked; its numbers can be checked on macOS only"
        else:
            _measure(row, partial(form.open, path), form, trained, score)
    except (ExportError, parity.ParityError) as error:
        row.missed, force = str(error), False  # there is nothing sound to publish
    if row.missed and not force:
        row.is_published = False
        _remove(form, folder)
    return row


def _measure(row: Row, opened: Callable[[], parity.Run], form: Format, trained: Trained, score: float | None) -> None:
    """Fill in what running the format shows.

    Raises `ParityError` where its outputs have another form, `ExportError` where its runtime cannot run it.
    """
    try:
        run = opened()
        measured = parity.measure(form.title, trained.answer, run, trained.batches)
        row.max_abs_difference, row.top1_agreement = measured.max_abs_difference, measured.same_answers
        if score is not None:
            row.score = parity.score(run, trained.tested)
        _timed(row, run, trained)
    except parity.ParityError:
        raise
    except Exception as error:  # runtimes' errors share no base class
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(f"{form.title}: it can be written, but its runtime fails: {reason}") from error
    lost = None if score is None or row.score is None else round(100 * (score - row.score), 6)
    if missed := measured.missed(exact=form.exact, points_lost=lost):
        row.missed = f"{form.title}: {missed}"


def _timed(row: Row, run: parity.Run, trained: Trained) -> Row:
    """Fill in the times; a model whose first dimension is fixed has that of its one size only."""
    specs = trained.exports.function.input_signature
    is_batched = all(spec.shape.rank and spec.shape[0] is None for spec in specs)
    row.sample_ms, row.batch_ms = report.times_ms(run, trained.batches[0], is_batched=is_batched)
    return row


def _remove(form: Format, folder: Path) -> None:
    places = [folder / form.file] if form.file else [folder / "variables", folder / "assets", *folder.glob("*.pb")]
    for place in places:
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
