"""One model process, as its worker sees it: it may end at any time, and is started again after a pause."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Sequence

from msgspec import structs

from worker.processes import memory
from worker.processes.limits import own_memory, waited_s
from worker.processes.memory import SLOTS, ProcessMemory
from worker.processes.messages import Channel, Setup, ToProcess, ToWorker
from worker.processes.output import PrintedLines
from worker.processes.starter import ProcessStarter
from worker.processes.verdict import Cause
from worker.processes.version import RemoteVersion
from worker.running.seats import Seat

_FORGOTTEN_S = 60.0  # after so long without an end, the next is the first again
_EXPLAINED_PAUSE_S = 0.02
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_WAITING, _CALM_S = 0.1, 10.0  # of the time it waits for a processor; so long after that it may not be judged
_MISSED_S = 2.0  # for so long a process may be away before its versions count as unable to serve


class ModelProcess:
    """The process that serves some versions; for its host's lock, and not for several threads.

    `token` is the number of its present run, None while it does not run. `is_for_bulk`: it takes only the processor
    time that others leave. `code` names the model, with its version,
    whose own code the process runs: it serves nothing else, and what it prints is logged (`printed`).
    """

    def __init__(
        self, *, code: str = "", is_for_bulk: bool = False, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.code = code
        self.is_for_bulk = is_for_bulk
        self.printed: PrintedLines | None = None
        self.versions: dict[int, RemoteVersion] = {}
        self.token: int | None = None
        self.channel: Channel | None = None
        self.memory: ProcessMemory | None = None
        self.pid = 0
        self.cause: Cause = "itself"
        self.restart_at: float | None = None
        self.last_words = ""
        self._monotonic = monotonic
        self._base_bytes = 0
        self._ends: list[float] = []
        self._away_since: float | None = None
        self._waited = (0.0, 0.0)
        self._waited_until = -_CALM_S
        self._free: list[int] = []

    @property
    def fault(self) -> str:
        """Why its versions cannot serve: "" while it runs, and for a moment after it ended."""
        if self._away_since is None or self._monotonic() - self._away_since < _MISSED_S:
            return ""
        return f"its process has ended ({self.last_words}) and is started again in a moment"

    @property
    def seats(self) -> list[Seat]:
        """Those of all its running instances."""
        return [seat for version in self.versions.values() for seat in version.seats.values()]

    def begin(self, starter: ProcessStarter, token: int, setup: Setup) -> None:
        """Start it. Raises `OSError` where the fork server is gone."""
        mine, theirs = socket.socketpair()
        fd = memory.make()
        try:
            self.memory = ProcessMemory(fd)
            with theirs:
                self._start(starter, token, setup, theirs.fileno(), fd)
        finally:
            os.close(fd)
        self.token, self.channel, self.cause = token, Channel(mine, ToWorker, waits=False), "itself"
        self.restart_at = None
        self._free = list(range(SLOTS - 1, -1, -1))
        self.send(structs.replace(setup, gives_way=self.is_for_bulk))

    def _start(self, starter: ProcessStarter, token: int, setup: Setup, channel_fd: int, memory_fd: int) -> None:
        if not self.code:
            starter.start(token, channel_fd, memory_fd)
            return
        self.printed = printed = PrintedLines(self.code, self._monotonic)
        try:
            starter.start_code(token, channel_fd, memory_fd, printed.write_fd, setup.threads)
        except OSError:
            self.printed = None
            printed.close()
            raise
        finally:
            printed.hand_over()

    def send(self, message: ToProcess) -> None:
        """Tell it something; one that is gone already hears nothing, and its end is reported in another way."""
        if self.channel:
            try:
                self.channel.send(message)
            except OSError:
                self.channel.close()
                self.channel = None

    def flush(self) -> None:
        """Send on what it could not take at once."""
        if self.channel and self.channel.has_more:
            with contextlib.suppress(OSError):
                self.channel.flush()

    def has_started(self, pid: int) -> None:
        """It runs, with that process id."""
        self.pid = pid
        self._base_bytes = own_memory(pid)

    def is_back(self) -> None:
        """It serves."""
        self._away_since = None

    def has_ended(self, words: str, *, is_explained: bool) -> float:
        """It has ended, for that reason; how many seconds to wait before it is started again.

        Where it `is_explained` by a request that will not run again, that is no sign of more to come.
        """
        now = self._monotonic()
        if self.channel:
            self.channel.close()
        self.token, self.channel, self.memory, self.pid = None, None, None, 0
        self.last_words = words
        self._away_since = self._away_since or now
        if is_explained:
            self._ends = []
            return _EXPLAINED_PAUSE_S
        if self._ends and now - self._ends[-1] > _FORGOTTEN_S:
            self._ends = []
        self._ends.append(now)
        if len(self._ends) == 1:
            return 0.0
        return min(_FIRST_PAUSE_S * 2.0 ** min(len(self._ends) - 2, 10), _LONGEST_PAUSE_S)

    @property
    def memory_bytes(self) -> int:
        """How much memory it has that no other process shares."""
        return own_memory(self.pid) if self.pid else 0

    def is_starved(self) -> bool:
        """Whether others took the processors away from it in the last seconds, at one look or another.

        What lasts long in it then says nothing of its models.
        """
        if not self.is_for_bulk:
            return False
        now_s, waited = self._monotonic(), waited_s(self.pid)
        last_s, last_waited = self._waited
        if waited - last_waited > _WAITING * (now_s - last_s):
            self._waited_until = now_s
        self._waited = now_s, waited
        return now_s - self._waited_until < _CALM_S

    def own_bytes(self) -> int:
        """How much memory it took since it started."""
        return own_memory(self.pid) - self._base_bytes if self.pid else 0

    def take_seat(self, consumer: str, takes: Sequence[str]) -> tuple[int, Seat]:
        """A free slot of its memory for an instance of that name, which takes these priorities."""
        assert self.memory  # noqa: S101 - it runs
        slot = self._free.pop()
        status = self.memory.status(slot)
        status.clear()
        status.takes = takes
        return slot, Seat(consumer, status)

    def leave_seats(self, version: RemoteVersion) -> None:
        """The version's instances have ended."""
        self._free += version.seats
        version.seats = {}
