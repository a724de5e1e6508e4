"""What is called: rows for one version of a model, and how they travel."""

from collections.abc import Iterator
from dataclasses import dataclass

from millrace.broker.base import Limits
from millrace.broker.keys import BULK, Queue
from millrace.protocol import codec
from millrace.protocol.messages import RequestBlock, RequestItem
from millrace.protocol.tensors import Tensor, split_rows

BLOCK_BYTES = 1_000_000  # of tensors, unless one row is larger
_BULK_ITEMS = 4  # most items of a block of bulk
LIMITS = Limits(rows=4096, bytes=256 * 2**20)  # what the API lets a queue hold unless it is set otherwise
Outputs = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Rows for one model version, and whom they are for.

    `max_batch_size` rows at most go together in a block, 0 where the model has no rows; `is_whole` forbids to cut them.
    `deadline_ms` is on the broker's clock. `needs_worker`: it fails as soon as no live worker has the version.
    """

    queue: Queue
    signature: str
    tensors: Outputs
    rows: int
    max_batch_size: int
    deadline_ms: int
    is_whole: bool = False
    trace: str = ""
    via: tuple[str, ...] = ()
    priority: str = "normal"
    limits: Limits = LIMITS
    needs_worker: bool = False

    @property
    def is_bulk(self) -> bool:
        """Whether it takes only what others leave."""
        return self.priority == BULK

    @property
    def items(self) -> list[list[int]]:
        """The rows of each block's items: what a worker runs at once. Of bulk, a block has a few, which costs less."""
        if self.is_whole or not self.max_batch_size:
            return [[self.rows]]
        size = max(1, sum([len(tensor.data) for tensor in self.tensors.values()]))
        most = max(1, min(self.max_batch_size, BLOCK_BYTES * self.rows // size))
        counts = [min(most, self.rows - first) for first in range(0, self.rows, most)]
        together = max(1, min(_BULK_ITEMS, BLOCK_BYTES * self.rows // (size * most))) if self.is_bulk else 1
        return [counts[first : first + together] for first in range(0, len(counts), together)]

    def blocks(self, numbers: Iterator[int], reply_to: str, now_ms: float) -> list[tuple[int, bytes]]:
        """The encoded blocks, each with its rows; their items get the numbers, in order."""
        items = self.items
        counts = [sum(rows) for rows in items]
        columns = {name: split_rows(tensor, counts) for name, tensor in self.tensors.items()}
        return [
            (
                counts[place],
                codec.encode_request(
                    RequestBlock(
                        reply_to=reply_to,
                        model=self.queue.model,
                        version=self.queue.version,
                        signature=self.signature,
                        sent_ms=now_ms,
                        items=tuple([RequestItem(next(numbers), self.trace, n, self.deadline_ms) for n in rows]),
                        tensors={name: column[place] for name, column in columns.items()},
                        has_rows=self.max_batch_size > 0,
                        via=self.via,
                    )
                ),
            )
            for place, rows in enumerate(items)
        ]
