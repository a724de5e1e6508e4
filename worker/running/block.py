"""A block's life at a worker, from its delivery until it is finished.

delivery ──► opened ──► items answered, refused or dropped, one or many at a time ──► finished with the last item
               │
               └─ cannot be read, holds no requests, or delivered too often: buried with the dead letters
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from msgspec.structs import replace

from millrace.broker.base import BrokerClock, ConsumerLink, Delivery
from millrace.protocol import codec
from millrace.protocol.errors import MillraceError, ModelFailed, Unavailable
from millrace.protocol.messages import RequestBlock, RequestItem, request_id_of
from millrace.protocol.tensors import split_rows
from worker.running.outbox import Outbox
from worker.running.piece import Piece, TakenBlock

_log = logging.getLogger(__name__)
MAX_DELIVERIES = 3


class Blocks:
    """The blocks that one instance of a model has in hand. What becomes of them goes to the outbox."""

    def __init__(
        self,
        model: str,
        link: ConsumerLink,
        outbox: Outbox,
        *,
        clock: BrokerClock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._link = link
        self._outbox = outbox
        self._clock = clock
        self._monotonic = monotonic
        self._cancelled: set[tuple[str, int]] = set()
        self._bulk_began: float | None = None

    def bulk_begins(self) -> None:
        """Note that a run of bulk begins: callers whose blocks are opened next may have waited for its end."""
        self._bulk_began = self._monotonic()

    def opened(self, deliveries: Iterable[Delivery]) -> list[tuple[TakenBlock, RequestBlock]]:
        """Those that can be read and are to run; the others are buried.

        What a block waited for a run of bulk counts as time in the worker's hands. In the queue it waited for nobody of
        its kind, and the API must not take that for overload.
        """
        blocks = [(delivery, block) for delivery in deliveries if (block := self._read(delivery))]
        self._cancelled = self._asked_for_cancelled([block for _, block in blocks])
        now_ms, now = self._clock.now_ms(), self._monotonic()
        bulk_ms = 0.0 if self._bulk_began is None else (now - self._bulk_began) * 1000
        self._bulk_began = None
        return [
            (
                TakenBlock(
                    delivery=delivery,
                    reply_to=block.reply_to,
                    signature=block.signature,
                    queue_ms=max(0.0, now_ms - block.sent_ms - bulk_ms) if bulk_ms else now_ms - block.sent_ms,
                    taken=now - min(bulk_ms, max(0.0, now_ms - block.sent_ms)) / 1000 if bulk_ms else now,
                    unanswered=len(block.items),
                    has_rows=block.has_rows,
                    via=block.via,
                ),
                block,
            )
            for delivery, block in blocks
        ]

    def is_abandoned(self, block: TakenBlock, item: RequestItem) -> bool:
        """Whether the item has expired, or its caller went away."""
        return item.deadline_ms <= self._clock.now_ms() or (block.reply_to, item.id) in self._cancelled

    def without_abandoned(self, pieces: Iterable[Piece]) -> list[Piece]:
        """The pieces less their abandoned items, which are dropped."""
        now_ms, kept = self._clock.now_ms(), []
        for piece in pieces:
            left: Piece | None = piece
            if self._cancelled or piece.due_ms <= now_ms:
                left = piece.without(partial(self.is_abandoned, piece.block))
                self.finish(piece.block, len(piece.items) - (len(left.items) if left else 0))
            if left:
                kept.append(left)
        return kept

    def refuse(self, block: TakenBlock, refused: Sequence[tuple[RequestItem, MillraceError]]) -> None:
        """Answer these items of the block with their errors."""
        if refused:
            self._outbox.refuse(block.reply_to, refused)
            self.finish(block, len(refused))

    def apart(
        self, taken: TakenBlock, block: RequestBlock, failure: Callable[[Exception], MillraceError]
    ) -> list[RequestBlock]:
        """A block for each item; none where its tensors do not hold what they say, and all items get the failure."""
        try:
            return _singly(block)
        except Exception as error:
            self.refuse(taken, [(item, failure(error)) for item in block.items])
            return []

    def finish(self, block: TakenBlock, items: int) -> None:
        """So many more of the block's items are answered or dropped; the last ones finish it."""
        block.unanswered -= items
        if not block.unanswered:
            self._outbox.finished.append(block.delivery)

    def _read(self, delivery: Delivery) -> RequestBlock | None:
        try:
            block = codec.decode_request(delivery.block)
        except codec.CodecError as error:
            _log.exception("a block cannot be read", extra={"model": self._model})
            self._bury(delivery, str(error))
            return None
        if not block.items:
            self._bury(delivery, "the block holds no requests")
            return None
        if delivery.deliveries > MAX_DELIVERIES:
            self._give_up(delivery, block)
            return None
        return block

    def _asked_for_cancelled(self, blocks: Sequence[RequestBlock]) -> set[tuple[str, int]]:
        """The items, by reply stream and id, whose callers went away: none where that cannot be known now."""
        if not self._link.cancelled_count:
            return set()
        try:
            return self._link.cancelled([(block.reply_to, item.id) for block in blocks for item in block.items])
        except Unavailable as error:
            _log.warning("the queue does not answer", extra={"reason": str(error)})
            return set()

    def _bury(self, delivery: Delivery, error: str) -> None:
        """Put the block with the dead letters; if that cannot be now, leave it to be claimed again."""
        try:
            self._link.bury(delivery, error)
        except Unavailable as unavailable:
            _log.warning("a block could not be buried yet", extra={"reason": str(unavailable)})
        else:
            self._outbox.finished.append(delivery)

    def _give_up(self, delivery: Delivery, block: RequestBlock) -> None:
        text = f"the request was given up after {delivery.deliveries - 1} workers failed on it"
        requests = [request_id_of(item.trace) for item in block.items]
        _log.error("gave up on a block", extra={"model": self._model, "requests": requests})
        error = ModelFailed(f"model '{self._model}': {text}")
        self._outbox.refuse(block.reply_to, [(item, error) for item in block.items])
        self._bury(delivery, text)


def _singly(block: RequestBlock) -> list[RequestBlock]:
    """A block for each item, which share its memory. Raises where its tensors do not hold what they say."""
    if len(block.items) == 1:
        return [block]
    counts = [item.rows for item in block.items]
    columns = {name: split_rows(tensor, counts) for name, tensor in block.tensors.items()}
    return [
        replace(block, items=(item,), tensors={name: column[number] for name, column in columns.items()})
        for number, item in enumerate(block.items)
    ]
