"""A large response on its way out: written slice by slice, no faster than the caller reads."""

import asyncio

from serving.transport.budget import Reservation
from serving.transport.intake import Body

_SLICE_BYTES = 131_072
_SLICES_AT_ONCE = 4
_LEAST_BYTES_PER_S = 65_536


class Sending:
    """Writes the body of one response. `reservation` counts it until the socket has taken all of it.

    `position` says how many bytes the transport has. A caller who takes fewer than 64 KiB a second, averaged from a
    timeout after the start, is cut off.
    """

    def __init__(self, transport: asyncio.Transport, body: Body, reservation: Reservation, started: float) -> None:
        self._transport = transport
        self._body = body
        self._size = len(body) if isinstance(body, bytes) else body.size
        self.position = 0
        self._started = started
        self._reservation = reservation

    @property
    def is_written(self) -> bool:
        """Whether the transport has all of it."""
        return self.position >= self._size

    def ends(self, now: float, timeout_s: float) -> float:
        """When a caller who does not read is cut off, by the event loop's clock."""
        return min(now, self._started + self.position / _LEAST_BYTES_PER_S) + timeout_s

    def write_slices(self) -> None:
        """Write a few slices, fewer where the socket takes no more."""
        for _ in range(_SLICES_AT_ONCE):
            self._transport.write(self._next_slice())
            if self.is_written or self._transport.get_write_buffer_size():
                return

    def close(self) -> None:
        """Give back the memory: all is sent, or nobody wants it any more."""
        if not isinstance(self._body, bytes):
            self._body.close()
        self._body = b""
        self._reservation.release()

    def _next_slice(self) -> "bytes | memoryview":
        start, self.position = self.position, min(self.position + _SLICE_BYTES, self._size)
        if isinstance(self._body, bytes):
            return memoryview(self._body)[start : self.position]
        return self._body.read(self.position - start, start)
