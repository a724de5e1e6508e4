"""The fields of a protobuf message, found where they lie: in bytes, or in a file of which no more is read than needed.

A model's file may have gigabytes of weights between the few bytes that tell how it computes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

_BLOCK = 65_536
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}


class Malformed(Exception):
    """The bytes are no message."""


class Source:
    """Bytes, or an open file, read in blocks."""

    def __init__(self, data: "bytes | IO[bytes]") -> None:
        self._file = None if isinstance(data, bytes) else data
        self._block = data if isinstance(data, bytes) else b""
        self._first = 0
        self.size = len(data) if isinstance(data, bytes) else data.seek(0, 2)

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`. Raises `Malformed` where there are not as many."""
        if not self._first <= start <= end <= self._first + len(self._block):
            if self._file is None:
                raise Malformed("it ends inside a field")
            self._file.seek(start)
            self._block, self._first = self._file.read(max(_BLOCK, end - start)), start
            if len(self._block) < end - start:
                raise Malformed("it ends inside a field")
        return self._block[start - self._first : end - self._first]

    def varint(self, at: int) -> tuple[int, int]:
        """The number there, and where it ends."""
        value = shift = 0
        while True:
            (byte,) = self.read(at, at + 1)
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return value, at
            if shift > 63:
                raise Malformed("a number is too long")


class Field(NamedTuple):
    """One field: a number, or where its bytes are. `number` is the field's, `value` that of a varint."""

    source: Source
    number: int
    value: int
    start: int
    end: int

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.end - self.start

    @property
    def data(self) -> bytes:
        """Its bytes."""
        return self.source.read(self.start, self.end)

    @property
    def text(self) -> str:
        """Its bytes as text."""
        return self.data.decode(errors="replace")

    @property
    def signed(self) -> int:
        """The number, where it may be negative."""
        return self.value - 2**64 if self.value >= 2**63 else self.value

    def fields(self) -> "Iterator[Field]":
        """The fields of the message that it is. Raises `Malformed`."""
        return _fields(self.source, self.start, self.end)

    def numbers(self) -> list[int]:
        """The whole numbers that it is: one, or several that are packed."""
        if self.start == self.end:
            return [self.signed] if self.end < 0 else []
        found, at = [], self.start
        while at < self.end:
            value, at = self.source.varint(at)
            found.append(value - 2**64 if value >= 2**63 else value)
        return found


def fields_of(source: Source) -> Iterator[Field]:
    """The fields of the message that the source is. Raises `Malformed`."""
    return _fields(source, 0, source.size)


def open_file(path: Path) -> IO[bytes]:
    """The file, to be made a `Source` and closed by the caller. Raises `OSError`."""
    return path.open("rb", buffering=0)


def _fields(source: Source, at: int, end: int) -> Iterator[Field]:
    while at < end:
        key, at = source.varint(at)
        kind = key & 7
        if kind == _VARINT:
            value, at = source.varint(at)
            yield Field(source, key >> 3, value, -1, -1)
            continue
        if kind == _DELIMITED:
            size, at = source.varint(at)
        elif kind in _FIXED_BYTES:
            size = _FIXED_BYTES[kind]
        else:
            raise Malformed(f"there is no wire type {kind}")
        if at + size > end:
            raise Malformed("a field is longer than its message")
        yield Field(source, key >> 3, 0, at, at + size)
        at += size
