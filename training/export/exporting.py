"""Write formats into a folder, run each in its own runtime, and keep what answers as the trained model does."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import tensorflow as tf

from millrace.artifacts.manifest import Parity
from training import outputs, parity
from training.export import report, shapes, trials
from training.export.formats import CALIBRATED, FORMATS, Format
from training.export.model import ExportError, Shapes, Trained, Written
from training.export.report import Report, Row
from training.outputs import Kind


def export(trained: Trained, formats: Sequence[str], folder: Path, *, force: bool = False) -> Report:
    """Write those formats and the report into the folder, which has to be there and empty; see `tried`."""
    found = tried(trained, formats, folder, force=force)
    report.write(found, folder)
    return found


def tried(
    trained: Trained, formats: Sequence[str], folder: Path, *, force: bool = False, is_timed: bool = True
) -> Report:
    """Write those formats into the folder, run each beside the trained model, and keep what answers as it does.

    A format that cannot be written, or misses its bound, is left out, and the report says why; with `force` one that
    misses its bound stays. Where the trained model itself does not answer, none can be judged: each is left out, for
    what stands in its own way first. Raises `ExportError` for labels that no output has.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)  # on a GPU it rounds by more than the tolerance
    unanswered = ""
    try:
        trained = trials.with_trials(trained, calibrates=not CALIBRATED.isdisjoint(formats))
        compared = replace(trained, answer=_remembering(trained.answer, trained.batches))
    except ExportError as error:
        compared, unanswered = trained, str(error)
    right = None
    if not unanswered:
        compared, right = _scored(compared)
    first = Row(format="trained", title="trained model", file="", score=None if right is None else float(right.mean()))
    rows = [_timed(first, trained.answer, trained) if is_timed and not unanswered else first]
    for name in formats:
        compare = partial(_measure, trained=compared, right=right, is_timed=is_timed)
        if unanswered:
            compare = partial(_not_compared, unanswered)
        rows.append(_exported(name, FORMATS[name], compared, folder, compare, force=force))
    return Report(
        model=trained.description.name,
        examples=sum(len(next(iter(batch.values()))) for batch in trained.batches),
        compared_on=trained.compared_on,
        score_examples=sum(len(labels) for _, labels in trained.tested),
        representative=trained.representative_from,
        machine=report.machine(),
        rows=rows,
    )


def _remembering(answer: parity.Run, batches: Sequence[parity.Arrays]) -> parity.Run:
    """The same, with the answers to those batches known: every format is compared with them.

    Raises `ExportError` where the model does not answer them.
    """
    try:
        known = {id(batch): answer(batch) for batch in batches}
    except Exception as error:  # whatever a layer raises for what it cannot take
        raise ExportError(f"the model itself fails on the data: {_line(error)}") from error
    return lambda batch: known[id(batch)] if id(batch) in known else answer(batch)


def _not_compared(reason: str, *_: object) -> None:
    raise ExportError(reason)


def _scored(trained: Trained) -> tuple[Trained, parity.Rights | None]:
    """Which test labels the trained model gets; and the model with the output that is scored taken for classes."""
    if not trained.tested:
        return trained, None
    try:
        right = parity.rights(trained.answer, trained.tested, trained.kinds)
        batch, labels = trained.tested[0]
        found = trained.answer(batch)
        name = parity.scored(found, labels, trained.kinds)
    except parity.ParityError as error:
        raise ExportError(str(error)) from error
    if found[name].dtype.kind == "f" and labels.ndim == 1 and found[name].ndim == 2 and found[name].shape[1] > 1:
        trained = replace(trained, kinds={name: Kind.CLASSES, **trained.kinds})
    return trained, right


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
        _manifest_name(row.format): Parity(
            max_abs_difference=row.max_abs_difference,
            top1_agreement=row.top1_agreement,
            examples=found.examples,
            score=row.score,
            missed=row.missed,
        )
        for row in found.rows
        if row.is_published and row.max_abs_difference is not None and row.format != "trained"
    }


