"""One call on its way to the queue of the model that is called: cut into blocks, admitted whole or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass

from millrace.broker.base import Append, Limits, ProducerLink, Room
from millrace.broker.fragments import Reference, fragment_count, fragments
from millrace.broker.keys import Queue
from millrace.protocol import codec
from millrace.protocol.errors import Unavailable
from millrace.protocol.messages import RequestBlock, RequestItem
from millrace.protocol.tensors import Tensor, split_rows

LIMITS = Limits(rows=4096, bytes=256 * 2**20)  # what the API lets a queue hold unless it is set otherwise
_BLOCK_BYTES = 1_000_000
_KEPT_MS = 5_000  # beyond the deadline, room and fragments that nobody used are given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of one model version: its tensors, and whom it is for.

    `max_batch_size` rows at most go together in a block, 0 where the model has no rows; `is_whole` forbids to cut them.
    """

    queue: Queue
    signature: str
    tensors: dict[str, Tensor]
    rows: int
    max_batch_size: int
    is_whole: bool
    deadline_ms: int
    trace: str
    via: tuple[str, ...]

    @property
    def counts(self) -> list[int]:
        """The rows of each block."""
        size = sum(len(tensor.data) for tensor in self.tensors.values())
        if self.is_whole or not self.max_batch_size:
            return [self.rows]
        most = max(1, min(self.max_batch_size, _BLOCK_BYTES * self.rows // max(1, size)))
        return [min(most, self.rows - first) for first in range(0, self.rows, most)]


def blocks(call: Call, numbers: Sequence[int], reply_to: str, now_ms: float) -> list[tuple[int, bytes]]:
    """The encoded blocks, each with its rows; the one item of each has the number at its place."""
    counts = call.counts
    columns = {name: split_rows(tensor, counts) for name, tensor in call.tensors.items()}
    return [
        (
            rows,
            codec.encode_request(
                RequestBlock(
                    reply_to=reply_to,
                    model=call.queue.model,
                    version=call.queue.version,
                    signature=call.signature,
                    sent_ms=now_ms,
                    items=(RequestItem(numbers[i], call.trace, rows, call.deadline_ms),),
                    tensors={name: column[i] for name, column in columns.items()},
                    has_rows=call.max_batch_size > 0,
                    via=call.via,
                )
            ),
        )
        for i, rows in enumerate(counts)
    ]


async def send(link: ProducerLink, call: Call, numbers: Sequence[int]) -> None:
    """Append the call's blocks, whose items have these numbers.

    What has more than 2 MB goes in several steps, so that nobody else waits for Redis meanwhile: the first one keeps
    room for all of it. Raises `Unavailable` where the queue is full, or out of reach.
    """
    encoded = blocks(call, numbers, link.reply_to, link.clock.now_ms())
    size = sum(len(block) for _, block in encoded)
    if size <= 2 * _BLOCK_BYTES:
        await _append(link, call, encoded)
        return
    room = Room(f"{link.reply_to}:{numbers[0]}", call.rows, size, call.deadline_ms + _KEPT_MS)
    await _append(link, call, [], keeps=room)
    for number, (rows, block) in zip(numbers, encoded, strict=True):
        left = Room(room.id, room.rows - rows, room.bytes - len(block), room.expires_ms)
        sent = await _stored(link, call, number, block, room.expires_ms)
        await _append(link, call, [(rows, sent)], takes=room, keeps=left if left.rows else None)
        room = left


async def _stored(link: ProducerLink, call: Call, number: int, block: bytes, expires_ms: int) -> bytes:
    """What goes to the stream for a block: a large one is stored in fragments first."""
    if len(block) <= 2 * _BLOCK_BYTES:
        return block
    reference = Reference(f"{link.reply_to}:{number}", fragment_count(len(block)), len(block))
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
    (held,) = await link.append([Append(call.queue, "normal", tuple(encoded), takes, keeps)], LIMITS)
    if held.is_refused:
        raise Unavailable(f"the queue of model '{call.queue.model}', which another model calls, is full; try again")
