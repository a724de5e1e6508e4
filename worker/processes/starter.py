"""The worker's end of the fork server: starts model processes, and says when they have ended."""

import array
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.processes import forkserver, standard_error
from worker.processes.forkserver import ENDED, KILL, REPORT, REQUEST, START, START_CODE

NO_THREADS = {  # what would start a thread when it is imported: a process with threads cannot be forked safely
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}
_FD = 3
_ENDS_WITHIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Report:
    """A process was started, with that pid, or has ended, with that status of `os.waitpid`."""

    token: int
    has_ended: bool
    value: int


class ProcessStarter:
    """A running fork server, at the other end of the socket; `stderr` is the end of a pipe from its standard error."""

    def __init__(self, sock: socket.socket, pid: int, stderr: int) -> None:
        self._socket = sock
        self.stderr = stderr
        self._pid = pid
        self._buffer = b""

    @classmethod
    def forked(cls, modules: Sequence[str]) -> "ProcessStarter | None":
        """One that shares what this process has imported; None where that is not safe.

        To be called before this process has threads.
        """
        if sys.platform != "linux" or threading.active_count() > 1:
            return None
        mine, theirs = socket.socketpair()
        reading, writing = standard_error.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        gc.collect()
        gc.freeze()
        pid = os.fork()
        if not pid:
            mine.close()
            os.close(reading)
            os.environ.update(NO_THREADS)
            try:
                os.dup2(writing, 2)
                os.close(writing)
                forkserver.serve(theirs, modules)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        theirs.close()
        os.close(writing)
        return cls(mine, pid, reading)

    @classmethod
    def spawned(cls, modules: Sequence[str], environ: Mapping[str, str]) -> "ProcessStarter":
        """One in a new interpreter. The modules are imported in it once, where they are installed."""
        mine, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "worker.processes.forkserver", str(_FD), *modules]
            # The current folder, too, is where this process may have its modules from.
            path = os.pathsep.join(part or str(Path.cwd()) for part in sys.path)
            environment = {**environ, **NO_THREADS, "PYTHONPATH": path}
            reading, writing = standard_error.pipe()
            # The only ones that it inherits.
            actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), _FD), (os.POSIX_SPAWN_DUP2, writing, 2)]
            try:
                return cls(mine, os.posix_spawn(sys.executable, command, environment, file_actions=actions), reading)
            finally:
                os.close(writing)

    def fileno(self) -> int:
        """What a selector needs."""
        return self._socket.fileno()

    def start(self, token: int, channel_fd: int, memory_fd: int) -> None:
        """Start a process that has these file descriptors; they are the caller's to close. Raises `OSError`."""
        self._send(REQUEST.pack(START, token, 0), channel_fd, memory_fd)

    def start_code(self, token: int, channel_fd: int, memory_fd: int, output_fd: int, threads: int) -> None:
        """The same for one that runs a model's own code: what that prints goes to the third file descriptor.

        Its libraries are told to use so many threads. Raises `OSError`.
        """
        self._send(REQUEST.pack(START_CODE, token, threads), channel_fd, memory_fd, output_fd)

    def _send(self, request: bytes, *fds: int) -> None:
        self._socket.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])

    def kill(self, token: int) -> None:
        """End a process at once; nothing happens where it has ended. Raises `OSError`."""
        self._socket.sendall(REQUEST.pack(KILL, token, 0))

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
        ends = time.monotonic() + _ENDS_WITHIN_S
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > ends:
                    os.kill(self._pid, signal.SIGKILL)
                    os.waitpid(self._pid, 0)
                    return
                time.sleep(0.005)
