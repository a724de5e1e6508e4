"""Several API processes on the same ports, and the process that starts them, watches them and stops them.

It takes the ports once and gives each process a socket (`serving/transport/shared_port.py`). Where one cannot start at
first, all end. Later one that ends is started again, as often as it ends, ever later. Told to stop, it tells all, and
waits until they have answered what they have.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from subprocess import Popen

import msgspec

from millrace.child_process import ChildProcess, start_program
from millrace.stopping import AFTER_DRAIN_S
from serving.memory import MemoryLimit, resident_bytes, together
from serving.processes.member import Member, Started
from serving.settings import ServingSettings
from serving.transport.shared_port import SharedPort

_log = logging.getLogger(__name__)
_LOOK_S = 0.1
_LAST_WORDS_S = 1.0  # for ourselves, before whoever waits for us loses patience
_LARGEST_REPORT = 65_536
_LONGEST_PLACE = 64
_PYTHON = (sys.executable, *(("-P",) if sys.flags.safe_path else ()), "-m", "serving")


class ProcessGroup:
    """Runs `settings.processes` processes with the same arguments and environment. `run` returns after `stop`.

    `clock` is a monotonic clock in seconds.
    """

    def __init__(
        self,
        settings: ServingSettings,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._command = [*_PYTHON, *arguments]
        self._environment = {**environ, "MILLRACE_SERVING_PROCESSES": str(settings.processes)}
        self._clock = clock
        self._numbers = range(1, settings.processes + 1)
        self._processes: dict[int, ChildProcess] = {}
        self._channels: dict[int, socket.socket] = {}
        self._started: dict[int, Started] = {}
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Tell `run` to stop all and return; any thread may."""
        self._stopping.set()

    def run(self) -> int:
        """Serve until `stop`; the exit status. Raises `OSError` where a port cannot be had."""
        host, grpc_port = self._settings.host, self._settings.grpc_port
        with contextlib.ExitStack() as kept:
            ports = [kept.enter_context(contextlib.closing(SharedPort(host, self._settings.port)))]
            if grpc_port and self._settings.grpc_server == "own":
                ports.append(kept.enter_context(contextlib.closing(SharedPort(host, grpc_port))))
            elif grpc_port and sys.platform == "linux":  # grpc.aio binds it by itself; here it is kept from others
                kept.enter_context(contextlib.closing(SharedPort(host, grpc_port)))
            folder = kept.enter_context(tempfile.TemporaryDirectory(prefix="millrace-api-", dir=_place()))
            try:
                for number in self._numbers:
                    launch = partial(self._launch, number, ports, folder)
                    self._processes[number] = ChildProcess(f"API process {number}", launch)
                    self._processes[number].start(self._clock())
                return self._watch()
            finally:
                self._stop_all()

    def _launch(self, number: int, ports: Sequence[SharedPort], folder: str) -> "Popen[bytes]":
        """Start a process, with a channel to us and a socket on each port."""
        if before := self._channels.pop(number, None):
            before.close()
        self._channels[number], theirs = socket.socketpair()
        self._channels[number].setblocking(False)
        with theirs, contextlib.ExitStack() as opened:
            bound = tuple([opened.enter_context(port.for_one_more()).fileno() for port in ports])
            channel, count = theirs.fileno(), len(self._numbers)
            member = Member(number=number, count=count, channel=channel, ports=bound, folder=folder)
            command = [*self._command, "--member", member.as_argument()]
            return start_program(command, self._environment, inherits=(channel, *bound))

    def _watch(self) -> int:
        """Until `stop`, or until one that has never listened ends; the exit status."""
        while not self._stopping.wait(_LOOK_S):
            self._read_reports()
            for number, process in self._processes.items():
                if number not in self._started and process.end and not self._stopping.is_set():
                    extra = {"number": number, "end": process.end}
                    _log.error("an API process could not start, so all end", extra=extra)
                    return 1
                if news := process.revive(self._clock()):
                    _log.warning(news)
        return 0

    def _read_reports(self) -> None:
        """Take in who has begun to listen; when all have for the first time, say what they take together."""
        for number, channel in self._channels.items():
            with contextlib.suppress(BlockingIOError, ConnectionError):
                if report := channel.recv(_LARGEST_REPORT):
                    is_first = len(self._started) < len(self._numbers)
                    self._started[number] = msgspec.json.decode(report, type=Started)
                    if is_first and len(self._started) == len(self._numbers):
                        self._say_what_they_take()

    def _say_what_they_take(self) -> None:
        ours = MemoryLimit(base_bytes=resident_bytes(), buffered_bytes=0, connection_bytes=0)
        limit = together([ours, *(started.limit for started in self._started.values())])
        extra = {
            "processes": len(self._started),
            "memory_limit_bytes": limit.bytes,
            "offload_limit_bytes": limit.offload_bytes,
            "connections": sum(started.connections for started in self._started.values()),
        }
        _log.info(f"serving in {len(self._started)} processes with {limit}", extra=extra)

    def _stop_all(self) -> None:
        for process in self._processes.values():
            process.terminate()
        ends = self._clock() + self._settings.drain_timeout_s + AFTER_DRAIN_S - _LAST_WORDS_S
        for process in self._processes.values():
            process.wait(max(0.0, ends - self._clock()))
            process.kill()
        for channel in self._channels.values():
            channel.close()


def _place() -> str:
    """Where the folder of the processes is made: paths of sockets may have 103 bytes on every system."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) <= _LONGEST_PLACE else "/tmp"  # noqa: S108  # only we can read what is made


def run_group(settings: ServingSettings, arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the processes until SIGTERM or SIGINT; the exit status."""
    group = ProcessGroup(settings, arguments, environ)
    for number in (signal.SIGTERM, signal.SIGINT):
        # In a thread: a handler that sets an event may meet the main thread inside that event's lock.
        signal.signal(number, lambda *_: threading.Thread(target=group.stop).start())
    return group.run()
