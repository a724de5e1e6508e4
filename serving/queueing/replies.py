"""The way out: reply blocks become the responses of the requests that they answer."""

import asyncio
import logging
from collections.abc import Callable, Coroutine

from millrace.broker.base import ProducerLink
from millrace.broker.fragments import Reference, read_reference
from millrace.protocol import codec
from millrace.protocol.errors import Internal, InvalidRequest, Unavailable, from_wire
from millrace.protocol.messages import ReplyBlock, request_id_of
from millrace.protocol.tensors import split_rows
from serving.queueing.pending import Pending, PendingRequests

_log = logging.getLogger(__name__)


class BlockObserver:
    """Told of every reply block, for metrics; this one does nothing."""

    def block_answered(self, model: str, version: int, block: ReplyBlock) -> None:
        """A reply block for that model version has come in."""


class Replies:
    """Reads this process's reply stream and answers the pending requests.

    `spawn` runs a coroutine as a task that is cancelled when the producer stops.
    """

    def __init__(
        self,
        link: ProducerLink,
        pending: PendingRequests,
        observer: BlockObserver,
        spawn: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        self._link = link
        self._pending = pending
        self._observer = observer
        self._spawn = spawn

    async def read(self) -> None:
        """Wait for the next reply blocks and answer what they answer. Raises `Unavailable`."""
        for block in await self._link.replies():
            if reference := read_reference(block):
                self._spawn(self._fetch(reference))
            else:
                self._read(block)

    async def _fetch(self, reference: Reference) -> None:
        """Answer what a large reply block answers; the others' replies are read meanwhile."""
        try:
            block = await self._link.fetch(reference)
        except Unavailable as error:
            _log.warning("a large reply could not be fetched", extra={"reason": str(error)})
            return
        if block is not None:
            self._read(block)

    def _read(self, block: bytes) -> None:
        try:
            self._resolve(codec.decode_reply(block))
        except Exception:
            _log.exception("a reply could not be read")

    def _resolve(self, block: ReplyBlock) -> None:
        counts = [item.rows for item in block.items]
        columns = {name: split_rows(tensor, counts) for name, tensor in block.tensors.items()}
        pending, now = self._pending, self._pending.clock()
        answered: Pending | None = None
        for i, item in enumerate(block.items):
            found = pending.parts.pop(item.id, None)
            if found is None:  # answered before, or nobody waits any more
                continue
            answered, part = found
            if item.code:
                pending.fail(answered, from_wire(item.code, item.message), "answered")
                continue
            try:
                outputs = {name: column[i] for name, column in columns.items()}
                if not answered.take(part, item, outputs, block, now):
                    continue
                if len(answered.parts) > 1 and answered.must_be_joined:
                    self._spawn(self._join(answered))
                    continue
                response = answered.response()
            except Exception as error:
                self._misfit(answered, error)
                continue
            pending.respond(answered, response)
        if answered:
            self._observer.block_answered(answered.model, answered.version, block)

    async def _join(self, pending: Pending) -> None:
        """Answer with a large response of several parts, which are put together in a thread."""
        try:
            response = await asyncio.to_thread(pending.response)
        except Exception as error:
            self._misfit(pending, error)
        else:
            self._pending.respond(pending, response)

    def _misfit(self, pending: Pending, error: Exception) -> None:
        if pending.max_batch_size == 1 and isinstance(error, ValueError):  # rows that never ran together may differ
            words = "its answers to these rows differ in shape; send each row as a request of its own"
            self._pending.fail(pending, InvalidRequest(f"model {pending.model!r} runs row by row: {words}"))
            return
        _log.error("an answer does not fit", exc_info=error, extra={"request_id": request_id_of(pending.trace)})
        self._pending.fail(pending, Internal("the parts of the answer do not fit together"))
