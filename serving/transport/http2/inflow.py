"""A body or a message on its way in: gathered in memory while it is small, in a file when it is large."""

from millrace.protocol.errors import MillraceError, Unavailable
from serving.transport.budget import Budget, Reservation
from serving.transport.intake import LARGE_BYTES, Body, no_room
from serving.transport.spooled_body import SpooledBody


class Inflow:
    """Gathers one body. `size` says how many bytes have come, `reservation` counts them.

    With an `expected` size all of it is counted from the start; so are `overhead_bytes`, for what is made of it. Raises
    `Unavailable` where there is no room.
    """

    __slots__ = ("_overhead_bytes", "_small", "_spooled", "expected", "reservation", "size")

    def __init__(self, budget: Budget, expected: int = -1, overhead_bytes: int = 0) -> None:
        self._overhead_bytes = overhead_bytes
        self.expected = expected
        self.size = 0
        self._small = bytearray()
        self._spooled: SpooledBody | None = None
        reservation = budget.reserve(max(0, expected) + overhead_bytes)
        if reservation is None:
            raise no_room()
        self.reservation: Reservation = reservation

    def add(self, data: bytes | memoryview) -> None:
        """Take in bytes that came. Raises `Unavailable`."""
        self.size += len(data)
        missing = self.size + self._overhead_bytes - self.reservation.bytes
        if missing > 0 and not self.reservation.grow(missing):
            raise no_room()
        if self._spooled is None and max(self.size, self.expected) <= LARGE_BYTES:
            self._small += data
            return
        try:
            if self._spooled is None:
                self._spooled = SpooledBody()
                self._spooled.write(self._small)
                self._small = bytearray()
            self._spooled.write(data)
        except OSError as error:
            raise _cannot_store(error) from None

    def take(self) -> Body:
        """All of it. The reservation goes to the caller."""
        body: Body = self._spooled or bytes(self._small)
        self._spooled, self._small = None, bytearray()
        return body

    def close(self) -> None:
        """Give back the memory."""
        if self._spooled:
            self._spooled.close()
        self._spooled, self._small = None, bytearray()
        self.reservation.release()


def _cannot_store(error: OSError) -> MillraceError:
    return Unavailable(f"the server cannot store the request body ({error.strerror}); try again")
