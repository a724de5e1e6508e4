"""What the runs before a model serves may cost: time, and memory beyond what the process has by then."""

import re
import time
from collections.abc import Callable
from pathlib import Path

from worker.backends.base import Arrays

Run = Callable[[Arrays], Arrays]
SECONDS, MEMORY_BYTES = 10.0, 2**30


def peak_bytes() -> int:
    """The most memory that this process had at any time; 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


class Budget:
    """Measures runs, and says whether there is room for more.

    A run cannot be stopped, so whether there is room for a larger one is judged by the last. The memory that the first
    one takes does not count where `is_first_free`: on a GPU it loads libraries, and a run's tensors lie elsewhere.
    """

    def __init__(
        self,
        *,
        seconds: float = SECONDS,
        memory_bytes: int = MEMORY_BYTES,
        is_first_free: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
        peak: Callable[[], int] = peak_bytes,
    ) -> None:
        self._memory_bytes = memory_bytes
        self._seconds = seconds
        self._monotonic = monotonic
        self._peak = peak
        self._started = monotonic()
        self._first_peak = peak()
        self._is_first_free = is_first_free
        self._last_s = 0.0

    def watched(self, run: Run) -> Run:
        """The same run, measured."""

        def watched(inputs: Arrays) -> Arrays:
            started = self._monotonic()
            try:
                return run(inputs)
            finally:
                self._last_s = self._monotonic() - started
                if self._is_first_free:
                    self._is_first_free, self._first_peak = False, self._peak()

        return watched

    @property
    def is_spent(self) -> bool:
        """Whether the time is over."""
        return self._monotonic() - self._started > self._seconds

    def lacks(self, times: float, again: Callable[[], object] = lambda: None) -> str:
        """Why there is no room for a run that is so many times as large as the last one; "" where there is.

        `again` repeats the last run: a first run of its kind may take long for reasons that are gone then.
        """
        if self._is_too_slow(times) and not self._is_too_slow(1):
            again()
        if self._is_too_slow(times):
            return f"would take more than {self._seconds:g} s"
        if times * (self._peak() - self._first_peak) > self._memory_bytes:
            return f"would take more than {self._memory_bytes // 2**20} MB"
        return ""

    def _is_too_slow(self, times: float) -> bool:
        return self._monotonic() - self._started + times * self._last_s > self._seconds
