"""What is logged of a queue that does not answer: when it began, now and then that it goes on, and when it is over."""

import logging
import threading
import time
from collections.abc import Callable

_AGAIN_S = 30.0


class Outage:
    """Thins what several threads or tasks say of one queue. `clock` is a monotonic clock in seconds."""

    def __init__(
        self,
        log: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        *,
        what: str = "the queue",
        again_s: float = _AGAIN_S,
    ) -> None:
        self._log = log
        self._clock = clock
        self._what = what
        self._again_s = again_s
        self._lock = threading.Lock()
        self._since: float | None = None
        self._said_at = 0.0
        self._failures = 0

    def failed(self, error: Exception) -> None:
        """It did not answer: logged at the first time, and every half minute while that goes on."""
        with self._lock:
            now = self._clock()
            self._failures += 1
            if self._since is None:
                self._since = now
            elif now - self._said_at < self._again_s:
                return
            self._said_at = now
            extra = {"reason": str(error), "failures": self._failures, "since_s": round(now - self._since, 1)}
            self._log.warning("%s does not answer", self._what, extra=extra)

    def answered(self) -> None:
        """It answers. Logged where it did not before."""
        if self._since is None:  # almost always, and the lock is spared
            return
        with self._lock:
            if self._since is not None:
                extra = {"after_s": round(self._clock() - self._since, 1), "failures": self._failures}
                self._log.warning("%s answers again", self._what, extra=extra)
                self._since, self._failures = None, 0
