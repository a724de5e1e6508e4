"""A process that starts model processes: it has imported what they need, and started no thread.

    python -m worker.processes.forkserver FD MODULE…

    worker ──START token (and two file descriptors)──►  forks; the child goes on in child.py
           ──KILL token────────────────────────────►  SIGKILL
           ◄─STARTED token pid, ENDED token status──  as `os.waitpid` tells it

A forked process shares the pages of what was imported, so it costs some milliseconds and few megabytes. Where forking
is not safe (macOS, or a library that started a thread), each one is a new interpreter instead. When the worker is gone,
this process ends; and with it, by the kernel's word, all that it started.
"""

import contextlib
import ctypes
import gc
import importlib
import os
import selectors
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

REQUEST = struct.Struct("<II")
REPORT = struct.Struct("<IIi")
START, KILL = 1, 2
STARTED, ENDED = 1, 2
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_FAILED = 70  # exit status: a fault of ours
_OOM_SCORE = 500  # so that the kernel, out of memory, ends a model before its worker


class ForkServer:
    """Serves one worker, until it hangs up."""

    def __init__(self, sock: socket.socket, *, forks: bool) -> None:
        self._socket = sock
        self._forks = forks
        self._pids: dict[int, int] = {}  # token -> the process, until it is reaped
        self._prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
        self._call_itself(b"millrace-fork")

    def run(self) -> None:
        """Start, kill and reap."""
        read, write = socket.socketpair()
        write.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        selector = selectors.DefaultSelector()
        selector.register(self._socket, selectors.EVENT_READ)
        selector.register(read, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is read:
                    read.recv(4096)
                    self._reap()
                elif not self._take_request():
                    return

    def _take_request(self) -> bool:
        try:
            content, fds, _, _ = socket.recv_fds(self._socket, REQUEST.size, 2)
        except ConnectionError:  # the worker is gone, with something of ours unread
            return False
        if len(content) < REQUEST.size:
            return False
        kind, token = REQUEST.unpack(content)
        if kind == START:
            pid = self._start(fds)
            self._pids[token] = pid
            self._report(STARTED, token, pid)
            for fd in fds:
                os.close(fd)
        elif token in self._pids:
            os.kill(self._pids[token], signal.SIGKILL)
        return True

    def _start(self, fds: list[int]) -> int:
        if not self._forks:
            for fd in fds:
                os.set_inheritable(fd, True)
            command = [sys.executable, "-P", "-m", "worker.processes.child", *map(str, fds)]
            return os.posix_spawn(sys.executable, command, os.environ)
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            self._become_child(parent, fds)
        return pid

    def _become_child(self, parent: int, fds: list[int]) -> NoReturn:
        status = _FAILED
        try:
            self._leave_server(parent)
            status = importlib.import_module("worker.processes.child").run(*fds)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _leave_server(self, parent: int) -> None:
        self._call_itself(b"millrace-model")
        if self._prctl:
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it went before it could be watched
            os._exit(0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._socket.close()

    def _call_itself(self, name: bytes) -> None:
        """What `ps` and `top` show beside the command line, which is the worker's in all of its processes."""
        if self._prctl:
            self._prctl(_PR_SET_NAME, name)

    def _reap(self) -> None:
        while self._pids:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for token in [token for token, of in self._pids.items() if of == pid]:
                del self._pids[token]
                self._report(ENDED, token, status)

    def _report(self, kind: int, token: int, value: int) -> None:
        with contextlib.suppress(ConnectionError):  # the worker is gone; the next read says so
            self._socket.sendall(REPORT.pack(kind, token, value))


def prefer_for_oom() -> None:
    """Let the kernel end this process before its worker when memory ends."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))


def thread_count() -> int:
    """How many threads this process has, those of libraries too, where the system tells."""
    try:
        return len(list(Path("/proc/self/task").iterdir()))
    except OSError:
        return threading.active_count()


def main(argv: list[str]) -> int:
    """Serve the worker at the other end of the file descriptor; the other arguments name modules to import."""
    serve(socket.socket(fileno=int(argv[0])), argv[1:])
    return 0


def serve(sock: socket.socket, modules: Sequence[str]) -> None:
    """Import the modules that are installed, have them prepare what can be shared, and serve the worker."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the worker decides when models end
    for name in modules:
        try:
            module = importlib.import_module(name)
        except ImportError:  # not in this image; a model that needs it says so when it is loaded
            continue
        if hasattr(module, "prepare"):
            module.prepare()
    importlib.import_module("worker.processes.child")
    forks = sys.platform != "darwin" and hasattr(os, "fork") and thread_count() == 1
    gc.collect()
    gc.freeze()
    ForkServer(sock, forks=forks).run()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
