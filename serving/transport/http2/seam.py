"""The seam between HTTP/2 as bytes and what the server does with it: bytes in → events, calls → bytes out.

Nothing here reads a socket or a clock of its own. `session.py` is what stands behind the seam; a library can take its
place.
"""

from typing import NamedTuple, Protocol

from serving.transport.http2.frames import ErrorCode
from serving.transport.http2.header_blocks import Fields


class Opened(NamedTuple):
    """A request has begun. `fields` is None where they are more than is taken. With `ends`, it has no body."""

    stream: int
    fields: Fields | None
    ends: bool


class Received(NamedTuple):
    """More of a body has come, perhaps no bytes but its end."""

    stream: int
    data: bytes
    ends: bool


class Reset(NamedTuple):
    """The stream is over: the client has left it, or broke its rules."""

    stream: int


class Room(NamedTuple):
    """More may be sent on the stream, or for 0 on all of them."""

    stream: int


class Pong(NamedTuple):
    """The client has answered a ping."""

    data: bytes


Event = Opened | Received | Reset | Room | Pong


class Session(Protocol):
    """One connection. It is closed once `fault` is set: what is to be sent then ends with a GOAWAY."""

    fault: str | None
    last_stream: int

    def feed(self, data: bytes) -> None:
        """Take in bytes that came."""

    def events(self, now: float) -> list[Event]:
        """What the next frames mean; only so many frames are looked at that it takes about a millisecond."""

    @property
    def has_more(self) -> bool:
        """Whether `events` has more to look at right now."""

    has_progressed: bool
    """Whether what waits for its rest is another frame, or block of headers, than before the last `events`."""

    @property
    def pending_bytes(self) -> int:
        """How many bytes wait for the rest of their frame, or of their block of headers."""

    def take_output(self) -> bytes:
        """What is to be sent, once."""

    @property
    def output_bytes(self) -> int:
        """How many bytes are to be sent."""

    def room(self, stream: int) -> int:
        """How many bytes of a body may be sent on the stream now."""

    def send_headers(self, stream: int, block: bytes, *, ends: bool) -> None:
        """Send a response's head, or its trailers, which end it."""

    def send_data(self, stream: int, data: bytes | memoryview, *, ends: bool) -> None:
        """Send part of a body, no more than there is room for."""

    def send_small(self, stream: int, block: bytes, data: bytes, trailers: bytes) -> None:
        """Send a whole response in three frames; there is room for its data, and these fit into one frame."""

    def open_window(self, stream: int, bytes_: int) -> None:
        """Let the client send so many bytes more on the stream."""

    def moved_message(self) -> None:
        """A whole message of many came on a stream, or went: the frames about it brought something."""

    def reset(self, stream: int, code: ErrorCode) -> None:
        """End the stream at once."""

    def is_open(self, stream: int) -> bool:
        """Whether anything may still be sent on the stream."""

    def ping(self, data: bytes) -> None:
        """Ask for a sign of life: eight bytes, which come back in `Pong`."""

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, text: str = "", *, is_last: bool = True) -> None:
        """Tell the client that no new streams are taken; without `is_last`, that it is to stop opening them."""
