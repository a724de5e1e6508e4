"""gRPC's form on HTTP/2: messages with five bytes before each, deadlines, and what is said before and after them."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from millrace.protocol.errors import InvalidRequest, PayloadTooLarge
from serving.transport.budget import Budget, Reservation
from serving.transport.grpc_method import Answer
from serving.transport.http2 import field_encoding
from serving.transport.http2.inflow import Inflow
from serving.transport.intake import Body

PREFIX_BYTES = 5
CONTENT_TYPE = b"application/grpc"
_OTHER_TYPES = (CONTENT_TYPE + b"+", CONTENT_TYPE + b";")
CODINGS = (b"gzip", b"deflate")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_AS_IT_IS = "".join(chr(byte) for byte in range(0x20, 0x7F) if chr(byte) != "%")

OPENING = field_encoding.status(200) + field_encoding.fields(
    [("content-type", "application/grpc"), ("grpc-accept-encoding", "identity,deflate,gzip")]
)
_OK = field_encoding.field("grpc-status", "0")


def trailers(answer: Answer) -> bytes:
    """The block of fields that ends a call; `grpc-message` is percent-encoded."""
    if not answer.status:
        return b"".join([_OK, *[field_encoding.field(name, value) for name, value in answer.trailers]])
    status = [("grpc-status", str(int(answer.status)))]
    if answer.text:
        status.append(("grpc-message", quote(answer.text, safe=_AS_IT_IS)))
    return field_encoding.fields([*status, *answer.trailers])


@lru_cache(maxsize=4096)
def prefix(size: int) -> bytes:
    """The five bytes before a message that is not packed."""
    return b"\0" + size.to_bytes(4, "big")


def is_grpc(content_type: bytes | None) -> bool:
    """Whether a request of that Content-Type is a call of gRPC; gRPC-Web is not."""
    return content_type is not None and (content_type == CONTENT_TYPE or content_type[:17] in _OTHER_TYPES)


@lru_cache(maxsize=1024)
def timeout_s(value: bytes) -> float:
    """The seconds that `grpc-timeout` stands for. Raises `InvalidRequest`."""
    digits, unit = value[:-1], _UNITS.get(value[-1:])
    if unit is None or not 0 < len(digits) <= 8 or not digits.isdigit():
        raise InvalidRequest(f"grpc-timeout cannot be read: {value[:32].decode('latin-1')!r}")
    return int(digits) * unit


class Framed(NamedTuple):
    """A message as it came: `is_packed` says that it is compressed."""

    is_packed: bool
    body: Body
    reservation: Reservation


class MessageReader:
    """Cuts what comes into messages of at most `most_bytes`. Each is counted with `overhead_bytes` more."""

    __slots__ = ("_budget", "_head", "_inflow", "_most_bytes", "_overhead_bytes")

    def __init__(self, budget: Budget, most_bytes: int, overhead_bytes: int = 0) -> None:
        self._budget = budget
        self._most_bytes = most_bytes
        self._overhead_bytes = overhead_bytes
        self._head = b""
        self._inflow: Inflow | None = None

    @property
    def held_bytes(self) -> int:
        """How many bytes of an unfinished message have come."""
        return len(self._head) + (self._inflow.size if self._inflow else 0)

    @property
    def missing_bytes(self) -> int:
        """How many bytes of an unfinished message are still to come, as far as is known."""
        return self._inflow.expected - self._inflow.size if self._inflow else 0

    def read(self, data: bytes) -> Iterator[Framed]:
        """The messages that are complete with these bytes. Raises `MillraceError`."""
        at = 0
        while at < len(data) or (self._inflow and not self.missing_bytes):
            if self._inflow is None:
                part = data[at : at + PREFIX_BYTES - len(self._head)]
                self._head += part
                at += len(part)
                if len(self._head) < PREFIX_BYTES:
                    return
                self._inflow = self._begun(self._head)
            if size := min(self.missing_bytes, len(data) - at):
                self._inflow.add(memoryview(data)[at : at + size])
                at += size
            if self.missing_bytes:
                return
            is_packed, inflow = self._head[0] == 1, self._inflow
            self._head, self._inflow = b"", None
            yield Framed(is_packed, inflow.take(), inflow.reservation)

    def close(self) -> None:
        """Give back the memory."""
        if self._inflow:
            self._inflow.close()
        self._inflow = None

    def _begun(self, head: bytes) -> Inflow:
        size = int.from_bytes(head[1:], "big")
        if head[0] > 1:
            raise InvalidRequest("the message has no gRPC prefix")
        check_size(size, self._most_bytes)
        return Inflow(self._budget, size, self._overhead_bytes)


def check_size(size: int, most_bytes: int) -> None:
    """Raises `PayloadTooLarge` for a message of more bytes."""
    if size > most_bytes:
        raise PayloadTooLarge(f"the message is larger than the {most_bytes} bytes that are allowed")
