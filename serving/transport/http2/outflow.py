"""A body on its way out: sent as far as the client's windows and its socket allow, and counted until then."""

from serving.transport.budget import Reservation
from serving.transport.http2.seam import Session
from serving.transport.intake import Body

OVERHEAD_BYTES = 1024  # what an answer that waits takes beside its bytes
_SLICE_BYTES = 131_072
_SLICES_AT_ONCE = 2
_LEAST_BYTES_PER_S = 65_536


class Outflow:
    """Sends one body on one stream, behind `prefix`.

    With `ends` the end of the body, or of the `trailers` behind it, is the end of the stream. `sent` says how many
    bytes are with the session. A client that takes fewer than 64 KiB a second, averaged from a timeout after the start,
    is cut off.
    """

    __slots__ = ("_body", "_ends", "_prefix", "_reservation", "_size", "_started", "_trailers", "is_paced", "sent")

    def __init__(
        self,
        body: Body,
        reservation: Reservation | None,
        started: float,
        *,
        prefix: bytes = b"",
        trailers: bytes = b"",
        ends: bool = True,
    ) -> None:
        self._prefix = prefix
        self._body = body
        self._reservation = reservation
        self._size = len(prefix) + (len(body) if isinstance(body, bytes) else body.size)
        self._started = started
        self._trailers = trailers
        self._ends = ends and not trailers
        self.sent = 0
        self.is_paced = False

    def ends(self, now: float, timeout_s: float) -> float:
        """When a client that does not read is cut off, by the event loop's clock."""
        return min(now, self._started + self.sent / _LEAST_BYTES_PER_S) + timeout_s

    def age_s(self, now: float) -> float:
        """Since when it is being sent."""
        return now - self._started

    def pace(self, now: float) -> float:
        """Bytes a second that the client takes."""
        return self.sent / max(1e-3, self.age_s(now))

    def send(self, session: Session, stream: int) -> bool:
        """Send a few slices; whether all of it is sent."""
        for _ in range(_SLICES_AT_ONCE):
            if self.sent >= self._size:
                break
            size = min(_SLICE_BYTES, session.room(stream), self._size - self.sent)
            if size <= 0:
                return False
            data = self._next(size)
            session.send_data(stream, data, ends=self._ends and self.sent >= self._size)
        if self.sent < self._size:
            return False
        if not self._size and self._ends:
            session.send_data(stream, b"", ends=True)
        if self._trailers:
            session.send_headers(stream, self._trailers, ends=True)
        return True

    def close(self) -> None:
        """Give back the memory: all is sent, or nobody wants it any more."""
        if not isinstance(self._body, bytes):
            self._body.close()
        self._body = b""
        if self._reservation:
            self._reservation.release()

    def _next(self, size: int) -> bytes | memoryview:
        start = self.sent
        self.sent += size
        if start < len(self._prefix):  # which goes with the first bytes of the body, or alone
            head = self._prefix[start : start + size]
            return head + self._part(0, size - len(head))
        return self._part(start - len(self._prefix), size)

    def _part(self, start: int, size: int) -> bytes:
        if not size:
            return b""
        return self._body[start : start + size] if isinstance(self._body, bytes) else self._body.read(size, start)
