"""A block in hand, and the pieces of it that run: items that stay together, with the graph's inputs."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from millrace.broker.base import Delivery
from millrace.protocol.messages import RequestItem
from worker.backends.base import Arrays


@dataclass(slots=True, kw_only=True)
class TakenBlock:
    """A block in hand. `unanswered` counts its items that are neither answered nor dropped; at 0 it is finished.

    `has_rows` says whether its tensors' first dimension is the model's own, which counts rows, and `via` which models
    wait for it (see `RequestBlock`).

    `queue_ms` is how long the block waited on the queue, `taken` when it was taken (`time.perf_counter`).
    """

    delivery: Delivery
    reply_to: str
    signature: str
    queue_ms: float
    taken: float
    unanswered: int
    has_rows: bool = True
    via: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Items of one block that run together: the graph's inputs and the items whose rows they are, in order.

    `length` is the size of the last axis where that may differ between rows, else 0. `due_ms` is the first of the
    items' deadlines, on the broker's clock.
    """

    block: TakenBlock
    items: tuple[RequestItem, ...]
    inputs: Arrays
    rows: int
    length: int
    due_ms: int

    def singly(self) -> "list[Piece]":
        """A piece for each item, which share this one's memory."""
        return [self._of(slice(i, i + 1)) for i in range(len(self.items))] if len(self.items) > 1 else [self]

    def without(self, dropped: Callable[[RequestItem], bool]) -> "Piece | None":
        """The piece less some items; None where no item is left, itself where all are."""
        kept = [piece for piece in self.singly() if not dropped(piece.items[0])]
        if len(kept) == len(self.items) or not kept:
            return self if kept else None
        inputs = {name: np.concatenate([piece.inputs[name] for piece in kept]) for name in self.inputs}
        return replace(
            self,
            items=tuple(piece.items[0] for piece in kept),
            inputs=inputs,
            rows=sum(piece.rows for piece in kept),
            due_ms=min(piece.due_ms for piece in kept),
        )

    def _of(self, which: slice) -> "Piece":
        items = self.items[which]
        first = sum(item.rows for item in self.items[: which.start])
        rows = sum(item.rows for item in items)
        return replace(
            self,
            items=items,
            inputs={name: array[first : first + rows] for name, array in self.inputs.items()},
            rows=rows,
            due_ms=min(item.deadline_ms for item in items),
        )
