"""Medium requests go to the queue a few at a time, in the order of their arrival."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from serving.queueing.send_window import Place, SendWindow


class Bench:
    """A window of 10 bytes, and what came of those that entered."""

    def __init__(self) -> None:
        self.window = SendWindow(10)
        self.started: list[str] = []
        self.late: list[str] = []

    def enter(self, name: str, size: int, timeout_s: float = 60.0) -> Place:
        return self.window.enter(size, lambda: self.started.append(name), timeout_s, lambda: self.late.append(name))


def run(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def body() -> None:
        await test(Bench())

    asyncio.run(body())


def test_those_that_find_no_room_go_when_others_have_left_in_their_order() -> None:
    async def test(bench: Bench) -> None:
        a, b = bench.enter("a", 6), bench.enter("b", 4)
        bench.enter("c", 6)
        bench.enter("d", 1)
        assert bench.started == ["a", "b"]
        b.leave()
        assert bench.started == ["a", "b"]  # d does not overtake c
        a.leave()
        a.leave()
        assert bench.started == ["a", "b", "c", "d"]

    run(test)


def test_one_that_is_larger_than_the_window_goes_alone() -> None:
    async def test(bench: Bench) -> None:
        a, _ = bench.enter("a", 1), bench.enter("large", 100)
        assert bench.started == ["a"]
        a.leave()
        assert bench.started == ["a", "large"]

    run(test)


def test_one_that_leaves_before_its_turn_is_passed_over() -> None:
    async def test(bench: Bench) -> None:
        a, b = bench.enter("a", 10), bench.enter("b", 10)
        bench.enter("c", 10)
        b.leave()
        a.leave()
        assert bench.started == ["a", "c"]

    run(test)


def test_one_whose_turn_does_not_come_in_time_is_told() -> None:
    async def test(bench: Bench) -> None:
        a = bench.enter("a", 10)
        b = bench.enter("b", 10, timeout_s=0.0)
        while not bench.late:
            await asyncio.sleep(0)
        b.leave()
        a.leave()
        assert (bench.started, bench.late) == (["a"], ["b"])

    run(test)
