"""The way out: reply blocks become the responses of the requests that they answer."""

import logging

from millrace.broker.base import ProducerLink
from millrace.protocol import codec
from millrace.protocol.errors import Internal, from_wire
from millrace.protocol.messages import ReplyBlock, ReplyItem
from millrace.protocol.tensors import Tensor, split_rows
from serving.queueing.pending import Pending, PendingRequests

_log = logging.getLogger(__name__)


class BlockObserver:
    """Told of every reply block, for metrics; this one does nothing."""

    def block_answered(self, model: str, version: int, block: ReplyBlock) -> None:
        """A reply block for that model version has come in."""


class Replies:
    """Reads this process's reply stream and answers the pending requests."""

    def __init__(self, link: ProducerLink, pending: PendingRequests, observer: BlockObserver) -> None:
        self._link = link
        self._pending = pending
        self._observer = observer

    async def read(self) -> None:
        """Wait for the next reply blocks and answer what they answer. Raises `Unavailable`."""
        for block in await self._link.replies():
            try:
                self._resolve(codec.decode_reply(block))
            except Exception:
                _log.exception("a reply could not be read")

    def _resolve(self, block: ReplyBlock) -> None:
        counts = [item.rows for item in block.items]
        columns = {name: split_rows(tensor, counts) for name, tensor in block.tensors.items()}
        answered: Pending | None = None
        for i, item in enumerate(block.items):
            found = self._pending.pop_part(item.id)
            if found is None:  # answered before, or nobody waits any more
                continue
            answered, part = found
            if item.code:
                self._pending.fail(answered, from_wire(item.code, item.message))
            else:
                self._take(answered, part, item, {name: c[i] for name, c in columns.items()}, block.compute_ms)
        if answered:
            self._observer.block_answered(answered.model, answered.version, block)

    def _take(
        self, pending: Pending, part: int, item: ReplyItem, outputs: dict[str, Tensor], compute_ms: float
    ) -> None:
        try:
            response = pending.take(part, item, outputs, compute_ms, self._pending.clock())
        except Exception:
            _log.exception("an answer does not fit", extra={"request_id": pending.trace})
            self._pending.fail(pending, Internal("the parts of the answer do not fit together"))
            return
        if response:
            self._pending.respond(pending, response)
