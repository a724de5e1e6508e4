"""Requests that take more than one append: of many blocks, or of a row larger than a block may be.

The first append keeps room in the queue for all that follows, so that the request is refused whole or admitted whole.
The rest follows in a small window: workers begin while it is on its way, and the others' requests go in between. A row
that is too large for one entry of a stream goes there in fragments first (`millrace/broker/fragments.py`).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from millrace.broker.base import Append, Held, Limits, ProducerLink, Room
from millrace.broker.fragments import Reference, fragment_count, fragments
from serving.queueing.blocks import BLOCK_BYTES, Call, EncodedBlock

_Answer = TypeVar("_Answer")
_WINDOW = 2  # appends, or fragments, that are on their way at once: about 2 MB
_KEPT_MS = 5_000  # beyond the deadline, room and fragments that nobody used are given up


class LargeCalls:
    """Sends them. `refuse` is told of what a queue has no room for."""

    def __init__(self, link: ProducerLink, limits: Limits, refuse: Callable[[Call, Held], None]) -> None:
        self._link = link
        self._limits = limits
        self._refuse = refuse

    async def send(self, call: Call) -> None:
        """Send all blocks, or as many as are sent before the request ends. Raises `Unavailable`."""
        first, *rest = _appends(call.blocks)
        if first[0].is_large:
            first, rest = [], [first, *rest]
        rows = sum([block.rows for block in call.blocks]) - sum([block.rows for block in first])
        size = call.size - sum([block.size for block in first])
        room = Room(f"{self._link.reply_to}:{call.requests[0].ids[0]}", rows, size, call.deadline_ms + _KEPT_MS)
        (held,) = await self._append(call, first, keeps=room)
        call.requests[0].usage.told(held)
        if held.is_refused:
            self._refuse(call, held)
            return
        left = await self._send_rest(call, rest, room)
        if left:
            await self._append(call, [], takes=left)

    async def _send_rest(self, call: Call, rest: list[list[EncodedBlock]], room: Room) -> Room | None:
        """Send what there is room for; returns the room to give back where the request ended meanwhile."""
        (pending,) = call.requests
        window = _Window[list[Held]]()
        left: Room | None = room
        try:
            for blocks in rest:
                if pending.is_done:
                    break
                stored = await self._stored(call, blocks[0], room) if blocks[0].is_large else blocks
                if stored is None:
                    left = None  # its fragments are there until they expire, and so is their room
                    break
                left = _less(room, blocks)
                self._check(call, await window.add(self._append(call, stored, takes=room, keeps=left)))
                room = left or room
            self._check(call, await window.rest())
        finally:
            window.close()
        return left

    async def _append(
        self, call: Call, blocks: list[EncodedBlock], *, takes: Room | None = None, keeps: Room | None = None
    ) -> list[Held]:
        encoded = tuple([block.joined() for block in blocks])
        return await self._link.append([Append(call.queue, call.priority, encoded, takes, keeps)], self._limits)

    def _check(self, call: Call, answers: list[list[Held]]) -> None:
        """Redis may have lost its memory, and with it the room."""
        for (held,) in answers:
            if held.is_refused:
                self._refuse(call, held)

    async def _stored(self, call: Call, block: EncodedBlock, room: Room) -> list[EncodedBlock] | None:
        """Send the fragments of a large block; what goes to the stream in its place, None if the request has ended."""
        (pending,) = call.requests
        reference = Reference(f"{room.id}:{room.rows}", fragment_count(block.size), block.size)
        window = _Window[None]()
        try:
            for fragment in fragments(block.parts):
                if pending.is_done:
                    return None
                await window.add(self._link.store(call.queue, reference.id, fragment, room.expires_ms))
            await window.rest()
        finally:
            window.close()
        encoded = reference.encoded()
        return [EncodedBlock(block.rows, [encoded], len(encoded))]


def _appends(blocks: list[EncodedBlock]) -> list[list[EncodedBlock]]:
    """The blocks of each append: about a megabyte, or one large block."""
    appends: list[list[EncodedBlock]] = []
    size = 0
    for block in blocks:
        if not appends or size + block.size > BLOCK_BYTES:
            appends.append([])
            size = 0
        appends[-1].append(block)
        size += block.size
    return appends


def _less(room: Room, blocks: list[EncodedBlock]) -> Room | None:
    """What is left of the room when the blocks have taken theirs."""
    rows = room.rows - sum([block.rows for block in blocks])
    size = room.bytes - sum([block.size for block in blocks])
    return Room(room.id, rows, size, room.expires_ms) if rows else None


class _Window(Generic[_Answer]):
    """What is on its way: no more than `_WINDOW` at once."""

    def __init__(self) -> None:
        self._sent: deque[asyncio.Future[_Answer]] = deque()

    async def add(self, sent: Awaitable[_Answer]) -> list[_Answer]:
        """One more; waits for the answer to the oldest where there are too many, and returns it."""
        self._sent.append(asyncio.ensure_future(sent))
        return [await self._sent.popleft()] if len(self._sent) >= _WINDOW else []

    async def rest(self) -> list[_Answer]:
        """The answers to all that is on its way."""
        return [await self._sent.popleft() for _ in range(len(self._sent))]

    def close(self) -> None:
        """Wait for no more answers."""
        for sent in self._sent:
            sent.cancel()
