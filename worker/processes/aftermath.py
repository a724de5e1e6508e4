"""What the queue must be told when a model process has ended, in a thread of its own: the queue may be out of reach."""

import logging
import queue
import threading
from collections.abc import Callable

from millrace.broker.base import WorkerLink
from millrace.protocol.errors import Unavailable

_log = logging.getLogger(__name__)
_RETRY_S = 0.25


class Aftermath:
    """Does what it is given, in order, and again until the queue was told. `close` gives up what is left in the end."""

    def __init__(self, link: WorkerLink) -> None:
        self._link = link
        self._tasks: queue.SimpleQueue[Callable[[WorkerLink], None] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aftermath", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def add(self, task: Callable[[WorkerLink], None]) -> None:
        """Have it done soon; it may be done twice."""
        self._tasks.put(task)

    def close(self, within_s: float) -> None:
        """Do what is left, at most for so long."""
        self._tasks.put(None)
        if self._thread.is_alive():
            self._thread.join(within_s)
        self._closing.set()

    def _run(self) -> None:
        while task := self._tasks.get():
            while not self._closing.is_set():
                try:
                    task(self._link)
                    break
                except Unavailable as error:
                    _log.warning("the queue does not answer", extra={"reason": str(error)})
                    self._closing.wait(_RETRY_S)
        self._link.close()
