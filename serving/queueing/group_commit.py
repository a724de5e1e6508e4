"""Group commit on the way in: the one place where requests become blocks and are appended to their queues.

The first request that finds the link idle is sent in the same turn of the event loop. Requests that arrive during an
append form the next blocks. These are sent when the append is answered, or earlier, as soon as they hold half of all
open requests: so this process and the workers always have something to do at the same time. There is no timer: the
busier it gets, the larger the blocks, and the cost per request falls as the load rises.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Hashable

from millrace.broker.base import Held, Limits, ProducerLink
from millrace.protocol.errors import MillraceError, PayloadTooLarge, QueueFull
from serving.queueing.blocks import BlockWriter, Call, cut
from serving.queueing.large_calls import LargeCalls
from serving.queueing.pending import Pending, PendingRequests, release

LONGEST_RETRY_S = 30.0
_GROUPS = 2  # parts of what is open that are under way at once: one with a worker, one with us
_SMALLEST_GROUP = 8


class GroupCommit:
    """Appends requests in blocks.

    `worker_count` says how many workers share a version's queue; `spawn` runs a
    coroutine as a task that is cancelled when the producer stops.
    """

    def __init__(
        self,
        link: ProducerLink,
        limits: Limits,
        pending: PendingRequests,
        *,
        worker_count: Callable[[str, int], int],
        spawn: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        self._link = link
        self._limits = limits
        self._pending = pending
        self._worker_count = worker_count
        self._spawn = spawn
        self._writer = BlockWriter(pending, link.reply_to)
        self._waiting: list[Pending] = []
        self._is_scheduled = False
        self._large_calls = LargeCalls(link, limits, self._refuse)
        self._small_appends = 0
        self._large_appends = 0

    @property
    def appends(self) -> int:
        """How many appends, and large requests of several, are on their way."""
        return self._small_appends + self._large_appends

    def add(self, pending: Pending) -> None:
        """Send the request: now, after this turn of the event loop, or with the next block."""
        self._waiting.append(pending)
        if len(self._waiting) >= max(_SMALLEST_GROUP, self._pending.count // _GROUPS):
            self._send_waiting()
        else:
            self._schedule()

    def fail_waiting(self, error: MillraceError) -> None:
        """Answer those that were not sent yet with the error."""
        waiting, self._waiting = self._waiting, []
        self._pending.fail_all(waiting, error)

    def _schedule(self) -> None:
        if not self._small_appends and not self._is_scheduled:
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
            calls = [call for group in groups.values() for call in self._calls(group)]
        except Exception as error:
            self._give_up(waiting, error)
            return
        if small := [call for call in calls if not call.is_large]:
            self._begin_append(small)
        for call in calls:
            if call.is_large:
                self._large_appends += 1
                self._spawn(self._append_large(call))

    def _calls(self, group: list[Pending]) -> list[Call]:
        # What other API processes have in the queue keeps workers busy, too: ours is cut for as many as are left to it.
        workers = math.ceil(self._worker_count(group[0].model, group[0].version) * group[0].usage.portion)
        now_ms = self._link.clock.now_ms()
        return [self._writer.call(blocks, now_ms) for blocks in cut(group, workers, self._limits.rows)]

    def _begin_append(self, calls: list[Call]) -> None:
        try:
            answering = self._link.append([call.append() for call in calls], self._limits)
        except Exception as error:
            self._give_up([pending for call in calls for pending in call.requests], error)
            return
        self._small_appends += 1
        self._spawn(self._append(calls, answering))

    async def _append(self, calls: list[Call], answering: Awaitable[list[Held]]) -> None:
        requests = [pending for call in calls for pending in call.requests]
        try:
            for call, held in zip(calls, await answering, strict=True):
                call.requests[0].usage.told(held)
                if held.is_refused:
                    self._refuse(call, held)
        except Exception as error:
            self._pending.fail_all(requests, error)
        finally:
            for pending in requests:
                release(pending)
            self._small_appends -= 1
            if self._waiting:
                self._schedule()

    async def _append_large(self, call: Call) -> None:
        """Send a large request, beside all others: they do not wait until it is sent."""
        try:
            await self._large_calls.send(call)
        except Exception as error:
            self._pending.fail_all(call.requests, error)
        finally:
            for pending in call.requests:
                release(pending)
            self._large_appends -= 1

    def _give_up(self, pendings: list[Pending], error: Exception) -> None:
        self._pending.fail_all(pendings, error)
        for pending in pendings:
            release(pending)

    def _refuse(self, call: Call, held: Held) -> None:
        queue, limits = call.queue.model, self._limits
        if len(call.requests) == 1 and (call.rows > limits.rows or call.size > limits.bytes):
            self._pending.fail_all(call.requests, never_fits(queue, call.rows, call.size, limits))
            return
        error = QueueFull(
            f"the queue of {queue!r} is full: it holds {held.rows} of {limits.rows} rows "
            f"and {held.bytes} of {limits.bytes} bytes",
            retry_after_s=min(LONGEST_RETRY_S, call.requests[0].flow.seconds_until(held.rows)),
        )
        self._pending.fail_all(call.requests, error)


def never_fits(model: str, rows: int, size: int, limits: Limits) -> PayloadTooLarge:
    """The error of a request that is larger than the whole queue may be."""
    return PayloadTooLarge(
        f"the request has {rows} rows and {size} bytes; the queue of {model!r} holds at most {limits.rows} rows "
        f"and {limits.bytes} bytes"
    )
