"""When a process that ended is started again."""

FIRST_S = 0.1
MOST_S = 30.0
QUIET_S = 60.0


class RestartDelays:
    """The delays before one process is started again: 0.1 s at first, twice as long each time, 30 s at most.

    After a minute without an end the next delay is 0.1 s again. Times are seconds of one monotonic clock, passed in.
    """

    def __init__(self) -> None:
        self._next_s = FIRST_S
        self._started = 0.0

    def started(self, now: float) -> None:
        """The process was started."""
        self._started = now

    def ended(self, now: float) -> float:
        """The process has ended; the seconds until it is to be started again."""
        delay_s = FIRST_S if now - self._started >= QUIET_S else self._next_s
        self._next_s = min(2 * delay_s, MOST_S)
        return delay_s
