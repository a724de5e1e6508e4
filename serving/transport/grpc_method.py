"""The seam between what carries gRPC calls and what answers them: methods, their messages, answers and statuses.

Messages are bytes on both sides: neither HTTP/2 (`serving.transport.http2`) nor grpc.aio (`grpcio_server.py`) reads
them.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from enum import IntEnum
from typing import NamedTuple, Protocol

from millrace.protocol.errors import MillraceError
from serving.transport.budget import Reservation
from serving.transport.handler import Withdraw
from serving.transport.intake import Body
from serving.transport.spooled_body import SpooledBody

NO_ROOM = "the server holds all the bytes that it may; try again"  # RESOURCE_EXHAUSTED to the caller of a message


class Status(IntEnum):
    """gRPC's status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class CallHead:
    """What is known of a call before its message: the method's path, the metadata, and who calls.

    `headers` have names in lower case; `peer` is the caller's address as text. `timeout_s` is the caller's deadline,
    None where it names none.
    """

    __slots__ = ("began", "headers", "path", "peer", "timeout_s")

    def __init__(self, path: str, headers: Mapping[bytes, bytes], peer: str, timeout_s: float | None) -> None:
        self.path = path
        self.headers = headers
        self.peer = peer
        self.timeout_s = timeout_s
        self.began = time.perf_counter()

    def seconds_left(self) -> float | None:
        """The time until the caller's deadline."""
        return None if self.timeout_s is None else self.timeout_s - (time.perf_counter() - self.began)


class Message(NamedTuple):
    """A request's message, spooled where it is large. The reservation counts it, None where it is counted elsewhere.

    Whoever has the message closes it and releases the reservation.
    """

    body: Body
    reservation: Reservation | None = None

    def close(self) -> None:
        """Give back the memory."""
        if isinstance(self.body, SpooledBody):
            self.body.close()
        if self.reservation:
            self.reservation.release()


class Answer(NamedTuple):
    """How a call ends: with a message, or with an error's status and text. `trailers` are metadata.

    A large message is spooled, and counted by the reservation, which goes to the server.
    """

    body: Body = b""
    status: Status = Status.OK
    text: str = ""
    trailers: tuple[tuple[str, str], ...] = ()
    reservation: Reservation | None = None

    def close(self) -> None:
        """Give back the memory of an answer that is not sent."""
        if isinstance(self.body, SpooledBody):
            self.body.close()
        if self.reservation:
            self.reservation.release()


class CallerLeft(Exception):
    """Nobody reads what is written."""


Done = Callable[[Answer], None]
Write = Callable[[Body], Awaitable[None]]
"""Sends a message of a stream; waits until the caller takes it. Raises `CallerLeft`."""


class UnaryMethod(NamedTuple):
    """A method that takes one message, of at most `most_bytes`, and gives one.

    `begin` answers by calling `done` once, now or later; what it returns is called when the caller leaves before.
    """

    begin: Callable[[Message, CallHead, Done], Withdraw | None]
    most_bytes: int


class StreamMethod(NamedTuple):
    """A method that takes and gives any number of messages: `run` ends with the call's status, or is cancelled.

    At most `most_open` of its calls may be open.
    """

    run: Callable[[AsyncIterator[Message], CallHead, Write], Awaitable[Answer]]
    most_bytes: int
    most_open: int


Method = UnaryMethod | StreamMethod


class Calls(Protocol):
    """What is served over gRPC. All methods are called on the event loop."""

    @property
    def methods(self) -> Mapping[str, Method]:
        """The methods by their paths."""

    def check(self, head: CallHead) -> MillraceError | None:
        """Why the call is refused before its message is read; None where it may go on."""

    def refused(self, head: CallHead, error: MillraceError) -> Answer:
        """The answer to a call whose message was not taken."""

    def unknown(self, path: str) -> Answer:
        """The answer to a call of a method that is not there."""
