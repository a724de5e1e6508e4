"""A process of ours: it is started, started again when it ends, and stopped with all that it left behind."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from millrace.restarts import RestartDelays

_PR_SET_PDEATHSIG = 1


class ChildProcess:
    """One process. `name` is for people. `launch` starts it (`start_program`), and raises `OSError` where it cannot.

    `log` is where its output goes, None where that is ours. `now` is the time of a monotonic clock in seconds.
    """

    def __init__(self, name: str, launch: Callable[[], "subprocess.Popen[bytes]"], log: Path | None = None) -> None:
        self.name = name
        self._launch = launch
        self._log = log
        self._delays = RestartDelays()
        self._due: float | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, now: float) -> None:
        """Start it. Raises `OSError` where the machine cannot have one more process."""
        self._delays.started(now)
        self._process = None
        self._process = self._launch()
        self._due = None

    @property
    def end(self) -> str:
        """How it ended, in words; "" while it runs."""
        if self._process is None:
            return "could not be started"
        status = self._process.poll()
        if status is None:
            return ""
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    @property
    def last_words(self) -> str:
        """The last line that it wrote to its log, or where its output is."""
        return " ".join(self._log.read_text().splitlines()[-1:]) if self._log else "its last words are above"

    def revive(self, now: float) -> str:
        """Start it again where it has ended and the delay is over; what is to be said of an end that is new, or ""."""
        end = self.end
        if not end:
            return ""
        if self._due is not None:
            if now >= self._due:
                self._restart(now)
            return ""
        self.kill()
        delay_s = self._delays.ended(now)
        self._due = now + delay_s
        return f"{self.name} {end}; starting it again in {delay_s:g} s"

    def _restart(self, now: float) -> None:
        self._due = None
        with contextlib.suppress(OSError):  # the next look finds that it has no process, and says so
            self.start(now)

    def terminate(self) -> None:
        """Tell it to stop."""
        if self._process and self._process.poll() is None:
            self._process.terminate()

    def wait(self, timeout_s: float) -> None:
        """Return when it has ended, or the time is over."""
        if self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)

    def kill(self) -> None:
        """End it and every process that it started."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def start_program(
    command: Sequence[str], environment: Mapping[str, str], log: Path | None = None, inherits: Collection[int] = ()
) -> "subprocess.Popen[bytes]":
    """Start a program whose output goes to `log`, else to ours; it has these descriptors of ours, too.

    Raises `OSError` where the machine cannot have one more process.
    """
    with log.open("ab") if log else contextlib.nullcontext() as output:
        # A session of its own: Ctrl-C reaches only whoever started it, who stops all of them in order.
        return subprocess.Popen(
            command,
            env=environment,
            stdout=output,
            start_new_session=True,
            pass_fds=inherits,
            preexec_fn=_end_with_parent(),
        )


def _end_with_parent() -> Callable[[], None] | None:
    """What a child runs first, so that it gets SIGTERM when we are killed; on Linux only."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
