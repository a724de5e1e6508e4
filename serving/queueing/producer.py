"""The API process's end of the queue: it sends requests and calls back with their responses.

It composes the parts: `pending.py` (the life of a request), `group_commit.py` (the way in), `replies.py` (the way out),
`membership.py` (who serves), `stranded.py` (requests that nobody serves any more) and `flow.py` (how long a request
would wait).
"""

import asyncio
import logging
import operator
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import NamedTuple

from millrace.background import Background
from millrace.broker.base import Limits, ProducerLink
from millrace.broker.depth import QueueDepth
from millrace.broker.keys import Queue
from millrace.outage import Outage
from millrace.protocol.desired_state import DesiredState, DesiredStates
from millrace.protocol.errors import MillraceError, NoWorker, QueueFull, Unavailable
from millrace.protocol.messages import WorkerAnnouncement
from serving.queueing.fairness import FairShares
from serving.queueing.flow import Flow
from serving.queueing.group_commit import LONGEST_RETRY_S, GroupCommit, never_fits
from serving.queueing.membership import Membership
from serving.queueing.pending import Pending, PendingRequests
from serving.queueing.replies import BlockObserver, Replies
from serving.queueing.requests import Clock, InferenceRequest, InferenceResponse, OnError, OnResponse, OnSent
from serving.queueing.stranded import GRACE_S, LAST_REPLIES_S, Stranded

_log = logging.getLogger(__name__)
HEARTBEAT_S, _DRAINING_HEARTBEAT_S = 1.0, 0.1
_FIRST_ANSWER_S = 3.0  # that the first heartbeat may take before requests are taken all the same


class ProducerSnapshot(NamedTuple):
    """What a producer holds: requests without an answer, parts without a reply, deadlines, appends on their way."""

    requests: int
    parts: int
    deadlines: int
    appends: int


class _Lane(NamedTuple):
    """What is known of one model version's queue: how fast it moves, and who has what of it."""

    flow: Flow
    shares: FairShares


