"""A body or a message on its way in: gathered in memory while it is small, in a file when it is large."""

from serving.transport.budget import Budget, Reservation
from serving.transport.intake import Body, BodyBuffer, no_room


class Inflow:
    """Gathers one body. `size` says how many bytes have come, `reservation` counts them.

    With an `expected` size all of it is counted from the start; so are `overhead_bytes`, for what is made of it. Raises
    `Unavailable` where there is no room.
    """

    __slots__ = ("_kept", "_overhead_bytes", "expected", "reservation", "size")

    def __init__(self, budget: Budget, expected: int = -1, overhead_bytes: int = 0) -> None:
        self._overhead_bytes = overhead_bytes
        self.expected = expected
        self.size = 0
        self._kept = BodyBuffer()
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
        self._kept.add(data, max(self.size, self.expected))

    def take(self) -> Body:
        """All of it. The reservation goes to the caller."""
        return self._kept.take()

    def close(self) -> None:
        """Give back the memory."""
        self._kept.close()
        self.reservation.release()
