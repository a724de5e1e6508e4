"""A link to the queue on one event loop: calls go out, and each gets its answers."""

import asyncio
import itertools
import logging
from dataclasses import dataclass

from millrace.background import Background
from millrace.broker.base import ProducerLink
from millrace.broker.fragments import read_reference
from millrace.calling.call import Call, Outputs
from millrace.calling.sending import send
from millrace.calling.served import ServedModels
from millrace.outage import Outage
from millrace.protocol import codec
from millrace.protocol.errors import DeadlineExceeded, MillraceError, NoWorker, Unavailable, from_wire
from millrace.protocol.messages import ReplyBlock
from millrace.protocol.tensors import split_rows

_log = logging.getLogger(__name__)
_HEARTBEAT_S = 1.0


@dataclass(slots=True)
class _Waiting:
    """A call on its way: the outputs of each item, until the last one is there."""

    call: Call
    answered: "asyncio.Future[None]"
    parts: list[Outputs | None]
    missing: int

    def take(self, part: int, outputs: Outputs) -> None:
        self.parts[part] = outputs
        self.missing -= 1
        if not self.missing and not self.answered.done():
            self.answered.set_result(None)

    def fail(self, error: MillraceError) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)


class QueueCaller:
    """Calls models; `refresh` comes first, for no reply can come before it. `close` ends it."""

    def __init__(self, link: ProducerLink) -> None:
        self._link = link
        self._ids = itertools.count(1)
        self._waiting: dict[int, tuple[_Waiting, int]] = {}
        self._served = ServedModels()
        self._refreshing = asyncio.Lock()
        self._outage = Outage(_log)
        self._background = Background(_log, self._outage)

    @property
    def served(self) -> ServedModels:
        """Who serves what, as of the last heartbeat."""
        return self._served

    def now_ms(self) -> float:
        """The broker's time."""
        return self._link.clock.now_ms()

    async def refresh(self) -> None:
        """A heartbeat now: learn who serves what. The first one connects. Raises `Unavailable`."""
        async with self._refreshing:  # of two that find no reply stream only one may make it
            heartbeat = await self._link.heartbeat()
            self._served = ServedModels(heartbeat.workers, heartbeat.desired_states)
            for waiting, _ in list(self._waiting.values()):
                if not heartbeat.had_stream:
                    waiting.fail(Unavailable("the queue was restarted and lost what was on its way"))
                elif waiting.call.needs_worker and not self._is_served(waiting.call):
                    waiting.fail(_no_worker(waiting.call))
            if not self._background:
                self._background.repeat(self._beat)
                self._background.repeat(self._read)

    async def answers(self, call: Call) -> list[Outputs]:
        """The outputs of the call's items, in order.

        Raises the model's error, `QueueFull`, `DeadlineExceeded`, `NoWorker` where the call needs a worker, and
        `Unavailable`. Cancelled, or when nobody will answer, it is withdrawn.
        """
        if call.needs_worker and not self._is_served(call):
            raise _no_worker(call)
        count = sum([len(items) for items in call.items])
        numbers = [next(self._ids) for _ in range(count)]
        waiting = _Waiting(call, asyncio.get_running_loop().create_future(), [None] * count, count)
        for part, number in enumerate(numbers):
            self._waiting[number] = waiting, part
        try:
            async with asyncio.timeout(max(0.0, (call.deadline_ms - self.now_ms()) / 1000)):
                await send(self._link, call, numbers)
                await waiting.answered
        except TimeoutError:
            self._withdraw(call, numbers)
            raise DeadlineExceeded(f"model '{call.queue.model}' did not answer in time") from None
        except (NoWorker, asyncio.CancelledError):
            self._withdraw(call, numbers)
            raise
        finally:
            for number in numbers:
                self._waiting.pop(number, None)
            waiting.answered.cancel()
        return [part for part in waiting.parts if part is not None]

    async def close(self, why: str = "the caller is closed") -> None:
        """Disconnect; calls without an answer get `Unavailable`."""
        await self._background.stop()
        for waiting, _ in list(self._waiting.values()):
            waiting.fail(Unavailable(why))
        try:
            await self._link.close()
        except Unavailable as error:
            _log.info("the reply stream was left to expire", extra={"reason": str(error)})

    def _is_served(self, call: Call) -> bool:
        return bool(self._served.workers(call.queue.model, call.queue.version))

    def _withdraw(self, call: Call, numbers: list[int]) -> None:
        if items := [(number, call.deadline_ms) for number in numbers if number in self._waiting]:
            self._background.spawn(self._cancel(call, items))

    async def _cancel(self, call: Call, items: list[tuple[int, int]]) -> None:
        try:
            await self._link.cancel(call.queue, items)
        except Unavailable as error:
            _log.info("withdrawn calls will be computed all the same", extra={"reason": str(error)})

    async def _beat(self) -> None:
        await asyncio.sleep(_HEARTBEAT_S)
        await self.refresh()
        self._outage.answered()

    async def _read(self) -> None:
        raws = await self._link.replies()
        self._outage.answered()
        for raw in raws:
            reference = read_reference(raw)
            block = await self._link.fetch(reference) if reference else raw
            if block is None:
                continue
            try:
                self._resolve(codec.decode_reply(block))
            except Exception:
                _log.exception("a reply could not be read")

    def _resolve(self, block: ReplyBlock) -> None:
        counts = [item.rows for item in block.items]
        columns = {name: split_rows(tensor, counts) for name, tensor in block.tensors.items()}
        for i, item in enumerate(block.items):
            found = self._waiting.pop(item.id, None)
            if found is None:  # answered before, or its caller has given up
                continue
            waiting, part = found
            if item.code:
                waiting.fail(from_wire(item.code, item.message))
            else:
                waiting.take(part, {name: column[i] for name, column in columns.items()})


def _no_worker(call: Call) -> NoWorker:
    return NoWorker(f"no live worker has model {call.queue.model!r} version {call.queue.version}")
