"""A link to the queue of the models, for one unit: blocks of rows go out, and each gets its answer."""

import asyncio
import itertools
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping

from millrace.broker.base import Append, Limits, ProducerLink
from millrace.broker.fragments import read_reference
from millrace.broker.keys import Queue
from millrace.broker.redis import RedisBroker
from millrace.protocol import codec
from millrace.protocol.errors import DeadlineExceeded, NoWorker, QueueFull, Unavailable, from_wire
from millrace.protocol.messages import ModelAnnouncement, ReplyBlock, RequestBlock, RequestItem
from millrace.protocol.tensors import Tensor, split_rows

_log = logging.getLogger(__name__)
_HEARTBEAT_S = 1.0
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.05, 1.0
PRIORITY = "normal"
_LIMITS = Limits(rows=2048, bytes=128 * 2**20)  # beyond what callers have there, nothing of a job's is added
Outputs = dict[str, Tensor]


class Link:
    """Sends blocks to one version of a model. A context manager, on the loop that it is entered on."""

    def __init__(self, redis_url: str, trace: str) -> None:
        name = f"jobs-{os.getpid()}-{secrets.token_hex(4)}"
        self._link: ProducerLink = RedisBroker(redis_url).producer(name)
        self._trace = trace
        self._ids = itertools.count(1)
        self._waiting: dict[int, tuple[Queue, asyncio.Future[Outputs]]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._models: dict[tuple[str, int], list[ModelAnnouncement]] = {}

    async def __aenter__(self) -> "Link":
        self._tasks = [
            asyncio.create_task(self._forever(self._beat_later)),
            asyncio.create_task(self._forever(self._read)),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._link.close()
        except Unavailable as error:
            _log.info("the reply stream was left to expire", extra={"reason": str(error)})

    async def beat(self) -> None:
        """Learn who serves what; needed before the first `ask`. Raises `Unavailable`."""
        heartbeat = await self._link.heartbeat()
        self._models = {}
        for model in (model for worker in heartbeat.workers for model in worker.models if model.state == "AVAILABLE"):
            self._models.setdefault((model.name, model.version), []).append(model)
        for queue, answered in self._waiting.values():
            if not heartbeat.had_stream:
                _fail(answered, Unavailable("the queue was restarted and lost what was on its way"))
            elif not self.workers(queue.model, queue.version):
                _fail(answered, NoWorker(f"no live worker has model {queue.model!r} version {queue.version}"))

    def versions(self, name: str) -> Mapping[int, ModelAnnouncement]:
        """The versions of a model that live workers have."""
        return {version: found[0] for (model, version), found in self._models.items() if model == name}

    def workers(self, name: str, version: int) -> int:
        """How many live workers have that version."""
        return len(self._models.get((name, version), ()))

    async def ask(
        self, model: ModelAnnouncement, signature: str, tensors: Outputs, rows: int, wait_s: float
    ) -> Outputs:
        """The outputs for these rows, which go as one block. Raises the model's error, or why there is no answer."""
        if not self.workers(model.name, model.version):
            raise NoWorker(f"no live worker has model {model.name!r} version {model.version}")
        number = next(self._ids)
        answered: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        queue, now_ms = Queue(model.name, model.version), self._link.clock.now_ms()
        self._waiting[number] = queue, answered
        deadline_ms = int(now_ms + wait_s * 1000)
        block = RequestBlock(
            reply_to=self._link.reply_to,
            model=model.name,
            version=model.version,
            signature=signature,
            sent_ms=now_ms,
            items=(RequestItem(number, self._trace, rows, deadline_ms),),
            tensors=tensors,
            has_rows=model.max_batch_size > 0,
        )
        try:
            append = Append(queue, PRIORITY, ((rows, codec.encode_request(block)),))
            (held,) = await self._link.append([append], _LIMITS)
            if held.is_refused:
                raise QueueFull("the model's queue is full")
            async with asyncio.timeout(wait_s):
                return await answered
        except NoWorker:
            await self._link.cancel(queue, [(number, deadline_ms)])
            raise
        except TimeoutError:
            await self._link.cancel(queue, [(number, deadline_ms)])
            raise DeadlineExceeded(f"no answer within {wait_s:g} s") from None
        finally:
            self._waiting.pop(number, None)

    async def _beat_later(self) -> None:
        await asyncio.sleep(_HEARTBEAT_S)
        await self.beat()

    async def _read(self) -> None:
        for raw in await self._link.replies():
            reference = read_reference(raw)
            block = await self._link.fetch(reference) if reference else raw
            if block is not None:
                self._resolve(codec.decode_reply(block))

    def _resolve(self, block: ReplyBlock) -> None:
        counts = [item.rows for item in block.items]
        columns = {name: split_rows(tensor, counts) for name, tensor in block.tensors.items()}
        for i, item in enumerate(block.items):
            _, answered = self._waiting.pop(item.id, (None, None))
            if answered is None or answered.done():
                continue
            if item.code:
                answered.set_exception(from_wire(item.code, item.message))
            else:
                answered.set_result({name: column[i] for name, column in columns.items()})

    async def _forever(self, work: Callable[[], Awaitable[None]]) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            try:
                await work()
                backoff_s = _FIRST_BACKOFF_S
            except (Unavailable, codec.CodecError) as error:
                _log.warning("the queue does not answer", extra={"reason": str(error), "retry_s": backoff_s})
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)


def _fail(answered: "asyncio.Future[Outputs]", error: Unavailable) -> None:
    if not answered.done():
        answered.set_exception(error)
