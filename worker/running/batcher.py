"""Which rows run together.

What is cut and put together is the piece: items of one block that stay together. A batch holds pieces of one signature
whose rows have one shape, and no more than the model's `max_batch_size` rows unless a single piece has more. A piece
without rows runs alone.

Where rows may differ in length, pieces of similar length share a batch, since shorter rows are filled up to the
longest. A batch is closed when filling up would cost more than another batch does, by what runs took at warm-up.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from worker.running.piece import Piece


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
    if len(pieces) == 1:  # as long as one block at a time comes
        return [_batch([*pieces])]
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
        if not rows or rows + piece.rows > max_batch_size or is_wasteful or not piece.block.has_rows:
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
    return piece.block.signature, piece.block.has_rows, tuple(inputs)