class Producer:
    """Sends requests and answers them, on one event loop. `start` first, `stop` last.

    `clock` counts seconds and only forwards; deadlines and times are reckoned by it. When the last live worker of a
    version is gone, its requests wait `grace_s` for another one, and then get `NoWorker`. `processes` is how many API
    processes share the callers; `tell` lets the others know when a heartbeat has brought news.
    """

    def __init__(
        self,
        link: ProducerLink,
        *,
        limits: Limits,
        observer: BlockObserver | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        clock: Clock = time.perf_counter,
        processes: int = 1,
        tell: Callable[[], Coroutine[None, None, None]] | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self._tell = tell
        self._link = link
        self._limits = limits
        self._processes = processes
        self._heartbeat_s = heartbeat_s
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._withdrawn: dict[Queue, list[tuple[int, int]]] = {}
        self._pending = PendingRequests(clock)
        self._membership = Membership(link, self._lost)
        self._stranded = Stranded(self.can_be_answered, clock, grace_s)
        self._is_draining = False
        self._outage = Outage(_log)
        self._background = Background(_log, self._outage)
        spawn = self._background.spawn
        self._group_commit = GroupCommit(link, limits, self._pending, worker_count=self.worker_count, spawn=spawn)
        self._replies = Replies(link, self._pending, observer or BlockObserver(), spawn)

    async def start(self) -> None:
        """Begin to listen for replies and announcements, and learn who serves.

        A queue that is out of reach, or does not answer soon, is not waited for.
        """
        for job in (partial(self._beat, self._heartbeat_s), self._replies.read):
            self._background.repeat(job)
        await self._membership.asked(_FIRST_ANSWER_S)

    async def stop(self) -> None:
        """Stop at once; requests without an answer get `Unavailable`. Call `drain` first to let them finish."""
        await self._background.stop()
        error = Unavailable("the server is shutting down")
        self._pending.fail_sent(error)
        self._group_commit.fail_waiting(error)
        try:
            await self._link.close()
        except Unavailable as error:
            _log.info("the reply stream was left to expire", extra={"reason": str(error)})

    def now_ms(self) -> float:
        """The broker's time."""
        return self._link.clock.now_ms()

    def depths(self, queues: Sequence[Queue]) -> Awaitable[list[QueueDepth]]:
        """See `ProducerLink.depths`."""
        return self._link.depths(queues)

    def exchange_usage(self, usage: bytes) -> Awaitable[dict[str, bytes]]:
        """See `ProducerLink.exchange_usage`."""
        return self._link.exchange_usage(usage)

    def begin_to_drain(self) -> None:
        """Requests that no live worker can answer are not kept waiting for another one any more."""
        if not self._is_draining:
            self._is_draining = True
            self._stranded.grace_s = min(self._stranded.grace_s, LAST_REPLIES_S)
            self._background.repeat(partial(self._beat, _DRAINING_HEARTBEAT_S))

    async def drain(self, timeout_s: float) -> None:
        """Wait until every request that was submitted has its answer, at most that long."""
        self.begin_to_drain()
        await self._pending.wait_until_none(timeout_s)

    async def submit(self, request: InferenceRequest) -> InferenceResponse:
        """The response, or the `MillraceError` that the request met. Cancelling it withdraws the request."""
        future: asyncio.Future[InferenceResponse] = asyncio.get_running_loop().create_future()

        def respond(response: InferenceResponse) -> None:
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
        self, request: InferenceRequest, on_response: OnResponse, on_error: OnError, on_sent: OnSent | None = None
    ) -> Pending:
        """Submit a request; `on_response` or `on_error` is called later, on the event loop, unless it is withdrawn.

        `on_sent` is called once, when the request's tensors are no longer held here: its blocks are in the queue, or it
        ended before. Raises `PayloadTooLarge` for what the queue could never hold, and `QueueFull` where so much is
        waiting that the answer would come too late, or the caller has more than a share of the queue (`fairness.py`).
        """
        key = request.model, request.version
        lane = self._lanes.get(key)
        if lane is None:
            largest = request.largest_batch or request.max_batch_size
            shares = FairShares(self._limits, self._processes)
            lane = self._lanes[key] = _Lane(Flow(largest, self._pending.clock), shares)
        flow, shares = lane
        size = 0
        for tensor in request.inputs.values():  # `size_of`, at half the time
            size += len(tensor.data)
        if request.rows > self._limits.rows or size > self._limits.bytes:
            raise never_fits(request.model, request.rows, size, self._limits)
        if too_late_s := flow.seconds_too_late(request.priority, request.timeout_s, request.rows):
            raise _too_late(request.model, request.timeout_s, too_late_s)
        usage = shares.add(request.caller, request.rows, size)
        if usage is None:
            raise self._unfair(request, lane, size)
        pending = self._pending.add(request, on_response, on_error, on_sent, flow, usage, size)
        self._group_commit.add(pending)
        return pending

    def _unfair(self, request: InferenceRequest, lane: "_Lane", size: int) -> QueueFull:
        number = lane.shares.number
        share = f"1/{number}: {self._limits.rows // number} rows, {self._limits.bytes // number} bytes"
        wait_s = lane.flow.seconds_until(lane.shares.excess(request.caller, request.rows, size))
        return QueueFull(
            f"the queue of {request.model!r} is more than half full, and with this request the caller would hold more "
            f"than a fair share of it ({share})",
            retry_after_s=min(LONGEST_RETRY_S, wait_s),
        )

    def refuse_if_late(self, model: str, version: int, priority: str, timeout_s: float) -> None:
        """Raises `QueueFull` where so much is waiting that the answer to a request of one row would come too late.

        Under overload, asking this before a body is read leaves the time that reading takes to what is accepted.
        """
        lane = self._lanes.get((model, version))
        if lane and (too_late_s := lane.flow.seconds_too_late(priority, timeout_s)):
            raise _too_late(model, timeout_s, too_late_s)

    def batches_in_flight(self, model: str, version: int) -> float:
        """How many full batches the version's requests make that were sent from here and have no answer yet."""
        lane = self._lanes.get((model, version))
        return lane.flow.batches_in_flight if lane else 0.0

    def in_flight(self) -> dict[tuple[str, int], tuple[int, int]]:
        """The requests and their rows that were sent from here and have no answer yet, by model and version."""
        return {key: (lane.flow.requests_in_flight, lane.flow.rows_in_flight) for key, lane in self._lanes.items()}

    def snapshot(self) -> ProducerSnapshot:
        """What is held and on its way now."""
        return ProducerSnapshot(*self._pending.counts, self._group_commit.appends)

    def withdraw(self, pending: Pending) -> None:
        """Nobody waits for the request any more: it is not sent, or a worker drops it. Does nothing once answered."""
        if pending.is_done:
            return
        self._cancel(pending)
        self._pending.end(pending)

    def _cancel(self, pending: Pending) -> None:
        """Have workers drop what of the request is in the queue, or on its way there."""
        if pending.ids:
            queue = Queue(pending.model, pending.version)
            deadline_ms = int(self._link.clock.now_ms() + (pending.deadline - self._pending.clock()) * 1000)
            if not self._withdrawn:
                self._background.spawn(self._send_withdrawn())
            self._withdrawn.setdefault(queue, []).extend((number, deadline_ms) for number in pending.ids)

    async def _send_withdrawn(self) -> None:
        withdrawn, self._withdrawn = self._withdrawn, {}
        try:
            for queue, items in withdrawn.items():
                await self._link.cancel(queue, items)
        except Unavailable as error:
            _log.info("withdrawn requests will be computed all the same", extra={"reason": str(error)})

    # Who serves

    @property
    def workers(self) -> Sequence[WorkerAnnouncement]:
        """What the live workers announced, at most a heartbeat old."""
        return self._membership.workers

    @property
    def desired_states(self) -> DesiredStates:
        """What operators want of the models."""
        return self._membership.desired_states

    @property
    def is_connected(self) -> bool:
        """Whether the queue answered the last heartbeat."""
        return self._membership.is_connected

    @property
    def has_heard(self) -> bool:
        """Whether the queue has ever answered; before that, nothing is known of workers and models."""
        return self._membership.has_heard

    def worker_count(self, model: str, version: int) -> int:
        """See `Membership`."""
        return self._membership.worker_count(model, version)

    def can_be_answered(self, model: str, version: int) -> bool:
        """See `Membership`."""
        return self._membership.can_be_answered(model, version)

    async def refresh(self) -> None:
        """A heartbeat now, for whoever waits for what workers do. Raises `Unavailable`."""
        await self._membership.refresh()

    async def change_desired_state(self, model: str, change: Callable[[DesiredState], DesiredState]) -> DesiredState:
        """See `Membership`."""
        return await self._membership.change_desired_state(model, change)

    def _lost(self) -> None:
        self._pending.fail_sent(Unavailable("the queue was restarted and lost the request; send it again"))

    async def _beat(self, pause_s: float) -> None:
        known = self._known
        await self.refresh()
        self._outage.answered()
        if self._tell and not _same(known, self._known):
            self._background.spawn(self._tell_news(self._tell))
        self._give_up_stranded()
        await asyncio.sleep(pause_s)

    @property
    def _known(self) -> tuple[object, object]:
        return self.workers, self.desired_states.by_model

    async def _tell_news(self, tell: Callable[[], Coroutine[None, None, None]]) -> None:
        """Tell the others, until there is nothing newer: what they read then may be newer, and they tell nobody."""
        known = None
        while known is None or not _same(known, self._known):
            known = self._known
            await tell()
            try:
                await self.refresh()
            except MillraceError as error:
                _log.info("what other processes know may be newer", extra={"reason": str(error)})
                return

    def _give_up_stranded(self) -> None:
        """Answer the requests that no worker can answer any more; one that comes later finds them cancelled."""
        versions = [version for version, lane in self._lanes.items() if lane.flow.rows_in_flight]
        if given_up := self._stranded.given_up(versions):
            for pending in self._pending.sent_to(given_up):
                self._cancel(pending)
                self._pending.fail(pending, _no_worker(pending))


def _same(known: tuple[object, object], now: tuple[object, object]) -> bool:
    """Whether a heartbeat brought no news: what has not changed stays the same objects."""
    return all(map(operator.is_, known, now))


def _no_worker(pending: Pending) -> NoWorker:
    return NoWorker(
        f"the last worker that had model {pending.model!r} version {pending.version} is gone; try again when one has it"
    )


def _too_late(model: str, timeout_s: float, too_late_s: float) -> QueueFull:
    return QueueFull(
        f"the queue of {model!r} is too long to answer within {timeout_s * 1000:.0f} ms",
        retry_after_s=min(LONGEST_RETRY_S, too_late_s),
    )
