"""Group commit on the way in, futures on the way out: the API process's one place where requests become blocks.

The first request that finds the link idle is sent in the same turn of the event loop. Those that arrive while that
append is on its way wait for it, and go together as the next blocks. There is no timer: the busier it gets, the larger
the blocks, and the cost per request falls as the load rises.

A request's life here:

    submit ──► waiting ──► sent ──► answered        every part has its reply: the response
                  │          │
                  │          ├────► DeadlineExceeded  late replies are dropped by id
                  │          └────► Unavailable       the queue lost its memory
                  ├────► QueueFull, Unavailable       the append was refused, or failed
                  └────► cancelled                    the caller went away: never sent
"""

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator
from dataclasses import dataclass

from millrace.broker.base import Append, Held, Limits, ProducerLink
from millrace.broker.keys import Queue
from millrace.protocol import codec
from millrace.protocol.errors import DeadlineExceeded, Internal, MillraceError, QueueFull, Unavailable, from_wire
from millrace.protocol.messages import ReplyBlock, ReplyItem, RequestBlock, RequestItem, WorkerAnnouncement
from millrace.protocol.tensors import Tensor, concatenate_rows, split_rows

_log = logging.getLogger(__name__)
HEARTBEAT_S = 1.0
_BLOCK_BYTES = 1_000_000
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.05, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where a request's time went after it was parsed, in milliseconds; of several parts, the slowest's."""

    queue_ms: float
    batch_ms: float
    compute_ms: float
    reply_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The outputs, with as many rows as the request had."""

    outputs: dict[str, Tensor]
    timings: Timings


class BlockObserver:
    """Told of every reply block, for metrics; this one does nothing."""

    def block_answered(self, model: str, block: ReplyBlock) -> None:
        """A reply block for that model has come in."""


class _Pending:
    """One request until it is answered."""

    __slots__ = ("future", "ids", "key", "missing", "parts", "request", "started", "timings")

    def __init__(self, request: Request, future: "asyncio.Future[Response]") -> None:
        self.request = request
        self.future = future
        self.started = time.perf_counter()
        self.ids: list[int] = []
        self.parts: list[dict[str, Tensor]] = []
        self.missing = 0
        self.timings: Timings | None = None
        shapes = tuple((name, t.datatype, t.shape[1:]) for name, t in request.inputs.items())
        self.key: Hashable = (request.model, request.version, request.signature, request.priority, shapes)

    def fail(self, error: MillraceError) -> None:
        """Answer with the error, unless there is an answer already."""
        if not self.future.done():
            self.future.set_exception(error)

    def answer(self, part: int, item: ReplyItem, outputs: dict[str, Tensor], compute_ms: float) -> None:
        """Take in one part's reply; the last one answers the request."""
        if self.future.done():
            return
        if item.code:
            self.fail(from_wire(item.code, item.message))
            return
        self._clock(item, compute_ms)
        self.parts[part] = outputs
        self.missing -= 1
        if not self.missing and self.timings:
            joined = {name: concatenate_rows([p[name] for p in self.parts]) for name in self.parts[0]}
            outputs = joined if self.request.max_batch_size else _out_of_one_row(joined)
            self.future.set_result(Response(outputs=outputs, timings=self.timings))

    def _clock(self, item: ReplyItem, compute_ms: float) -> None:
        """The part's timings, fitted to the time that really passed: the worker's clock may be a little off ours."""
        total_ms = (time.perf_counter() - self.started) * 1000
        travel_ms = max(0.0, total_ms - item.batch_ms - compute_ms)
        queue_ms = min(max(0.0, item.queue_ms), travel_ms)
        self.timings = Timings(
            queue_ms=queue_ms, batch_ms=item.batch_ms, compute_ms=compute_ms, reply_ms=travel_ms - queue_ms
        )


_Part = tuple[_Pending, dict[str, Tensor], int]  # a request, or a run of its rows: the tensors and how many rows


