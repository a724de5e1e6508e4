"""What a heartbeat tells of the workers, and what asking for it costs."""

import asyncio
import timeit

import pytest

from millrace.broker.base import Heartbeat
from millrace.broker.memory import MemoryBroker, MemoryProducerLink
from millrace.protocol.errors import Unavailable
from millrace.protocol.messages import ModelAnnouncement, WorkerAnnouncement
from serving.queueing.membership import Membership


class _Link(MemoryProducerLink):
    """A link that answers unless the bench is down."""

    def __init__(self, bench: "Bench") -> None:
        super().__init__(bench.broker, "api")
        self._bench = bench

    async def heartbeat(self) -> Heartbeat:
        if self._bench.is_down:
            raise Unavailable("down")
        return await super().heartbeat()


class Bench:
    """Workers that announce models, and a membership that listens."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self._link = self.broker.worker()
        self.lost = 0
        self.is_down = False
        self.membership = Membership(_Link(self), self._lose)

    def _lose(self) -> None:
        self.lost += 1

    def announce(
        self,
        worker: str,
        *models: str,
        state: str = "AVAILABLE",
        sent_ms: int = 0,
        error: str = "",
        is_leaving: bool = False,
    ) -> None:
        announced = tuple(ModelAnnouncement(name=name, version=1, state=state, error=error) for name in models)
        self._link.announce(
            WorkerAnnouncement(
                worker=worker,
                sent_ms=sent_ms,
                expires_ms=2**50 + sent_ms,
                models=announced,
                is_leaving=is_leaving,
            )
        )

    def leave(self, worker: str) -> None:
        self._link.withdraw(worker)

    def refresh(self) -> None:
        asyncio.run(self.membership.refresh())


def test_only_workers_that_have_the_version_available_are_counted() -> None:
    bench = Bench()
    bench.announce("1", "a", "b")
    bench.announce("2", "a", "a")
    bench.announce("3", "a", state="LOADING")
    bench.refresh()
    count = bench.membership.worker_count
    assert [count("a", 1), count("b", 1), count("a", 2), count("c", 1)] == [2, 1, 0, 0]
    bench.leave("1")
    bench.refresh()
    assert [count("a", 1), count("b", 1)] == [1, 0]


def test_the_workers_are_the_same_object_until_one_says_something_new() -> None:
    bench = Bench()
    bench.announce("1", "a")
    bench.refresh()
    workers = bench.membership.workers
    bench.announce("1", "a", sent_ms=1000)
    bench.refresh()
    assert bench.membership.workers is workers
    bench.announce("1", "a", state="UNLOADING")
    bench.refresh()
    assert bench.membership.workers is not workers
    assert bench.membership.workers[0].models[0].state == "UNLOADING"


def test_it_is_connected_while_the_queue_answers() -> None:
    bench = Bench()
    assert not bench.membership.is_connected
    bench.refresh()
    assert bench.membership.is_connected
    bench.is_down = True
    with pytest.raises(Unavailable):
        bench.refresh()
    assert not bench.membership.is_connected
    assert bench.lost == 0


def test_counting_workers_costs_the_same_however_many_workers_and_models_there_are() -> None:
    def cost(workers: int, models: int) -> float:
        bench = Bench()
        for worker in range(workers):
            bench.announce(str(worker), *(f"m{number}" for number in range(models)))
        bench.refresh()
        name = f"m{models - 1}"
        assert bench.membership.worker_count(name, 1) == workers
        return min(timeit.repeat(lambda: bench.membership.worker_count(name, 1), number=1000, repeat=5))

    assert cost(50, 100) < 10 * cost(1, 1)  # 2,000 times as much where they are searched


def test_a_worker_that_leaves_serves_nobody_new_and_answers_what_it_has() -> None:
    bench = Bench()
    bench.announce("1", "a", "b")
    bench.refresh()
    bench.announce("1", "a", state="END", error="it stops", is_leaving=True)
    bench.refresh()
    membership = bench.membership
    assert list(membership.workers) == []
    assert membership.worker_count("a", 1) == 0
    assert [membership.can_be_answered(model, 1) for model in ("a", "b")] == [True, False]
    bench.leave("1")
    bench.refresh()
    assert not membership.can_be_answered("a", 1)


def test_a_version_whose_process_is_started_again_can_be_answered_and_one_that_never_loaded_cannot() -> None:
    bench = Bench()
    bench.announce("1", "a")
    bench.announce("2", "b", state="END", error="no such operator")
    bench.refresh()
    bench.announce("1", "a", state="END", error="its process has ended")
    bench.refresh()
    assert [bench.membership.can_be_answered(model, 1) for model in ("a", "b")] == [True, False]
    bench.announce("1", "a", state="LOADING")
    bench.refresh()
    assert bench.membership.can_be_answered("a", 1)
    bench.announce("1", "a", state="END")  # it was unloaded
    bench.refresh()
    assert not bench.membership.can_be_answered("a", 1)
