"""The broker's time, as one process knows it.

A process asks the broker for its time with each heartbeat. The answer was true at some moment between sending the
question and reading the answer. So each sample gives an interval for the offset between the broker's clock and ours:
the middle of the round trip, give or take half of it. The narrowest interval is kept. It widens with its age, since
clocks drift.
"""

import time
from collections.abc import Callable

Clock = Callable[[], float]  # seconds since any fixed moment; only forwards
_DRIFT = 5e-4  # by which two clocks may differ in speed; the fastest correction that NTP makes


class BrokerClock:
    """The broker's time in milliseconds since 1970, reckoned from a clock of ours that no correction moves.

    Before the first sample it is a guess by the machine's time of day.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.read = clock
        self.is_set = False
        self._offset_ms = time.time() * 1000 - clock() * 1000
        self._error_ms = 0.0
        self._sampled_s = 0.0

    def sample(self, broker_ms: float, sent_s: float, received_s: float) -> None:
        """Say that the broker told this time in answer to a question; the other two are times of our clock.

        A sample that cannot be true together with the one that is kept means that the broker's clock was set: it wins.
        """
        error_ms = (received_s - sent_s) * 500
        offset_ms = broker_ms - (sent_s + received_s) * 500
        kept_ms = self._error_ms + (received_s - self._sampled_s) * 1000 * _DRIFT
        if not self.is_set or error_ms <= kept_ms or abs(offset_ms - self._offset_ms) > error_ms + kept_ms:
            self._offset_ms, self._error_ms, self._sampled_s, self.is_set = offset_ms, error_ms, received_s, True

    def now_ms(self) -> float:
        """The broker's time now."""
        return self.read() * 1000 + self._offset_ms
