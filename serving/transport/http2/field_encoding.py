"""Header fields as bytes for HPACK (RFC 7541), without its tables: the same fields are always the same bytes."""

from collections.abc import Iterable
from functools import lru_cache

_STATUS_IN_TABLE = {200: 8, 204: 9, 206: 10, 304: 11, 400: 12, 404: 13, 500: 14}
_SHORT = [bytes((length,)) for length in range(127)]
_STATUS_NAME = 8  # the static table's first entry with that name


def length_prefix(length: int) -> bytes:
    """The length of a string that is not Huffman coded."""
    if length < 127:
        return _SHORT[length]
    parts = bytearray((127,))
    length -= 127
    while length >= 128:
        parts.append(length & 127 | 128)
        length >>= 7
    parts.append(length)
    return bytes(parts)


@lru_cache(maxsize=256)
def _name(name: str) -> bytes:
    raw = name.lower().encode("latin-1")
    return b"\x00" + length_prefix(len(raw)) + raw


def field(name: str, value: str) -> bytes:
    """One field; its name in lower case."""
    raw = value.encode("latin-1")
    return _name(name) + length_prefix(len(raw)) + raw


def fields(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Several fields."""
    return b"".join([field(name, value) for name, value in pairs])


@lru_cache(maxsize=64)
def status(code: int) -> bytes:
    """The pseudo-header `:status`."""
    if code in _STATUS_IN_TABLE:
        return bytes((0x80 | _STATUS_IN_TABLE[code],))
    return bytes((_STATUS_NAME,)) + length_prefix(3) + str(code).encode()
