"""How long a thread was ready to run and had to wait for a processor: then somebody else needs it, too."""

import os
import time

_SCHEDULER = "/proc/thread-self/schedstat"  # of Linux: ns on a processor, ns ready and waiting, and how often


class ProcessorWait:
    """The seconds that a thread has waited, since it began; 0 where the system does not say.

    The first call says which thread: only that one may call.
    """

    def __init__(self) -> None:
        self._file: int | None = None

    def __call__(self) -> float:
        """See `ProcessorWait`."""
        try:
            if self._file is None:
                self._file = os.open(_SCHEDULER, os.O_RDONLY | os.O_CLOEXEC)
            return int(os.pread(self._file, 128, 0).split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return 0.0

    def close(self) -> None:
        """Forget the thread."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class UnhinderedClock:
    """Seconds that stand still while the thread waits for a processor: what else the machine does is not timed."""

    def __init__(self) -> None:
        self.waited_s = ProcessorWait()

    def __call__(self) -> float:
        """The time."""
        return time.perf_counter() - self.waited_s()
