"""How long a request would wait: what is learned from answers, forgotten in slow phases and learned again."""

from collections import deque
from types import SimpleNamespace

import pytest

from serving.queueing import flow as module
from serving.queueing.flow import Flow

BATCH = 8


class Clock:
    """A time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def serve(flow: Flow, clock: Clock, *, rate: float, offered: float, timeout_s: float, seconds: float) -> float:
    """Offer rows to one worker that runs batches of 8, and drops what is late; the part of its capacity that was used.

    A row that is not answered in time ends at its deadline, as the producer ends it.
    """
    waiting: deque[float] = deque()
    batch: list[float] = []
    answered, due, free, step, ends = 0, 0.0, clock.now, 0.001, clock.now + seconds
    while clock.now < ends:
        clock.now += step
        due += offered * step
        while due >= 1:
            due -= 1
            if not flow.seconds_too_late("normal", timeout_s):
                flow.sent("normal", 1)
                waiting.append(clock.now)
        late = [sent for sent in batch if clock.now - sent > timeout_s]
        batch = batch[len(late) :]
        while waiting and clock.now - waiting[0] > timeout_s:
            late.append(waiting.popleft())
        for _ in late:
            flow.ended("normal", 1, is_answered=False)
        if clock.now >= free:
            for _ in batch:
                flow.ended("normal", 1, is_answered=True)
            answered += len(batch)
            batch = [waiting.popleft() for _ in range(min(BATCH, len(waiting)))]
            free = clock.now + len(batch) / rate
    for _ in range(len(batch) + len(waiting)):
        flow.ended("normal", 1, is_answered=False)
    return answered / seconds / rate


def saturated(clock: Clock, rows_per_s: int, in_flight: int = 2 * BATCH, seconds: int = 3) -> Flow:
    """A flow that saw so many rows come back each second, and has so many in flight."""
    flow = Flow(BATCH)
    flow.sent("normal", in_flight)
    for _ in range(seconds * rows_per_s):
        clock.now += 1 / rows_per_s
        flow.sent("normal", 1)
        flow.ended("normal", 1, is_answered=True)
    return flow


def test_nothing_is_refused_before_a_rate_is_known(clock: Clock) -> None:
    flow = Flow(BATCH)
    flow.sent("normal", 10**6)
    assert flow.seconds_too_late("normal", 1e-3) == 0
    assert flow.seconds_until(10**6) == 1.0


def test_the_rate_is_measured_while_two_batches_are_in_flight(clock: Clock) -> None:
    assert saturated(clock, 100).rows_per_s == pytest.approx(100, rel=0.05)
    assert saturated(clock, 100, in_flight=2 * BATCH - 1).rows_per_s is None


def test_the_wait_is_what_is_in_flight_by_the_rate(clock: Clock) -> None:
    flow = saturated(clock, 100, in_flight=200)
    assert flow.seconds_too_late("normal", 3.0) == 0
    assert flow.seconds_too_late("normal", 1.0) == pytest.approx(2.0 - 0.8, rel=0.05)
    assert flow.seconds_until(50) == pytest.approx(0.5, rel=0.05)


def test_a_high_priority_waits_only_for_its_like(clock: Clock) -> None:
    flow = saturated(clock, 100, in_flight=200)
    assert flow.seconds_too_late("high", 0.1) == 0
    flow.sent("high", 50)
    assert flow.seconds_too_late("high", 0.1) == pytest.approx(0.5 - 0.08, rel=0.05)
    assert flow.seconds_too_late("normal", 0.1) == pytest.approx(2.5 - 0.08, rel=0.05)


def test_the_next_batch_always_has_room(clock: Clock) -> None:
    flow = saturated(clock, 100)
    flow.ended("normal", BATCH + 1, is_answered=False)
    assert flow.seconds_too_late("normal", 1e-6) == 0
    flow.sent("normal", 1)
    assert flow.seconds_too_late("normal", 1e-6) > 0


@pytest.mark.parametrize("timeout_s", [0.05, 0.2, 2.0])
def test_most_of_the_capacity_is_used_under_overload_whatever_the_deadline(clock: Clock, timeout_s: float) -> None:
    flow = Flow(BATCH)
    serve(flow, clock, rate=1000, offered=1500, timeout_s=timeout_s, seconds=2 + timeout_s)
    assert serve(flow, clock, rate=1000, offered=1500, timeout_s=timeout_s, seconds=5) > 0.9


def test_nobody_is_refused_long_after_a_slow_phase(clock: Clock) -> None:
    flow = saturated(clock, 1000)
    flow.ended("normal", 2 * BATCH, is_answered=False)
    serve(flow, clock, rate=60, offered=1500, timeout_s=0.2, seconds=5)
    assert flow.rows_per_s is not None
    assert flow.rows_per_s < 250  # so that no second batch is let in
    assert serve(flow, clock, rate=1000, offered=500, timeout_s=0.2, seconds=2) > 0.45
    assert serve(flow, clock, rate=1000, offered=1500, timeout_s=0.2, seconds=2) > 0.9


def test_a_rate_of_long_ago_does_not_hold_back_rows_that_come_in_bursts(clock: Clock) -> None:
    flow = saturated(clock, 20, in_flight=0, seconds=0)
    flow.rows_per_s = 20.0
    for _ in range(3):  # a batch a second, each answered in 8 ms
        clock.now += 1
        flow.sent("normal", BATCH)
        clock.now += 0.008
        flow.ended("normal", BATCH, is_answered=True)
    assert flow.rows_per_s == pytest.approx(1000, rel=0.01)
    flow.sent("normal", 3 * BATCH)
    assert flow.seconds_too_late("normal", 0.1) == 0
