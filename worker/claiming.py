"""Whose turn it is to take over the blocks of workers that died."""

import threading
import time
from collections.abc import Callable


class Claiming:
    """The instances of one worker take turns to claim blocks and to run them.

    A block that ends the process would otherwise be counted up together with what another instance claimed meanwhile.
    A turn ends after `for_s` at the latest: its run may never end.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._holder: object = None
        self._ends = 0.0

    def take(self, holder: object, for_s: float) -> bool:
        """Take the turn, or keep it; False while it is another's."""
        with self._lock:
            now = self._monotonic()
            if self._holder not in (None, holder) and now < self._ends:
                return False
            self._holder, self._ends = holder, now + for_s
            return True

    def leave(self, holder: object) -> None:
        """Give the turn up; does nothing when it is another's."""
        with self._lock:
            if self._holder is holder:
                self._holder = None
