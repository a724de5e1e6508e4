"""How much room the jobs' files take, and whether more fits: in the quota, and on the disk."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from millrace.protocol.errors import StorageFull

_FRESH_S = 2.0  # how long a count is believed; what is written meanwhile is added to it


class Room:
    """The room in one folder. Safe in threads. `clock` is in seconds."""

    def __init__(self, folder: Path, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._counted_at = float("-inf")
        self._used = self._free = 0

    def used(self) -> int:
        """Bytes that the files take, as of at most two seconds ago."""
        with self._lock:
            self._count()
            return self._used

    def check(self, more: int) -> None:
        """Count on `more` bytes. Raises `StorageFull` where they do not fit."""
        with self._lock:
            self._count()
            self._used += more
            self._free -= more
            if self._used > self._max_bytes:
                raise StorageFull(
                    f"the files of jobs would take more than {self._max_bytes} bytes (MILLRACE_JOBS_MAX_BYTES); "
                    "delete jobs that have ended, or wait until they expire"
                )
            if self._free < 0:
                raise StorageFull("the disk that the files of jobs are on is full")

    def _count(self) -> None:
        if self._clock() - self._counted_at < _FRESH_S:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._used = sum(_size(Path(at) / name) for at, _, names in os.walk(self._folder) for name in names)
        self._free = shutil.disk_usage(self._folder).free
        self._counted_at = self._clock()


def _size(path: Path) -> int:
    try:
        return path.stat(follow_symlinks=False).st_size
    except OSError:  # it was renamed or deleted while we counted
        return 0
