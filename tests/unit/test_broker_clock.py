"""The broker's time as reckoned from samples: slow answers, drift, and clocks that are set."""

import random

import pytest

from millrace.broker.clock import BrokerClock

DAY_S = 86_400


class World:
    """True time, a broker whose clock is `ahead_s`, and a machine whose clock is wrong by minutes and runs fast."""

    def __init__(self, drift: float = 0.0) -> None:
        self.now_s = 10.0 * DAY_S
        self.ahead_s = 300.0
        self._drift = drift
        self.clock = BrokerClock(lambda: 1234.5 + self.now_s * (1 + drift))

    def ask(self, there_s: float = 0.0001, back_s: float = 0.0001) -> None:
        """One sample, which takes that long on each way."""
        sent_s = self.clock.read()
        self.now_s += there_s
        told_ms = (self.now_s + self.ahead_s) * 1000
        self.now_s += back_s
        self.clock.sample(told_ms, sent_s, self.clock.read())

    @property
    def error_ms(self) -> float:
        return self.clock.now_ms() - (self.now_s + self.ahead_s) * 1000


def test_the_time_is_taken_from_the_middle_of_the_round_trip() -> None:
    world = World()
    world.ask(there_s=0.05, back_s=0.05)
    assert world.error_ms == pytest.approx(0, abs=0.001)


def test_before_the_first_sample_it_is_the_time_of_day() -> None:
    assert not World().clock.is_set


@pytest.mark.parametrize("way", ["there_s", "back_s"])
def test_an_answer_that_a_stall_held_up_changes_nothing(way: str) -> None:
    world = World()
    world.ask()
    for _ in range(100):
        world.now_s += 1
        world.ask(**{way: 3.0})
    assert world.error_ms == pytest.approx(0, abs=0.11)


def test_a_first_answer_that_was_held_up_is_put_right_by_the_next() -> None:
    world = World()
    world.ask(back_s=4.0)
    assert abs(world.error_ms) == pytest.approx(2000, abs=1)
    world.ask()
    assert world.error_ms == pytest.approx(0, abs=0.11)


@pytest.mark.parametrize("drift", [-4e-4, 0.0, 4e-4])
def test_drift_is_followed_through_answers_of_any_delay(drift: float) -> None:
    world, chance = World(drift), random.Random(1)
    for _ in range(3600):
        world.now_s += 1
        world.ask(there_s=chance.uniform(0.0001, 0.02), back_s=chance.uniform(0.0001, 0.02))
        assert abs(world.error_ms) < 12


@pytest.mark.parametrize("step_s", [-300.0, 5.0])
def test_a_broker_whose_clock_was_set_is_followed_with_the_next_sample(step_s: float) -> None:
    world = World()
    world.ask()
    world.ahead_s += step_s
    world.ask(there_s=0.01, back_s=0.01)
    assert world.error_ms == pytest.approx(0, abs=0.11)
