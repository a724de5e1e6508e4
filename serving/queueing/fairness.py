"""A share of each queue for each caller, so that none can fill it for all others.

The rule, for one model version and of what this API process has open: while the queue with the request would be at most
half full, everybody is admitted. Beyond that, a caller who has requests open may have no more than a share of the queue
in all. With n callers who have requests open, a share is 1/(n + 1) of the queue's rows, and of its bytes: the rest is
for whoever comes next. A caller who has nothing open is always admitted, so that a large request can be sent. Where
several API processes share the callers, each gives as large a part of a share: who uses all of them has a whole one.

How full the queue is, is the larger of what this process has open and what Redis said that the queue holds. Callers
without a name share one.
"""

from millrace.broker.base import Held, Limits


class Usage:
    """What one caller has open of one queue."""

    __slots__ = ("_caller", "_shares", "bytes", "requests", "rows")

    def __init__(self, shares: "FairShares", caller: str) -> None:
        self._shares = shares
        self._caller = caller
        self.requests = self.rows = self.bytes = 0

    def remove(self, rows: int, size: int) -> None:
        """A request of the caller has ended."""
        self.requests -= 1
        self.rows -= rows
        self.bytes -= size
        self._shares.remove(rows, size)
        if not self.requests:
            self._shares.forget(self._caller)

    def told(self, held: Held) -> None:
        """See `FairShares`."""
        self._shares.told(held)

    @property
    def portion(self) -> float:
        """See `FairShares`."""
        return self._shares.portion


class FairShares:
    """What each caller has open of one queue. Every method takes the same time however many callers there are."""

    __slots__ = (
        "_bytes", "_callers", "_half_bytes", "_half_rows", "_held_bytes", "_held_rows", "_limits", "_processes",
        "_rows",
    )  # fmt: skip

    def __init__(self, limits: Limits, processes: int = 1) -> None:
        self._limits = limits
        self._processes = processes
        self._half_rows, self._half_bytes = limits.rows // 2, limits.bytes // 2
        self._callers: dict[str, Usage] = {}
        self._rows = self._bytes = self._held_rows = self._held_bytes = 0

    def __len__(self) -> int:
        """How many callers have requests open."""
        return len(self._callers)

    @property
    def number(self) -> int:
        """How many shares the queue has for the callers of this process."""
        return (len(self._callers) + 1) * self._processes

    def add(self, caller: str, rows: int, size: int) -> Usage | None:
        """Count a request of the caller as open, until it is removed; None where it must be refused."""
        usage = self._callers.get(caller)
        if usage is None:
            usage = self._callers[caller] = Usage(self, caller)
        elif (
            self._rows + rows > self._half_rows
            or self._bytes + size > self._half_bytes
            or self._held_rows + rows > self._half_rows
            or self._held_bytes + size > self._half_bytes
        ) and self.excess(caller, rows, size):
            return None
        usage.requests += 1
        usage.rows += rows
        usage.bytes += size
        self._rows += rows
        self._bytes += size
        return usage

    @property
    def portion(self) -> float:
        """The part of the queue's rows that is of this process, from 0 to 1, as far as Redis has told."""
        return 1.0 if self._held_rows <= self._rows else self._rows / self._held_rows

    def excess(self, caller: str, rows: int, size: int) -> int:
        """By how many rows the caller would have more than a share with that request; 0 where it would not."""
        usage, limits, shares = self._callers[caller], self._limits, self.number
        too_many = (usage.rows + rows) * shares - limits.rows
        if too_many <= 0 and (usage.bytes + size) * shares <= limits.bytes:
            return 0
        return max(1, too_many // shares)

    def remove(self, rows: int, size: int) -> None:
        """A request has ended; see `Usage`."""
        self._rows -= rows
        self._bytes -= size

    def forget(self, caller: str) -> None:
        """The last request that the caller had open has ended."""
        del self._callers[caller]
        if not self._callers:
            self._held_rows = self._held_bytes = 0  # nothing of ours will tell that it has drained

    def told(self, held: Held) -> None:
        """Redis has said what the queue holds."""
        self._held_rows, self._held_bytes = held.rows, held.bytes
