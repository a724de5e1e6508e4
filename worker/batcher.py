"""Which rows run together.

What is cut and put together is the piece: items of one block that stay together. A batch holds pieces of one signature
whose rows have one shape, and no more than the model's `max_batch_size` rows unless a single piece has more.

Where rows may differ in length, pieces of similar length share a batch, since shorter rows are filled up to the
longest. A batch is closed when filling up would cost more than another batch does, by what runs took at warm-up.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from millrace.broker.base import Delivery
from millrace.protocol.messages import RequestItem
from worker.backends.base import Arrays


@dataclass(slots=True, kw_only=True)
class TakenBlock:
    """A block in hand. `unanswered` counts its items that are neither answered nor dropped; at 0 it is finished.

    `queue_ms` is how long the block waited on the queue, `taken` when it was taken (`time.perf_counter`).
    """

    delivery: Delivery
    reply_to: str
    signature: str
    queue_ms: float
    taken: float
    unanswered: int


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


@dataclass(slots=True)
class Batch:
    """Pieces that run together, those for one API process side by side."""

    pieces: list[Piece] = field(default_factory=list)
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run costs in ms: `batch` + `step` x longest + `element` x rows x longest."""

    batch: float = 0.0
    step: float = 0.0
    element: float = 0.0


def form_batches(
    pieces: Sequence[Piece], max_batch_size: int, may_pad: Callable[[str], bool], cost: Cost
) -> list[Batch]:
    """Every piece in exactly one batch; `may_pad` tells whether an input's last axis may differ in length.

    Batches come in the order of their first pieces, so that what is urgent stays in front.
    """
    places: dict[Hashable, list[int]] = {}
    for place, piece in enumerate(pieces):
        places.setdefault(_key(piece, may_pad), []).append(place)
    cut: list[list[int]] = []
    for alike in places.values():
        cut += _cut(pieces, sorted(alike, key=lambda place: pieces[place].length), max_batch_size, cost)
    cut.sort(key=min)
    return [_batch([pieces[place] for place in together]) for together in cut]


def _cut(pieces: Sequence[Piece], by_length: Sequence[int], max_batch_size: int, cost: Cost) -> list[list[int]]:
    batches: list[list[int]] = []
    rows = longest = padding = 0
    for place in by_length:
        piece = pieces[place]
        padding += rows * (piece.length - longest)
        longest = piece.length
        is_wasteful = padding * cost.element > cost.batch + cost.step * longest
        if not rows or rows + piece.rows > max_batch_size or is_wasteful:
            batches.append([])
            rows = padding = 0
        batches[-1].append(place)
        rows += piece.rows
    return batches


def _batch(pieces: list[Piece]) -> Batch:
    pieces.sort(key=lambda piece: piece.block.reply_to)
    return Batch(pieces, sum(piece.rows for piece in pieces))


def _key(piece: Piece, may_pad: Callable[[str], bool]) -> Hashable:
    def row_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[1:-1] if may_pad(name) else shape[1:]

    inputs = sorted((name, array.dtype.str, row_shape(name, array.shape)) for name, array in piece.inputs.items())
    return piece.block.signature, tuple(inputs)
