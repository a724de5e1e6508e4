"""The life of a request in this process, from `Producer.send` to its answer.

send ──► waiting ──► sent ──► answered          every part has its reply: the response
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
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from millrace.protocol.errors import DeadlineExceeded, Internal, MillraceError
from millrace.protocol.messages import ReplyBlock, ReplyItem, RequestItem, request_id_of
from millrace.protocol.tensors import BYTES, Tensor, concatenate_rows
from serving.queueing.deadlines import Deadlines
from serving.queueing.fairness import Usage
from serving.queueing.flow import Flow
from serving.queueing.requests import (
    Clock,
    InferenceRequest,
    InferenceResponse,
    OnError,
    OnResponse,
    OnSent,
    Timings,
    size_of,
)

_log = logging.getLogger(__name__)
# How a request ended, for the estimate of the wait: a worker replied, its deadline passed, or for another reason.
Outcome = Literal["answered", "expired", "left"]
_NOTHING: dict[str, Tensor] = {}
_NO_TIME = Timings(0.0, 0.0, 0.0, 0.0)
_SMALL_BYTES = 1_000_000  # that the event loop may copy at once


class Pending:
    """One request until it is answered: `on_response` or `on_error` is called, once, unless it is withdrawn.

    `inputs` is dropped when the blocks are gone to the queue, or when the request ended before that.
    """

    __slots__ = (
        "ahead", "deadline", "flow", "ids", "inputs", "is_done", "is_whole", "key", "max_batch_size", "missing",
        "model", "on_error", "on_response", "on_sent", "parts", "priority", "rows", "signature", "size", "started",
        "tick", "timeout_s", "timings", "trace", "usage", "version",
    )  # fmt: skip

    def __init__(
        self,
        request: InferenceRequest,
        on_response: OnResponse,
        on_error: OnError,
        on_sent: OnSent | None,
        flow: Flow,
        usage: Usage,
        size: int,
        now: float,
    ) -> None:
        self.model = request.model
        self.version = request.version
        self.priority = request.priority
        self.rows = request.rows
        self.signature = request.signature
        self.max_batch_size = request.max_batch_size
        self.is_whole = request.is_whole
        self.timeout_s = request.timeout_s
        self.trace = request.trace
        self.inputs: dict[str, Tensor] = request.inputs
        self.size = size
        self.on_response = on_response
        self.on_error = on_error
        self.on_sent = on_sent
        self.flow = flow
        self.usage = usage
        self.started = now
        self.ahead = 0
        self.deadline = now + request.timeout_s
        self.ids: list[int] = []
        self.parts: list[dict[str, Tensor]] = []
        self.missing = 0
        self.tick = 0
        self.timings: Timings | None = None
        self.is_done = False
        shapes = tuple([(name, t.datatype, t.shape[1:]) for name, t in request.inputs.items()])
        self.key: Hashable = (request.model, request.version, request.signature, request.priority, shapes)

    def take(self, part: int, item: ReplyItem, outputs: dict[str, Tensor], block: ReplyBlock, now: float) -> bool:
        """Take in one part's reply, out of its block; whether it was the last one, so that the response is complete."""
        self._measure(item, block, now)
        self.parts[part] = outputs
        self.missing -= 1
        return not self.missing

    @property
    def must_be_joined(self) -> bool:
        """Whether to put the parts together takes long."""
        return len(self.parts) > 1 and sum(map(size_of, self.parts)) > _SMALL_BYTES

    def response(self) -> InferenceResponse:
        """The complete response, of all parts. Raises `ValueError` where they do not fit together."""
        outputs = self.parts[0] if len(self.parts) == 1 else _joined(self.parts)
        return InferenceResponse(outputs if self.max_batch_size else _out_of_one_row(outputs), self.timings or _NO_TIME)

    def _measure(self, item: ReplyItem, block: ReplyBlock, now: float) -> None:
        """The part's timings, fitted to the time that really passed: the worker's clock may be a little off ours."""
        total_ms, compute_ms = (now - self.started) * 1000, block.compute_ms
        travel_ms = max(0.0, total_ms - item.batch_ms - compute_ms)
        queue_ms = min(max(0.0, item.queue_ms), travel_ms)
        self.timings = Timings(queue_ms, item.batch_ms, compute_ms, travel_ms - queue_ms, block.batch_rows)


class PendingCounts(NamedTuple):
    """What waits for something: `requests` for their answer, `parts` for a reply, `deadlines` to pass."""

    requests: int
    parts: int
    deadlines: int


