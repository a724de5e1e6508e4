"""How much room the jobs' files take, and whether more fits: in the quota, and on the disk."""

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from millrace.protocol.errors import StorageFull

_FRESH_S = 2.0  # how long a count is believed, at least; what is written meanwhile is added to it
_LEAST_S = 0.1  # before something is refused, the count is no older than that
_SHARE = 20  # a count that takes long is made less often: it costs a twentieth of the time
DISK_FULL = "the disk that the files of jobs are on is full"


def is_disk_full(error: BaseException) -> bool:
    """Whether this is what the system says of a full disk, or of a quota that is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class Room:
    """The room in one folder. Safe in threads. `clock` is in seconds."""

    def __init__(self, folder: Path, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._counted_at = self._count_again_at = float("-inf")
        self._used = self._free = 0

    def used(self) -> int:
        """Bytes that the files take, as of two seconds ago, or more where there are very many files."""
        with self._lock:
            self._count()
            return self._used

    def check(self, more: int) -> None:
        """Count on `more` bytes. Raises `StorageFull` where they do not fit."""
        with self._lock:
            self._count()
            if self._used + more > self._max_bytes or self._free < more:
                self._count_again_at = min(self._count_again_at, self._counted_at + _LEAST_S)  # room was made perhaps
                self._count()
            self._used += more
            self._free -= more
            if self._used > self._max_bytes:
                raise StorageFull(
                    f"the files of jobs would take more than {self._max_bytes} bytes (MILLRACE_JOBS_MAX_BYTES); "
                    "delete jobs that have ended, or wait until they expire"
                )
            if self._free < 0:
                raise StorageFull(DISK_FULL)

    def _count(self) -> None:
        began = self._clock()
        if began < self._count_again_at:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._used = sum(_size(Path(at) / name) for at, _, names in os.walk(self._folder) for name in names)
        self._free = shutil.disk_usage(self._folder).free
        self._counted_at = self._clock()
        self._count_again_at = began + max(_FRESH_S, _SHARE * (self._clock() - began))


def _size(path: Path) -> int:
    try:
        return path.stat(follow_symlinks=False).st_size
    except OSError:  # it was renamed or deleted while we counted
        return 0
