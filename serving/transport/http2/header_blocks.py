"""Blocks of header fields, read with HPACK (RFC 7541) and remembered.

We tell clients that we keep no table for them. As soon as a client has taken this in, equal fields are equal bytes, so
whole blocks and single fields are looked up in a dictionary in the place of being decoded; until then `hpack` decodes
them. Values that differ in each call (`grpc-timeout`, `traceparent`) cost one field, not a block.
"""

import logging
import re
from collections.abc import Sequence
from typing import NamedTuple

from hpack import Decoder, HPACKError

from serving.transport.http2.frames import ConnectionFault, ErrorCode

MAX_BLOCK_BYTES = 65_536
MAX_LIST_BYTES = 65_536
_HARD_LIST_BYTES = 4 * MAX_LIST_BYTES  # beyond it the connection ends, since reading on costs too much
_FIELD_OVERHEAD = 32  # of each field in the size of a list (RFC 9113, 6.5.2)
_MAX_FIELDS = 256
_MAX_SIZE_UPDATES = 2  # at the beginning of a block (RFC 7541, 4.2)
_REMEMBERED_BLOCKS, _REMEMBERED_BLOCK_BYTES = 1024, 1024
_REMEMBERED_FIELDS, _REMEMBERED_FIELD_BYTES = 4096, 256
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_BAD_VALUE = re.compile(rb"[\x00\r\n]")
_TOO_LARGE = "the request has too many headers, or they are too large"
_PSEUDO = (b":method", b":scheme", b":authority", b":path")
_OF_CONNECTIONS = (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")

# At the level DEBUG it would log every field, and there are keys among them.
logging.getLogger("hpack").setLevel(logging.WARNING)

_Pair = tuple[bytes, bytes]


class MalformedHead(Exception):
    """The fields are no request: the stream is reset."""


class HeadTooLarge(Exception):
    """The fields are more than we take; the connection goes on."""


class Fields(NamedTuple):
    """A request's header fields, not to be changed. Those of one name are joined by commas, cookies by semicolons.

    `size` is how many bytes they are as a list (RFC 9113, 6.5.2). `path_text` is the path as Latin-1.
    """

    method: bytes
    path: bytes
    path_text: str
    authority: bytes
    headers: dict[bytes, bytes]
    size: int = 0


class HeaderReader:
    """Reads the blocks of one connection. `remembered` may be shared by all connections of a process."""

    __slots__ = ("_decoder", "_has_table", "_remembered")

    def __init__(self, remembered: "RememberedBlocks") -> None:
        self._decoder = Decoder(_HARD_LIST_BYTES)
        self._has_table = True  # until the client has none, as we ask for; it cannot have one again
        self._remembered = remembered

    def read(self, block: bytes) -> Fields:
        """The fields of a request. Raises `MalformedHead`, `HeadTooLarge` or `ConnectionFault`."""
        if self._has_table:
            return checked(self._decoded(block))
        return self._remembered.read(block)

    def are_trailers(self, block: bytes) -> bool:
        """Whether the fields may stand behind a body: they have no pseudo-header. Raises `ConnectionFault`."""
        try:
            pairs = self._decoded(block) if self._has_table else self._remembered.decoded(block)
        except HeadTooLarge:
            return False
        return not any(name[:1] == b":" for name, _ in pairs)

    def _decoded(self, block: bytes) -> Sequence[_Pair]:
        try:
            _beginning(block)
            pairs: Sequence[_Pair] = self._decoder.decode(block, raw=True)  # type: ignore[assignment]
        except (HPACKError, IndexError) as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "the header block cannot be decoded") from error
        self._has_table = bool(self._decoder.header_table_size)
        return pairs


