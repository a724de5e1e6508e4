"""One version that a model process serves, as its worker sees it.

loading ──► loaded ──► serving ◄──► parked (no threads, no connections)
                         │ ▲
   its process has ended │ │ loaded again in a new one
                         ▼ │
                        lost

drained, in any of these ──► leaving ──► gone
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from millrace.broker.keys import ONLY_BULK, PRIORITIES, Queue
from millrace.protocol.messages import ModelAnnouncement
from worker.processes.messages import Load
from worker.reconciling.hosts import ServedVersion
from worker.running.seats import Seat

if TYPE_CHECKING:
    from worker.processes.process import ModelProcess


class RemoteVersion:
    """A version in a model process; all but what `ServedVersion` says is for its host, under the host's lock.

    `is_wanted` from `serve` until `drain`; `is_loaded` in the process that runs now. `seats` are those of its running
    instances, by slot. `takes` are the priorities of what they serve. `bulk` is the same version in a process that
    takes bulk alone, while it has one, and `no_bulk_until` when it may get one, after that could not be loaded.
    """

    def __init__(
        self, load: Load, process: "ModelProcess", serve: Callable[[], None], drain: Callable[[], None]
    ) -> None:
        self.queue = Queue(load.name, load.version)
        self.load = load
        self.process = process
        self.future: Future[ServedVersion] = Future()
        self.loaded_as: ModelAnnouncement | None = None
        self.instances = 0
        self.is_wanted = False
        self.is_loaded = False
        self.is_leaving = False
        self.is_gone = False
        self.takes: Sequence[str] = PRIORITIES
        self.bulk: RemoteVersion | None = None
        self.no_bulk_until = 0.0
        self.seats: dict[int, Seat] = {}
        self.is_parking = False
        self.own_fault = ""
        self.reload_at: float | None = None
        self._serve = serve
        self._drain = drain

    @property
    def announcement(self) -> ModelAnnouncement:
        """See `ServedVersion`."""
        assert self.loaded_as  # noqa: S101 - nobody has it before it was loaded
        return self.loaded_as

    @property
    def fault(self) -> str:
        """See `ServedVersion`."""
        return self.own_fault or self.process.fault

    @property
    def is_alive(self) -> bool:
        """See `ServedVersion`."""
        return not self.is_gone

    @property
    def is_for_bulk(self) -> bool:
        """Whether it takes bulk alone, beside one that takes the rest."""
        return self.takes == ONLY_BULK

    def take(self, priorities: Sequence[str]) -> None:
        """Have its instances take these from now on."""
        self.takes = priorities
        for seat in self.seats.values():
            seat.status.takes = priorities

    @property
    def is_parked(self) -> bool:
        """Whether it is to serve and has no instances at present."""
        return self.is_wanted and self.is_loaded and not self.seats and not self.is_for_bulk

    def serve(self) -> None:
        """See `ServedVersion`."""
        self._serve()

    def drain(self) -> None:
        """See `ServedVersion`."""
        self._drain()
