"""`evaluate`: how well a model answers rows whose right answer is known, as JSON and as a page with drawings."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import cast

import msgspec

from jobs.context import Job
from jobs.evaluation import Counts, added, chances_of, class_of
from jobs.kinds.base import whole
from jobs.labels import scores_of
from jobs.outputs import numbers
from jobs.parts import Outcome, Outputs, Part, Plan
from jobs.report import Report, calibration_svg, confusion_svg, markdown, report_of
from jobs.scoring import ModelRows, plan_rows
from millrace.jobs.documents import EvaluateDocument
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.messages import ModelAnnouncement


class Evaluate:
    """See `jobs.kinds.base.Kind`."""

    name = "evaluate"

    def plan(self, job: Job) -> Plan:
        """Find the model, its output of scores, and the column of right answers; cut the rows."""
        document = cast(EvaluateDocument, job.document)
        plan, model, reader = plan_rows(job, document)
        columns = reader.schema.names
        if document.target not in columns:
            raise InvalidRequest(f"target: the file has no column {document.target!r}; it has {', '.join(columns)}")
        signature = model.signatures[document.signature]
        scores = scores_of(signature, [spec.name for spec in signature.outputs], model.labels, document.output)
        return msgspec.structs.replace(plan, facts=plan.facts | {"scores": scores})

    def run(self, job: Job, plan: Plan, part: Part) -> Outcome:
        """Count the part's rows."""
        counts = asyncio.run(self._count(job, cast(EvaluateDocument, job.document), plan, part))
        with whole(job.part_path(part.number, ".json")) as path:
            path.write_bytes(msgspec.json.encode(counts))
        rows, errors = job.progress.now()
        return Outcome(rows=rows, errors=errors)

    def join(self, job: Job, plan: Plan, outcomes: Sequence[Outcome]) -> Outputs:
        """Write the report."""
        document = cast(EvaluateDocument, job.document)
        model = msgspec.convert(plan.facts["model"], ModelAnnouncement)
        counted = [_read(job, part) for part in plan.parts]
        report = report_of(
            added((each.counts for each in counted), document.worst),
            model.labels,
            max((each.classes for each in counted), default=0),
            model=model.name,
            version=model.version,
            errors=sum(each.errors for each in outcomes),
        )
        return Outputs(names=_write(job, report))

    async def _count(self, job: Job, document: EvaluateDocument, plan: Plan, part: Part) -> "_Counted":
        counts, first, most = Counts(pairs={}), part.first, 0
        rows = ModelRows(job, document, plan)
        labels = {label: number for number, label in enumerate(rows.model.labels)}
        async with aclosing(rows.read(part)) as scored:
            async for batch, answers, errors in scored:
                targets = batch.column(document.target).to_pylist()
                for row, scores in numbers(answers, plan.facts["scores"]).items():
                    try:
                        chances = chances_of(scores)
                        most = max(most, len(chances))
                        counts.add(first + row, class_of(targets[row], labels, len(chances)), chances)
                    except InvalidRequest as error:
                        errors[row] = str(error)
                counts.trim(document.worst)
                first += batch.num_rows
                job.progress.add(batch.num_rows, len(errors))
        return _Counted(counts, most)


class _Counted(msgspec.Struct):
    counts: Counts
    classes: int


KIND = Evaluate()


def _read(job: Job, part: Part) -> _Counted:
    return msgspec.json.decode(job.part_path(part.number, ".json").read_bytes(), type=_Counted)


def _write(job: Job, report: Report) -> tuple[str, ...]:
    files = {
        "report.json": msgspec.json.format(msgspec.json.encode(report), indent=2).decode(),
        "report.md": markdown(report),
        "confusion.svg": confusion_svg(report),
        "calibration.svg": calibration_svg(report),
    }
    for name, text in files.items():
        with whole(job.outputs / name) as path:
            path.write_text(text, encoding="utf-8")
    return tuple(files)
