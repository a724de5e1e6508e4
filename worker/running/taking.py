"""How an instance takes blocks: one exchange with the queue delivers what is done and takes what is next.

The queue's being out of reach is waited out here. Blocks of workers that died are claimed when the next claim is due.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

from millrace.broker.base import ConsumerLink, Delivery
from millrace.broker.keys import ONLY_BULK, URGENT
from millrace.protocol.errors import Unavailable
from worker.loading.model import Model
from worker.running.outbox import Outbox
from worker.running.status import InstanceStatus

_log = logging.getLogger(__name__)
_CHOICE = 4  # batches' worth of rows to take where lengths vary, so that there are similar ones among them
_BLOCK_MS = 500
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.05, 1.0


class Taking:
    """One instance's exchange with its queue. `draining` ends the waiting for a queue that is out of reach."""

    def __init__(
        self,
        model: Model,
        link: ConsumerLink,
        outbox: Outbox,
        draining: threading.Event,
        *,
        lease_ms: int,
        status: InstanceStatus,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._link = link
        self._outbox = outbox
        self._draining = draining
        self._lease_ms = lease_ms
        self._status = status
        self._monotonic = monotonic
        self._next_claim = 0.0
        self._rows_per_block = 1.0

    def take(self) -> Sequence[Delivery]:
        """Deliver the outbox and take blocks; none when nothing came, or when `draining` was set meanwhile.

        The status says of which priorities. What is taken is joined by what comes within the model's queue delay, and
        by blocks of a worker that died.
        """
        self._status.idle()
        taken = self._exchange(priorities=self._status.takes)
        if taken is None:
            return []
        has_taken = bool(taken)
        if has_taken:
            self._status.hold(self._link.losses)
        try:
            taken = self._topped_up(taken)
            held = {(delivery.priority, delivery.entry_id) for delivery in taken}
            taken = taken + [block for block in self._claimed() if (block.priority, block.entry_id) not in held]
        except Unavailable as error:
            _log.warning("the queue does not answer", extra={"reason": str(error)})
        if taken:
            if not has_taken:
                self._status.hold(self._link.losses)
            self._note_sizes(taken)
        return taken

    def take_callers(self) -> Sequence[Delivery]:
        """Deliver the outbox and take what waits of callers, for an instance that has bulk in hand and serves both."""
        if self._status.takes == ONLY_BULK:
            return []
        taken = self._exchange(priorities=URGENT, wait_ms=0) or []
        if taken:
            self._status.hold(self._link.losses)
            self._note_sizes(taken)
        return taken

    def deliver(self) -> None:
        """Deliver the outbox, if it holds anything, and take nothing."""
        if not self._outbox.is_empty:
            self._exchange()

    def rest(self) -> None:
        """Deliver the outbox, with nothing left in hand, and take nothing for now."""
        self.deliver()
        self._status.idle()

    def close(self) -> None:
        """Deliver what is left and give the queue up; blocks that were not finished go to whoever claims them."""
        self._exchange()
        try:
            self._link.close()
        except Unavailable as error:
            _log.info("left the queue without a word", extra={"reason": str(error)})

    def _exchange(self, *, priorities: Sequence[str] = (), wait_ms: int = _BLOCK_MS) -> list[Delivery] | None:
        """Exchange, trying again while the queue is out of reach; while draining, try once, None where that fails.

        What is taken is of these priorities; nothing where there are none.
        """
        backoff_s, outbox = _FIRST_BACKOFF_S, self._outbox
        while True:
            try:
                if priorities:
                    taken = self._link.exchange(
                        outbox.replies,
                        outbox.finished,
                        count=self._count(),
                        block_ms=self._wait_ms(wait_ms),
                        priorities=priorities,
                    )
                    self._status.see_bulk(self._link.has_bulk)
                else:
                    taken = self._link.exchange(outbox.replies, outbox.finished, count=0, block_ms=0)
            except Unavailable as error:
                _log.warning("the queue does not answer", extra={"reason": str(error), "retry_s": backoff_s})
                if self._draining.wait(backoff_s):
                    outbox.clear()
                    return None
                backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
            else:
                outbox.clear()
                return taken

    def _note_sizes(self, taken: Sequence[Delivery]) -> None:
        rows = [max(1, delivery.rows) for delivery in taken if not delivery.is_bulk]
        if rows:
            self._rows_per_block = sum(rows) / len(rows)

    def _count(self) -> int:
        """How many blocks make about one full batch, by the size of the last ones; a few batches where lengths vary."""
        rows = max(1, self._model.batching.max_batch_size)
        return max(1, int(rows * (_CHOICE if self._model.preparation.pads else 1) / self._rows_per_block))

    def _wait_ms(self, most: int) -> int:
        """How long to wait for a block: no longer than until blocks of others may be claimed."""
        return min(most, max(0, math.ceil((self._next_claim - self._monotonic()) * 1000)))

    def _topped_up(self, taken: list[Delivery]) -> list[Delivery]:
        """The blocks and those that come within the model's queue delay, if it has one, until a batch is full.

        Bulk waits for nothing and is never waited for.
        """
        if taken and taken[0].is_bulk:
            return taken
        ends = self._monotonic() + self._model.batching.max_queue_delay_ms / 1000
        while taken and (left_ms := int((ends - self._monotonic()) * 1000)) > 0:
            missing = self._model.batching.max_batch_size - sum(delivery.rows for delivery in taken)
            if missing <= 0:
                break
            taken += self._link.exchange([], [], count=missing, block_ms=left_ms, priorities=URGENT)
        return taken

    def _claimed(self) -> list[Delivery]:
        if self._monotonic() < self._next_claim:
            return []
        self._next_claim = self._monotonic() + self._lease_ms / 4000
        priorities = self._status.takes
        claimed = self._link.claim(lease_ms=self._lease_ms, count=self._count(), priorities=priorities)
        if claimed:
            self._next_claim = 0.0  # whoever left these left more, perhaps
            _log.warning("took over blocks", extra={"model": self._model.announcement.name, "blocks": len(claimed)})
        return claimed
