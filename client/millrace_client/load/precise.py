"""Waiting for a moment, to a few hundredths of a millisecond, without busy waiting.

gevent's own timers end on whole milliseconds where the system's epoll does (Linux): a request would be late by half of
one on average. A timer of the system that is read like a socket has no such grid.
"""

import ctypes
import os
import time

import gevent
from gevent import get_hub

_MONOTONIC = 1
_CLOEXEC_NONBLOCK = 0o2004000


class _Spec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Alarm:
    """For one greenlet at a time."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._file = -1
        if hasattr(self._libc, "timerfd_create"):
            self._file = self._libc.timerfd_create(_MONOTONIC, _CLOEXEC_NONBLOCK)
        self._watcher = get_hub().loop.io(self._file, 1) if self._file >= 0 else None

    def wait_until(self, at_s: float) -> None:
        """Wait until that moment of `time.perf_counter`; at least let the others run once."""
        left_s = at_s - time.perf_counter()
        if left_s <= 0:
            gevent.sleep(0)
        elif self._watcher is None:
            gevent.sleep(left_s)
        else:
            seconds, nanoseconds = divmod(int(left_s * 1e9), 1_000_000_000)
            spec = _Spec(0, 0, seconds, max(nanoseconds, 1))
            self._libc.timerfd_settime(self._file, 0, ctypes.byref(spec), None)
            get_hub().wait(self._watcher)
            os.read(self._file, 8)

    def close(self) -> None:
        """Give the timer back."""
        if self._watcher is not None:
            self._watcher.close()
            os.close(self._file)
            self._watcher = None
