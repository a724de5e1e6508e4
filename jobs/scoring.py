"""What kinds that send rows to a model share: planning, and batches of a part with the model's answers to them."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
import pyarrow as pa

from jobs import formats, places
from jobs.context import Job
from jobs.inputs import Inputs, check_files, mapping_of
from jobs.models import chosen, queue_caller, signature_of
from jobs.parts import Part, Plan, cut
from jobs.rows import Answer, Block, Rows
from millrace.jobs.documents import RowsDocument
from millrace.jobs.room import Room
from millrace.protocol.messages import ModelAnnouncement

Scored = tuple[Any, Sequence[Answer], dict[int, str]]


def plan_rows(job: Job, document: RowsDocument) -> tuple[Plan, ModelAnnouncement, formats.Reader]:
    """Find the model, read the file's head, and cut its rows.

    The plan's facts are the version that all parts use (`model`), the columns that feed it (`mapping`), and the file
    (`input`). Raises `MillraceError`.
    """
    place = places.input_path(job, document.input)
    reader = formats.reader(place, reading(job, document))
    model = asyncio.run(_chosen(job, document))
    signature = signature_of(model, document.signature)
    mapping = mapping_of(document, signature, reader.schema.names, "image" if reader.format == "images" else None)
    check_files(signature, mapping, reader.schema)
    facts = {"model": msgspec.to_builtins(model), "mapping": mapping, "input": place.name}
    parts = cut(reader.row_count, document.part_rows or job.settings.part_rows)
    job.log(f"{reader.row_count} rows in {len(parts)} parts for {model.name} version {model.version}")
    return Plan(parts=tuple(parts), rows=reader.row_count, facts=facts), model, reader


def reading(job: Job, document: RowsDocument) -> formats.Options:
    """How the job's file is read: with an index beside its parts, which goes when they go."""
    room = Room(job.settings.folder, job.settings.max_bytes)
    return formats.Options(document.input_format, job.folder / "parts" / "input", room.check)


async def _chosen(job: Job, document: RowsDocument) -> ModelAnnouncement:
    async with queue_caller(job.settings.redis_url.get_secret_value()) as caller:
        return await chosen(caller, document.model, document.version, document.label, job.settings.model_wait_s)


class ModelRows:
    """The rows of a part, with the model's answers."""

    def __init__(self, job: Job, document: RowsDocument, plan: Plan) -> None:
        self.model = msgspec.convert(plan.facts["model"], ModelAnnouncement)
        self.signature = signature_of(self.model, document.signature)
        self._job = job
        self._document = document
        self._place = places.input_path(job, document.input)
        is_cut = not self.model.has_whole_requests
        self._inputs = Inputs(self.signature, plan.facts["mapping"], self.model.max_batch_size, is_cut=is_cut)

    async def read(self, part: Part) -> AsyncGenerator[Scored, None]:
        """Each batch of the part, in order, with the answers to its rows and the errors of those that have one.

        Blocks of the next batches are on their way while one is answered.
        """
        settings = self._job.settings
        reader = formats.reader(self._place, reading(self._job, self._document))
        begun: deque[_Begun] = deque()
        async with queue_caller(settings.redis_url.get_secret_value()) as caller:
            await chosen(caller, self.model.name, self.model.version, None, settings.model_wait_s)
            rows = Rows(caller, self.model, self._document.signature, settings.model_wait_s, self._job.record.id)
            async with aclosing(rows.answers(self._batches(reader, part, begun))) as answers:
                async for answer in answers:
                    while begun[0].is_complete:
                        yield begun.popleft().scored()
                    begun[0].take(answer)
            while begun:
                yield begun.popleft().scored()

    def _batches(self, reader: formats.Reader, part: Part, begun: "deque[_Begun]") -> Iterator[Sequence[Block]]:
        """The blocks of each batch; notes in `begun` whose they are, before they go out."""
        for batch in reader.read(part.first, part.count):
            errors = formats.refused(batch)
            blocks = list(self._inputs.blocks(batch, errors))
            begun.append(_Begun(batch, len(blocks), errors))
            yield blocks


class _Begun:
    """A batch whose blocks are on their way; answers to blocks come in their order."""

    def __init__(self, batch: pa.RecordBatch, blocks: int, errors: dict[int, str]) -> None:
        self._batch = batch
        self._left = blocks
        self._errors = errors
        self._answers: list[Answer] = []

    @property
    def is_complete(self) -> bool:
        return self._left == 0

    def take(self, answers: list[Answer]) -> None:
        self._answers += answers
        self._errors |= {answer.rows[0]: answer.error for answer in answers if answer.outputs is None}
        self._left -= 1

    def scored(self) -> Scored:
        return self._batch, self._answers, self._errors
