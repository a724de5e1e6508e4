"""A worker's life: announce what it holds, bring it to what is desired, drain.

main thread     waits for `stop`, then drains
heartbeat       announces, renews leases, looks after the models, and brings what operators wish
reconciling     looks at the repository every `poll_s`, or at once when operators wish something: loads, unloads
the host        has the models, here or in other processes (`hosts.py`): these serve, without a word from the worker
"""

import logging
import math
import socket
import threading
import time
import uuid
from pathlib import Path

from msgspec import structs

from millrace.artifacts.configs import ConfigError
from millrace.artifacts.repository import RepositoryError
from millrace.broker.base import Broker
from millrace.broker.keys import Queue
from millrace.outage import Outage
from millrace.protocol.desired_state import DesiredState, DesiredStates
from millrace.protocol.errors import Unavailable
from millrace.protocol.messages import ModelAnnouncement, WorkerAnnouncement
from worker.reconciling.catalogue import Catalogue
from worker.reconciling.files import Stillness
from worker.reconciling.hosts import HostContext, HostUsage, MakeHost
from worker.reconciling.versions import UNLOAD_GRACE_S, Versions
from worker.settings import WorkerSettings

_log = logging.getLogger(__name__)
_HEARTBEAT_S, _SHORTEST_HEARTBEAT_S = 0.5, 0.02
_SHARE = 9  # a heartbeat because of news takes a tenth of the time at most
_ANNOUNCED_FOR_MS = 2000
_LEAVING = "its worker stops"
_STILL_S = 1.0  # for so long files must stay as they are before they count as whole, where they are new
_LAST_WORDS_S = 1.0  # for the heartbeat to end, once all models have


