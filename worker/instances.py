"""The threads that serve one loaded version."""

import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from millrace.broker.base import Broker, WorkerLink
from millrace.broker.keys import Queue
from worker.claiming import Claiming
from worker.loop import Instance
from worker.model import Model

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Running:
    """An instance, its thread and the name under which it takes from its queue."""

    consumer: str
    instance: Instance
    thread: threading.Thread = field(init=False)
    is_stuck: bool = False


class Instances:
    """The running instances of one model version. `drain` and then `join` end them."""

    def __init__(self, model: Model, queue: Queue, running: list[_Running]) -> None:
        self.queue = queue
        self._model = model
        self._running = running

    @property
    def fault(self) -> str:
        """Why none of them can serve at present, "" where they can; stuck ones are known by what `renew` saw last."""
        if all(running.is_stuck for running in self._running):
            return "all its instances are stuck in their runs"
        return self._model.fault

    @property
    def are_alive(self) -> bool:
        """Whether any of them still runs."""
        return any(running.thread.is_alive() for running in self._running)

    def renew(self, link: WorkerLink) -> None:
        """Renew the leases of what is in hand, but for what a stuck instance holds: that is left to others."""
        for running in self._running:
            if self._is_at_work(running) and (holding := running.instance.holding):
                link.renew(self.queue, running.consumer, holding)

    def drain(self) -> None:
        """Let them end once what they have in hand is answered."""
        for running in self._running:
            running.instance.drain()

    def join(self, ends: float) -> bool:
        """Wait for them until a time of `time.monotonic`; whether all have ended."""
        for running in self._running:
            running.thread.join(max(0.0, ends - time.monotonic()))
        return not self.are_alive

    def _is_at_work(self, running: _Running) -> bool:
        """Whether its leases are worth renewing. Logs each change."""
        if running.instance.is_stuck != running.is_stuck:
            running.is_stuck = not running.is_stuck
            about = {"model": self.queue.model, "instance": running.thread.name}
            if running.is_stuck:
                _log.error("an instance is stuck: its model runs on after its callers' deadlines", extra=about)
            else:
                _log.warning("a stuck instance goes on", extra=about)
        return not running.is_stuck


class Crew:
    """Starts instances for one worker. `on_failure` is called, in the thread, when one ends by an error of ours."""

    def __init__(
        self,
        broker: Broker,
        link: WorkerLink,
        *,
        worker: str,
        instances: int,
        lease_ms: int,
        on_failure: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._clock = link.clock
        self._worker = worker
        self._instances = instances
        self._lease_ms = lease_ms
        self._on_failure = on_failure
        self._claiming = Claiming()
        self._numbers = itertools.count()  # no name comes twice: a consumer that leaves takes its name's blocks along

    def start(self, model: Model) -> Instances:
        """Serve the model from now on, in as many threads as its configuration says, else the worker's settings."""
        queue = Queue(model.announcement.name, model.announcement.version)
        return Instances(model, queue, [self._begin(model, queue) for _ in range(model.instances or self._instances)])

    def _begin(self, model: Model, queue: Queue) -> _Running:
        number = next(self._numbers)
        consumer = f"{self._worker}-{number}"
        instance = Instance(
            model,
            self._broker.consumer(queue, consumer),
            worker=self._worker,
            clock=self._clock,
            lease_ms=self._lease_ms,
            claiming=self._claiming,
        )
        running = _Running(consumer, instance)
        name = f"{queue.model}/{queue.version}-{number}"
        # A daemon: a model that never returns must not keep the process alive.
        running.thread = threading.Thread(target=self._serve, args=(instance,), name=name, daemon=True)
        running.thread.start()
        return running

    def _serve(self, instance: Instance) -> None:
        try:
            instance.run()
        except Exception:
            _log.exception("an instance failed; the worker ends")
            self._on_failure()
