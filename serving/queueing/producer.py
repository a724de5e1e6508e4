"""Group commit on the way in, futures on the way out: the API process's one place where requests become blocks.

The first request that finds the link idle is sent in the same turn of the event loop. Those that arrive while that
append is on its way wait for it, and go together as the next blocks; but no longer than until they are a third of all
that is open, so that callers, workers and this process always have something to do at the same time. There is no timer:
the busier it gets, the larger the blocks, and the cost per request falls as the load rises.

A request's life here:

    submit ──► waiting ──► sent ──► answered        every part has its reply: the response
                  │          │
                  │          ├────► DeadlineExceeded  late replies are dropped by id
                  │          └────► Unavailable       the queue lost its memory
                  ├────► QueueFull, Unavailable       the append was refused, or failed
                  └────► withdrawn                    the caller went away: not sent, or dropped by the worker
"""

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace

import msgspec

from millrace.broker.base import Append, Held, Limits, ProducerLink
from millrace.broker.keys import Queue
from millrace.protocol import codec
from millrace.protocol.desired_state import DesiredState, DesiredStates
from millrace.protocol.errors import DeadlineExceeded, Internal, MillraceError, QueueFull, Unavailable, from_wire
from millrace.protocol.messages import ReplyBlock, ReplyItem, RequestBlock, RequestItem, WorkerAnnouncement
from millrace.protocol.tensors import Tensor, concatenate_rows, split_rows
from serving.queueing.deadlines import Deadlines
from serving.queueing.flow import Flow

_log = logging.getLogger(__name__)
HEARTBEAT_S = 1.0
_BLOCK_BYTES = 1_000_000
_GROUPS = 3  # parts of what is open that are under way at once: one parsed, one computed, one answered
_SMALLEST_GROUP = 8
_FIRST_BLOCKS = 2
_ANY = Limits(2**53, 2**53)
_LONGEST_RETRY_S = 30.0
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.05, 1.0


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A valid request. `max_batch_size` 0: its tensors are not cut and not put beside another's.

    `timeout_s` is what is left until the deadline; `trace` is the X-Request-Id.
    """

    model: str
    version: int
    signature: str
    inputs: dict[str, Tensor]
    rows: int
    max_batch_size: int
    timeout_s: float
    trace: str
    priority: str = "normal"


class Timings(msgspec.Struct, frozen=True, gc=False):
    """Where a request's time went after it was parsed, in milliseconds; of several parts, the slowest's."""

    queue_ms: float
    batch_ms: float
    compute_ms: float
    reply_ms: float


class Response(msgspec.Struct, frozen=True):
    """The outputs, with as many rows as the request had."""

    outputs: dict[str, Tensor]
    timings: Timings


class BlockObserver:
    """Told of every reply block, for metrics; this one does nothing."""

    def block_answered(self, model: str, version: int, block: ReplyBlock) -> None:
        """A reply block for that model version has come in."""


class Pending:
    """One request until it is answered: `on_response` or `on_error` is called, once, unless it is withdrawn."""

    __slots__ = (
        "deadline", "flow", "ids", "is_done", "key", "missing", "on_error", "on_response", "parts", "request",
        "started", "tick", "timings",
    )  # fmt: skip

    def __init__(
        self,
        request: Request,
        on_response: Callable[[Response], None],
        on_error: Callable[[MillraceError], None],
        flow: Flow,
    ) -> None:
        self.request = request
        self.on_response = on_response
        self.on_error = on_error
        self.flow = flow
        self.started = time.perf_counter()
        self.deadline = self.started + request.timeout_s
        self.ids: list[int] = []
        self.parts: list[dict[str, Tensor]] = []
        self.missing = 0
        self.tick = 0
        self.timings: Timings | None = None
        self.is_done = False
        shapes = tuple([(name, t.datatype, t.shape[1:]) for name, t in request.inputs.items()])
        self.key: Hashable = (request.model, request.version, request.signature, request.priority, shapes)

    def take(self, part: int, item: ReplyItem, outputs: dict[str, Tensor], compute_ms: float) -> Response | None:
        """Take in one part's reply; the last one completes the response."""
        self._clock(item, compute_ms)
        self.parts[part] = outputs
        self.missing -= 1
        if self.missing or not self.timings:
            return None
        if len(self.parts) > 1:
            outputs = {name: concatenate_rows([p[name] for p in self.parts]) for name in outputs}
        return Response(outputs if self.request.max_batch_size else _out_of_one_row(outputs), self.timings)

    def _clock(self, item: ReplyItem, compute_ms: float) -> None:
        """The part's timings, fitted to the time that really passed: the worker's clock may be a little off ours."""
        total_ms = (time.perf_counter() - self.started) * 1000
        travel_ms = max(0.0, total_ms - item.batch_ms - compute_ms)
        queue_ms = min(max(0.0, item.queue_ms), travel_ms)
        self.timings = Timings(queue_ms, item.batch_ms, compute_ms, travel_ms - queue_ms)


