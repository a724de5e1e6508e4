"""What a message would become, counted on the wire before it is built.

An empty message in a repeated field takes two bytes on the wire and over a hundred as an object, a number in `shape`
one byte and eight. So the fields are walked over first, as its descriptor tells them apart, and compared with limits;
the walk ends with the first that is exceeded.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

_MAX_DEPTH = 32
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}


class TooManyFields(Exception):
    """A message holds more of `field` than `limit`; of "", fields of all kinds together."""

    def __init__(self, field: str, limit: int) -> None:
        super().__init__(f"more than {limit} {field or 'fields'}")
        self.field = field
        self.limit = limit


class Malformed(Exception):
    """The bytes are no message."""


class _Field(NamedTuple):
    """What one number stands for in a message: `inner` is the message class of a message's field."""

    name: str
    is_repeated: bool
    is_packed: bool
    inner: Any


@cache
def _fields(message: Any) -> dict[int, _Field]:
    return {
        field.number: _Field(
            field.name,
            field.is_repeated,
            field.is_repeated and field.type not in (field.TYPE_STRING, field.TYPE_BYTES, field.TYPE_MESSAGE),
            field.message_type,
        )
        for field in message.fields
    }


def count_fields(message_class: Any, data: bytes | memoryview, limits: Mapping[str, int], most: int) -> int:
    """How many fields the message in the bytes has, inner messages' among them.

    `limits` bounds repeated fields by name, in each message that has one; `most` bounds all fields together. Raises
    `TooManyFields`, or `Malformed` where the bytes are no message.
    """
    walk = _Walk(memoryview(data), limits, most)
    try:
        walk.message(message_class.DESCRIPTOR, 0, len(data), 0)
    except IndexError:
        raise Malformed from None
    return walk.count


class _Walk:
    """One walk over a message."""

    def __init__(self, data: memoryview, limits: Mapping[str, int], most: int) -> None:
        self._data = data
        self._limits = limits
        self._most = most
        self.count = 0

    def message(self, descriptor: Any, at: int, end: int, depth: int) -> None:
        """Count the fields of the message between these places."""
        if depth > _MAX_DEPTH:
            raise Malformed
        fields, found = _fields(descriptor), dict[int, int]()
        while at < end:
            self.count += 1
            if self.count > self._most:
                raise TooManyFields("", self._most)
            tag, at = self._varint(at)
            field = fields.get(tag >> 3)
            if tag & 7 == _DELIMITED:
                size, at = self._varint(at)
                if at + size > end:
                    raise Malformed
                if field and field.inner:
                    self.message(field.inner, at, at + size, depth + 1)
                pieces, at = size if field and field.is_packed else 1, at + size
            else:
                pieces, at = 1, self._behind(tag & 7, at)
            if field and field.is_repeated:
                found[tag >> 3] = found.get(tag >> 3, 0) + pieces
                self._check(field.name, found[tag >> 3])
        if at != end:
            raise Malformed

    def _check(self, name: str, count: int) -> None:
        limit = self._limits.get(name)
        if limit is not None and count > limit:
            raise TooManyFields(name, limit)

    def _behind(self, kind: int, at: int) -> int:
        """The place behind a number."""
        if kind == _VARINT:
            while self._data[at] & 0x80:
                at += 1
            return at + 1
        if kind in _FIXED_BYTES:
            return at + _FIXED_BYTES[kind]
        raise Malformed

    def _varint(self, at: int) -> tuple[int, int]:
        data = self._data
        byte = data[at]
        at += 1
        if byte < 0x80:
            return byte, at
        value, shift = byte & 0x7F, 7
        while byte & 0x80:
            if shift > 63:
                raise Malformed
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
        return value, at


def top_fields(data: bytes | memoryview, most: int) -> list[tuple[int, int, int, int]] | None:
    """The fields of a message, not looked into: for each its number, where it begins, its content begins, and it ends.

    None where there are more than `most`, or the bytes are no message.
    """
    walk = _Walk(memoryview(data), {}, most)
    at, end, found = 0, len(data), []
    try:
        while at < end:
            start = at
            tag, at = walk._varint(at)
            kind = tag & 7
            content = at
            if kind == _DELIMITED:
                size, content = walk._varint(at)
                at = content + size
            else:
                at = walk._behind(kind, at)
            found.append((tag >> 3, start, content, at))
            if len(found) > most or at > end:
                return None
    except (IndexError, Malformed):
        return None
    return found
