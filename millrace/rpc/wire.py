"""Protobuf's wire format, as far as raw elements are put into a message without a copy of each.

A message is its fields one after the other, so fields written here may follow fields that protobuf wrote. Numbers of
fixed size that are `packed`, and `bytes`, are on the wire as they are in memory.
"""

from functools import lru_cache
from typing import Any

_LENGTH_DELIMITED = 2


def varint(value: int) -> bytes:
    """A number from 0 on, seven bits a byte, the lowest first."""
    if value < 0x80:
        return value.to_bytes(1, "little")
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


@lru_cache(maxsize=4096)
def delimited(number: int, size: int) -> bytes:
    """The head of a field of that number, whose `size` bytes follow: a message, a string, bytes or packed numbers."""
    return varint(number << 3 | _LENGTH_DELIMITED) + varint(size)


def field(number: int, *parts: bytes | memoryview) -> list[bytes | memoryview]:
    """A whole field, as the parts to join; the bytes of `parts` are its content."""
    return [delimited(number, sum(map(len, parts))), *parts]


def number_of(message: Any, name: str) -> int:
    """The number of a message class's field."""
    return int(message.DESCRIPTOR.fields_by_name[name].number)
