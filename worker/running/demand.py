"""Whether a version's first instance keeps up; while it does, the others leave the queue and the processors alone.

The instances of a version are threads of one process. Where runs are short, two of them make smaller batches than one,
wait for one another's Python, and take the processor that the API needs. So the first serves alone, until

- it falls behind: mostly several blocks wait when it takes the next, or they fill a batch;
- runs are long, so that whoever comes during one would wait for it;
- it has had blocks in hand for longer than that.

Then all of them take, and go on until none of it was so for a second.
"""

import threading
import time
from collections.abc import Callable

from worker.running.status import InstanceStatus

_LONG_S = 0.005  # what is in hand for so long, on average, is better shared
_WEIGHT = 1 / 8  # of the last time in that average
_BEHIND = 24  # takes of several blocks more than of one: no accident; three blocks that fill a batch are none either
_FULL = 8
_CALM_S = 1.0
_LOOK_S = 0.25  # how often the others look at the first


class Demand:
    """What the instances of one version note of their blocks; `first` is the status of the first instance.

    For any thread. `monotonic` is the clock that the status has.
    """

    def __init__(self, first: InstanceStatus, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._first = first
        self._monotonic = monotonic
        self._high = threading.Event()
        self._calm_at = 0.0
        self._behind = 0
        self._seconds = 0.0

    @property
    def is_high(self) -> bool:
        """Whether all instances should take."""
        return self._high.is_set()

    def calls(self, status: InstanceStatus) -> bool:
        """Whether the instance with that status should take, as the first always should."""
        return status is self._first or self.is_high

    def note(self, blocks: int, seconds: float, *, is_full: bool) -> None:
        """So many blocks were taken at once and served in that time; whether they filled a batch."""
        step = 1 if blocks > 1 else _FULL if is_full else -1
        self._behind = min(_BEHIND, max(0, self._behind + step))
        self._seconds += _WEIGHT * (seconds - self._seconds)
        if self._behind == _BEHIND or self._seconds > _LONG_S:
            self._calm_at = self._monotonic() + _CALM_S
            self._high.set()
        elif self._high.is_set() and self._monotonic() > self._calm_at:
            self._high.clear()

    def wait(self, status: InstanceStatus) -> bool:
        """Whether the instance with that status should take; where it should not, it has waited for a moment.

        One that takes what the first does not, such as bulk, always should.
        """
        if not set(status.takes) <= set(self._first.takes) or self._is_held_up():
            return True
        return self._high.wait(_LOOK_S) or self._is_held_up()

    def _is_held_up(self) -> bool:
        return not self._first.is_idle and self._monotonic() - self._first.since_s > _LOOK_S
