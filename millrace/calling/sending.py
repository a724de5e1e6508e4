"""One call on its way to the queue of the model that is called, where it is admitted whole or not at all."""

from collections.abc import Sequence

from millrace.broker.base import Append, ProducerLink, Room
from millrace.broker.fragments import Reference, fragment_count, fragments
from millrace.calling.call import BLOCK_BYTES, Call
from millrace.protocol.errors import PayloadTooLarge, QueueFull

_KEPT_MS = 5_000  # beyond the deadline, room and fragments that nobody used are given up


async def send(link: ProducerLink, call: Call, numbers: Sequence[int]) -> None:
    """Append the call's blocks, whose items have these numbers.

    What has more than 2 MB goes in several steps, so that nobody else waits for Redis meanwhile: the first one keeps
    room for all of it. Raises `QueueFull`, `PayloadTooLarge` for what the queue could never hold, and `Unavailable`.
    """
    encoded = call.blocks(iter(numbers), link.reply_to, link.clock.now_ms())
    size = sum([len(block) for _, block in encoded])
    if call.rows > call.limits.rows or size > call.limits.bytes:
        raise PayloadTooLarge(f"{call.rows} rows and {size} bytes are more than the queue may hold")
    if size <= 2 * BLOCK_BYTES:
        await _append(link, call, encoded)
        return
    room = Room(f"{link.reply_to}:{numbers[0]}", call.rows, size, call.deadline_ms + _KEPT_MS)
    await _append(link, call, [], keeps=room)
    for rows, block in encoded:
        left = Room(room.id, room.rows - rows, room.bytes - len(block), room.expires_ms)
        sent = await _stored(link, call, f"{room.id}:{room.rows}", block, room.expires_ms)
        await _append(link, call, [(rows, sent)], takes=room, keeps=left if left.rows else None)
        room = left


async def _stored(link: ProducerLink, call: Call, name: str, block: bytes, expires_ms: int) -> bytes:
    """What goes to the stream for a block: a large one is stored in fragments first."""
    if len(block) <= 2 * BLOCK_BYTES:
        return block
    reference = Reference(name, fragment_count(len(block)), len(block))
    for fragment in fragments([block]):
        await link.store(call.queue, reference.id, fragment, expires_ms)
    return reference.encoded()


async def _append(
    link: ProducerLink,
    call: Call,
    encoded: Sequence[tuple[int, bytes]],
    *,
    takes: Room | None = None,
    keeps: Room | None = None,
) -> None:
    (held,) = await link.append([Append(call.queue, call.priority, tuple(encoded), takes, keeps)], call.limits)
    if held.is_refused:
        raise QueueFull(f"the queue of model '{call.queue.model}' is full")
