"""Requests cut into blocks: which rows travel together, and what is written of each."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from millrace.broker.base import Append
from millrace.broker.keys import Queue
from millrace.protocol import codec
from millrace.protocol.messages import RequestBlock, RequestItem
from millrace.protocol.tensors import Tensor, concatenate_rows, split_rows
from serving.queueing.pending import Pending, PendingRequests

_BLOCK_BYTES = 1_000_000
_FIRST_BLOCKS = 2


class Part(NamedTuple):
    """A request, or a run of its rows."""

    pending: Pending
    tensors: dict[str, Tensor]
    rows: int


@dataclass(slots=True)
class Call:
    """An append and the requests in it. Of a large request it has the first blocks; the `rest` follows once these are
    admitted, so that workers begin while it is still written and on its way.
    """

    append: Append
    requests: list[Pending]
    rest: list[RequestBlock]


def cut(group: list[Pending], workers: int) -> Iterator[list[list[Part]]]:
    """Requests of one key as the parts of blocks, one list of blocks for each append.

    As many blocks as there are live workers, none above the batch size or about a megabyte.
    """
    largest = group[0].max_batch_size
    if not largest:
        for pending in group:
            yield [[Part(pending, _as_one_row(pending.inputs), 1)]]
        return
    rows = sum(pending.rows for pending in group)
    row_bytes = sum(len(t.data) for p in group for t in p.inputs.values()) / max(1, rows)
    share = math.ceil(rows / max(1, workers))
    limit = max(1, min(largest, share, int(_BLOCK_BYTES / max(1.0, row_bytes))))
    together: list[Part] = []
    filled = 0
    for pending in group:
        if together and filled + pending.rows > limit:
            yield [together]
            together, filled = [], 0
        if pending.rows > limit:
            yield _cut_one(pending, limit)
        else:
            together.append(Part(pending, pending.inputs, pending.rows))
            filled += pending.rows
    if together:
        yield [together]


def _cut_one(pending: Pending, limit: int) -> list[list[Part]]:
    """A large request's parts, each a block of its own, of at most `limit` rows."""
    rows = pending.rows
    counts = [min(limit, rows - start) for start in range(0, rows, limit)]
    columns = {name: split_rows(tensor, counts) for name, tensor in pending.inputs.items()}
    return [[Part(pending, {name: column[i] for name, column in columns.items()}, n)] for i, n in enumerate(counts)]


class BlockWriter:
    """Writes blocks of parts. `reply_to` is this process's reply stream."""

    def __init__(self, pending: PendingRequests, reply_to: str) -> None:
        self._pending = pending
        self._reply_to = reply_to

    def call(self, blocks: list[list[Part]], broker_ms: float) -> Call:
        """One append of these blocks; of many, the first. `broker_ms` is the broker's time now."""
        offset_ms = broker_ms - self._pending.clock() * 1000
        pendings = list(dict.fromkeys(part.pending for parts in blocks for part in parts))
        first = pendings[0]
        whole = [self._block(first, parts, broker_ms, offset_ms) for parts in blocks]
        append = Append(Queue(first.model, first.version), first.priority, encoded(whole[:_FIRST_BLOCKS]))
        return Call(append, pendings, whole[_FIRST_BLOCKS:])

    def _block(self, first: Pending, parts: list[Part], sent_ms: float, offset_ms: float) -> RequestBlock:
        return RequestBlock(
            reply_to=self._reply_to,
            model=first.model,
            version=first.version,
            signature=first.signature,
            sent_ms=sent_ms,
            items=tuple([self._item(part.pending, part.rows, offset_ms) for part in parts]),
            tensors={name: concatenate_rows([part.tensors[name] for part in parts]) for name in parts[0].tensors},
        )

    def _item(self, pending: Pending, rows: int, offset_ms: float) -> RequestItem:
        """The item of one part; the offset is what the broker's clock is ahead of ours."""
        number = self._pending.add_part(pending)
        return RequestItem(number, pending.trace, rows, int(pending.deadline * 1000 + offset_ms))


def rows_of(block: RequestBlock) -> int:
    """How many rows the block has."""
    return sum(item.rows for item in block.items)


def bytes_of(block: RequestBlock) -> int:
    """How large its tensors are."""
    return sum(len(tensor.data) for tensor in block.tensors.values())


def encoded(blocks: Iterable[RequestBlock]) -> tuple[tuple[int, bytes], ...]:
    """The blocks as an append takes them."""
    return tuple([(rows_of(block), codec.encode_request(block)) for block in blocks])


def _as_one_row(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: Tensor(t.datatype, (1, *t.shape), t.data) for name, t in tensors.items()}
