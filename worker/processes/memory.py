"""The memory that a worker shares with one model process: a head, and a slot for the status of each instance.

head   what the worker knows of the broker's time, which version the process loads, since when, and since when it runs
slots  see status.py; pages that were never touched cost nothing
"""

import math
import mmap
import os
import tempfile
import time
from collections.abc import Callable

from millrace.broker.base import BrokerClock
from worker.running.status import SLOT_BYTES, InstanceStatus

SLOTS = 16_384
_HEAD_BYTES = 4096
_OFFSET, _LOADING, _LOADING_SINCE, _FIRST_RUNS = range(4)


class ProcessMemory:
    """A mapping of the memory behind a file descriptor, which stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._view = memoryview(mmap.mmap(fd, size()))
        self._head = self._view[:64].cast("d")

    @property
    def clock_offset_ms(self) -> float:
        """By how much the broker's time is ahead of the monotonic clock of this machine."""
        return self._head[_OFFSET]

    @clock_offset_ms.setter
    def clock_offset_ms(self, offset_ms: float) -> None:
        self._head[_OFFSET] = offset_ms

    @property
    def loading(self) -> int:
        """The number of the version that the process is loading; 0 where it loads none."""
        return int(self._head[_LOADING])

    def begin_loading(self, number: int, now_s: float) -> None:
        """The process loads that version from now on, by the machine's monotonic clock."""
        self._head[_LOADING_SINCE] = now_s
        self._head[_LOADING] = number
        self._head[_FIRST_RUNS] = 0.0

    @property
    def first_runs_since_s(self) -> float:
        """Since when the version that is loading is in its first runs, on the monotonic clock; 0 where it is not."""
        return self._head[_FIRST_RUNS]

    @first_runs_since_s.setter
    def first_runs_since_s(self, since_s: float) -> None:
        self._head[_FIRST_RUNS] = since_s

    def end_loading(self) -> None:
        """The process loads none any more, so that none is in its first runs."""
        self._head[_LOADING] = 0
        self._head[_FIRST_RUNS] = 0.0

    def loading_s(self, now_s: float) -> float:
        """For how long the process has been loading a version; 0 where it loads none."""
        return max(0.0, now_s - self._head[_LOADING_SINCE]) if self.loading else 0.0

    def status(self, slot: int) -> InstanceStatus:
        """The status in a slot."""
        first = _HEAD_BYTES + slot * SLOT_BYTES
        return InstanceStatus(self._view[first : first + SLOT_BYTES])


class SharedClock(BrokerClock):
    """The broker's time as the worker last reckoned it."""

    def __init__(self, memory: ProcessMemory, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._memory = memory
        self._monotonic = monotonic

    def now_ms(self) -> float:
        """See `BrokerClock`."""
        return self._monotonic() * 1000 + self._memory.clock_offset_ms


def size() -> int:
    """How much is shared, in bytes: whole pages."""
    return math.ceil((_HEAD_BYTES + SLOTS * SLOT_BYTES) / mmap.PAGESIZE) * mmap.PAGESIZE


def make() -> int:
    """New memory, all zeros; the file descriptor is the caller's to close."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("millrace-model")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size())
    return fd
