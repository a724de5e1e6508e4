"""What model processes write to standard error, in the worker's one form.

Our own lines pass as they are. Runtimes, and whatever else runs in those processes, write lines of their own; each
becomes the event of a line of ours. Nobody waits for the reader: what comes faster than it reads is lost.
"""

import fcntl
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable

_log = logging.getLogger(__name__)
_PIPE_BYTES = 1 << 20
_LONGEST_LINE, _LONGEST_EVENT = 65_536, 2000
_LINES_PER_S = 1000
_OURS = b'{"time": '
# How glog and ONNX Runtime begin their lines.
_LEVEL = re.compile(rb"([IWEF])\d{4} |.{0,64}\[([VIWEF]):onnxruntime")
_LEVELS = {b"V": logging.DEBUG, b"I": logging.INFO, b"W": logging.WARNING, b"E": logging.ERROR, b"F": logging.ERROR}
_NOTICE = b"WARNING: All log messages before absl::InitializeLog()"


def pipe() -> tuple[int, int]:
    """A pipe for the processes' standard error: the end to read, and the one to write, where no writer ever waits."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    if size := getattr(fcntl, "F_SETPIPE_SZ", None):
        fcntl.fcntl(writing, size, _PIPE_BYTES)
    return reading, writing


def relay(reading: int) -> None:
    """Pass on what comes from that end of a pipe, in a thread, until all writers have ended; then it is closed."""
    threading.Thread(target=_relay_all, args=(reading,), name="standard error", daemon=True).start()


def _relay_all(reading: int) -> None:
    with open(reading, "rb") as lines:
        pass_on(iter(lambda: lines.readline(_LONGEST_LINE), b""))


def pass_on(lines: Iterable[bytes], clock: Callable[[], float] = time.monotonic) -> None:
    """Write each line to standard error, or log it where it is not ours; a thousand a second at most."""
    began, count = clock(), 0
    for line in lines:
        _pass_on(line.rstrip())
        count += 1
        if count == _LINES_PER_S:
            time.sleep(max(0.0, began + 1 - clock()))
            began, count = clock(), 0


def _pass_on(line: bytes) -> None:
    if line.startswith(_OURS) and line.endswith(b"}"):
        sys.stderr.write(line.decode(errors="replace") + "\n")
        sys.stderr.flush()
    elif line:
        _log.log(level_of(line), "%s", line[:_LONGEST_EVENT].decode(errors="replace"), extra={"program": "model"})


def level_of(line: bytes) -> int:
    """How serious a line of a runtime's is, by the way it begins; a warning where that does not say."""
    if line.startswith(_NOTICE):
        return logging.INFO
    found = _LEVEL.match(line)
    return _LEVELS[next(filter(None, found.groups()))] if found else logging.WARNING
