"""Blocks into batches: which rows run together.

Blocks are taken in the order that they came. A batch holds blocks of one signature whose rows have one shape (but for
an axis that may be padded), and no more than the model's `max_batch_size` rows unless a single block has more.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from millrace.broker.base import Delivery
from millrace.protocol.messages import RequestItem
from worker.backends.base import Arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyBlock:
    """A block that can run: the graph's inputs and the items whose rows they are, in order.

    `queue_ms` is how long the block waited on the queue, `taken` when it was taken (`time.perf_counter`).
    """

    delivery: Delivery
    reply_to: str
    signature: str
    items: tuple[RequestItem, ...]
    inputs: Arrays
    queue_ms: float
    taken: float

    @property
    def rows(self) -> int:
        """How many rows the items have together."""
        return sum(item.rows for item in self.items)


@dataclass(slots=True)
class Batch:
    """Blocks that run together."""

    blocks: list[ReadyBlock] = field(default_factory=list)
    rows: int = 0


def form_batches(blocks: Sequence[ReadyBlock], max_batch_size: int, may_pad: Callable[[str], bool]) -> list[Batch]:
    """Every block in exactly one batch, in order; `may_pad` tells whether an input's last axis may differ in length."""
    batches: list[Batch] = []
    filling: dict[Hashable, Batch] = {}
    for block in blocks:
        key = _key(block, may_pad)
        batch = filling.get(key)
        if batch is None or batch.rows + block.rows > max_batch_size:
            batch = filling[key] = Batch()
            batches.append(batch)
        batch.blocks.append(block)
        batch.rows += block.rows
    return batches


def _key(block: ReadyBlock, may_pad: Callable[[str], bool]) -> Hashable:
    def row_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[1:-1] if may_pad(name) else shape[1:]

    inputs = sorted((name, array.dtype.str, row_shape(name, array.shape)) for name, array in block.inputs.items())
    return block.signature, tuple(inputs)
