"""A response without an end that is known: pieces that are written as they come, such as server-sent events."""

from collections.abc import Callable
from typing import Protocol


class Pieces(Protocol):
    """Where the pieces come from. All methods are called on the event loop."""

    def begin(self, write: Callable[[bytes], None], end: Callable[[], None]) -> None:
        """Begin to call `write` with pieces, and at last `end`; on the event loop, and not before this returns."""

    def cancel(self) -> None:
        """Call neither any more: the caller has left, or the server stops."""
