"""What a model's code prints, read by the worker: so it neither blocks the code nor is lost when its process ends.

Each line is one event of the log. A process that prints more lines than anybody reads is not waited for: the rest is
read, counted and left out.
"""

import logging
import os
import select
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)
_READ_BYTES = 65_536
_LONGEST_LINE = 2_000  # characters; what is longer is cut
_LINES_PER_S = 100
_LAST_READS = 32


class PrintedLines:
    """One end of a pipe, to read from; `write_fd` is the other one, until `hand_over` closes it here.

    `name` is the model's, with its version. `monotonic` is a clock in seconds.
    """

    def __init__(self, name: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._monotonic = monotonic
        self._read_fd, self.write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        self._rest = b""
        self._window_s = monotonic()
        self._lines = 0
        self._left_out = 0

    def fileno(self) -> int:
        """What a selector needs."""
        return self._read_fd

    def hand_over(self) -> None:
        """The process has the other end now."""
        os.close(self.write_fd)

    def take(self) -> bool:
        """Log what has come, without waiting; whether more may come."""
        try:
            content = os.read(self._read_fd, _READ_BYTES)
        except BlockingIOError:
            return True
        *lines, rest = (self._rest + content).split(b"\n")
        if len(rest) > _LONGEST_LINE or not content:
            lines, rest = [*lines, rest], b""
        self._rest = rest
        for line in lines:
            self._say(line)
        return bool(content)

    def close(self) -> None:
        """Log what is left, and read no more."""
        for _ in range(_LAST_READS):  # what a process that it has left behind still prints must not keep us
            if not self._has_more() or not self.take():
                break
        if self._rest:
            self._say(self._rest)
        self._report_left_out()
        os.close(self._read_fd)

    def _has_more(self) -> bool:
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        return bool(poll.poll(0))

    def _say(self, line: bytes) -> None:
        text = line.rpartition(b"\r")[2].decode(errors="backslashreplace").rstrip()  # of a progress bar, its last state
        if not text:
            return
        now = self._monotonic()
        if now - self._window_s >= 1:
            self._report_left_out()
            self._window_s, self._lines = now, 0
        self._lines += 1
        if self._lines <= _LINES_PER_S:
            _log.warning("a model printed", extra={"model": self._name, "text": text[:_LONGEST_LINE]})
        else:
            self._left_out += 1

    def _report_left_out(self) -> None:
        if self._left_out:
            _log.warning("a model printed more", extra={"model": self._name, "lines_left_out": self._left_out})
            self._left_out = 0
