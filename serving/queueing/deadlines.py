"""Deadlines of many requests at the cost of few timers."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)
TICK_S = 0.01

Item = TypeVar("Item")


class Deadlines(Generic[Item]):
    """Calls `expire` with each item at most a tick after its deadline, unless it was removed.

    Items whose deadlines fall into one tick share one of the event loop's timers: setting and cancelling a timer for
    every request costs as much as encoding it.
    """

    def __init__(self, expire: Callable[[Item], None], clock: Callable[[], float] = time.perf_counter) -> None:
        self._expire = expire
        self._clock = clock
        self._ticks: dict[int, set[Item]] = {}

    def add(self, item: Item, deadline: float) -> int:
        """Watch an item until its deadline, a time of the clock. Returns what `remove` asks for."""
        tick = math.ceil(deadline / TICK_S)
        items = self._ticks.get(tick)
        if items is None:
            items = self._ticks[tick] = set()
            asyncio.get_running_loop().call_later(tick * TICK_S - self._clock(), self._ends, tick)
        items.add(item)
        return tick

    def __len__(self) -> int:
        """How many items are watched."""
        return sum(map(len, self._ticks.values()))

    @property
    def timers(self) -> int:
        """How many of the event loop's timers they need."""
        return len(self._ticks)

    def remove(self, item: Item, tick: int) -> None:
        """Forget an item; does nothing when it has expired."""
        if items := self._ticks.get(tick):
            items.discard(item)

    def _ends(self, tick: int) -> None:
        for item in self._ticks.pop(tick):
            try:
                self._expire(item)
            except Exception:
                _log.exception("an item's expiry failed")  # the others expire all the same
