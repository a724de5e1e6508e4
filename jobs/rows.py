"""Rows through the queue to a model: enough on their way to keep its workers busy, and again where they got lost.

A block that the model refuses is halved until the rows that it refuses stand alone: each of them gets its error, and
all others their outputs. Whatever may go well another time is tried again: a full queue, a worker that died, a Redis
that restarts.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass

from jobs.failures import JobFailed
from jobs.link import Link, Outputs
from millrace.protocol.errors import Internal, InvalidRequest, MillraceError, ModelFailed, Unavailable
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import Tensor, split_rows

_ANSWER_S = 60.0
_FIRST_AGAIN_S, _LONGEST_AGAIN_S = 0.02, 1.0
_FEWEST, _PER_WORKER = 8, 8  # blocks on their way


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
        link: Link,
        model: ModelAnnouncement,
        signature: str,
        model_wait_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._model = model
        self._signature = signature
        self._model_wait_s = model_wait_s
        self._clock = clock
        self._served_at = clock()

    async def answers(self, blocks: Iterable[Block]) -> AsyncIterator[list[Answer]]:
        """The answers to each block, in the order of the blocks, which are taken as there is room for them.

        Raises `JobFailed` where no worker has the model for too long.
        """
        pending: deque[asyncio.Task[list[Answer]]] = deque()
        try:
            for block in blocks:
                pending.append(asyncio.create_task(self._answered(block)))
                await asyncio.sleep(0)
                while len(pending) >= self._window():
                    yield await pending.popleft()
            while pending:
                yield await pending.popleft()
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    def _window(self) -> int:
        return max(_FEWEST, _PER_WORKER * self._link.workers(self._model.name, self._model.version))

    async def _answered(self, block: Block) -> list[Answer]:
        try:
            return [Answer(block.rows, await self._tried(block))]
        except (InvalidRequest, ModelFailed, Internal) as error:
            if len(block.rows) == 1:
                return await self._refused(block, error)
        middle = len(block.rows) // 2
        found: list[Answer] = []
        for half in _halves(block, middle):
            found += await self._answered(half)
        return found

    async def _refused(self, block: Block, error: MillraceError) -> list[Answer]:
        """A row that was refused alone; where that may have been an accident, it is sent once more."""
        if not isinstance(error, InvalidRequest):
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
                outputs = await self._link.ask(self._model, self._signature, block.tensors, len(block.rows), _ANSWER_S)
                self._served_at = self._clock()
                return outputs
            except MillraceError as error:
                if not error.can_retry:
                    raise
                if isinstance(error, Unavailable) and self._is_hopeless():
                    raise JobFailed(f"{error}, for {self._model_wait_s:g} s") from None
            await asyncio.sleep(again_s)
            again_s = min(2 * again_s, _LONGEST_AGAIN_S)

    def _is_hopeless(self) -> bool:
        return self._clock() - self._served_at > self._model_wait_s


def _halves(block: Block, middle: int) -> list[Block]:
    counts = [middle, len(block.rows) - middle]
    columns = {name: split_rows(tensor, counts) for name, tensor in block.tensors.items()}
    rows = [block.rows[:middle], block.rows[middle:]]
    return [Block(rows[i], {name: column[i] for name, column in columns.items()}) for i in range(2)]
