"""A worker's life: load the models, announce them, run their instances, drain, leave."""

import logging
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field

import msgspec

from millrace.artifacts.repository import ModelRepository
from millrace.broker.base import Broker
from millrace.broker.keys import Queue
from millrace.protocol.errors import Unavailable
from millrace.protocol.messages import ModelAnnouncement, WorkerAnnouncement
from worker import model as models
from worker.backends.base import Device, LoadError
from worker.loop import Claiming, Instance
from worker.model import Model
from worker.settings import WorkerSettings

_log = logging.getLogger(__name__)
_HEARTBEAT_S = 0.5
_ANNOUNCED_FOR_MS = 2000


@dataclass(slots=True)
class _Running:
    """An instance, its thread and the name under which it takes from its queue."""

    queue: Queue
    consumer: str
    instance: Instance
    thread: threading.Thread = field(init=False)
    is_stuck: bool = False


class Worker:
    """Runs the newest version of every model in the repository. `run` returns after `stop`, which any thread may call.

    `has_failed` is true when an instance ended by an error of ours, or did not end in time; the process should then end
    with an error, too, so that whoever watches it starts another.
    """

    def __init__(self, settings: WorkerSettings, broker: Broker) -> None:
        self._settings = settings
        self._broker = broker
        self._link = broker.worker()
        self._announcements: dict[str, ModelAnnouncement] = {}
        self._running: list[_Running] = []
        self._stopping = threading.Event()
        self._left = threading.Event()
        self._claiming = Claiming()
        self.id = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self.has_failed = False

    def stop(self) -> None:
        """Tell `run` to drain and return."""
        self._stopping.set()

    def run(self) -> None:
        """Load, serve until `stop`, drain. Raises `RepositoryError` where there is no repository."""
        found = ModelRepository(self._settings.models).models()
        if not found:
            _log.error("no models in the repository", extra={"models": str(self._settings.models)})
        for name, versions in found.items():
            self._announcements[name] = ModelAnnouncement(name=name, version=versions[-1], state="LOADING")
        heartbeat = threading.Thread(target=self._beat, name="heartbeat")
        heartbeat.start()
        try:
            for name in found:
                if not self._stopping.is_set():
                    self._load(name)
            self._stopping.wait()
        finally:
            self._leave(heartbeat)

    def _load(self, name: str) -> None:
        settings, version = self._settings, self._announcements[name].version
        started = time.perf_counter()
        try:
            model = models.load(
                ModelRepository(settings.models).folder(name, version),
                name,
                version,
                device=Device(settings.device, settings.threads),
                backend=settings.backend,
                max_batch_size=settings.max_batch_size,
            )
        except Exception as error:  # a broken version must not take the others with it
            is_ours = not isinstance(error, LoadError)
            _log.error(
                "a model failed to load",
                extra={"model": name, "version": version, "reason": str(error)},
                exc_info=is_ours,
            )
            self._announcements[name] = ModelAnnouncement(name=name, version=version, state="END", error=str(error))
            return
        self._start(model)
        self._announcements[name] = model.announcement
        _log.info(
            "loaded a model",
            extra={
                "model": name,
                "version": version,
                "platform": model.announcement.platform,
                "duration_ms": round((time.perf_counter() - started) * 1000),
            },
        )

    def _start(self, model: Model) -> None:
        queue = Queue(model.announcement.name, model.announcement.version)
        for number in range(self._settings.instances):
            consumer = f"{self.id}-{number}"
            instance = Instance(
                model,
                self._broker.consumer(queue, consumer),
                worker=self.id,
                clock=self._link.clock,
                lease_ms=self._settings.lease_ms,
                claiming=self._claiming,
            )
            running = _Running(queue, consumer, instance)
            name = f"{queue.model}-{number}"  # a daemon: a model that never returns must not keep the process alive
            running.thread = threading.Thread(target=self._serve, args=(instance,), name=name, daemon=True)
            self._running.append(running)
            running.thread.start()

    def _serve(self, instance: Instance) -> None:
        try:
            instance.run()
        except Exception:
            _log.exception("an instance failed; the worker ends")
            self.has_failed = True
            self._stopping.set()

    def _beat(self) -> None:
        """Announce the models until told to stop, then take that back; renew leases until the last instance is done."""
        period_s = min(_HEARTBEAT_S, self._settings.lease_ms / 3000)
        is_announced = True
        while is_announced or not self._left.is_set():
            try:
                if not self._stopping.is_set():
                    self._announce()
                elif is_announced:
                    is_announced = False
                    self._link.withdraw(self.id)
                for running in list(self._running):
                    if self._is_at_work(running) and (holding := running.instance.holding):
                        self._link.renew(running.queue, running.consumer, holding)
            except Unavailable as error:
                _log.warning("the queue does not answer", extra={"reason": str(error)})
            (self._left if self._stopping.is_set() else self._stopping).wait(period_s)
        self._link.close()

    def _is_at_work(self, running: _Running) -> bool:
        """Whether its leases are worth renewing: what a stuck instance holds is left to others. Logs each change."""
        if running.instance.is_stuck != running.is_stuck:
            running.is_stuck = not running.is_stuck
            about = {"model": running.queue.model, "instance": running.thread.name}
            if running.is_stuck:
                _log.error("an instance is stuck: its model runs on after its callers' deadlines", extra=about)
            else:
                _log.warning("a stuck instance goes on", extra=about)
        return not running.is_stuck

    def _announce(self) -> None:
        expires_ms = int(self._link.clock.now_ms()) + _ANNOUNCED_FOR_MS
        everything = tuple(self._now(announcement) for announcement in self._announcements.values())
        self._link.announce(WorkerAnnouncement(worker=self.id, expires_ms=expires_ms, models=everything))

    def _now(self, announcement: ModelAnnouncement) -> ModelAnnouncement:
        """The announcement of a model, or that none of its instances can serve it now."""
        stuck = [running.is_stuck for running in self._running if running.queue.model == announcement.name]
        if announcement.state == "AVAILABLE" and stuck and all(stuck):
            return msgspec.structs.replace(announcement, state="END", error="all its instances are stuck in their runs")
        return announcement

    def _leave(self, heartbeat: threading.Thread) -> None:
        """Finish what was taken, while the heartbeat says that nothing new should be sent here."""
        self._stopping.set()
        for running in self._running:
            running.instance.drain()
        ends = time.monotonic() + self._settings.drain_timeout_s
        for running in self._running:
            running.thread.join(max(0.0, ends - time.monotonic()))
            if running.thread.is_alive():
                _log.error(
                    "a batch did not end in time; its requests are left to others", extra={"model": running.queue.model}
                )
                self.has_failed = True
        self._left.set()
        heartbeat.join()
        _log.info("stopped", extra={"worker": self.id})
