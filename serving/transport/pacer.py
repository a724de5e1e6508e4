"""Work that callers can make large, done in small pieces, so that the event loop serves the others in between."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

_TURN_S = 0.001


class Pacer:
    """Runs pieces of work one after the other, for no more than a millisecond in each turn of the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pieces: deque[Callable[[], None]] = deque()
        self._is_scheduled = False

    def add(self, piece: Callable[[], None]) -> None:
        """Run the piece in a later turn of the loop. It must be short, and may add the next one."""
        self._pieces.append(piece)
        if not self._is_scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._is_scheduled = True
        self._loop.call_soon(self._run)

    def _run(self) -> None:
        ends = time.perf_counter() + _TURN_S  # the loop's own clock stands still within a turn
        try:
            while self._pieces:
                self._pieces.popleft()()
                if time.perf_counter() > ends:
                    break
        finally:  # the others go on, even where one failed, of which the loop tells
            self._is_scheduled = False
            if self._pieces:
                self._schedule()