class PendingRequests:
    """All requests of this process that have no answer yet. Each of them ends here, once.

    `parts` are those that have been sent and have no reply, by their ids: the request, and which part of it.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.count = 0
        self._ids = itertools.count(1)
        self.parts: dict[int, tuple[Pending, int]] = {}
        self._deadlines = Deadlines(self._expire, clock)
        self._none_left: asyncio.Event | None = None

    def add(
        self,
        request: InferenceRequest,
        on_response: OnResponse,
        on_error: OnError,
        on_sent: OnSent | None,
        flow: Flow,
        usage: Usage,
        size: int,
    ) -> Pending:
        """Begin the life of a request of `size` bytes; its deadline is watched from now on."""
        pending = Pending(request, on_response, on_error, on_sent, flow, usage, size, self.clock())
        pending.tick = self._deadlines.add(pending, pending.deadline)
        pending.ahead = flow.sent(request.priority, request.rows)
        self.count += 1
        return pending

    @property
    def counts(self) -> PendingCounts:
        """What is held now; all 0 when every request has ended."""
        return PendingCounts(self.count, len(self.parts), len(self._deadlines))

    def add_part(self, pending: Pending, rows: int, offset_ms: float) -> RequestItem:
        """The item of so many of the request's rows; the offset is what the broker's clock is ahead of ours."""
        number = next(self._ids)
        self.parts[number] = (pending, len(pending.parts))
        pending.ids.append(number)
        pending.parts.append({})
        pending.missing += 1
        return RequestItem(number, pending.trace, rows, int(pending.deadline * 1000 + offset_ms))

    def respond(self, pending: Pending, response: InferenceResponse) -> None:
        """Answer with the response, unless the request has ended."""
        if pending.is_done:
            return
        self.end(pending, "answered")
        try:
            pending.on_response(response)
        except Exception:
            _log_callback(pending)

    def fail(self, pending: Pending, error: MillraceError, outcome: Outcome = "left") -> None:
        """Answer with the error, unless there is an answer already; `outcome` is what the error says of the workers."""
        if not pending.is_done:
            self.end(pending, outcome)
            try:
                pending.on_error(error)
            except Exception:
                _log_callback(pending)

    def fail_all(self, pendings: Iterable[Pending], error: Exception) -> None:
        """Answer all of them with the error; what is no error for callers is logged, and `Internal` to them."""
        if not isinstance(error, MillraceError):
            _log.error("requests could not be sent", exc_info=error)
            error = Internal("the server failed to queue the request")
        for pending in pendings:
            self.fail(pending, error)

    def sent_to(self, versions: Collection[tuple[str, int]]) -> list[Pending]:
        """The requests to these versions that were sent and have no answer."""
        sent = {id(pending): pending for pending, _ in self.parts.values()}
        return [pending for pending in sent.values() if (pending.model, pending.version) in versions]

    def fail_sent(self, error: MillraceError) -> None:
        """Answer all requests that were sent with the error."""
        self.fail_all([pending for pending, _ in self.parts.values()], error)

    def end(self, pending: Pending, outcome: Outcome = "left") -> None:
        """The request has its answer, or nobody waits for it any more; calls nothing but `on_sent`."""
        pending.is_done = True
        self._deadlines.remove(pending, pending.tick)
        for number in pending.ids:
            self.parts.pop(number, None)
        if outcome == "answered":
            run_s = (t.batch_ms + t.compute_ms) / 1000 if (t := pending.timings) else 0.0
            pending.flow.answered(pending.priority, pending.rows, pending.ahead, pending.started, run_s)
        elif outcome == "expired":
            pending.flow.expired(pending.priority, pending.rows, pending.ahead, pending.started)
        else:
            pending.flow.left(pending.priority, pending.rows)
        pending.usage.remove(pending.rows, pending.size)
        if not pending.ids:  # else its blocks may still be on their way
            release(pending)
        self.count -= 1
        if not self.count and self._none_left:
            self._none_left.set()

    async def wait_until_none(self, timeout_s: float) -> None:
        """Wait until every request has ended, at most that long."""
        if self.count:
            self._none_left = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._none_left.wait(), timeout_s)

    def _expire(self, pending: Pending) -> None:
        error = DeadlineExceeded(f"no answer within {max(0.0, pending.timeout_s) * 1000:.0f} ms")
        self.fail(pending, error, "expired")


def release(pending: Pending) -> None:
    """Drop the request's inputs, and say so: its blocks are gone to the queue, or will not go there."""
    pending.inputs = _NOTHING
    if pending.on_sent:
        on_sent, pending.on_sent = pending.on_sent, None
        try:
            on_sent()
        except Exception:
            _log_callback(pending)


def _log_callback(pending: Pending) -> None:
    """A callback that raises must not keep the others from being called."""
    _log.exception("a request's callback failed", extra={"request_id": request_id_of(pending.trace)})


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The rows of all parts. Raises `ValueError` where they are not rows of one tensor: joined, they would be wrong."""
    forms = [{name: (tensor.datatype, tensor.shape[1:]) for name, tensor in part.items()} for part in parts]
    if any(form != forms[0] for form in forms):
        raise ValueError(f"the parts of a response differ: {forms[0]} and others")
    return {name: _end_to_end([part[name] for part in parts]) for name in parts[0]}


def _end_to_end(tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0]
    if first.datatype == BYTES or sum([len(tensor.data) for tensor in tensors]) <= _SMALL_BYTES:
        return concatenate_rows(tensors)
    # numpy lets other threads run while it copies; bytes do not where they are joined of views
    data = np.concatenate([np.frombuffer(tensor.data, np.uint8) for tensor in tensors])
    return Tensor(first.datatype, (sum([tensor.shape[0] for tensor in tensors]), *first.shape[1:]), data.data)


def _out_of_one_row(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: Tensor(t.datatype, t.shape[1:], t.data) for name, t in tensors.items()}
