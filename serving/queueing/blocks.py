"""Requests cut into blocks: which rows travel together, and what is written of each."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from millrace.broker.base import Append
from millrace.broker.keys import Queue
from millrace.protocol import codec
from millrace.protocol.messages import RequestBlock
from millrace.protocol.tensors import Tensor, concatenate_rows, split_rows
from serving.queueing.pending import Pending, PendingRequests

BLOCK_BYTES = 1_000_000  # of tensors, unless one row is larger


Part = tuple[Pending, dict[str, Tensor], int]  # a request, or a run of its rows: the tensors and how many rows


class EncodedBlock(NamedTuple):
    """A block as it will travel: the buffers that make it, end to end, and their size."""

    rows: int
    parts: list[bytes | memoryview]
    size: int

    @property
    def is_large(self) -> bool:
        """Whether it is too large for one entry of a stream, since it has one large row."""
        return self.size > 2 * BLOCK_BYTES

    def joined(self) -> tuple[int, bytes]:
        """The block as an append takes it."""
        return self.rows, b"".join(self.parts)


@dataclass(slots=True)
class Call:
    """Requests that are admitted together or not at all: several in one block, or one that may have several blocks.

    `size` is the bytes of all blocks.
    """

    queue: Queue
    priority: str
    requests: list[Pending]
    blocks: list[EncodedBlock]
    size: int
    deadline_ms: int

    @property
    def is_large(self) -> bool:
        """Whether it takes more than one append."""
        return self.size > 2 * BLOCK_BYTES

    @property
    def rows(self) -> int:
        """The rows of all blocks."""
        return sum([block.rows for block in self.blocks])

    def append(self) -> Append:
        """The one append that it takes, unless it is large."""
        return Append(self.queue, self.priority, tuple([block.joined() for block in self.blocks]))


def cut(group: list[Pending], workers: int, max_rows: int) -> Iterator[list[list[Part]]]:
    """Requests of one key as the parts of blocks, one list of blocks for each call.

    As many blocks as there are `workers` for them, none above the batch size, `max_rows` or a megabyte; but a row is
    not cut, nor a request that is whole.
    """
    largest = group[0].max_batch_size
    if not largest:
        for pending in group:
            yield [[(pending, _as_one_row(pending.inputs), 1)]]
        return
    share = math.ceil(sum([pending.rows for pending in group]) / max(1, workers))
    limit = max(1, min(largest, share, max_rows))
    together: list[Part] = []
    rows = size = 0
    for pending in group:
        if together and (rows + pending.rows > limit or size + pending.size > BLOCK_BYTES):
            yield [together]
            together, rows, size = [], 0, 0
        is_cut = pending.rows > limit or (pending.size > BLOCK_BYTES and pending.rows > 1)
        if is_cut and not pending.is_whole:
            yield _cut_one(pending, limit)
        else:
            together.append((pending, pending.inputs, pending.rows))
            rows, size = rows + pending.rows, size + pending.size
    if together:
        yield [together]


def _cut_one(pending: Pending, limit: int) -> list[list[Part]]:
    """A large request's parts, each a block of its own, of at most `limit` rows and about a megabyte."""
    rows = pending.rows
    limit = max(1, min(limit, BLOCK_BYTES * rows // max(1, pending.size)))
    counts = [min(limit, rows - start) for start in range(0, rows, limit)]
    columns = {name: split_rows(tensor, counts) for name, tensor in pending.inputs.items()}
    return [[(pending, {name: column[i] for name, column in columns.items()}, n)] for i, n in enumerate(counts)]


class BlockWriter:
    """Writes blocks of parts. `reply_to` is this process's reply stream."""

    def __init__(self, pending: PendingRequests, reply_to: str) -> None:
        self._pending = pending
        self._reply_to = reply_to

    def call(self, blocks: list[list[Part]], broker_ms: float) -> Call:
        """The call of these blocks, either one or those of one request. `broker_ms` is the broker's time now."""
        offset_ms = broker_ms - self._pending.clock() * 1000
        first, _, _ = blocks[0][0]
        encoded = [self._block(first, parts, broker_ms, offset_ms) for parts in blocks]
        requests = [pending for pending, _, _ in blocks[0]]
        deadline_ms = int(first.deadline * 1000 + offset_ms)
        size = sum([block.size for block in encoded])
        return Call(Queue(first.model, first.version), first.priority, requests, encoded, size, deadline_ms)

    def _block(self, first: Pending, parts: list[Part], sent_ms: float, offset_ms: float) -> EncodedBlock:
        block = RequestBlock(
            reply_to=self._reply_to,
            model=first.model,
            version=first.version,
            signature=first.signature,
            sent_ms=sent_ms,
            items=tuple([self._pending.add_part(pending, rows, offset_ms) for pending, _, rows in parts]),
            tensors={name: concatenate_rows([tensors[name] for _, tensors, _ in parts]) for name in parts[0][1]},
            has_rows=first.max_batch_size > 0,
        )
        buffers = codec.request_parts(block)
        return EncodedBlock(sum([rows for _, _, rows in parts]), buffers, sum(map(len, buffers)))


def _as_one_row(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: Tensor(t.datatype, (1, *t.shape), t.data) for name, t in tensors.items()}
