"""A share of each queue for each caller, so that none can fill it for all others.

The rule, for one model version and of what this API process has open: while the queue with the request would be at most
half full, everybody is admitted. Beyond that, a caller who has requests open may have no more than a share of the queue
in all. With n callers who have requests open, a share is 1/(n + 1) of the queue's rows, and of its bytes: the rest is
for whoever comes next. A caller who has nothing open is always admitted, so that a large request can be sent.

How full the queue is, is the larger of what this process has open and what Redis said that the queue holds. Callers
without a name share one.
"""

from millrace.broker.base import Held, Limits


class _Usage:
    """What one caller has open."""

    __slots__ = ("bytes", "requests", "rows")

    def __init__(self) -> None:
        self.requests = self.rows = self.bytes = 0


class FairShares:
    """What each caller has open of one queue. Every method takes the same time however many callers there are."""

    __slots__ = ("_bytes", "_callers", "_held_bytes", "_held_rows", "_limits", "_rows")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._callers: dict[str, _Usage] = {}
        self._rows = self._bytes = self._held_rows = self._held_bytes = 0

    def __len__(self) -> int:
        """How many callers have requests open."""
        return len(self._callers)

    def excess(self, caller: str, rows: int, size: int) -> int:
        """By how many rows the caller would have too much with that request; 0 where it may be admitted."""
        usage, limits = self._callers.get(caller), self._limits
        if usage is None or (
            2 * (max(self._rows, self._held_rows) + rows) <= limits.rows
            and 2 * (max(self._bytes, self._held_bytes) + size) <= limits.bytes
        ):
            return 0
        shares = len(self._callers) + 1
        too_many = (usage.rows + rows) * shares - limits.rows
        if too_many <= 0 and (usage.bytes + size) * shares <= limits.bytes:
            return 0
        return max(1, too_many // shares)

    def add(self, caller: str, rows: int, size: int) -> None:
        """The caller's request is open."""
        usage = self._callers.get(caller)
        if usage is None:
            usage = self._callers[caller] = _Usage()
        usage.requests += 1
        usage.rows += rows
        usage.bytes += size
        self._rows += rows
        self._bytes += size

    def remove(self, caller: str, rows: int, size: int) -> None:
        """The caller's request has ended."""
        usage = self._callers[caller]
        usage.requests -= 1
        usage.rows -= rows
        usage.bytes -= size
        self._rows -= rows
        self._bytes -= size
        if not usage.requests:
            del self._callers[caller]
            if not self._callers:
                self._held_rows = self._held_bytes = 0  # nothing of ours will tell that it has drained

    def told(self, held: Held) -> None:
        """Redis has said what the queue holds."""
        self._held_rows, self._held_bytes = held.rows, held.bytes
