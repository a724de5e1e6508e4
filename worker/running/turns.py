"""Which instances may have bulk in hand: all of them, but while callers use the model, one stays free for these."""

import threading
import time
from collections.abc import Callable

_CALLERS_STAY_S = 1.0  # for so long after their last request they are thought to go on


class BulkTurns:
    """Shared by the instances of one model in one process; any of them may call. A lone instance always may."""

    def __init__(self, instances: int = 1, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._most_beside_callers = max(1, instances - 1)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._taken = 0
        self._callers_until: float | None = None

    def callers_came(self) -> None:
        """Note that callers use the model now."""
        self._callers_until = self._monotonic() + _CALLERS_STAY_S

    @property
    def has_callers(self) -> bool:
        """Whether callers use the model."""
        return self._callers_until is not None and self._monotonic() < self._callers_until

    def begin(self) -> bool:
        """Whether an instance may take bulk now; then `end` must follow."""
        with self._lock:
            if self.has_callers and self._taken >= self._most_beside_callers:
                return False
            self._taken += 1
            return True

    def end(self) -> None:
        """It has no bulk in hand any more, or took none."""
        with self._lock:
            self._taken -= 1
