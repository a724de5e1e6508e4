"""How long a request would wait, learned from the answers that come back."""

import time

_WINDOW_S = 0.5
_NEWEST_WEIGHT = 0.4
_SAFETY = 0.8  # of the time that is left, what the queue may take: batches end unevenly


class Flow:
    """One model version's rows between this process and its workers.

    By Little's law, rows in flight divided by the rate at which they come back is the time that a row takes, however
    many other API processes share the queue. The rate is a capacity only while the workers have no time to spare: so it
    is measured in windows in which two full batches or more were always in flight, and unknown before the first one.
    In other windows, what came back in the time that anything was in flight is the least that can be done: a rate that
    was measured in a slow phase rises with it, although so little is let in that two batches never come together.
    Rows whose answer came too late count as none: where all do, less must be let in.
    """

    def __init__(self, max_batch_size: int) -> None:
        self._batch = max(1, max_batch_size)
        self._in_flight = {"high": 0, "normal": 0}
        self._fewest = 0
        self._answered = 0
        self._window_began = self._idle_since = time.perf_counter()
        self._idle_s = 0.0
        self.rows_per_s: float | None = None

    @property
    def batches_in_flight(self) -> float:
        """How many full batches are in flight; from two on the workers may have no time to spare."""
        return (self._in_flight["high"] + self._in_flight["normal"]) / self._batch

    def sent(self, priority: str, rows: int) -> None:
        """Rows were submitted."""
        in_flight = self._in_flight
        if not (in_flight["high"] or in_flight["normal"]):
            self._idle_s += time.perf_counter() - self._idle_since
        in_flight[priority] += rows

    def ended(self, priority: str, rows: int, *, is_answered: bool) -> None:
        """Rows have their answer, or nobody waits for them any more."""
        in_flight = self._in_flight
        in_flight[priority] -= rows
        left = in_flight["high"] + in_flight["normal"]
        self._fewest = min(self._fewest, left)
        if is_answered:
            self._answered += rows
        now = time.perf_counter()
        if not left:
            self._idle_since = now
        if now - self._window_began >= _WINDOW_S:
            self._measure(now, left)

    def _measure(self, now: float, left: int) -> None:
        rate = self._answered / max(now - self._window_began - self._idle_s, 1e-3)
        if self._fewest >= 2 * self._batch:
            before = self.rows_per_s or rate
            self.rows_per_s = max(rate, before + _NEWEST_WEIGHT * (rate - before))  # what was done can be done
        elif self.rows_per_s is not None:
            self.rows_per_s = max(rate, self.rows_per_s)
        self._fewest = left
        self._answered = 0
        self._window_began, self._idle_s = now, 0.0

    def seconds_too_late(self, priority: str, timeout_s: float) -> float:
        """By how long a request of that priority would miss its deadline; 0 where it is likely to be in time.

        The next batch always has room, so that the rate is measured again whatever it was.
        """
        ahead = self._in_flight["high"] + (self._in_flight["normal"] if priority != "high" else 0)
        if self.rows_per_s is None or ahead < self._batch:
            return 0.0
        return max(0.0, ahead / max(self.rows_per_s, 1e-3) - _SAFETY * timeout_s)

    def seconds_until(self, rows: int) -> float:
        """How long it takes to answer that many rows; a second where the rate is not known."""
        return rows / max(self.rows_per_s, 1e-3) if self.rows_per_s else 1.0
