"""Medium requests on their way into the queue: a few megabytes of them at a time.

The group commit writes all that waits in one turn of the event loop. Sixty requests of a megabyte each would make that
a long turn, in which nobody else is served. So they wait here until those before them are in the queue. Small requests
do not come here; large ones of many blocks are sent block by block anyway.
"""

import asyncio
from collections import deque
from collections.abc import Callable

SMALL_BYTES = 65_536
LARGE_BYTES = 2 * 2**20
_WINDOW_BYTES = 4 * 2**20


class Place:
    """One request's place: it waits, then it is under way, until `leave`."""

    __slots__ = ("_timer", "_window", "is_under_way", "size", "start")

    def __init__(self, window: "SendWindow", size: int, start: Callable[[], None]) -> None:
        self._window = window
        self._timer: asyncio.TimerHandle | None = None
        self.size = size
        self.start: Callable[[], None] | None = start
        self.is_under_way = False

    def wait(self, timeout_s: float, on_late: Callable[[], None]) -> None:
        """Wait at most so long; then `on_late` is called, which leaves."""
        self._timer = asyncio.get_running_loop().call_later(max(0.0, timeout_s), on_late)

    def go(self) -> None:
        """Begin to be under way."""
        start, self.start = self.start, None
        self._stop_waiting()
        self.is_under_way = True
        if start:
            start()

    def leave(self) -> None:
        """It is in the queue, or will not go there. Leaving again does nothing."""
        self._stop_waiting()
        self.start = None
        if self.is_under_way:
            self.is_under_way = False
            self._window.left(self.size)

    def _stop_waiting(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


class SendWindow:
    """Lets requests under way have so many bytes together, or one request if it has more."""

    def __init__(self, limit_bytes: int = _WINDOW_BYTES) -> None:
        self._limit = limit_bytes
        self._under_way = 0
        self._waiting: deque[Place] = deque()

    def enter(self, size: int, start: Callable[[], None], timeout_s: float, on_late: Callable[[], None]) -> Place:
        """Call `start` now, or as soon as there is room; or `on_late` where there is none in time."""
        place = Place(self, size, start)
        if not self._waiting and self._has_room(size):
            self._under_way += size
            place.go()
        else:
            place.wait(timeout_s, on_late)
            self._waiting.append(place)
        return place

    def left(self, size: int) -> None:
        """Called by a place that was under way."""
        self._under_way -= size
        while self._waiting and (self._waiting[0].start is None or self._has_room(self._waiting[0].size)):
            place = self._waiting.popleft()
            if place.start:
                self._under_way += place.size
                place.go()

    def _has_room(self, size: int) -> bool:
        return not self._under_way or self._under_way + size <= self._limit
