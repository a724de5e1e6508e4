"""A worker's life: announce what it holds, follow what is wanted, drain, leave.

main thread   waits for `stop`, then drains
heartbeat     announces, renews leases, and brings what operators want
following     looks at the repository every `poll_s`, or at once when operators want something: loads, unloads
instances     serve (`instances.py`)
"""

import logging
import socket
import threading
import time
import uuid

from millrace.artifacts.configs import ConfigError
from millrace.artifacts.repository import RepositoryError
from millrace.broker.base import Broker
from millrace.broker.keys import Queue
from millrace.protocol.desired_state import DesiredStates
from millrace.protocol.errors import Unavailable
from millrace.protocol.messages import WorkerAnnouncement
from worker import model as models
from worker.backends.base import Device
from worker.catalogue import Catalogue, Wanted
from worker.instances import Crew
from worker.model import Model
from worker.settings import WorkerSettings
from worker.versions import HEARD_S, Versions

_log = logging.getLogger(__name__)
_HEARTBEAT_S = 0.5
_ANNOUNCED_FOR_MS = 2000


class Worker:
    """Runs the models of the repository, in the versions that are wanted. `run` returns after `stop`, from any thread.

    `has_failed` is true when an instance ended by an error of ours, or did not end in time; the process should then end
    with an error, too, so that whoever watches it starts another. `heard_s` is for how long a version that is unloaded
    goes on to serve those who have not heard of it.
    """

    def __init__(self, settings: WorkerSettings, broker: Broker, *, heard_s: float = HEARD_S) -> None:
        self.id = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self.has_failed = False
        self._settings = settings
        self._link = broker.worker()
        self._looking = broker.worker()
        self._stopping = threading.Event()
        self._left = threading.Event()
        self._news = threading.Event()
        self._orders = threading.Event()
        self._has_heard = threading.Event()
        self._catalogue = Catalogue(settings.models, settings.models_config)
        self._desired_states = DesiredStates()
        self._others: list[WorkerAnnouncement] = []
        self._complaint = ""
        crew = Crew(
            broker,
            self._link,
            worker=self.id,
            instances=settings.instances,
            lease_ms=settings.lease_ms,
            on_failure=self._fail,
        )
        self._versions = Versions(
            now_ms=self._link.clock.now_ms,
            load=self._load,
            start=crew.start,
            is_idle=self._is_idle,
            news=self._news.set,
            heard_s=heard_s,
        )

    def stop(self) -> None:
        """Tell `run` to drain and return."""
        self._stopping.set()
        self._orders.set()

    def run(self) -> None:
        """Load, serve until `stop`, drain. Raises `RepositoryError` or `ConfigError` where there is nothing to read."""
        if not self._catalogue.read({}):
            _log.error("no models in the repository", extra={"models": str(self._settings.models)})
        heartbeat = threading.Thread(target=self._beat, name="heartbeat")
        following = threading.Thread(target=self._follow, name="following", daemon=True)  # a load may never end
        heartbeat.start()
        following.start()
        try:
            self._stopping.wait()
        finally:
            self._leave(heartbeat, following)

    def _fail(self) -> None:
        self.has_failed = True
        self.stop()

    # Following what is wanted

    def _follow(self) -> None:
        self._has_heard.wait()  # or what is not wanted would be loaded first
        try:
            while not self._stopping.is_set():
                self._orders.clear()
                self._follow_once()
                self._orders.wait(self._settings.poll_s)
        except Exception:
            _log.exception("following what is wanted failed; the worker ends")
            self._fail()
        finally:
            self._looking.close()

    def _follow_once(self) -> None:
        desired_states = self._desired_states.by_model
        try:
            wanted = self._catalogue.read(desired_states)
        except (RepositoryError, ConfigError, OSError) as error:
            self._complain(str(error))
            return
        self._complain("")
        generations = {name: control.generation for name, control in desired_states.items()}
        self._versions.follow(wanted, generations, lambda: self._others)

    def _complain(self, complaint: str) -> None:
        """Log what is wrong with the repository, once; what serves goes on."""
        if complaint and complaint != self._complaint:
            _log.error("the repository cannot be read; all stays as it is", extra={"reason": complaint})
        self._complaint = complaint

    def _load(self, wanted: Wanted, version: int) -> Model:
        settings = self._settings
        return models.load(
            wanted.folder / str(version),
            wanted.name,
            version,
            device=Device(settings.device, settings.threads),
            backend=settings.backend,
            max_batch_size=settings.max_batch_size,
            config=wanted.config,
        )

    def _is_idle(self, queue: Queue) -> bool:
        return self._looking.block_count(queue) == 0

    # The heartbeat

    def _beat(self) -> None:
        try:
            self._beat_on()
        except Exception:
            _log.exception("the heartbeat failed; the worker ends")
            self._fail()
        finally:
            self._has_heard.set()
            self._link.close()

    def _beat_on(self) -> None:
        """Announce the models until told to stop, then take that back; renew leases until the last instance is done."""
        period_s = min(_HEARTBEAT_S, self._settings.lease_ms / 3000)
        is_announced = True
        while is_announced or not self._left.is_set():
            self._news.clear()
            try:
                if not self._stopping.is_set():
                    self._announce()
                elif is_announced:
                    is_announced = False
                    self._link.withdraw(self.id)
                self._renew()
            except Unavailable as error:
                _log.warning("the queue does not answer", extra={"reason": str(error)})
            self._has_heard.set()
            (self._left if self._stopping.is_set() else self._news).wait(period_s)

    def _renew(self) -> None:
        """Renew all leases; a method of its own, for a name left in `_beat` would keep a model that was unloaded."""
        for instances in self._versions.instances():
            instances.renew(self._link)

    def _announce(self) -> None:
        announced = self._versions.announcements()
        now_ms = int(self._link.clock.now_ms())
        everyone, desired_states = self._link.announce(
            WorkerAnnouncement(
                worker=self.id,
                sent_ms=now_ms,
                expires_ms=now_ms + _ANNOUNCED_FOR_MS,
                models=announced,
                generations=self._versions.generations,
            )
        )
        self._versions.told(announced)
        self._others = [worker for worker in everyone if worker.worker != self.id]
        known = self._desired_states.by_model
        self._desired_states.take(desired_states)
        if self._desired_states.by_model is not known:
            self._orders.set()
        if missing := self._desired_states.missing_from(desired_states):
            self._link.put_back(missing)

    def _leave(self, heartbeat: threading.Thread, following: threading.Thread) -> None:
        """Finish what was taken, while the heartbeat says that nothing new should be sent here."""
        self.stop()
        self._news.set()
        self._versions.close()
        for instances in self._versions.instances():
            instances.drain()
        ends = time.monotonic() + self._settings.drain_timeout_s
        following.join(self._settings.drain_timeout_s)
        if following.is_alive():
            _log.warning("a version is still being loaded")
        for instances in self._versions.instances():
            instances.drain()  # those, too, that were started in the last moment
            if not instances.join(ends):
                _log.error(
                    "a batch did not end in time; its requests are left to others",
                    extra={"model": instances.queue.model},
                )
                self.has_failed = True
        self._left.set()
        heartbeat.join()
        _log.info("stopped", extra={"worker": self.id})
