"""When the instances beside the first are to take."""

import time

import pytest

from millrace.broker.keys import ONLY_BULK, URGENT
from worker.running.demand import Demand
from worker.running.status import InstanceStatus


class Version:
    """Two instances of a version, and the time."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.first, self.second = (InstanceStatus(monotonic=lambda: self.now_s) for _ in range(2))
        self.demand = Demand(self.first, lambda: self.now_s)

    def serve(self, times: int, *, blocks: int = 1, seconds: float = 0.001, is_full: bool = False) -> None:
        for _ in range(times):
            self.now_s += seconds
            self.demand.note(blocks, seconds, is_full=is_full)


@pytest.fixture
def version() -> Version:
    return Version()


def test_the_first_serves_alone_while_it_keeps_up(version: Version) -> None:
    for _ in range(100):
        version.serve(1, blocks=3)
        version.serve(2)

    assert not version.demand.is_high
    assert not version.demand.wait(version.second)


@pytest.mark.parametrize(
    ("times", "blocks", "seconds", "is_full"), [(24, 2, 0.001, False), (3, 1, 0.001, True), (1, 1, 0.1, False)]
)
def test_all_take_where_it_falls_behind_or_runs_are_long(
    version: Version, times: int, blocks: int, seconds: float, is_full: bool
) -> None:
    version.serve(times - 1, blocks=blocks, seconds=seconds, is_full=is_full)
    assert not version.demand.is_high

    version.serve(1, blocks=blocks, seconds=seconds, is_full=is_full)

    assert version.demand.is_high
    assert version.demand.wait(version.second)


def test_after_a_calm_second_the_first_is_alone_again(version: Version) -> None:
    version.serve(3, is_full=True)

    version.serve(900)
    assert version.demand.is_high

    version.serve(200)
    assert not version.demand.is_high


def test_another_takes_while_the_first_is_held_up(version: Version) -> None:
    version.first.hold(0)
    assert not version.demand.wait(version.second)

    version.now_s += 0.3
    assert version.demand.wait(version.second)

    version.first.idle()
    version.now_s += 10
    assert not version.demand.wait(version.second)


def test_while_the_first_is_held_up_another_takes_without_a_pause(version: Version) -> None:
    version.first.hold(0)
    version.now_s += 0.3
    began = time.monotonic()

    for _ in range(100):
        assert version.demand.wait(version.second)
        version.serve(1)

    assert time.monotonic() - began < 5  # a pause each would take 25 s


def test_who_takes_what_the_first_does_not_always_takes(version: Version) -> None:
    version.first.takes = URGENT
    assert version.demand.wait(version.second)

    version.second.takes = URGENT
    assert not version.demand.wait(version.second)

    version.second.takes = ONLY_BULK
    assert version.demand.wait(version.second)
