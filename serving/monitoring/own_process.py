"""What this process takes of the machine."""

import time
from pathlib import Path

from serving.memory import resident_bytes
from serving.monitoring.counts import Present

_MB = 2**20


class OwnProcess:
    """Measures this process, which goes on from what another one in its place took of the processor."""

    def __init__(self, cpu_before_s: float) -> None:
        self._cpu_before_s = cpu_before_s
        self._started_s = round(time.time(), 3)

    @property
    def cpu_s(self) -> float:
        """Processor time, in tenths of a second: what is idle need not be written down again."""
        return round(self._cpu_before_s + time.process_time(), 1)

    def present(self, in_flight: dict[tuple[str, int], tuple[int, int]]) -> Present:
        """What it has now; memory in whole MiB."""
        return Present(
            in_flight=in_flight,
            memory_bytes=round(resident_bytes() / _MB) * _MB,
            open_files=_open_files(),
            started_s=self._started_s,
        )


def _open_files() -> int:
    """How many this process has open; 0 where the system does not say."""
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        return 0
