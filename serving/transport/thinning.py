"""Log lines that callers cause, thinned so that nobody can flood the log."""

import time
from collections.abc import Callable


class Thinning:
    """Lets so many events a second through, and counts the others."""

    def __init__(self, per_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._second = 0.0
        self._passed = 0
        self._left_out = 0

    def count(self) -> int | None:
        """None where the event is left out; else how many were since the last that was let through."""
        now = self._clock()
        if now - self._second >= 1:
            self._second, self._passed = now, 0
        if self._passed >= self._per_s:
            self._left_out += 1
            return None
        self._passed += 1
        left_out, self._left_out = self._left_out, 0
        return left_out