class RememberedBlocks:
    """Blocks and fields that stand for themselves: no table is behind them."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, Fields] = {}
        self._fields: dict[bytes, _Pair] = {}
        self._decoder = Decoder(_HARD_LIST_BYTES)
        self._decoder.header_table_size = self._decoder.max_allowed_table_size = 0

    @property
    def bytes_(self) -> int:
        """About how many bytes are remembered."""
        of_fields = sum(len(raw) + len(pair[0]) + len(pair[1]) for raw, pair in self._fields.items())
        return of_fields + 2 * sum(map(len, self._blocks))

    def read(self, block: bytes) -> Fields:
        """The fields of a request; raises as `HeaderReader.read` does."""
        found = self._blocks.get(block)
        if found is None:
            found = checked(self.decoded(block))
            if len(block) <= _REMEMBERED_BLOCK_BYTES:
                if len(self._blocks) >= _REMEMBERED_BLOCKS:
                    self._blocks.clear()
                self._blocks[block] = found
        return found

    def decoded(self, block: bytes) -> list[_Pair]:
        """The fields, whatever they stand for. Raises `HeadTooLarge` or `ConnectionFault`."""
        try:
            pairs, size = list[_Pair](), 0
            at = _beginning(block)
            if any(self._decoder.decode(block[:at])):
                raise AssertionError("a change of the table's size is no field")
            while at < len(block):
                end = _end_of_field(block, at)
                pair = self._field(block[at:end])
                pairs.append(pair)
                size += len(pair[0]) + len(pair[1]) + _FIELD_OVERHEAD
                if size > MAX_LIST_BYTES or len(pairs) > _MAX_FIELDS:
                    raise HeadTooLarge(_TOO_LARGE)  # what follows changes no table
                at = end
        except (HPACKError, IndexError) as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "the header block cannot be decoded") from error
        return pairs

    def _field(self, raw: bytes) -> _Pair:
        """The field in these bytes."""
        found = self._fields.get(raw)
        if found is None:
            for name, value in self._decoder.decode(raw, raw=True):
                found = (bytes(name), bytes(value))
            if found is None:
                raise IndexError("the table's size changes behind a field")
            if len(raw) <= _REMEMBERED_FIELD_BYTES:
                if len(self._fields) >= _REMEMBERED_FIELDS:
                    self._fields.clear()
                self._fields[raw] = found
        return found


def _beginning(block: bytes) -> int:
    """Where the fields begin, behind changes of the table's size. Raises `IndexError` where these are too many."""
    at = 0
    for _ in range(_MAX_SIZE_UPDATES):
        if block[at : at + 1] and block[at] & 0xE0 == 0x20:
            at = _integer(block, at, 5)[1]
    if block[at : at + 1] and block[at] & 0xE0 == 0x20:
        raise IndexError("the table's size changes too often")
    return at


def _end_of_field(block: bytes, at: int) -> int:
    """Where the field that begins there ends. Raises `IndexError` where it has no end."""
    first = block[at]
    if first & 0x80:
        return _integer(block, at, 7)[1]
    if first & 0xE0 == 0x20:
        return _integer(block, at, 5)[1]
    index, at = _integer(block, at, 6 if first & 0x40 else 4)
    if not index:
        length, at = _integer(block, at, 7)
        at += length
    length, at = _integer(block, at, 7)
    if at + length > len(block):
        raise IndexError("the field ends behind its block")
    return at + length


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """The number with a prefix of so many bits, and the place behind it."""
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 28:
            raise IndexError("the number is too long")


def checked(pairs: Sequence[_Pair]) -> Fields:
    """The fields as a request's. Raises `MalformedHead` and `HeadTooLarge` (RFC 9113, 8.2 and 8.3)."""
    pseudo, headers, size = dict[bytes, bytes](), dict[bytes, bytes](), 0
    for name, value in pairs:
        size += len(name) + len(value) + _FIELD_OVERHEAD
        if name[:1] == b":":
            if headers or name in pseudo or name not in _PSEUDO:
                raise MalformedHead("a pseudo-header is unknown, repeated or behind the headers")
            pseudo[name] = value
            continue
        if name not in headers and not _NAME.fullmatch(name):
            raise MalformedHead("the name of a header has a letter that it may not have")
        if _BAD_VALUE.search(value) or value[:1] in (b" ", b"\t") or value[-1:] in (b" ", b"\t"):
            raise MalformedHead("the value of a header has a byte that it may not have")
        if name in _OF_CONNECTIONS or (name == b"te" and value.lower() != b"trailers"):
            raise MalformedHead("a header is about connections, which HTTP/2 forbids")
        if name in headers:
            value = headers[name] + (b"; " if name == b"cookie" else b",") + value
        headers[name] = value
    if size > MAX_LIST_BYTES or len(pairs) > _MAX_FIELDS:
        raise HeadTooLarge(_TOO_LARGE)
    return _request(pseudo, headers, size)


def _request(pseudo: dict[bytes, bytes], headers: dict[bytes, bytes], size: int) -> Fields:
    method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if method == b"CONNECT" or not (method and path and pseudo.get(b":scheme")):
        raise MalformedHead("a request has a method, a scheme and a path")
    if not _METHOD.fullmatch(method):
        raise MalformedHead("the method has a letter that it may not have")
    return Fields(method, path, path.decode("latin-1"), pseudo.get(b":authority", b""), headers, size)
