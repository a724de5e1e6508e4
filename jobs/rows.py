"""Rows through the queue to a model: enough on their way to keep its workers busy, and again where they got lost.

They go at the priority `bulk`, which takes what callers leave. A block that the model refuses is halved until the rows
that it refuses stand alone: each of them gets its error, and all others their outputs. Whatever may go well another
time is tried again: a full queue, a worker that died, a Redis that restarts.

Three things go on at once: the next batch of the file is read in a thread, the blocks of the last one are on their
way, and whoever asks gets the answers in the order of the rows.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass

from jobs.failures import JobFailed
from millrace.broker.base import Limits
from millrace.broker.keys import BULK, Queue
from millrace.calling.call import Call, Outputs
from millrace.calling.caller import QueueCaller
from millrace.protocol.errors import Internal, InvalidRequest, MillraceError, ModelFailed, PayloadTooLarge, Unavailable
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import Tensor, concatenate_rows, split_rows

_ANSWER_MS = 60_000
_FIRST_AGAIN_S, _LONGEST_AGAIN_S = 0.02, 1.0
_PER_WORKER = 32  # batches on their way: what its instances work on, what waits, and time to read, write and be late
_AHEAD, _AHEAD_BYTES = 4, 64 * 2**20  # times as many, in so many bytes, may be on their way or not asked for yet
_LIMITS = Limits(rows=8192, bytes=256 * 2**20)  # what all jobs together may have in one queue


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that go to the model together: `rows` are their numbers in the batch that they come from."""

    rows: Sequence[int]
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model made of some rows: their outputs, or for a single row why it was refused."""

    rows: Sequence[int]
    outputs: Outputs | None
    error: str = ""


class Rows:
    """Rows for one version of a model. `clock` counts seconds."""

    def __init__(
        self,
        caller: QueueCaller,
        model: ModelAnnouncement,
        signature: str,
        model_wait_s: float,
        trace: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._caller = caller
        self._model = model
        self._queue = Queue(model.name, model.version)
        self._signature = signature
        self._model_wait_s = model_wait_s
        self._trace = trace
        self._clock = clock
        self._served_at = clock()
        self._begun: deque[tuple[Block, asyncio.Task[list[Answer]]]] = deque()
        self._unanswered = self._unasked = self._unasked_bytes = 0  # rows, rows, and those in bytes
        self._has_room = asyncio.Event()
        self._has_begun = asyncio.Event()

    async def answers(self, batches: Iterator[Sequence[Block]]) -> AsyncGenerator[list[Answer], None]:
        """The answers to each block, in the order of the blocks. `batches` is read in a thread, a batch ahead.

        Raises `JobFailed` where no worker has the model for too long, and what `batches` raises.
        """
        feeding = asyncio.create_task(self._feed(batches))
        feeding.add_done_callback(lambda _: self._has_begun.set())
        try:
            while True:
                self._has_begun.clear()
                if self._begun:
                    answers = await self._begun[0][1]
                    self._count(self._begun.popleft()[0], -1)
                    self._has_room.set()
                    yield answers
                elif feeding.done():
                    await feeding
                    return
                else:
                    await self._has_begun.wait()
        finally:
            begun = [task for _, task in self._begun]
            for task in (feeding, *begun):
                task.cancel()
            await asyncio.gather(feeding, *begun, return_exceptions=True)

    async def _feed(self, batches: Iterator[Sequence[Block]]) -> None:
        reading = asyncio.create_task(asyncio.to_thread(next, batches, None))
        try:
            while (blocks := await reading) is not None:
                reading = asyncio.create_task(asyncio.to_thread(next, batches, None))
                for block in blocks:
                    await self._room()
                    self._begin(block)
        finally:
            reading.cancel()

    def _begin(self, block: Block) -> None:
        self._unanswered += len(block.rows)
        self._count(block, 1)
        self._begun.append((block, asyncio.create_task(self._sent(block))))
        self._has_begun.set()

    def _count(self, block: Block, times: int) -> None:
        self._unasked += times * len(block.rows)
        self._unasked_bytes += times * sum([len(tensor.data) for tensor in block.tensors.values()])

    async def _room(self) -> None:
        """Wait until another block may go out."""
        while True:
            workers = max(1, self._caller.served.workers(self._model.name, self._model.version))
            window = _PER_WORKER * workers * max(1, self._model.max_batch_size)
            is_far_ahead = self._unasked >= _AHEAD * window or self._unasked_bytes >= _AHEAD_BYTES
            if self._unanswered < window and not is_far_ahead:
                return
            self._has_room.clear()
            await self._has_room.wait()

    async def _sent(self, block: Block) -> list[Answer]:
        try:
            return await self._answered(block)
        finally:
            self._unanswered -= len(block.rows)
            self._has_room.set()

    async def _answered(self, block: Block) -> list[Answer]:
        try:
            return [Answer(block.rows, await self._tried(block))]
        except (InvalidRequest, PayloadTooLarge, ModelFailed, Internal) as error:
            if len(block.rows) == 1:
                return await self._refused(block, error)
        middle = len(block.rows) // 2
        found: list[Answer] = []
        for half in _halves(block, middle):
            found += await self._answered(half)
        return found

    async def _refused(self, block: Block, error: MillraceError) -> list[Answer]:
        """A row that was refused alone; where that may have been an accident, it is sent once more."""
        if isinstance(error, ModelFailed | Internal):
            try:
                return [Answer(block.rows, await self._tried(block))]
            except (InvalidRequest, ModelFailed, Internal) as again:
                error = again
        return [Answer(block.rows, None, str(error))]

    async def _tried(self, block: Block) -> Outputs:
        """The outputs; tried until there is an answer."""
        again_s = _FIRST_AGAIN_S
        while True:
            try:
                outputs = _joined(await self._caller.answers(self._call(block)))
                self._served_at = self._clock()
                return outputs
            except MillraceError as error:
                if not error.can_retry:
                    raise
                if isinstance(error, Unavailable) and self._is_hopeless():
                    raise JobFailed(f"{error}, for {self._model_wait_s:g} s") from None
            await asyncio.sleep(again_s)
            again_s = min(2 * again_s, _LONGEST_AGAIN_S)

    def _call(self, block: Block) -> Call:
        return Call(
            queue=self._queue,
            signature=self._signature,
            tensors=block.tensors,
            rows=len(block.rows),
            max_batch_size=self._model.max_batch_size,
            is_whole=self._model.has_whole_requests,
            deadline_ms=int(self._caller.now_ms() + _ANSWER_MS),
            trace=self._trace,
            priority=BULK,
            limits=_LIMITS,
            needs_worker=True,
        )

    def _is_hopeless(self) -> bool:
        return self._clock() - self._served_at > self._model_wait_s


def _joined(parts: Sequence[Outputs]) -> Outputs:
    """The rows of all parts. Raises `ModelFailed` where they are not rows of one tensor."""
    if len(parts) == 1:
        return parts[0]
    if any(_form(part) != _form(parts[0]) for part in parts):
        raise ModelFailed("the model's answers to rows of one block do not fit together")
    return {name: concatenate_rows([part[name] for part in parts]) for name in parts[0]}


def _form(outputs: Outputs) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (tensor.datatype, tensor.shape[1:]) for name, tensor in outputs.items()}


def _halves(block: Block, middle: int) -> list[Block]:
    counts = [middle, len(block.rows) - middle]
    columns = {name: split_rows(tensor, counts) for name, tensor in block.tensors.items()}
    rows = [block.rows[:middle], block.rows[middle:]]
    return [Block(rows[i], {name: column[i] for name, column in columns.items()}) for i in range(2)]
