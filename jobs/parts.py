"""How a job is cut: its parts by rows, and what its kind wants to remember between them."""

from collections.abc import Sequence
from typing import Any

import msgspec

MOST_PARTS = 20_000


class Part(msgspec.Struct, array_like=True, frozen=True):
    """`count` rows from row `first` on, from 0. Part `number` writes the file of that number."""

    number: int
    first: int
    count: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The parts in order. `rows` is None where the kind has no rows; `facts` are the kind's own, plain JSON."""

    parts: tuple[Part, ...]
    rows: int | None
    facts: dict[str, Any] = {}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished part says of itself: rows, rows that were refused, and the kind's own facts, plain JSON."""

    rows: int = 0
    errors: int = 0
    facts: dict[str, Any] = {}


class Outputs(msgspec.Struct, frozen=True, kw_only=True):
    """What a job leaves: names of files in its folder of outputs, the main one first, or where else it wrote."""

    names: tuple[str, ...] = ()
    written_to: str = ""


def cut(rows: int, part_rows: int) -> Sequence[Part]:
    """Parts of `part_rows` rows, the last of what is left; one empty part where there is no row.

    They are larger where there would be more than `MOST_PARTS`.
    """
    part_rows = max(part_rows, -(-rows // MOST_PARTS))
    starts = range(0, rows, part_rows) if rows else [0]
    return [Part(number, first, min(part_rows, rows - first)) for number, first in enumerate(starts)]
