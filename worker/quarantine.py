"""Who may work when a block may end the process: suspects each alone, everything else side by side."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Quarantine:
    """Shared by the instances of one process. If the process ends while a suspect works, the suspect is to blame.

    After each suspect, those that wait to work side by side come first, so that a long row of suspects stops nobody.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = 0
        self._is_alone = False
        self._waiting = 0
        self._waiting_alone = 0
        self._admitted = 0

    @property
    def waiting(self) -> int:
        """How many wait to work side by side."""
        return self._waiting

    @contextmanager
    def together(self) -> Iterator[None]:
        """Work beside others, while no suspect works or waits to."""
        with self._changed:
            if self._is_alone or self._waiting_alone:
                self._wait_together()
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Work while nobody else does."""
        with self._changed:
            self._waiting_alone += 1
            self._changed.wait_for(lambda: not (self._together or self._is_alone or self._admitted))
            self._waiting_alone -= 1
            self._is_alone = True
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._admitted = self._waiting
                self._changed.notify_all()

    def _wait_together(self) -> None:
        self._waiting += 1
        self._changed.wait_for(lambda: self._admitted or not (self._is_alone or self._waiting_alone))
        self._waiting -= 1
        self._admitted = max(0, self._admitted - 1)