def left_out(found: Report) -> dict[str, str]:
    """Why formats were left out, by the names that `parities` has for them."""
    return {_manifest_name(row.format): row.missed for row in found.rows if not row.is_published}


def _manifest_name(format_: str) -> str:
    return format_.replace("savedmodel", "saved_model").replace("-", "_")


def _exported(
    name: str,
    form: Format,
    trained: Trained,
    folder: Path,
    compare: Callable[[Row, Callable[[], parity.Run], Format], None],
    *,
    force: bool,
) -> Row:
    row = Row(format=name, title=form.title, file=form.file or "saved_model.pb")
    path = folder / form.file
    try:
        written = _write(form, trained, path)
        row.note = written.note
        row.size_bytes = form.size_bytes(folder)
        if written.runs_here:
            compare(row, partial(_opened, form.open, path, form.shapes(trained), trained), form)
    except (ExportError, parity.ParityError) as error:
        row.missed, row.is_published = str(error), False
    if row.missed and row.is_published and not force:
        row.is_published = False
    if not row.is_published:
        _remove(form, folder)
    return row


def _write(form: Format, trained: Trained, path: Path) -> Written:
    """Raises `ExportError`, for whatever a converter stumbles over: the other formats may do all the same."""
    try:
        return form.write(form.sized(trained), path)
    except ExportError:
        raise
    except Exception as error:  # converters raise anything
        raise ExportError(f"{form.title}: {_line(error)}") from error


def _opened(open_: Callable[[Path], parity.Run], path: Path, sizes: Shapes, trained: Trained) -> parity.Run:
    return shapes.fitted(open_(path), sizes, shapes.filling(trained.description))


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _measure(
    row: Row,
    opened: Callable[[], parity.Run],
    form: Format,
    *,
    trained: Trained,
    right: parity.Rights | None,
    is_timed: bool,
) -> None:
    """Fill in what running the format shows.

    Raises `ParityError` where its outputs have another form, `ExportError` where its runtime cannot run it.
    """
    try:
        run = opened()
        measured = parity.measure(form.title, trained.answer, run, trained.batches, trained.kinds)
        after = None if right is None else parity.rights(run, trained.tested, trained.kinds)
        if is_timed:
            _timed(row, run, trained)
    except parity.ParityError:
        raise
    except Exception as error:  # runtimes' errors share no base class
        raise ExportError(f"{form.title}: it can be written, but its runtime fails: {_line(error)}") from error
    exact, of_spread = _bounds(row.format, form, trained)
    row.outputs = measured.judged(exact=exact, of_spread=of_spread)
    row.max_abs_difference, row.top1_agreement = measured.max_abs_difference, measured.same_answers
    reasons = [output.missed for output in row.outputs if output.missed]
    if right is not None and after is not None:
        row.score = float(after.mean())
        if not exact:
            reasons = _with_score(row, trained, parity.score_missed(right, after))
    if reasons:
        row.missed = f"{form.title}: {'; '.join(reasons)}"


def _bounds(name: str, form: Format, trained: Trained) -> tuple[bool, float]:
    """Whether the format repeats the model's computation, and if not, how far numbers may be off.

    A model that itself computes in 16 bits rounds more than a format of 32 bits does.
    """
    layers = trained.exports.keras_model._flatten_layers() if trained.exports.keras_model is not None else ()
    computed = {layer.compute_dtype for layer in layers}
    allowed = parity.OF_SPREAD.get(name, outputs.OF_SPREAD)
    if "bfloat16" in computed:
        return False, outputs.OF_SPREAD
    if "float16" in computed:
        return False, outputs.OF_SPREAD_16 if form.exact else allowed
    return form.exact, allowed


def _with_score(row: Row, trained: Trained, missed: str) -> list[str]:
    """What is wrong where the score says how good the answers of one output are, and the others' are judged alone."""
    batch, labels = trained.tested[0]
    judged_by_score = parity.scored(trained.answer(batch), labels, trained.kinds)
    others = [output.missed for output in row.outputs if output.missed and output.name != judged_by_score]
    return [*([missed] if missed else []), *others]


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