class Worker:
    """Runs the models of the repository, in the versions that are desired. `run` returns after `stop`, from any thread.

    `make_host` makes what the models live in. `has_failed` is true when something ended by an error of ours, or did not
    end in time; the process should then end with an error, too, so that whoever watches it starts another.
    """

    def __init__(
        self, settings: WorkerSettings, broker: Broker, make_host: MakeHost, *, unload_grace_s: float = UNLOAD_GRACE_S
    ) -> None:
        self.id = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self.has_failed = False
        self._settings = settings
        self._link = broker.worker()
        self._queues = broker.worker()
        self._stopping = threading.Event()
        self._is_drained = threading.Event()
        self._has_changed = threading.Event()
        self._must_reconcile = threading.Event()
        self._knows_desired_states = threading.Event()
        self._catalogue = Catalogue(Path(settings.models), settings.models_config)
        self._desired_states = DesiredStates(self._link.clock.now_ms)
        self._others: list[WorkerAnnouncement] = []
        self._catalogue_error = ""
        self._outage = Outage(_log)
        self._host = make_host(
            HostContext(worker=self.id, clock=self._link.clock, on_change=self._has_changed.set, on_failure=self._fail)
        )
        self._versions = Versions(
            now_ms=self._link.clock.now_ms,
            load=self._host.load,
            loads_at_once=lambda: self._host.loads_at_once,
            is_idle=self._is_idle,
            on_change=self._has_changed.set,
            unload_grace_s=unload_grace_s,
            stillness=Stillness(min(settings.poll_s, _STILL_S)),
        )

    def usage(self) -> HostUsage:
        """What its models take and do now; any thread may ask."""
        return self._host.usage()

    def stop(self) -> None:
        """Tell `run` to drain and return."""
        self._stopping.set()
        self._must_reconcile.set()

    def versions_in_use(self) -> set[tuple[str, int]]:
        """The versions that this worker or another holds, or that operators name. Waits until those are known."""
        self._knows_desired_states.wait()
        announced = (self._versions.announcements(), *(worker.models for worker in self._others))
        held = {(model.name, model.version) for models in announced for model in models if model.state != "END"}
        states = self._desired_states.by_model.items()
        return held | {(name, version) for name, state in states for version in _named(state)}

    def run(self) -> None:
        """Load, serve until `stop`, drain. Raises `RepositoryError` or `ConfigError` where there is nothing to read."""
        self._host.start()
        try:
            if not self._catalogue.read({}):
                _log.error("no models in the repository", extra={"models": str(self._settings.models)})
            self._serve()
        finally:
            self._host.close()
        _log.info("stopped", extra={"worker": self.id})

    def _serve(self) -> None:
        # Daemons: a load, or a queue that is out of reach, must not keep the process.
        heartbeat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        reconciling = threading.Thread(target=self._reconcile, name="reconciling", daemon=True)
        heartbeat.start()
        reconciling.start()
        try:
            self._stopping.wait()
        finally:
            self._drain(heartbeat, reconciling)

    def _fail(self) -> None:
        self.has_failed = True
        self.stop()

    def _drain(self, heartbeat: threading.Thread, reconciling: threading.Thread) -> None:
        """Finish what was taken, while the heartbeat says that nothing new should be sent here."""
        ends = time.monotonic() + self._settings.drain_timeout_s
        self.stop()
        self._has_changed.set()
        self._versions.close()
        self._host.drain()
        reconciling.join(max(0.0, ends - time.monotonic()))
        if reconciling.is_alive():
            _log.warning("a version is still being loaded")
        self._host.drain()  # those, too, that were started in the last moment
        for queue in self._host.join(ends):
            _log.error("a batch did not end in time; its requests are left to others", extra={"model": queue.model})
            self.has_failed = True
        self._is_drained.set()
        heartbeat.join(_LAST_WORDS_S)

    # Reconciling

    def _reconcile(self) -> None:
        self._knows_desired_states.wait()  # or what is not desired would be loaded first
        try:
            while not self._stopping.is_set():
                self._must_reconcile.clear()
                self._reconcile_once()
                self._must_reconcile.wait(min(self._settings.poll_s, _STILL_S if self._versions.waits else math.inf))
        except Exception:
            _log.exception("reconciling what is here with what is desired failed; the worker ends")
            self._fail()
        finally:
            self._queues.close()

    def _reconcile_once(self) -> None:
        desired_states = self._desired_states.by_model
        try:
            desired = self._catalogue.read(desired_states)
        except (RepositoryError, ConfigError, OSError) as error:
            self._log_catalogue_error(str(error))
            return
        self._log_catalogue_error("")
        self._host.expect(sum(len(model.versions()) for model in desired.values() if model.is_loaded))
        generations = {name: state.generation for name, state in desired_states.items()}
        self._versions.reconcile(desired, generations, lambda: self._others)

    def _log_catalogue_error(self, error: str) -> None:
        """Log what is wrong with the repository, once; what serves goes on."""
        if error and error != self._catalogue_error:
            _log.error("the repository cannot be read; all stays as it is", extra={"reason": error})
        self._catalogue_error = error

    def _is_idle(self, queue: Queue) -> bool:
        return self._queues.block_count(queue) == 0

    # The heartbeat

    def _beat(self) -> None:
        try:
            self._beat_on()
        except Exception:
            _log.exception("the heartbeat failed; the worker ends")
            self._fail()
        finally:
            self._knows_desired_states.set()
            self._link.close()

    def _beat_on(self) -> None:
        """Announce the models until told to stop, then what is still worked on; renew leases meanwhile."""
        period_s = min(_HEARTBEAT_S, self._settings.lease_ms / 3000)
        leaving: list[ModelAnnouncement] | None = None
        is_over = False
        while not is_over:
            self._has_changed.clear()
            began = time.monotonic()
            is_over = self._is_drained.is_set()
            try:
                if not self._stopping.is_set():
                    self._announce()
                elif is_over:
                    self._link.withdraw(self.id)
                else:
                    leaving = self._announce_leaving(leaving)
                self._host.check()
                self._link.renew(self._host.consumers())
                self._outage.answered()
            except Unavailable as error:
                self._outage.failed(error)
            self._knows_desired_states.set()
            self._pause(period_s, shortest_s=max(_SHORTEST_HEARTBEAT_S, _SHARE * (time.monotonic() - began)))

    def _pause(self, period_s: float, shortest_s: float) -> None:
        """Until the next heartbeat: sooner where there is news, but not at once, for more may come with it."""
        if self._stopping.is_set():
            self._is_drained.wait(period_s)
        elif self._has_changed.wait(period_s):
            self._stopping.wait(min(shortest_s, period_s))

    def _announce_leaving(self, models: list[ModelAnnouncement] | None) -> list[ModelAnnouncement]:
        """Say that nothing new should be sent here, and which models still work on something; returns these.

        `models` are those that did the last time, None at the first time: then all may.
        """
        if models is None:
            served = [model for model in self._versions.announcements() if model.state in ("AVAILABLE", "UNLOADING")]
            models = [ModelAnnouncement(name=m.name, version=m.version, state="END", error=_LEAVING) for m in served]
        else:
            busy = {queue for queue, _ in self._host.consumers()}
            models = [model for model in models if Queue(model.name, model.version) in busy]
        self._link.announce(structs.replace(self._announcement(tuple(models)), is_leaving=True))
        return models

    def _announcement(self, models: tuple[ModelAnnouncement, ...]) -> WorkerAnnouncement:
        now_ms = int(self._link.clock.now_ms())
        return WorkerAnnouncement(
            worker=self.id,
            sent_ms=now_ms,
            expires_ms=now_ms + _ANNOUNCED_FOR_MS,
            models=models,
            generations=self._versions.generations,
        )

    def _announce(self) -> None:
        announced = self._versions.announcements()
        everyone, desired_states = self._link.announce(self._announcement(announced))
        self._versions.reported(announced)
        self._others = [worker for worker in everyone if worker.worker != self.id and not worker.is_leaving]
        known = self._desired_states.by_model
        self._desired_states.take(desired_states)
        self._desired_states.forget()
        if self._desired_states.by_model is not known:
            self._must_reconcile.set()
        if missing := self._desired_states.missing_from(desired_states):
            self._link.put_back(missing)


def _named(state: DesiredState) -> set[int]:
    """The versions that an operator's document names."""
    return {*state.pinned, *(state.policy.specific if state.policy else ())}
