"""Models in the worker's own process: for tests and for embedding. One that crashes takes everything with it."""

import itertools
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future

from msgspec import structs

from millrace.broker.base import Broker
from millrace.broker.keys import Queue
from millrace.protocol.messages import ModelAnnouncement
from worker.backends.base import Device
from worker.loading import model as models
from worker.reconciling.catalogue import DesiredModel
from worker.reconciling.hosts import HostContext, HostUsage, ServedVersion, usage_of
from worker.running.instances import InstanceGroup
from worker.running.quarantine import Quarantine
from worker.running.seats import Seat, are_renewed, held_by
from worker.running.status import InstanceStatus
from worker.settings import WorkerSettings

_log = logging.getLogger(__name__)


class LocalVersion:
    """A version that is served by threads of this process."""

    def __init__(self, group: InstanceGroup, seats: list[Seat], lease_ms: int, on_end: Callable[[], None]) -> None:
        self.queue = group.queue
        self.seats = seats
        self._group = group
        self._announcement = structs.replace(group.model.announcement, instances=len(seats))
        self._lease_ms = lease_ms
        self._on_end = on_end
        self._stuck: frozenset[str] = frozenset()

    @property
    def announcement(self) -> ModelAnnouncement:
        """See `ServedVersion`."""
        return self._announcement

    @property
    def fault(self) -> str:
        """See `ServedVersion`. Whether instances are stuck is known by the last `check`."""
        if self.seats and len(self._stuck) == len(self.seats):
            return "all its instances are stuck in their runs"
        return self._group.model.fault

    @property
    def is_alive(self) -> bool:
        """See `ServedVersion`."""
        return self._group.is_alive

    def serve(self) -> None:
        """See `ServedVersion`."""
        self._group.start(self.seats)

    def drain(self) -> None:
        """See `ServedVersion`."""
        if not self._group.is_alive:
            self._on_end()
        self._group.drain()

    def join(self, ends: float) -> bool:
        """Wait for its threads; whether all have ended."""
        return self._group.join(ends)

    def check(self, now_ms: float) -> None:
        """Log each instance that gets stuck, or goes on after all."""
        stuck = frozenset(seat.consumer for seat in self.seats if seat.status.overdue_ms(now_ms) > self._lease_ms)
        about = {"model": self.queue.model}
        for consumer in stuck - self._stuck:
            _log.error(
                "an instance is stuck: its model works on after its callers' deadlines",
                extra={**about, "instance": consumer},
            )
        for consumer in self._stuck - stuck:
            _log.warning("a stuck instance goes on", extra={**about, "instance": consumer})
        self._stuck = stuck

    def consumers(self, now_ms: float) -> list[tuple[Queue, str]]:
        """The names of the instances that are not stuck: only these, for a thread cannot be ended."""
        fine = [seat for seat in self.seats if seat.consumer not in self._stuck]
        is_worth_it = are_renewed(fine, now_s=time.monotonic(), now_ms=now_ms, lease_ms=self._lease_ms)
        return held_by(self.queue, fine) if is_worth_it else []


class LocalHost:
    """Serves every version in threads of this process."""

    loads_at_once = 1

    def __init__(self, settings: WorkerSettings, broker: Broker, context: HostContext) -> None:
        self._settings = settings
        self._broker = broker
        self._context = context
        self._quarantine = Quarantine()
        self._numbers = itertools.count()  # no name comes twice: a consumer that leaves takes its name's blocks along
        self._versions: list[LocalVersion] = []

    def start(self) -> None:
        """See `ModelHost`."""

    def expect(self, versions: int) -> None:
        """See `ModelHost`."""

    def load(self, model: DesiredModel, version: int) -> "Future[ServedVersion]":
        """See `ModelHost`. It is loaded when this returns."""
        future: Future[ServedVersion] = Future()
        try:
            future.set_result(self._loaded(model, version))
        except Exception as error:
            future.set_exception(error)
        return future

    def consumers(self) -> list[tuple[Queue, str]]:
        """See `ModelHost`."""
        now_ms = self._context.clock.now_ms()
        return [consumer for version in list(self._versions) for consumer in version.consumers(now_ms)]

    def usage(self) -> HostUsage:
        """See `ModelHost`."""
        return HostUsage(versions=[usage_of(version.queue, version.seats) for version in list(self._versions)])

    def check(self) -> None:
        """See `ModelHost`."""
        now_ms = self._context.clock.now_ms()
        for version in list(self._versions):
            version.check(now_ms)

    def drain(self) -> None:
        """See `ModelHost`."""
        for version in list(self._versions):
            version.drain()

    def join(self, ends: float) -> list[Queue]:
        """See `ModelHost`."""
        return [version.queue for version in list(self._versions) if not version.join(ends)]

    def close(self) -> None:
        """See `ModelHost`. Threads cannot be ended; they end with the process."""

    def _loaded(self, desired: DesiredModel, version: int) -> LocalVersion:
        settings = self._settings
        model = models.load(
            desired.version_folder(version),
            desired.name,
            version,
            device=Device.named(settings.device, settings.threads, settings.gpu_memory_mb, tf32=settings.gpu_tf32),
            backend=settings.backend,
            max_batch_size=settings.max_batch_size,
            config=desired.config,
        )
        served: LocalVersion

        def end() -> None:
            if served in self._versions:
                self._versions.remove(served)
                model.close()

        group = InstanceGroup(
            model,
            Queue(desired.name, version),
            self._broker,
            worker=self._context.worker,
            clock=self._context.clock,
            lease_ms=settings.lease_ms,
            quarantine=self._quarantine,
            on_failure=self._context.on_failure,
            on_end=end,
        )
        count = model.instances or settings.instances
        seats = [Seat(f"{self._context.worker}-{next(self._numbers)}", InstanceStatus()) for _ in range(count)]
        served = LocalVersion(group, seats, settings.lease_ms, end)
        self._versions.append(served)
        return served
