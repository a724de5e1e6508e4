"""How long this thread was ready to run and had to wait for a processor: then somebody else needs it, too."""

import time
from pathlib import Path

_SCHEDULER = Path("/proc/thread-self/schedstat")  # of Linux: ns on a processor, ns ready and waiting, and how often


def waited_s() -> float:
    """The seconds since the thread began; 0 where the system does not say."""
    try:
        return int(_SCHEDULER.read_bytes().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def unhindered_s() -> float:
    """A clock that stands still while this thread waits for a processor: what else the machine does is not timed."""
    return time.perf_counter() - waited_s()