class Producer:
    """Sends requests and resolves their replies, on one event loop. `start` first, `stop` last.

    `workers` is what the live workers announced, at most a heartbeat old; `is_connected` whether the queue answered the
    last one.
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
        self._waiting: list[_Pending] = []
        self._sent: dict[int, tuple[_Pending, int]] = {}
        self._is_sending = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._had_stream = False
        self._answered_rows: dict[str, int] = {}
        self._rates: dict[str, float] = {}
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
        self._fail_sent(Unavailable("the server is shutting down"))
        try:
            await self._link.close()
        except Unavailable as error:
            _log.info("the reply stream was left to expire", extra={"reason": str(error)})

    async def drain(self, timeout_s: float) -> None:
        """Wait until every request that was submitted has its answer, at most that long."""
        futures = [pending.future for pending in self._waiting] + [pending.future for pending, _ in self._sent.values()]
        if futures:
            await asyncio.wait(futures, timeout=timeout_s)

    async def submit(self, request: Request) -> Response:
        """The response, or the `MillraceError` that the request met. Cancelling it before it is sent withdraws it."""
        loop = asyncio.get_running_loop()
        pending = _Pending(request, loop.create_future())
        timer = loop.call_later(max(0.0, request.timeout_s), self._expire, pending)
        self._waiting.append(pending)
        self._schedule(loop)
        try:
            return await pending.future
        finally:
            timer.cancel()
            for number in pending.ids:
                self._sent.pop(number, None)

    def worker_count(self, model: str, version: int) -> int:
        """How many live workers have that version available."""
        return sum(
            any(m.name == model and m.version == version and m.state == "AVAILABLE" for m in worker.models)
            for worker in self.workers
        )

    # The way in

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_sending:
            self._is_sending = True
            loop.call_soon(self._send)  # after the requests that this turn of the loop still brings

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._keep(asyncio.get_running_loop().create_task(self._append(waiting)))

    async def _append(self, waiting: list[_Pending]) -> None:
        groups: dict[Hashable, list[_Pending]] = {}
        for pending in waiting:
            if not pending.future.done():
                groups.setdefault(pending.key, []).append(pending)
        try:
            calls = [call for group in groups.values() for call in self._blocks(group)]
            held = await self._link.append([append for append, _ in calls], self._limits)
            for (append, requests), full in zip(calls, held, strict=True):
                if full:
                    self._refuse(append, requests, full)
        except MillraceError as error:
            for pending in waiting:
                pending.fail(error)
        except Exception:
            _log.exception("requests could not be sent")
            for pending in waiting:
                pending.fail(Internal("the server failed to queue the request"))
        finally:
            self._is_sending = False
            if self._waiting:
                self._schedule(asyncio.get_running_loop())

    def _refuse(self, append: Append, requests: list[_Pending], held: Held) -> None:
        model = append.queue.model
        error = QueueFull(
            f"the queue of {model!r} is full: it holds {held.rows} of {self._limits.rows} rows "
            f"and {held.bytes} of {self._limits.bytes} bytes",
            retry_after_s=min(30.0, held.rows / max(1.0, self._rates.get(model, 0.0))),
        )
        for pending in requests:
            pending.fail(error)

    def _blocks(self, group: list[_Pending]) -> Iterator[tuple[Append, list[_Pending]]]:
        """Cut a group into blocks: as many as there are live workers, none above the batch size or about a megabyte."""
        request = group[0].request
        largest = request.max_batch_size
        if not largest:
            for pending in group:
                yield self._append_of([(pending, _as_one_row(pending.request.inputs), 1)])
            return
        rows = sum(pending.request.rows for pending in group)
        row_bytes = sum(len(t.data) for p in group for t in p.request.inputs.values()) / max(1, rows)
        share = math.ceil(rows / max(1, self.worker_count(request.model, request.version)))
        limit = max(1, min(largest, share, int(_BLOCK_BYTES / max(1.0, row_bytes))))
        together: list[_Part] = []
        filled = 0
        for pending in group:
            if together and filled + pending.request.rows > limit:
                yield self._append_of(together)
                together, filled = [], 0
            if pending.request.rows > limit:
                yield self._append_of(*_cut(pending, limit))
            else:
                together.append((pending, pending.request.inputs, pending.request.rows))
                filled += pending.request.rows
        if together:
            yield self._append_of(together)

    def _append_of(self, *blocks: list[_Part]) -> tuple[Append, list[_Pending]]:
        """One append of these blocks, and the requests in it."""
        now_ms = self._link.clock.now_ms()
        pendings = list(dict.fromkeys(pending for block in blocks for pending, _, _ in block))
        request = pendings[0].request
        encoded = []
        for block in blocks:
            items = tuple(self._item(pending, rows, now_ms) for pending, _, rows in block)
            names = block[0][1]
            whole = RequestBlock(
                reply_to=self._link.reply_to,
                model=request.model,
                version=request.version,
                signature=request.signature,
                sent_ms=now_ms,
                items=items,
                tensors={name: concatenate_rows([tensors[name] for _, tensors, _ in block]) for name in names},
            )
            encoded.append((sum(rows for _, _, rows in block), codec.encode_request(whole)))
        return Append(Queue(request.model, request.version), request.priority, tuple(encoded)), pendings

    def _item(self, pending: _Pending, rows: int, now_ms: float) -> RequestItem:
        left_s = pending.request.timeout_s - (time.perf_counter() - pending.started)
        number = next(self._ids)
        self._sent[number] = (pending, len(pending.parts))
        pending.ids.append(number)
        pending.parts.append({})
        pending.missing += 1
        return RequestItem(number, pending.request.trace, rows, int(now_ms + left_s * 1000))

    def _expire(self, pending: _Pending) -> None:
        pending.fail(DeadlineExceeded(f"no answer within {pending.request.timeout_s * 1000:.0f} ms"))

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
        model = ""
        for i, item in enumerate(block.items):
            pending, part = self._sent.pop(item.id, (None, 0))  # a second reply to it finds nobody
            if pending is None:
                continue
            model = pending.request.model
            try:
                pending.answer(part, item, {name: column[i] for name, column in columns.items()}, block.compute_ms)
            except Exception:
                _log.exception("an answer does not fit", extra={"request_id": pending.request.trace})
                pending.fail(Internal("the parts of the answer do not fit together"))
        if model:
            self._observer.block_answered(model, block)
            self._answered_rows[model] = self._answered_rows.get(model, 0) + sum(counts)

    # The heartbeat

    async def _beat(self) -> None:
        try:
            self.workers, kept = await self._link.heartbeat()
        except MillraceError:
            self.is_connected = False
            raise
        if self._had_stream and not kept:
            self._fail_sent(Unavailable("the queue was restarted and lost the request; send it again"))
        self._had_stream = self.is_connected = True
        self._measure_rates()
        await asyncio.sleep(self._heartbeat_s)

    def _measure_rates(self) -> None:
        """Rows per second that each model answers: half of it the last heartbeat's, so that it follows the load."""
        for model, rows in self._answered_rows.items():
            rate = rows / self._heartbeat_s
            self._rates[model] = (self._rates.get(model, rate) + rate) / 2
        self._answered_rows = dict.fromkeys(self._answered_rows, 0)

    def _fail_sent(self, error: MillraceError) -> None:
        for pending, _ in list(self._sent.values()):
            pending.fail(error)

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


def _cut(pending: _Pending, limit: int) -> list[list[_Part]]:
    """A large request's parts, each a block of its own, of at most `limit` rows."""
    rows = pending.request.rows
    counts = [min(limit, rows - start) for start in range(0, rows, limit)]
    columns = {name: split_rows(tensor, counts) for name, tensor in pending.request.inputs.items()}
    return [[(pending, {name: column[i] for name, column in columns.items()}, n)] for i, n in enumerate(counts)]


def _as_one_row(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: Tensor(t.datatype, (1, *t.shape), t.data) for name, t in tensors.items()}


def _out_of_one_row(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: Tensor(t.datatype, t.shape[1:], t.data) for name, t in tensors.items()}
