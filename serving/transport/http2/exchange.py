"""What one stream is to its connection, and what a connection offers to its streams."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from millrace.protocol.errors import DeadlineExceeded, MillraceError
from serving.transport.head_errors import RequestTimeout
from serving.transport.http2.outflow import Outflow
from serving.transport.http2.seam import Session
from serving.transport.server_parts import ServerParts

NEVER = float("inf")
STALL_S = 10.0
GRACE_S = 1.0
SPARE_BYTES = 1024  # of a window, more than is awaited: nghttp2 looks for the end of a body only where there is room


class Exchange(Protocol):
    """A request and its response on one stream. Times are the event loop's."""

    arrival: "Arrival | None"
    """Of the body that is awaited."""

    def received(self, data: bytes, *, ends: bool) -> None:
        """More of the body has come."""

    def await_body(self) -> None:
        """The frames that came are handled: the clocks begin for a body that is not here."""

    def left(self) -> None:
        """The caller has left, or the connection is over: give back what is held, and withdraw."""

    def refuse(self, error: MillraceError) -> None:
        """Answer with the error in the place of what is awaited."""

    def linger(self) -> None:
        """The server stops."""


class Link(Protocol):
    """What a connection offers to its streams."""

    server: ServerParts
    session: Session
    peer: str

    @property
    def is_full(self) -> bool:
        """Whether the socket takes no more."""

    def flush_soon(self) -> None:
        """Write what the session has, with what else this turn of the event loop brings."""

    def send(self, stream: int, outflow: Outflow, sent: Callable[[], None] | None = None) -> None:
        """Send a body as fast as the client takes it, and call `sent` then."""

    def stop_sending(self, stream: int) -> None:
        """Send no more of the stream's body, and give back its memory."""

    def await_until(self, ends: float) -> None:
        """Look after the streams then."""

    def add(self, stream: int, exchange: Exchange) -> None:
        """The stream has an exchange."""

    def forget(self, stream: int) -> None:
        """The exchange is over; what is still to be sent is sent."""


class Arrival:
    """The clocks of a body that is awaited: it began at `since`, and `moved` bytes have come.

    A body that stops for ten seconds, or takes longer than a request may, is late. With `least_bytes_per_s` it has as
    much longer as its bytes take at that rate.
    """

    __slots__ = ("_body_ends", "_loop", "_s_a_byte", "ends", "moved", "since")

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float, least_bytes_per_s: float = NEVER) -> None:
        self._loop = loop
        self._s_a_byte = 1 / least_bytes_per_s
        self.since = loop.time()
        self.moved = 0
        self._body_ends = self.since + timeout_s
        self.ends = min(self._body_ends, self.since + STALL_S)

    def came(self, bytes_: int) -> None:
        """More has come."""
        self.moved += bytes_
        self.ends = min(self._body_ends + self.moved * self._s_a_byte, self._loop.time() + STALL_S)

    def pause(self) -> None:
        """It is us who take no more."""
        self.ends = NEVER

    def pace(self, now: float) -> float | None:
        """Bytes a second; None in the first second."""
        age_s = now - self.since
        return self.moved / age_s if age_s > GRACE_S else None

    def error(self, timeout_s: float) -> MillraceError:
        """Why a late body is not awaited any more."""
        if self.ends < self._body_ends:
            return RequestTimeout(f"no byte of the body came for {STALL_S:.0f} s")
        return DeadlineExceeded(f"the body did not arrive within {timeout_s * 1000:.0f} ms")
