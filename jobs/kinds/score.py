"""`score`: the model's outputs for every row of a file, in the rows' order, one row out for each row in."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import msgspec
import pyarrow as pa

from jobs import formats, places
from jobs.context import Job
from jobs.kinds.base import whole
from jobs.labels import BEST, best_columns, scores_of
from jobs.outputs import ERROR, error_column, output_columns
from jobs.parts import Outcome, Outputs, Part, Plan
from jobs.rows import Answer
from jobs.scoring import ModelRows, plan_rows
from millrace.jobs.documents import ScoreDocument
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import Signature


class Layout(msgspec.Struct, frozen=True):
    """What the result looks like, decided once: columns carried through, and the format.

    `outputs` and `best` say what the columns of outputs, and of labels and best classes, are called.
    """

    carried: tuple[str, ...]
    outputs: dict[str, str]
    best: dict[str, str]
    scores: str
    format: str


class Score:
    """See `jobs.kinds.base.Kind`."""

    name = "score"

    def plan(self, job: Job) -> Plan:
        """Find the model and the file's columns, and cut its rows."""
        document = cast(ScoreDocument, job.document)
        plan, model, reader = plan_rows(job, document)
        layout = _layout(document, model, reader)
        if document.output:
            places.check_output(job, document.output, document.input)
        return msgspec.structs.replace(plan, facts=plan.facts | {"layout": msgspec.to_builtins(layout)})

    def run(self, job: Job, plan: Plan, part: Part) -> Outcome:
        """Score the part's rows, and write them as a file."""
        document = cast(ScoreDocument, job.document)
        layout = msgspec.convert(plan.facts["layout"], Layout)
        with whole(job.part_path(part.number, formats.SUFFIXES[layout.format])) as path:
            writer = formats.writer(path, layout.format)
            asyncio.run(self._write(job, document, plan, part, layout, writer))
            writer.close()
        rows, errors = job.progress.now()
        return Outcome(rows=rows, errors=errors)

    def join(self, job: Job, plan: Plan, _outcomes: Sequence[Outcome]) -> Outputs:
        """One file of all parts, in the job's folder or where the document says."""
        document = cast(ScoreDocument, job.document)
        layout = msgspec.convert(plan.facts["layout"], Layout)
        suffix = formats.SUFFIXES[layout.format]
        parts = [job.part_path(part.number, suffix) for part in plan.parts]
        if document.output:
            with places.output(job, document.output) as path:
                formats.join(parts, path, layout.format)
            return Outputs(written_to=document.output)
        name = f"{Path(plan.facts['input']).stem}-scored{suffix}"
        with whole(job.outputs / name) as path:
            formats.join(parts, path, layout.format)
        return Outputs(names=(name,))

    async def _write(
        self, job: Job, document: ScoreDocument, plan: Plan, part: Part, layout: Layout, writer: formats.Writer
    ) -> None:
        rows = ModelRows(job, document, plan)

        def write(batch: pa.RecordBatch, answers: Sequence[Answer], errors: dict[int, str]) -> None:
            columns = {name: batch.column(name) for name in layout.carried}
            columns |= _results(document, layout, rows.model, rows.signature, answers, batch.num_rows)
            columns[ERROR] = error_column(errors, batch.num_rows)
            writer.write(pa.record_batch(columns))

        async with aclosing(rows.read(part)) as scored:
            async for batch, answers, errors in scored:
                await asyncio.to_thread(write, batch, answers, errors)
                job.progress.add(batch.num_rows, len(errors))


KIND = Score()


def _results(
    document: ScoreDocument,
    layout: Layout,
    model: ModelAnnouncement,
    signature: Signature,
    answers: Sequence[Answer],
    rows: int,
) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    if document.scores or not layout.scores:
        columns |= output_columns(signature, answers, rows, layout.outputs)
    if layout.scores:
        best = best_columns(answers, layout.scores, model.labels, rows, has_label=document.labels, top_k=document.top_k)
        columns |= {layout.best[name]: column for name, column in best.items()}
    return columns


def _layout(document: ScoreDocument, model: ModelAnnouncement, reader: formats.Reader) -> Layout:
    signature = model.signatures[document.signature]
    columns = reader.schema.names
    carried = tuple(reader.carried) if document.carry is None else document.carry
    for name in carried:
        if name not in columns:
            raise InvalidRequest(f"carry: the file has no column {name!r}; it has {', '.join(columns)}")
    names = _outputs(document, signature)
    kept = tuple(name for name in dict.fromkeys(carried) if name != ERROR)
    taken = {*kept, ERROR}
    return Layout(
        carried=kept,
        best={name: _free(name, taken) for name in BEST},
        outputs={name: _free(name, taken) for name in names},
        scores=scores_of(signature, names, model.labels) if document.labels or document.top_k else "",
        format=_output_format(document, reader.format),
    )


def _free(name: str, taken: set[str]) -> str:
    """A name for a column of the result that no other one has."""
    while name in taken:
        name = f"output_{name}"
    taken.add(name)
    return name


def _outputs(document: ScoreDocument, signature: Signature) -> Sequence[str]:
    known = [spec.name for spec in signature.outputs]
    for name in document.outputs or ():
        if name not in known:
            raise InvalidRequest(f"outputs: the model has no output {name!r}; it has {', '.join(known)}")
    return document.outputs if document.outputs is not None else known


def _output_format(document: ScoreDocument, of_input: str) -> str:
    if document.output_format == "auto" and document.output:
        found = formats.format_of(document.output, "auto")
    elif document.output_format == "auto":
        found = {"npy": "npz", "images": "csv"}.get(of_input, of_input)
    else:
        found = document.output_format
    if found not in formats.SUFFIXES:
        raise InvalidRequest(f"output_format: a result cannot be written as {found}; {', '.join(formats.SUFFIXES)} can")
    return found
