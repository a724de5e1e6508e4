"""Group commit on the way in: the one place where requests become blocks and are appended to their queues.

The first request that finds the link idle is sent in the same turn of the event loop. Requests that arrive during an
append form the next blocks. These are sent when the append is answered, or earlier, as soon as they hold a third of all
open requests: so callers, workers and this process always have something to do at the same time. There is no timer: the
busier it gets, the larger the blocks, and the cost per request falls as the load rises.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import replace

from millrace.broker.base import Held, Limits, ProducerLink
from millrace.protocol.errors import MillraceError, QueueFull
from serving.queueing.blocks import BlockWriter, Call, bytes_of, cut, encoded, rows_of
from serving.queueing.pending import Pending, PendingRequests, release

LONGEST_RETRY_S = 30.0
_GROUPS = 3  # parts of what is open that are under way at once: one parsed, one computed, one answered
_SMALLEST_GROUP = 8
_REST_BLOCKS = 2
_ANY = Limits(2**53, 2**53)


class GroupCommit:
    """Appends requests in blocks.

    `appends` are on their way now. `worker_count` says how many workers share a version's queue; `spawn` runs a
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
        self.appends = 0

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
        if not self.appends and not self._is_scheduled:
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
        if whole := [call for call in calls if not call.rest]:
            self._begin_append(whole, self._limits)
        for call in calls:
            if call.rest:
                room = Limits(
                    self._limits.rows - sum(map(rows_of, call.rest)), self._limits.bytes - sum(map(bytes_of, call.rest))
                )
                self._begin_append([call], room)

    def _calls(self, group: list[Pending]) -> list[Call]:
        workers = self._worker_count(group[0].model, group[0].version)
        return [self._writer.call(blocks, self._link.clock.now_ms()) for blocks in cut(group, workers)]

    def _begin_append(self, calls: list[Call], limits: Limits) -> None:
        try:
            answering = self._link.append([call.append for call in calls], limits)
        except Exception as error:
            self._give_up([pending for call in calls for pending in call.requests], error)
            return
        self.appends += 1
        self._spawn(self._append(calls, answering))

    async def _append(self, calls: list[Call], answering: Awaitable[list[Held | None]]) -> None:
        try:
            for call, full in zip(calls, await answering, strict=True):
                if full:
                    self._refuse(call, full)
                else:
                    await self._append_rest(call)
        except Exception as error:
            self._pending.fail_all([pending for call in calls for pending in call.requests], error)
        finally:
            for call in calls:
                for pending in call.requests:
                    release(pending)
            self.appends -= 1
            if self._waiting:
                self._schedule()

    async def _append_rest(self, call: Call) -> None:
        """Send what is left of a large request, for which there was room when its first blocks were admitted."""
        answering = [
            self._link.append([replace(call.append, blocks=encoded(call.rest[i : i + _REST_BLOCKS]))], _ANY)
            for i in range(0, len(call.rest), _REST_BLOCKS)
        ]
        for answer in answering:
            await answer

    def _give_up(self, pendings: list[Pending], error: Exception) -> None:
        self._pending.fail_all(pendings, error)
        for pending in pendings:
            release(pending)

    def _refuse(self, call: Call, held: Held) -> None:
        error = QueueFull(
            f"the queue of {call.append.queue.model!r} is full: it holds {held.rows} of {self._limits.rows} rows "
            f"and {held.bytes} of {self._limits.bytes} bytes",
            retry_after_s=min(LONGEST_RETRY_S, call.requests[0].flow.seconds_until(held.rows)),
        )
        self._pending.fail_all(call.requests, error)
