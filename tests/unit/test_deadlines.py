"""Items that expire together, that are removed, and whose expiry does something to the others."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from serving.queueing.deadlines import TICK_S, Deadlines


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run_it() -> None:
        asyncio.run(asyncio.wait_for(test(), 60))

    run_it.__name__ = test.__name__
    return run_it


class Expired:
    """What has expired, and the time of each."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self.deadlines = Deadlines[str](self.take)
        self.changed = asyncio.Event()

    def take(self, item: str) -> None:
        assert item not in self.times
        self.times[item] = time.perf_counter()
        self.changed.set()

    async def until(self, *items: str) -> None:
        while not self.times.keys() >= set(items):
            self.changed.clear()
            await self.changed.wait()


@run
async def test_items_expire_after_their_deadlines_in_order() -> None:
    expired, now = Expired(), time.perf_counter()
    for item, seconds in (("late", 0.06), ("early", 0.02), ("between", 0.04)):
        expired.deadlines.add(item, now + seconds)
    await expired.until("late")
    assert list(expired.times) == ["early", "between", "late"]
    assert expired.times["early"] - now > 0.02 - 0.002  # the event loop's clock has milliseconds
    assert len(expired.deadlines) == 0


@run
async def test_a_deadline_that_has_passed_expires_at_once_but_not_within_the_call() -> None:
    expired = Expired()
    tick = expired.deadlines.add("past", time.perf_counter() - 10)
    assert not expired.times
    await expired.until("past")
    expired.deadlines.remove("past", tick)  # does nothing


@run
async def test_what_was_removed_does_not_expire() -> None:
    expired, ends = Expired(), time.perf_counter() + 0.02
    ticks = {item: expired.deadlines.add(item, ends) for item in ("kept", "removed")}
    expired.deadlines.remove("removed", ticks["removed"])
    alone = expired.deadlines.add("alone", ends + 2 * TICK_S)
    expired.deadlines.remove("alone", alone)
    expired.deadlines.add("last", ends + 4 * TICK_S)
    await expired.until("last")
    assert list(expired.times) == ["kept", "last"]
    assert len(expired.deadlines) == 0


@run
async def test_deadlines_of_one_tick_share_a_timer() -> None:
    expired = Expired()
    ends = 100 * TICK_S + TICK_S * int(time.perf_counter() / TICK_S)
    ticks = {expired.deadlines.add(str(i), ends - TICK_S * (0.1 + i / 200)) for i in range(100)}
    assert len(ticks) == expired.deadlines.timers == 1


@run
async def test_an_item_may_be_added_and_removed_while_others_expire() -> None:
    expired, ends = Expired(), time.perf_counter() + 0.01
    ticks: dict[str, int] = {}

    def take(item: str) -> None:
        expired.take(item)
        if item == "first":
            deadlines.add("again", ends)
            deadlines.remove("first", ticks["first"])

    deadlines = expired.deadlines = Deadlines[str](take)
    ticks = {item: deadlines.add(item, ends) for item in ("first", "second")}
    await expired.until("first", "second", "again")
    assert len(deadlines) == 0