@dataclass(slots=True)
class _Call:
    """An append and the requests in it. Of a large request it has the first blocks; the `rest` follows once these are
    admitted, so that workers begin while it is still written and on its way.
    """

    append: Append
    requests: list[Pending]
    rest: list[RequestBlock]


_Part = tuple[Pending, dict[str, Tensor], int]  # a request, or a run of its rows: the tensors and how many rows


class Producer:
    """Sends requests and resolves their replies, on one event loop. `start` first, `stop` last.

    `workers` is what the live workers announced, at most a heartbeat old. `desired_states` is what operators want of
    the models. `is_connected` says whether the queue answered the last one.
    """

    def __init__(
        self,
        link: ProducerLink,
        *,
        limits: Limits,
        observer: BlockObserver | None = None,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._link = link
        self._limits = limits
        self._heartbeat_s = heartbeat_s
        self._observer = observer or BlockObserver()
        self._ids = itertools.count(1)
        self._waiting: list[Pending] = []
        self._sent: dict[int, tuple[Pending, int]] = {}
        self._withdrawn: dict[Queue, list[tuple[int, int]]] = {}
        self._deadlines = Deadlines(self._expire)
        self._flows: dict[tuple[str, int], Flow] = {}
        self._open = 0
        self._all_answered: asyncio.Event | None = None
        self._is_scheduled = False
        self._appends = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._had_stream = False
        self._beating = asyncio.Lock()
        self.desired_states = DesiredStates(link.clock.now_ms)
        self.workers: list[WorkerAnnouncement] = []
        self.is_connected = False

    async def start(self) -> None:
        """Begin to listen for replies and announcements; does not wait for the queue to be reachable."""
        for job in (self._beat, self._listen):
            self._keep(asyncio.create_task(self._forever(job)))

    async def stop(self) -> None:
        """Stop at once; requests without an answer get `Unavailable`. Call `drain` first to let them finish."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        error = Unavailable("the server is shutting down")
        self._fail_sent(error)
        for pending in self._waiting:
            self._fail(pending, error)
        try:
            await self._link.close()
        except Unavailable as error:
            _log.info("the reply stream was left to expire", extra={"reason": str(error)})

    async def drain(self, timeout_s: float) -> None:
        """Wait until every request that was submitted has its answer, at most that long."""
        if self._open:
            self._all_answered = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_answered.wait(), timeout_s)

    async def submit(self, request: Request) -> Response:
        """The response, or the `MillraceError` that the request met. Cancelling it withdraws the request."""
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def respond(response: Response) -> None:
            if not future.done():  # cancelled in this turn of the loop, before it could withdraw the request
                future.set_result(response)

        def fail(error: MillraceError) -> None:
            if not future.done():
                future.set_exception(error)

        pending = self.send(request, respond, fail)
        try:
            return await future
        finally:
            self.withdraw(pending)

    def send(
        self,
        request: Request,
        on_response: Callable[[Response], None],
        on_error: Callable[[MillraceError], None],
    ) -> Pending:
        """Submit a request; one of the two is called later, on the event loop, unless it is withdrawn before.

        Raises `QueueFull` where so much is waiting that the answer would come too late.
        """
        key = request.model, request.version
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = Flow(request.max_batch_size)
        self.refuse_if_late(request.model, request.version, request.priority, request.timeout_s)
        pending = Pending(request, on_response, on_error, flow)
        pending.tick = self._deadlines.add(pending, pending.deadline)
        flow.sent(request.priority, request.rows)
        self._open += 1
        self._waiting.append(pending)
        if len(self._waiting) >= max(_SMALLEST_GROUP, self._open // _GROUPS):
            self._send_waiting()
        else:
            self._schedule()
        return pending

    def refuse_if_late(self, model: str, version: int, priority: str, timeout_s: float) -> None:
        """Raises `QueueFull` where so much is waiting that the answer to a request would come too late.

        Under overload, asking this before a body is read leaves the time that reading takes to what is accepted.
        """
        flow = self._flows.get((model, version))
        if flow and (too_late_s := flow.seconds_too_late(priority, timeout_s)):
            raise QueueFull(
                f"the queue of {model!r} is too long to answer within {timeout_s * 1000:.0f} ms",
                retry_after_s=min(_LONGEST_RETRY_S, too_late_s),
            )

    def batches_in_flight(self, model: str, version: int) -> float:
        """How many full batches the version's requests make that were sent from here and have no answer yet."""
        flow = self._flows.get((model, version))
        return flow.batches_in_flight if flow else 0.0

    def withdraw(self, pending: Pending) -> None:
        """Nobody waits for the request any more: it is not sent, or a worker drops it. Does nothing once answered."""
        if pending.is_done:
            return
        if pending.ids:
            queue = Queue(pending.request.model, pending.request.version)
            deadline_ms = int(self._link.clock.now_ms() + (pending.deadline - time.perf_counter()) * 1000)
            if not self._withdrawn:
                self._keep(asyncio.get_running_loop().create_task(self._send_withdrawn()))
            self._withdrawn.setdefault(queue, []).extend((number, deadline_ms) for number in pending.ids)
        self._end(pending)

    async def _send_withdrawn(self) -> None:
        withdrawn, self._withdrawn = self._withdrawn, {}
        try:
            for queue, items in withdrawn.items():
                await self._link.cancel(queue, items)
        except Unavailable as error:
            _log.info("withdrawn requests will be computed all the same", extra={"reason": str(error)})

    def worker_count(self, model: str, version: int) -> int:
        """How many live workers have that version available."""
        return sum(
            any(m.name == model and m.version == version and m.state == "AVAILABLE" for m in worker.models)
            for worker in self.workers
        )

    # Every request ends here, once

    def _end(self, pending: Pending, *, is_answered: bool = False) -> None:
        pending.is_done = True
        self._deadlines.remove(pending, pending.tick)
        for number in pending.ids:
            self._sent.pop(number, None)
        pending.flow.ended(pending.request.priority, pending.request.rows, is_answered=is_answered)
        self._open -= 1
        if not self._open and self._all_answered:
            self._all_answered.set()

    def _fail(self, pending: Pending, error: MillraceError) -> None:
        """Answer with the error, unless there is an answer already."""
        if not pending.is_done:
            self._end(pending)
            pending.on_error(error)

    # The way in

    def _schedule(self) -> None:
        if not self._appends and not self._is_scheduled:
            self._is_scheduled = True
            # After the requests that this turn of the loop still brings.
            asyncio.get_running_loop().call_soon(self._send_scheduled)

    def _send_scheduled(self) -> None:
        self._is_scheduled = False
        if self._waiting:
            self._send_waiting()

    def _send_waiting(self) -> None:
        waiting = [pending for pending in self._waiting if not pending.is_done]
        self._waiting = []
        groups: dict[Hashable, list[Pending]] = {}
        for pending in waiting:
            groups.setdefault(pending.key, []).append(pending)
        try:
            calls = [call for group in groups.values() for call in self._blocks(group)]
        except Exception as error:
            self._fail_waiting(waiting, error)
            return
        if whole := [call for call in calls if not call.rest]:
            self._begin_append(whole, self._limits)
        for call in calls:
            if call.rest:
                room = Limits(
                    self._limits.rows - sum(map(_rows, call.rest)), self._limits.bytes - sum(map(_bytes, call.rest))
                )
                self._begin_append([call], room)

    def _begin_append(self, calls: list[_Call], limits: Limits) -> None:
        try:
            answering = self._link.append([call.append for call in calls], limits)
        except Exception as error:
            self._fail_waiting([pending for call in calls for pending in call.requests], error)
            return
        self._appends += 1
        self._keep(asyncio.get_running_loop().create_task(self._append(calls, answering)))

    async def _append(self, calls: list[_Call], answering: Awaitable[list[Held | None]]) -> None:
        try:
            for call, full in zip(calls, await answering, strict=True):
                if full:
                    self._refuse(call, full)
                else:
                    await self._append_rest(call)
        except Exception as error:
            self._fail_waiting([pending for call in calls for pending in call.requests], error)
        finally:
            self._appends -= 1
            if self._waiting:
                self._schedule()

    async def _append_rest(self, call: _Call) -> None:
        """Send what is left of a large request, for which there was room when its first blocks were admitted."""
        answering = [
            self._link.append([replace(call.append, blocks=_encoded(call.rest[i : i + _FIRST_BLOCKS]))], _ANY)
            for i in range(0, len(call.rest), _FIRST_BLOCKS)
        ]
        for answer in answering:
            await answer

    def _fail_waiting(self, waiting: list[Pending], error: Exception) -> None:
        if not isinstance(error, MillraceError):
            _log.error("requests could not be sent", exc_info=error)
            error = Internal("the server failed to queue the request")
        for pending in waiting:
            self._fail(pending, error)

    def _refuse(self, call: _Call, held: Held) -> None:
        error = QueueFull(
            f"the queue of {call.append.queue.model!r} is full: it holds {held.rows} of {self._limits.rows} rows "
            f"and {held.bytes} of {self._limits.bytes} bytes",
            retry_after_s=min(_LONGEST_RETRY_S, call.requests[0].flow.seconds_until(held.rows)),
        )
        for pending in call.requests:
            self._fail(pending, error)

    def _blocks(self, group: list[Pending]) -> Iterator[_Call]:
        """Cut a group into blocks: as many as there are live workers, none above the batch size or about a megabyte."""
        request = group[0].request
        largest = request.max_batch_size
        if not largest:
            for pending in group:
                yield self._call([(pending, _as_one_row(pending.request.inputs), 1)])
            return
        rows = sum(pending.request.rows for pending in group)
        row_bytes = sum(len(t.data) for p in group for t in p.request.inputs.values()) / max(1, rows)
        share = math.ceil(rows / max(1, self.worker_count(request.model, request.version)))
        limit = max(1, min(largest, share, int(_BLOCK_BYTES / max(1.0, row_bytes))))
        together: list[_Part] = []
        filled = 0
        for pending in group:
            if together and filled + pending.request.rows > limit:
                yield self._call(together)
                together, filled = [], 0
            if pending.request.rows > limit:
                yield self._call(*_cut(pending, limit))
            else:
                together.append((pending, pending.request.inputs, pending.request.rows))
                filled += pending.request.rows
        if together:
            yield self._call(together)

    def _call(self, *blocks: list[_Part]) -> _Call:
        """One append of these blocks; of many, the first."""
        now_ms = self._link.clock.now_ms()
        offset_ms = now_ms - time.perf_counter() * 1000
        pendings = list(dict.fromkeys(pending for block in blocks for pending, _, _ in block))
        request = pendings[0].request
        whole = [
            RequestBlock(
                reply_to=self._link.reply_to,
                model=request.model,
                version=request.version,
                signature=request.signature,
                sent_ms=now_ms,
                items=tuple([self._item(pending, rows, offset_ms) for pending, _, rows in block]),
                tensors={name: concatenate_rows([tensors[name] for _, tensors, _ in block]) for name in block[0][1]},
            )
            for block in blocks
        ]
        queue = Queue(request.model, request.version)
        first = Append(queue, request.priority, _encoded(whole[:_FIRST_BLOCKS]))
        return _Call(first, pendings, whole[_FIRST_BLOCKS:])

    def _item(self, pending: Pending, rows: int, offset_ms: float) -> RequestItem:
        """The item of one part; the offset is what the broker's clock is ahead of `time.perf_counter`."""
        number = next(self._ids)
        self._sent[number] = (pending, len(pending.parts))
        pending.ids.append(number)
        pending.parts.append({})
        pending.missing += 1
        return RequestItem(number, pending.request.trace, rows, int(pending.deadline * 1000 + offset_ms))

    def _expire(self, pending: Pending) -> None:
        self._fail(pending, DeadlineExceeded(f"no answer within {max(0.0, pending.request.timeout_s) * 1000:.0f} ms"))

    # The way out

    async def _listen(self) -> None:
        for block in await self._link.replies():
            try:
                self._resolve(codec.decode_reply(block))
            except Exception:
                _log.exception("a reply could not be read")

    def _resolve(self, block: ReplyBlock) -> None:
        counts = [item.rows for item in block.items]
        columns = {name: split_rows(tensor, counts) for name, tensor in block.tensors.items()}
        answered: Request | None = None
        for i, item in enumerate(block.items):
            pending, part = self._sent.pop(item.id, (None, 0))  # a second reply to it finds nobody
            if pending is None:
                continue
            answered = pending.request
            if item.code:
                self._fail(pending, from_wire(item.code, item.message))
                continue
            try:
                response = pending.take(part, item, {name: c[i] for name, c in columns.items()}, block.compute_ms)
                if response:
                    self._end(pending, is_answered=True)
                    pending.on_response(response)
            except Exception:
                _log.exception("an answer does not fit", extra={"request_id": pending.request.trace})
                self._fail(pending, Internal("the parts of the answer do not fit together"))
        if answered:
            self._observer.block_answered(answered.model, answered.version, block)

    # The heartbeat

    async def _beat(self) -> None:
        await self.refresh()
        await asyncio.sleep(self._heartbeat_s)

    async def refresh(self) -> None:
        """A heartbeat now, for whoever waits for what workers do. Raises `Unavailable`."""
        async with self._beating:  # of two that find no reply stream only one may make it
            try:
                self.workers, kept, desired_states = await self._link.heartbeat()
                self.desired_states.take(desired_states)
                if forgotten := self.desired_states.forget():
                    await self._link.forget(forgotten)
                if missing := self.desired_states.missing_from(desired_states):
                    await self._link.put_back(missing)
            except MillraceError:
                self.is_connected = False
                raise
            if self._had_stream and not kept:
                self._fail_sent(Unavailable("the queue was restarted and lost the request; send it again"))
            self._had_stream = self.is_connected = True

    async def change_desired_state(self, model: str, change: Callable[[DesiredState], DesiredState]) -> DesiredState:
        """Change what is wanted of a model; `change` is asked again where somebody else was quicker.

        Returns the document as it was written; its `generation` is what workers announce when they have done it.
        Raises `Unavailable`, and what `change` raises.
        """
        while True:
            known = self.desired_states.of(model)
            generation = max(known.generation + 1, int(self._link.clock.now_ms()))
            wanted = msgspec.structs.replace(change(known), generation=generation)
            newer = await self._link.write_desired_state(wanted, replaces=known.generation)
            self.desired_states.take([newer or wanted])
            if newer is None:
                return wanted

    def _fail_sent(self, error: MillraceError) -> None:
        for pending, _ in list(self._sent.values()):
            self._fail(pending, error)

    async def _forever(self, job: Callable[[], Awaitable[None]]) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            try:
                await job()
                backoff_s = _FIRST_BACKOFF_S
            except MillraceError as error:
                _log.warning("the queue does not answer", extra={"reason": str(error), "retry_s": backoff_s})
            except Exception:
                _log.exception("the link to the queue failed")
            else:
                continue
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)

    def _keep(self, task: "asyncio.Task[None]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _cut(pending: Pending, limit: int) -> list[list[_Part]]:
    """A large request's parts, each a block of its own, of at most `limit` rows."""
    rows = pending.request.rows
    counts = [min(limit, rows - start) for start in range(0, rows, limit)]
    columns = {name: split_rows(tensor, counts) for name, tensor in pending.request.inputs.items()}
    return [[(pending, {name: column[i] for name, column in columns.items()}, n)] for i, n in enumerate(counts)]


def _rows(block: RequestBlock) -> int:
    return sum(item.rows for item in block.items)


def _bytes(block: RequestBlock) -> int:
    return sum(len(tensor.data) for tensor in block.tensors.values())


def _encoded(blocks: Iterable[RequestBlock]) -> tuple[tuple[int, bytes], ...]:
    return tuple([(_rows(block), codec.encode_request(block)) for block in blocks])


def _as_one_row(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: Tensor(t.datatype, (1, *t.shape), t.data) for name, t in tensors.items()}


def _out_of_one_row(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: Tensor(t.datatype, t.shape[1:], t.data) for name, t in tensors.items()}
