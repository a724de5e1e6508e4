"""How long a thread ran, and how long it was ready to run and waited for a processor: then others need that, too."""

import os
import time
from typing import NamedTuple

_SCHEDULER = "/proc/thread-self/schedstat"  # of Linux: ns on a processor, ns ready and waiting, and how often


class Spent(NamedTuple):
    """Seconds since a thread began, on a processor and waiting for one; 0 where the system does not say."""

    ran_s: float
    waited_s: float


class ThreadTimes:
    """What a thread has spent. The first call says which thread: only that one may call."""

    def __init__(self) -> None:
        self._file: int | None = None

    def __call__(self) -> Spent:
        """See `ThreadTimes`."""
        try:
            if self._file is None:
                self._file = os.open(_SCHEDULER, os.O_RDONLY | os.O_CLOEXEC)
            ran, waited, *_ = os.pread(self._file, 128, 0).split()
            return Spent(int(ran) / 1e9, int(waited) / 1e9)
        except (OSError, ValueError):
            return Spent(0.0, 0.0)

    def close(self) -> None:
        """Forget the thread."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class UnhinderedClock:
    """Seconds that stand still while the thread waits for a processor: what else the machine does is not timed."""

    def __init__(self) -> None:
        self.times = ThreadTimes()

    def __call__(self) -> float:
        """The time."""
        return time.perf_counter() - self.times().waited_s
