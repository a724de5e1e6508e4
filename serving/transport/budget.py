"""The budget: one count of all bytes that wait in an API process, and the limit for them.

Everything that waits reserves its bytes first: a body from its first byte, parsed tensors until they are in Redis, a
response until the socket has taken it, what a connection has buffered. Without room the caller gets 503.
"""

from collections.abc import Callable

SMALL_BYTES = 65_536
_SMALL_SHARE = 8


class Budget:
    """Counts the reserved bytes of one process. Its methods run on the event loop.

    `largest` is the most that one reservation may have; in an empty budget it fits.

    `reclaim`, where it is set, is asked for room when there is none: it gets the number of bytes that are missing, and
    says whether it has released any. An eighth of the limit is kept for reservations of at most `SMALL_BYTES`, so that
    a few large bodies, or bodies that are announced and never sent, do not lock out small requests.
    """

    __slots__ = ("largest", "limit", "peak", "reclaim", "used")

    def __init__(self, limit_bytes: int) -> None:
        self.limit = limit_bytes
        self.used = 0
        self.peak = 0
        self.reclaim: Callable[[int], bool] | None = None
        self.largest = limit_bytes - limit_bytes // _SMALL_SHARE

    def add(self, bytes_: int, total: int) -> bool:
        """Count `bytes_` more, for a reservation that holds `total` bytes with them. False where there is no room."""
        limit = self.limit if total <= SMALL_BYTES else self.largest
        missing = self.used + bytes_ - limit
        if missing > 0 and not (
            self.reclaim and total <= limit and self.reclaim(missing) and self.used + bytes_ <= limit
        ):
            return False
        self.used += bytes_
        self.peak = max(self.peak, self.used)
        return True

    def reserve(self, bytes_: int) -> "Reservation | None":
        """Reserve so many bytes; None where there is no room for them. Release what it returns."""
        used = self.used + bytes_
        if used <= self.largest:  # almost always
            self.used = used
            if used > self.peak:
                self.peak = used
        elif not self.add(bytes_, bytes_):
            return None
        return Reservation(self, bytes_)


class Reservation:
    """Bytes that are counted in a budget until they are released. `bytes` says how many.

    `since` is when a body that they are for began to arrive, on the event loop's clock; 0 where it came with its head.
    """

    __slots__ = ("_budget", "bytes", "since")

    def __init__(self, budget: Budget, bytes_: int) -> None:
        self._budget = budget
        self.bytes = bytes_
        self.since = 0.0

    def grow(self, bytes_: int) -> bool:
        """Reserve so many bytes more; False, and nothing changed, where there is no room for them."""
        if not self._budget.add(bytes_, self.bytes + bytes_):
            return False
        self.bytes += bytes_
        return True

    def shrink_to(self, bytes_: int) -> None:
        """Give back all bytes but so many; nothing happens where it holds no more than those."""
        if bytes_ < self.bytes:
            self._budget.used -= self.bytes - bytes_
            self.bytes = bytes_

    def release(self) -> None:
        """Give back all bytes. Releasing again does nothing."""
        self._budget.used -= self.bytes
        self.bytes = 0
