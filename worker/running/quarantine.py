"""Who may work when a block may end the process: suspects each alone, everything else side by side."""

import threading


class Quarantine:
    """Shared by the instances of one process. If the process ends while a suspect works, the suspect is to blame.

    Both `together` and `alone` are for `with`: work beside others, while no suspect works or waits to; and work while
    nobody else does. After each suspect, those that wait to work side by side come first, so that a long row of
    suspects stops nobody.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._together = 0
        self._is_alone = False
        self._waiting = 0
        self._waiting_alone = 0
        self._admitted = 0
        self.together = _Together(self)
        self.alone = _Alone(self)

    @property
    def waiting(self) -> int:
        """How many wait to work side by side."""
        return self._waiting

    @property
    def suspects_waiting(self) -> int:
        """How many wait to work alone."""
        return self._waiting_alone

    def enter_together(self) -> None:
        """See `together`."""
        with self._changed:
            if self._is_alone or self._waiting_alone:
                self._waiting += 1
                self._changed.wait_for(lambda: self._admitted or not (self._is_alone or self._waiting_alone))
                self._waiting -= 1
                self._admitted = max(0, self._admitted - 1)
            self._together += 1

    def leave_together(self) -> None:
        """See `together`."""
        with self._changed:
            self._together -= 1
            if self._waiting_alone:
                self._changed.notify_all()

    def enter_alone(self) -> None:
        """See `alone`."""
        with self._changed:
            self._waiting_alone += 1
            self._changed.wait_for(lambda: not (self._together or self._is_alone or self._admitted))
            self._waiting_alone -= 1
            self._is_alone = True

    def leave_alone(self) -> None:
        """See `alone`."""
        with self._changed:
            self._is_alone = False
            self._admitted = self._waiting
            self._changed.notify_all()


class _Together:
    def __init__(self, quarantine: Quarantine) -> None:
        self._quarantine = quarantine

    def __enter__(self) -> None:
        self._quarantine.enter_together()

    def __exit__(self, *_: object) -> None:
        self._quarantine.leave_together()


class _Alone:
    def __init__(self, quarantine: Quarantine) -> None:
        self._quarantine = quarantine

    def __enter__(self) -> None:
        self._quarantine.enter_alone()

    def __exit__(self, *_: object) -> None:
        self._quarantine.leave_alone()
