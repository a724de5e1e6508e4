"""How long a request would wait: overload in virtual time, as ratios, at speeds from 5 to 20,000 rows a second."""

import pytest

from serving.queueing.flow import Flow
from tests.support.queue_simulation import Scenario, Simulation, goodput, scenario

BATCH = 8


class Clock:
    """A time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def run(flow: Flow, clock: Clock, rows: int, seconds: float, run_s: float | None = None) -> None:
    """Rows that are sent together, and come back together after so many seconds."""
    sent, ahead = clock.now, [flow.sent("normal", 1) for _ in range(rows)]
    clock.now += seconds
    for number in ahead:
        flow.answered("normal", 1, number, sent, run_s or seconds)


# What is promised

STEADY = {
    "5 rows/s, one by one": scenario(5, batch=1, deadlines=(2.0,), seconds=120, warm_s=20),
    "5 rows/s, by the row": scenario(5, batch=32, by_row=1, deadlines=(2.0,), seconds=120, warm_s=20),
    "38 rows/s, by the row": scenario(38, batch=32, by_row=1, deadlines=(1.0,), seconds=60, warm_s=10),
    "38 rows/s, two workers": scenario(38, batch=8, workers=2, by_row=0.9, runs=6, seconds=60, warm_s=15),
    "38 rows/s, four processes": scenario(38, batch=4, processes=4, by_row=0.5, runs=20, seconds=60, warm_s=15),
    "300 rows/s": scenario(300, batch=32, by_row=0.5, runs=8),
    "300 rows/s, batches all alike": scenario(300, batch=16, runs=8),
    "300 rows/s, four processes": scenario(300, batch=16, workers=2, processes=4, by_row=0.5, runs=9),
    "300 rows/s, mixed sizes": scenario(300, batch=16, workers=2, by_row=0.5, runs=10, rows=(1, 1, 3, 16)),
    "300 rows/s, mixed deadlines": scenario(300, batch=16, workers=2, deadlines=(0.7, 1.0, 5.0), seconds=30, warm_s=8),
    "300 rows/s, two priorities": scenario(300, batch=16, workers=2, by_row=0.5, runs=10, high=0.2),
    "300 rows/s, uneven batches": scenario(300, batch=16, workers=2, by_row=0.5, runs=10, jitter=0.3),
    "2,000 rows/s, eight workers": scenario(2000, batch=32, workers=8, by_row=0.5, runs=8, seconds=6, warm_s=3),
    "20,000 rows/s": scenario(20000, batch=256, workers=2, by_row=0.5, deadlines=(0.3,), seconds=1.5, warm_s=0.6),
}


@pytest.mark.parametrize("name", STEADY)
def test_under_overload_the_peak_is_kept_and_what_is_accepted_is_in_time(name: str) -> None:
    outcome = Simulation(STEADY[name]).run()
    assert outcome.late_share <= 0.01
    assert outcome.used_by(99) <= 1.0
    assert goodput(STEADY[name], outcome) >= 0.9
    assert outcome.refused


@pytest.mark.parametrize("load", [0.5, 0.8, 1.2, 5.0])
def test_whatever_is_offered_is_answered_as_far_as_the_workers_can(load: float) -> None:
    offered = scenario(300, batch=16, workers=2, by_row=0.5, runs=10, load=lambda _: load)
    outcome = Simulation(offered).run()
    assert outcome.late_share <= 0.01
    assert goodput(offered, outcome) >= 0.9 * min(1.0, load)
    if load < 0.6:
        assert outcome.refused == 0


MOVING = {
    "twice as slow every ten seconds": (lambda t: 1.0 if t % 10 < 5 else 0.5, 0.03),
    "faster and slower all the time": (lambda t: 1.0 + 0.4 * ((t / 10) % 1), 0.01),
    # 1 s of 20 passes without an answer: what was in flight then cannot be in time, nor what came meanwhile
    "a pause": (lambda t: 0.0 if t % 20 > 19 else 1.0, 0.05),
}


@pytest.mark.parametrize("name", MOVING)
def test_the_estimate_follows_a_peak_that_moves(name: str) -> None:
    speed, late = MOVING[name]
    moving = scenario(300, batch=16, by_row=0.5, deadlines=(1.0,), speed=speed, seconds=40, warm_s=3)
    outcome = Simulation(moving).run()
    assert outcome.late_share <= late
    assert goodput(moving, outcome) >= 0.9


@pytest.mark.parametrize("rows_per_s", [38, 300, 2000])
def test_a_cold_start_under_overload_accepts_no_seconds_of_late_work(rows_per_s: int) -> None:
    cold = scenario(
        rows_per_s,
        batch=16,
        by_row=0.5,
        deadlines=(4 * 16 / rows_per_s + 0.5,),
        load=lambda _: 5.0,
        warm_s=0,
        seconds=4,
    )
    outcome = Simulation(cold).run()
    assert outcome.late <= 0.5 * rows_per_s
    assert outcome.used_by(50) < 1.0


def test_where_no_request_can_be_in_time_only_single_ones_are_tried() -> None:
    hopeless = scenario(100, batch=16, deadlines=(0.1,), seconds=10)
    outcome = Simulation(hopeless).run()
    assert len(outcome.used) <= 10 / 0.1
    assert outcome.refused > 10 * len(outcome.used)


# How it is measured


def test_nothing_in_flight_is_always_let_in(clock: Clock) -> None:
    flow = Flow(BATCH, clock)
    run(flow, clock, 1, 10.0)
    assert flow.seconds_too_late("normal", 0.001) == 0
    assert flow.seconds_too_late("normal", 0.001, rows=4096) == 0


def test_before_the_first_answer_two_batches_are_let_in_for_an_eighth_of_the_deadline(clock: Clock) -> None:
    flow = Flow(64, clock)
    flow.sent("normal", 127)
    assert flow.seconds_too_late("normal", 4.0) == 0
    assert flow.seconds_too_late("normal", 4.0, rows=2) == 1.0
    clock.now += 0.6
    assert flow.seconds_too_late("normal", 4.0) == 1.0
    assert flow.seconds_too_late("normal", 5.0) == 0


def test_a_first_burst_with_much_time_is_let_in_before_anything_is_known(clock: Clock) -> None:
    flow = Flow(64, clock)
    for _ in range(750):
        assert flow.seconds_too_late("normal", 30.0) == 0
        flow.sent("normal", 1)
    assert flow.seconds_too_late("normal", 30.0) == 1.0
    assert flow.seconds_until(10**6) == 1.0


def test_the_first_answer_counts_for_a_full_batch_of_the_square_root(clock: Clock) -> None:
    flow = Flow(16, clock)
    run(flow, clock, 1, 0.4)
    assert flow.seconds_until(16) == pytest.approx(4 * 0.4)
    unbatched = Flow(0, clock)
    run(unbatched, clock, 1, 0.4)
    assert unbatched.seconds_until(3) == pytest.approx(3 * 0.4)


def test_rows_that_waited_for_nobody_make_the_estimate_faster_and_never_slower(clock: Clock) -> None:
    flow = Flow(BATCH, clock)
    run(flow, clock, BATCH, 0.1)
    fast = flow.seconds_until(1)
    run(flow, clock, 1, 0.1)
    run(flow, clock, 1, 0.5)
    assert flow.seconds_until(1) <= fast


@pytest.mark.parametrize("is_late", [False, True])
def test_rows_that_waited_or_were_late_make_it_slower(clock: Clock, is_late: bool) -> None:
    flow = Flow(BATCH, clock)
    run(flow, clock, BATCH, 0.1)
    fast = flow.seconds_until(1)
    flow.sent("normal", 1)
    sent, ahead = clock.now, [flow.sent("normal", 1) for _ in range(BATCH)]
    clock.now += 2.0
    for number in ahead:
        if is_late:
            flow.expired("normal", 1, number, sent)
        else:
            flow.answered("normal", 1, number, sent, 0.1)
    assert fast < flow.seconds_until(1) <= fast * (1 + 0.4 * 2) ** 2  # it is bounded, whatever was measured


def test_a_request_that_was_let_in_alone_and_was_late_says_nothing_of_the_queue(clock: Clock) -> None:
    flow = Flow(BATCH, clock)
    run(flow, clock, BATCH, 0.1)
    fast, sent = flow.seconds_until(1), clock.now
    ahead = flow.sent("normal", 1)
    clock.now += 0.5
    flow.expired("normal", 1, ahead, sent)
    clock.now += 1
    run(flow, clock, 1, 0.1)
    assert flow.seconds_until(1) <= fast


def test_a_high_priority_waits_only_for_its_like(clock: Clock) -> None:
    flow = Flow(BATCH, clock)
    run(flow, clock, BATCH, 0.1)
    flow.sent("normal", 10_000)
    assert flow.seconds_too_late("normal", 1.0) > 0
    assert flow.seconds_too_late("high", 1.0) == 0
    assert flow.sent("high", 3) == 3
    assert flow.sent("normal", 1) == 10_004


def test_a_large_request_counts_by_its_rows_and_what_left_makes_room(clock: Clock) -> None:
    flow = Flow(BATCH, clock)
    run(flow, clock, BATCH, 0.1)
    flow.sent("normal", 1)
    assert flow.seconds_too_late("normal", 1.0) == 0
    assert flow.seconds_too_late("normal", 1.0, rows=4096) > 0
    flow.sent("normal", 4096)
    assert flow.batches_in_flight == pytest.approx(4097 / BATCH)
    told_s = flow.seconds_too_late("normal", 1.0)
    assert told_s == pytest.approx(flow.seconds_until(4098) - 0.5, rel=0.01)
    flow.left("normal", 4096)
    assert flow.seconds_too_late("normal", 1.0) == 0
    assert flow.rows_in_flight == 1


def test_idle_time_is_left_out_of_the_measure(clock: Clock) -> None:
    flow = Flow(BATCH, clock)
    for _ in range(20):
        run(flow, clock, 4 * BATCH, 0.1, run_s=0.02)
        clock.now += 100
    assert flow.seconds_until(1) == pytest.approx(0.1 / (4 * BATCH), rel=0.5)


def test_runs_that_become_longer_leave_less_to_the_queue(clock: Clock) -> None:
    short, long = Flow(BATCH, clock), Flow(BATCH, clock)
    for _ in range(20):
        run(short, clock, BATCH, 0.1, run_s=0.1)
        run(long, clock, BATCH, 0.1, run_s=0.9)
    for flow in (short, long):
        flow.sent("normal", 2 * BATCH)
    assert short.seconds_too_late("normal", 1.0) == 0
    assert long.seconds_too_late("normal", 1.0) > 0


def test_every_request_takes_the_same_time_however_many_are_in_flight() -> None:
    names = set(vars(Flow(BATCH)))
    flow = Flow(BATCH)
    for _ in range(1000):
        flow.sent("normal", 1)
    assert set(vars(flow)) == names
    assert not any(isinstance(value, list | set) for value in vars(flow).values())


def test_the_scenarios_are_what_they_say() -> None:
    assert Scenario(fixed_s=0.05, row_s=0.001, batch=50, workers=2).rows_per_s == pytest.approx(1000)
