"""A link to the queue for code that calls models: it sends calls and gives each its answer, on one event loop."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.broker.base import ProducerLink
from millrace.broker.fragments import read_reference
from millrace.broker.keys import Queue
from millrace.protocol import codec
from millrace.protocol.errors import DeadlineExceeded, MillraceError, ModelFailed, Unavailable, from_wire
from millrace.protocol.messages import ModelAnnouncement, ReplyBlock
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Tensor, concatenate_rows, split_rows
from worker.calls.choosing import ServedModels
from worker.calls.inputs import tensors_of
from worker.calls.sending import Call, send
from worker.running.current import CurrentRequests

_log = logging.getLogger(__name__)
_HEARTBEAT_S = 1.0
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.05, 1.0
_TIMEOUT_MS = 30_000  # of what is called for no request: while a model is loaded, or in a thread of its own
_Outputs = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is called; without a version and a label, the version that answers requests which name none."""

    name: str
    version: int | None = None
    label: str | None = None
    signature: str = DEFAULT_SIGNATURE


@dataclass(slots=True)
class _Waiting:
    """A call on its way: the outputs of each part, until the last one is there."""

    answered: "asyncio.Future[None]"
    parts: list[dict[str, Tensor] | None] = field(default_factory=list)

    def take(self, part: int, outputs: dict[str, Tensor]) -> None:
        self.parts[part] = outputs
        if None not in self.parts and not self.answered.done():
            self.answered.set_result(None)

    def fail(self, error: MillraceError) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)


class CallingClient:
    """Calls models for the one that is `own`, on one event loop; the first `call` connects."""

    def __init__(self, link: ProducerLink, own: Queue) -> None:
        self._link = link
        self._own = _named(own)
        self._ids = itertools.count(1)
        self._waiting: dict[int, tuple[_Waiting, int]] = {}
        self._served = ServedModels()
        self._starting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def call(self, target: Target, inputs: Mapping[str, Any], current: CurrentRequests | None) -> _Outputs:
        """The outputs, on behalf of the current requests and before their deadline. Raises `MillraceError`."""
        await self._start()
        model = await self._found(target)
        queue = Queue(model.name, model.version)
        via = (*(current.via if current else ()), self._own)
        if _named(queue) in via:
            circle = " calls ".join([*via[via.index(_named(queue)) :], _named(queue)])
            raise ModelFailed(f"models call in a circle, which would wait for itself: {circle}")
        tensors, rows = tensors_of(model, target.signature, inputs)
        now_ms = self._link.clock.now_ms()
        call = Call(
            queue=queue,
            signature=target.signature,
            tensors=tensors,
            rows=rows,
            max_batch_size=model.max_batch_size,
            is_whole=model.has_whole_requests,
            deadline_ms=current.deadline_ms if current else int(now_ms + _TIMEOUT_MS),
            trace=current.trace if current else "",
            via=via,
        )
        return _arrays(model, await self._answered(call, now_ms))

    async def close(self) -> None:
        """Disconnect; calls without an answer get `Unavailable`."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fail_all(Unavailable("the model is being unloaded"))
        try:
            await self._link.close()
        except Unavailable as error:
            _log.info("the reply stream was left to expire", extra={"reason": str(error)})

    # One call

    async def _answered(self, call: Call, now_ms: float) -> list[dict[str, Tensor]]:
        """The outputs of each part, in order."""
        count = len(call.counts)
        numbers = [next(self._ids) for _ in range(count)]
        waiting = _Waiting(asyncio.get_running_loop().create_future(), [None] * count)
        self._waiting |= {number: (waiting, part) for part, number in enumerate(numbers)}
        try:
            async with asyncio.timeout(max(0.0, (call.deadline_ms - now_ms) / 1000)):
                await send(self._link, call, numbers)
                await waiting.answered
        except TimeoutError:
            self._withdraw(call, numbers)
            raise DeadlineExceeded(f"model '{call.queue.model}' did not answer its caller, a model, in time") from None
        except asyncio.CancelledError:
            self._withdraw(call, numbers)
            raise
        finally:
            for number in numbers:
                self._waiting.pop(number, None)
            waiting.answered.cancel()
        return [part for part in waiting.parts if part is not None]

    def _withdraw(self, call: Call, numbers: list[int]) -> None:
        items = [(number, call.deadline_ms) for number in numbers if number in self._waiting]
        self._spawn(self._cancel(call.queue, items))

    async def _cancel(self, queue: Queue, items: list[tuple[int, int]]) -> None:
        try:
            await self._link.cancel(queue, items)
        except Unavailable as error:
            _log.info("withdrawn calls will be computed all the same", extra={"reason": str(error)})

    async def _found(self, target: Target) -> ModelAnnouncement:
        """The version that answers; one that is not there may have come since the last heartbeat."""
        try:
            return self._served.choose(target.name, target.version, target.label)
        except Unavailable:
            await self._beat()
            return self._served.choose(target.name, target.version, target.label)

    # The link

    async def _start(self) -> None:
        async with self._starting:
            if not self._tasks:
                await self._beat()  # no reply can come before
                self._spawn(self._forever(self._beat_later))
                self._spawn(self._forever(self._read))

    async def _beat(self) -> None:
        heartbeat = await self._link.heartbeat()
        self._served = ServedModels(heartbeat.workers, heartbeat.desired_states)
        if not heartbeat.had_stream:
            self._fail_all(Unavailable("the queue was restarted and lost the call of a model"))

    async def _beat_later(self) -> None:
        await asyncio.sleep(_HEARTBEAT_S)
        await self._beat()

    async def _read(self) -> None:
        for raw in await self._link.replies():
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

    def _fail_all(self, error: MillraceError) -> None:
        for waiting, _ in list(self._waiting.values()):
            waiting.fail(error)

    async def _forever(self, job: Callable[[], Awaitable[None]]) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            try:
                await job()
                backoff_s = _FIRST_BACKOFF_S
            except Unavailable as error:
                _log.warning("the queue does not answer", extra={"reason": str(error), "retry_s": backoff_s})
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _named(queue: Queue) -> str:
    return f"{queue.model}/{queue.version}"


def _arrays(model: ModelAnnouncement, parts: list[dict[str, Tensor]]) -> _Outputs:
    """The outputs of all parts, end to end, as arrays; of a model without rows, without the first dimension."""
    try:
        joined = {name: concatenate_rows([part[name] for part in parts]) for name in parts[0]}
        arrays = {name: tensor.to_numpy() for name, tensor in joined.items()}
    except (KeyError, MillraceError) as error:
        raise ModelFailed(f"the answers of model '{model.name}' to these rows do not fit together: {error}") from error
    return arrays if model.max_batch_size else {name: np.squeeze(array, 0) for name, array in arrays.items()}
