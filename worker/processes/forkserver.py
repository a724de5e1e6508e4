"""A process that starts model processes: it has imported what they need, and started no thread.

    python -m worker.processes.forkserver FD MODULE…

    worker ──START token 0 (two file descriptors)────────►  forks; the child goes on in child.py
           ──START_CODE token threads (three of these)───►  a new interpreter, in a group of its own, for code
           ──KILL token──────────────────────────────────►  SIGKILL, to all of its group
           ◄─STARTED token pid, ENDED token status────────  as `os.waitpid` tells it

A forked process shares the pages of what was imported, so it costs some milliseconds and few megabytes. Where forking
is not safe (macOS, or a library that started a thread), each one is a new interpreter instead. So is one for a model's
own code, which may import anything: it finds no library of ours loaded, and its threads as Python starts them. When the
worker is gone, this process ends; and with it, by the kernel's word, all that it started.
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

REQUEST = struct.Struct("<III")
REPORT = struct.Struct("<IIi")
START, KILL, START_CODE = 1, 2, 3
STARTED, ENDED = 1, 2
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_FAILED = 70  # exit status: a fault of ours
_THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# So that the kernel, out of memory, ends a model before its worker, and one for bulk before one for callers.
OOM_SCORE, BULK_OOM_SCORE = 500, 900


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
                    for pid in self._pids.values():
                        self._kill_group(pid)
                    return

    def _take_request(self) -> bool:
        try:
            content, fds, _, _ = socket.recv_fds(self._socket, REQUEST.size, 3)
        except ConnectionError:  # the worker is gone, with something of ours unread
            return False
        if len(content) < REQUEST.size:
            return False
        kind, token, threads = REQUEST.unpack(content)
        if kind != KILL:
            pid = self._start(fds) if kind == START else self._start_code(fds, threads)
            self._pids[token] = pid
            self._report(STARTED, token, pid)
            for fd in fds:
                os.close(fd)
        elif token in self._pids:
            self._kill_group(self._pids[token])
            os.kill(self._pids[token], signal.SIGKILL)
        return True

    @staticmethod
    def _kill_group(pid: int) -> None:
        """End what a process has started, if it leads a group; only before the process is reaped, whose id it has."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)

    def _start(self, fds: list[int]) -> int:
        if not self._forks:
            for fd in fds:
                os.set_inheritable(fd, True)
            return os.posix_spawn(sys.executable, _command(*fds), os.environ)
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            self._become_child(parent, fds)
        return pid

    def _start_code(self, fds: list[int], threads: int) -> int:
        """A new interpreter whose standard output and error are the third file descriptor; its logs go to ours."""
        channel, memory, output = fds
        log = os.dup(2)
        try:
            for fd in (channel, memory, log):
                os.set_inheritable(fd, True)
            # Our settings are none of its business: a password may be among them.
            others = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
            counts = {name: str(threads) for name in _THREAD_COUNTS}
            path = os.pathsep.join(part for part in sys.path if part)  # it has our modules from where we have them
            environment = {**others, **counts, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
            actions = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
            command = _command(channel, memory, log)
            return os.posix_spawn(sys.executable, command, environment, file_actions=actions, setpgroup=0)
        finally:
            os.close(log)

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
        end_with_parent(parent)
        self._call_itself(b"millrace-model")
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
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            self._kill_group(ended.si_pid)
            pid, status = os.waitpid(ended.si_pid, 0)
            for token in [token for token, of in self._pids.items() if of == pid]:
                del self._pids[token]
                self._report(ENDED, token, status)

    def _report(self, kind: int, token: int, value: int) -> None:
        with contextlib.suppress(ConnectionError):  # the worker is gone; the next read says so
            self._socket.sendall(REPORT.pack(kind, token, value))


def _command(*fds: int) -> list[str]:
    return [sys.executable, "-P", "-m", "worker.processes.child", str(os.getpid()), *map(str, fds)]


def end_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent, of that pid, ends; at once where that is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def prefer_for_oom(score: int) -> None:
    """Let the kernel end this process before its worker when memory ends."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(score))


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
