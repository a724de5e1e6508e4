"""How long a request would wait, learned from the answers that come back."""

import math
import time
from collections.abc import Callable

_COLD_ROWS = 128  # that may be in flight before anything was answered, or two batches,
_COLD_ROWS_PER_S = 50  # or what a model that answers so many has answered in half of the deadline
_COLD_SHARE = 1 / 8  # of the deadline: for so long may the first answer take before others are refused
_WINDOW_ROWS = 16  # a window with so many rows may end after one run of a batch
_WINDOW_SHARE = 0.25  # of the time that a request takes: how long a window with fewer rows lasts
_NEWEST_WEIGHT = 0.4
_QUEUED = 1.35  # times as long as its run: a request that took longer has waited for a free worker
_MOST_SLOWER = 3.0  # times slower in one window, whatever was measured
_SPEED_RESERVE = 0.5  # of the deadline, what the queue may take: so the workers may become twice as slow meanwhile
_LEAST_RUNS = 2.2  # what the queue may take at least, in runs: one is under way, one waits, and they overlap


class Flow:
    """One model version's rows between this process and its workers. `clock` counts seconds.

    `rows_in_flight` are those that were sent and have not ended, of so many `requests_in_flight`.

    The estimate is `rows in flight x seconds per row`. By Little's law this holds however many workers, and other API
    processes, share the queue. Both factors are measured here:

    - *Seconds per row* is measured in windows of one run of a batch, or of a quarter of the time that a request takes
      if fewer than 16 rows came back by then. So it works at five rows a second and at twenty thousand. If requests
      waited for a worker in a window, or missed their deadlines, the workers were busy: the estimate moves towards
      the measured value, up or down. Otherwise the measured value is only an upper bound: the estimate falls to it,
      but does not rise.
    - *A run* is how long a batch is in a worker's hands. Batches are uneven and a request may just miss one, so
      the last run before the deadline is kept free.

    Of the deadline the queue takes half, because the workers may become twice as slow at any time. If half is less
    than 2.2 runs, it takes those, because the workers would be idle between batches otherwise. A request that finds
    nothing in flight is always let in: its answer shows what the workers can do now. Goodput stays near the peak where
    the deadline is five runs of a full batch or more; with less, fewer requests are let in, and not more of them late.

    Before the first answer nothing is known: two batches (at least 128 rows) are let in, or as many as a model that
    answers 50 rows a second would answer in half of the deadline; for an eighth of the deadline.
    The first answer counts as if a full batch took √(batch size) times as long as one row, until batches have run.
    """

    def __init__(self, max_batch_size: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._batch = max(1, max_batch_size)
        self._clock = clock
        self._high = 0  # of the rows in flight
        self.rows_in_flight = 0
        self.requests_in_flight = 0
        self._row_s: float | None = None
        self._run_s = 0.0
        self._longest_run_s = 0.0
        self._idle_since = clock()
        self._begin_window(self._idle_since)

    @property
    def batches_in_flight(self) -> float:
        """How many full batches are in flight; from two on the workers may have no time to spare."""
        return self.rows_in_flight / self._batch

    def sent(self, priority: str, rows: int) -> int:
        """Rows were submitted. Returns how many will be served up to and with them, which `answered` asks for."""
        if not self.rows_in_flight:
            self._window_began += self._clock() - self._idle_since  # windows leave idle time out
        self.rows_in_flight += rows
        self.requests_in_flight += 1
        if priority != "high":
            return self.rows_in_flight
        self._high += rows
        return self._high

    def left(self, priority: str, rows: int) -> None:
        """Nobody waits for the rows any more, for a reason that says nothing about the workers."""
        self._forget(priority, rows, self._clock())

    def answered(self, priority: str, rows: int, ahead: int, sent_s: float, run_s: float = 0.0) -> None:
        """Rows came back, as results or errors. `ahead` is what `sent` returned, at `sent_s` on the clock.

        `run_s` is how long they were in a worker's hands; 0 where that is not known.
        """
        now = self._clock()
        took_s = now - sent_s
        run_s = run_s or self._run_s or took_s
        self._rows += rows
        self._rows_ahead += ahead
        self._took_s += took_s
        self._runs_s += run_s
        if run_s > self._longest_run_s:
            self._longest_run_s = run_s
        self._ended(priority, rows, ahead, now, took_s, run_s)

    def expired(self, priority: str, rows: int, ahead: int, sent_s: float) -> None:
        """Rows missed their deadline."""
        now = self._clock()
        took_s = now - sent_s
        if ahead > rows:  # else it was let in to see what the workers can do, and waited for nobody
            self._is_late = True
        self._ended(priority, rows, ahead, now, took_s, self._run_s or took_s)

    def _ended(self, priority: str, rows: int, ahead: int, now: float, took_s: float, run_s: float) -> None:
        if self._row_s is None:
            self._row_s = took_s / math.sqrt(ahead * max(ahead, self._batch))
            self._run_s = run_s
        passed_s = now - self._window_began
        if passed_s >= self._run_s and (self._rows >= _WINDOW_ROWS or passed_s >= _WINDOW_SHARE * took_s):
            self._row_s = self._measured(now, self._row_s)
            self._begin_window(now)
        self._forget(priority, rows, now)

    def _forget(self, priority: str, rows: int, now: float) -> None:
        self.rows_in_flight -= rows
        self.requests_in_flight -= 1
        if priority == "high":
            self._high -= rows
        if not self.rows_in_flight:
            self._idle_since = now

    def _measured(self, now: float, row_s: float) -> float:
        """Seconds per row after a window. The longest run follows quickly when runs get longer, else slowly."""
        if self._longest_run_s:
            weight = 0.5 if self._longest_run_s > self._run_s else 0.2
            self._run_s += weight * (self._longest_run_s - self._run_s)
        if self._is_late or self._took_s > _QUEUED * self._runs_s:
            measured = (now - self._window_began) / max(1, self._rows)
            return row_s + _NEWEST_WEIGHT * (min(measured, _MOST_SLOWER * row_s) - row_s)
        return min(row_s, self._took_s / self._rows_ahead) if self._rows_ahead else row_s

    def _begin_window(self, now: float) -> None:
        self._window_began = now
        self._rows = self._rows_ahead = 0
        self._took_s: float = 0.0
        self._runs_s: float = 0.0
        self._longest_run_s = 0.0
        self._is_late = False

    def seconds_too_late(self, priority: str, timeout_s: float, rows: int = 1) -> float:
        """How long a request must wait until it would be let in; 0 where it is likely to be in time now.

        The answer before anything is known is a second.
        """
        if not self.rows_in_flight:
            return 0.0
        ahead = self._high if priority == "high" else self.rows_in_flight
        row_s = self._row_s
        if row_s is None:
            is_early = self._clock() - self._window_began < _COLD_SHARE * timeout_s
            most = max(_COLD_ROWS, 2 * self._batch, _SPEED_RESERVE * timeout_s * _COLD_ROWS_PER_S)
            return 0.0 if is_early and ahead + rows <= most else 1.0
        if row_s * (ahead + rows) + self._run_s <= _SPEED_RESERVE * timeout_s:  # almost always
            return 0.0
        queue_s = max(_SPEED_RESERVE * timeout_s, _LEAST_RUNS * self._run_s)
        return max(
            0.0,
            row_s * (ahead + min(rows, self._batch)) - queue_s,
            row_s * (ahead + rows) - (timeout_s - self._run_s),  # the last run before the deadline is kept free
        )

    def seconds_until(self, rows: int) -> float:
        """How long it takes to answer that many rows; a second where nothing was answered yet."""
        return rows * self._row_s if self._row_s else 1.0
