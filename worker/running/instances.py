"""The threads that serve one loaded version in this process, and what they do at present."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from millrace.broker.base import Broker, BrokerClock
from millrace.broker.keys import Queue
from worker.loading.model import Model
from worker.running.demand import Demand
from worker.running.loop import Instance
from worker.running.quarantine import Quarantine
from worker.running.seats import Seat

_log = logging.getLogger(__name__)


class InstanceGroup:
    """Serves one version in threads of this process. `drain` and then `join` end them; it may start again.

    `on_end` is called when the last thread has ended, `on_failure` when one ends by an error of ours; both in that
    thread.
    """

    def __init__(
        self,
        model: Model,
        queue: Queue,
        broker: Broker,
        *,
        worker: str,
        clock: BrokerClock,
        lease_ms: int,
        quarantine: Quarantine,
        on_failure: Callable[[], None],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.queue = queue
        self.model = model
        self._broker = broker
        self._worker = worker
        self._clock = clock
        self._lease_ms = lease_ms
        self._quarantine = quarantine
        self._on_failure = on_failure
        self._on_end = on_end
        self._lock = threading.Lock()
        self._running: dict[str, tuple[Instance, threading.Thread]] = {}

    @property
    def is_alive(self) -> bool:
        """Whether any of the threads still runs."""
        return bool(self._running)

    def start(self, seats: Sequence[Seat]) -> None:
        """Serve in as many threads as there are seats."""
        demand = Demand(seats[0].status)
        for seat in seats:
            instance = Instance(
                self.model,
                self._broker.consumer(self.queue, seat.consumer),
                worker=self._worker,
                clock=self._clock,
                lease_ms=self._lease_ms,
                status=seat.status,
                quarantine=self._quarantine,
                demand=demand,
            )
            name = f"{self.queue.model}/{self.queue.version}-{seat.consumer.rpartition('-')[2]}"
            # A daemon: a model that never returns must not keep the process alive.
            thread = threading.Thread(target=self._serve, args=(seat.consumer, instance), name=name, daemon=True)
            self._running[seat.consumer] = (instance, thread)
        for _, thread in list(self._running.values()):
            thread.start()

    def drain(self) -> None:
        """Let them end once what they have in hand is answered."""
        for instance, _ in list(self._running.values()):
            instance.drain()

    def join(self, ends: float) -> bool:
        """Wait for them until a time of `time.monotonic`; whether all have ended."""
        for _, thread in list(self._running.values()):
            thread.join(max(0.0, ends - time.monotonic()))
        return not self.is_alive

    def _serve(self, consumer: str, instance: Instance) -> None:
        try:
            instance.run()
        except BaseException:
            _log.exception("an instance failed by an error of ours", extra={"model": self.queue.model})
            self._on_failure()
        with self._lock:
            del self._running[consumer]
            is_last = not self._running
        if is_last:
            self._on_end()
