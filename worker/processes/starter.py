"""The worker's end of the fork server: starts model processes, and says when they have ended."""

import array
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.processes.forkserver import ENDED, KILL, REPORT, REQUEST, START

_NO_THREADS = {  # what would start a thread when it is imported: a process with threads cannot be forked safely
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}
_ENDS_WITHIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Report:
    """A process was started, with that pid, or has ended, with that status of `os.waitpid`."""

    token: int
    has_ended: bool
    value: int


class ProcessStarter:
    """A running fork server. `modules` are imported in it once, where they are installed."""

    def __init__(self, modules: Sequence[str], environ: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair()
        self._buffer = b""
        with theirs:
            command = [sys.executable, "-m", "worker.processes.forkserver", str(theirs.fileno()), *modules]
            # The current folder, too, is where this process may have its modules from.
            path = os.pathsep.join(part or str(Path.cwd()) for part in sys.path)
            environment = {**environ, **_NO_THREADS, "PYTHONPATH": path}
            self._process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])  # noqa: S603 - ours

    def fileno(self) -> int:
        """What a selector needs."""
        return self._socket.fileno()

    def start(self, token: int, channel_fd: int, memory_fd: int) -> None:
        """Start a process that has these file descriptors; they are the caller's to close. Raises `OSError`."""
        fds = array.array("i", [channel_fd, memory_fd])
        self._socket.sendmsg([REQUEST.pack(START, token)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])

    def kill(self, token: int) -> None:
        """End a process at once; nothing happens where it has ended. Raises `OSError`."""
        self._socket.sendall(REQUEST.pack(KILL, token))

    def receive(self) -> list[Report]:
        """What was reported, without waiting. Raises `EOFError` when the fork server has ended, and all with it."""
        try:
            received = self._socket.recv(4096, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except ConnectionError:
            received = b""
        if not received:
            raise EOFError
        self._buffer += received
        whole = len(self._buffer) // REPORT.size * REPORT.size
        reports = [
            Report(token, kind == ENDED, value) for kind, token, value in REPORT.iter_unpack(self._buffer[:whole])
        ]
        self._buffer = self._buffer[whole:]
        return reports

    def close(self) -> None:
        """End the fork server, and whatever of its processes still runs."""
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDS_WITHIN_S)
        self._process.kill()
        self._process.wait()
