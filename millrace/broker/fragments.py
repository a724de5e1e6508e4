"""Large blocks travel in fragments: nobody else waits while one of 60 MB is written, kept or read.

A fragment is at most a megabyte. Fragments are put on a list one after the other; then a reference goes where the block
would have gone: the text "MF ID COUNT BYTES". The reader fetches them one by one and joins them. The list expires with
the last deadline that the block has, so that what was never finished is not kept for ever.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

FRAGMENT_BYTES = 1_000_000
_MARK = b"MF "  # blocks begin with "MR" (codec.py)


@dataclass(frozen=True, slots=True)
class Reference:
    """What stands for a block: the name of its fragments, how many there are, and the size of the block in bytes."""

    id: str
    count: int
    size: int

    def encoded(self) -> bytes:
        """The text that travels; the id has no spaces."""
        return b"%b%b %d %d" % (_MARK, self.id.encode(), self.count, self.size)


def read_reference(block: bytes) -> Reference | None:
    """The reference, where it is one and not a block."""
    if not block.startswith(_MARK):
        return None
    try:
        name, count, size = block[len(_MARK) :].decode().split(" ")
        return Reference(name, int(count), int(size))
    except ValueError:
        return None


def fragment_count(size: int) -> int:
    """How many fragments a block of so many bytes has."""
    return -(-size // FRAGMENT_BYTES)


def fragments(parts: Sequence[bytes | memoryview]) -> Iterator[bytes]:
    """The fragments of a block that these buffers make, laid end to end; each is copied when it is asked for."""
    taken: list[bytes | memoryview] = []
    missing = FRAGMENT_BYTES
    for part in parts:
        view = memoryview(part)
        while len(view) >= missing:
            yield b"".join([*taken, view[:missing]])
            view, taken, missing = view[missing:], [], FRAGMENT_BYTES
        if len(view):
            taken.append(view)
            missing -= len(view)
    if taken:
        yield b"".join(taken)
