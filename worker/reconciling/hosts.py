"""The seam between a worker and where its models live: in this process, or in processes of their own."""

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from millrace.broker.base import BrokerClock
from millrace.broker.keys import Queue
from millrace.protocol.messages import ModelAnnouncement
from worker.reconciling.catalogue import DesiredModel
from worker.running.seats import Seat


@dataclass(frozen=True, slots=True, kw_only=True)
class HostContext:
    """What a host is told of its worker: its id, the broker's clock, and whom to call, from any thread.

    `on_change` says that there is something new to announce, `on_failure` that the worker had better end.
    """

    worker: str
    clock: BrokerClock
    on_change: Callable[[], None]
    on_failure: Callable[[], None]


class ServedVersion(Protocol):
    """One loaded version. `serve` begins to take requests, `drain` ends that: then it is unloaded."""

    queue: Queue

    @property
    def announcement(self) -> ModelAnnouncement:
        """What the model's files say of it."""

    @property
    def fault(self) -> str:
        """Why it cannot serve at present, "" where it can."""

    @property
    def is_alive(self) -> bool:
        """Whether it is still there: it ends some time after `drain`."""

    def serve(self) -> None:
        """Take requests from now on."""

    def drain(self) -> None:
        """Take nothing more, answer what is in hand, unload."""


@dataclass(frozen=True, slots=True)
class VersionUsage:
    """The instances of one version: how many there are, and how many of them prepare or run requests."""

    queue: Queue
    instances: int
    working: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostUsage:
    """What a host has: its versions, and the processes that run them.

    `ends` is how often such a process ended that was to go on; `memory_bytes` is what they have of their own.
    """

    versions: Sequence[VersionUsage]
    processes: int = 0
    ends: int = 0
    memory_bytes: int = 0

    @property
    def instances(self) -> int:
        """Those of all versions."""
        return sum(version.instances for version in self.versions)


def usage_of(queue: Queue, seats: Collection[Seat]) -> VersionUsage:
    """What the instances on these seats do."""
    return VersionUsage(queue, len(seats), sum(seat.status.is_working for seat in seats))


class ModelHost(Protocol):
    """Loads and runs versions. `loads_at_once` is how many loads are worth asking for at a time."""

    loads_at_once: int

    def start(self) -> None:
        """Get ready; called once, before anything is loaded."""

    def expect(self, versions: int) -> None:
        """Say how many versions there will be, before they are loaded."""

    def load(self, model: DesiredModel, version: int) -> "Future[ServedVersion]":
        """Load and warm up one version; the future's error is a `LoadError` where the model cannot be loaded."""

    def consumers(self) -> list[tuple[Queue, str]]:
        """The names that hold blocks whose leases are worth renewing now."""

    def usage(self) -> HostUsage:
        """What it has now; any thread may ask."""

    def check(self) -> None:
        """Look after the models; called with every heartbeat."""

    def drain(self) -> None:
        """Let every version finish what it has in hand, and take nothing more."""

    def join(self, ends: float) -> list[Queue]:
        """Wait until all has ended, until a time of `time.monotonic`; the queues of the versions that have not."""

    def close(self) -> None:
        """End what still runs."""


MakeHost = Callable[[HostContext], ModelHost]
