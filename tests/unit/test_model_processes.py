"""What decides about a model's process that ended, without one: statuses, verdicts, pauses, who works beside whom."""

import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.running import until
from worker.processes.memory import ProcessMemory, SharedClock, make
from worker.processes.process import ModelProcess
from worker.processes.verdict import Cause, in_words, judge
from worker.running.quarantine import Quarantine
from worker.running.seats import Seat, are_renewed
from worker.running.status import InstanceStatus, LoneItem

LEASE_MS = 1000
SEGFAULT, KILLED, EXITED = signal.SIGSEGV.value, signal.SIGKILL.value, 3 << 8


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def seat(name: str, doing: str, *, deliveries: int = 1, deadline_ms: int = 5000, clock: Clock | None = None) -> Seat:
    """An instance that is idle, holds blocks, works on several items, or on one alone."""
    status = InstanceStatus(monotonic=clock or Clock())
    status.clear()
    if doing != "idle":
        status.hold(0)
    if doing == "works":
        status.work(deadline_ms)
    elif doing == "works alone":
        status.work_alone("millrace:{api}:replies", 7, deadline_ms, deliveries)
    return Seat(name, status)


ITEM = LoneItem(reply_to="millrace:{api}:replies", id=7, deadline_ms=5000, deliveries=1)


def test_a_status_says_what_was_written_and_nothing_after_a_pause() -> None:
    status = seat("a", "works alone").status
    assert [status.lone_item, status.is_working, status.is_idle, status.overdue_ms(5250)] == [ITEM, True, False, 250]
    status.pause()
    assert [status.lone_item, status.is_working, status.is_idle, status.overdue_ms(10**9)] == [None, False, False, 0]
    status.work(9000)
    assert [status.lone_item, status.is_working] == [None, True]
    status.idle()
    assert [status.is_working, status.is_idle] == [False, True]


def test_a_reply_stream_whose_name_is_too_long_leaves_nobody_to_blame() -> None:
    status = InstanceStatus()
    status.work_alone("x" * 10_000, 7, 5000, 1)
    assert status.is_working
    assert status.lone_item is None


def test_idleness_counts_from_when_the_last_block_was_done() -> None:
    clock = Clock()
    status = seat("a", "works", clock=clock).status
    clock.now = 200.0
    status.idle()
    clock.now = 300.0
    status.idle()
    assert status.since_s == 200.0


@pytest.mark.parametrize(
    ("doing", "cause", "status", "suspects", "is_blamed"),
    [
        (["idle", "idle"], "itself", SEGFAULT, set(), False),
        (["holds", "works"], "itself", SEGFAULT, {"1"}, False),
        (["works", "works alone"], "itself", SEGFAULT, {"0", "1"}, False),
        (["holds", "works alone"], "itself", SEGFAULT, {"1"}, True),
        (["idle", "works alone"], "itself", EXITED, {"1"}, True),
        (["idle", "works alone"], "itself", KILLED, {"1"}, False),
        (["idle", "works alone"], "memory", KILLED, {"1"}, True),
        (["works alone", "works"], "stopped", KILLED, set(), False),
    ],
)
def test_an_item_is_to_blame_when_nothing_else_was_worked_on(
    doing: list[str], cause: Cause, status: int, suspects: set[str], is_blamed: bool
) -> None:
    seats = [seat(str(number), what) for number, what in enumerate(doing)]
    verdict = judge(seats, cause, status, now_ms=0, lease_ms=LEASE_MS)
    assert verdict.suspects == suspects
    assert verdict.culprit == ((seats[1], ITEM) if is_blamed else None)


def test_who_is_killed_from_outside_twice_is_to_blame_and_its_block_is_not_counted_again() -> None:
    again = seat("a", "works alone", deliveries=2)
    verdict = judge([again], "itself", KILLED, now_ms=0, lease_ms=LEASE_MS)
    assert verdict.culprit
    assert verdict.culprit[0] is again
    assert verdict.suspects == set()


def test_of_a_process_that_is_stuck_only_what_is_overdue_is_suspect() -> None:
    overdue, fine = seat("overdue", "works", deadline_ms=5000), seat("fine", "works", deadline_ms=50_000)
    verdict = judge([overdue, fine], "stuck", KILLED, now_ms=6500, lease_ms=LEASE_MS)
    assert verdict.suspects == {"overdue"}


def test_how_a_process_ended_is_said_in_words() -> None:
    assert in_words("itself", SEGFAULT) == "SIGSEGV, a wrong access to memory"
    assert in_words("itself", signal.SIGABRT.value) == "SIGABRT"
    assert in_words("itself", EXITED) == "exit status 3"
    assert in_words("loading", KILLED, load_s=0.5) == "it was not loaded within 0.5 s"
    assert in_words("memory", KILLED, 500) == "it took more than 500 MB of memory"


@pytest.mark.parametrize(
    ("doing", "now_s", "is_renewed"),
    [
        (["idle", "idle"], 100.0, False),
        (["idle", "works"], 100.0, True),
        (["idle", "works"], 10_000.0, True),
        (["holds"], 120.0, True),
        (["holds"], 131.0, False),
    ],
)
def test_leases_are_renewed_while_anything_is_in_work(doing: list[str], now_s: float, is_renewed: bool) -> None:
    seats = [seat(str(number), what) for number, what in enumerate(doing)]
    assert are_renewed(seats, now_s=now_s, now_ms=0, lease_ms=LEASE_MS) is is_renewed


def test_leases_are_not_renewed_where_an_instance_is_stuck() -> None:
    seats = [seat("a", "works", deadline_ms=5000), seat("b", "works", deadline_ms=50_000)]
    assert are_renewed(seats, now_s=0, now_ms=6000, lease_ms=LEASE_MS)
    assert not are_renewed(seats, now_s=0, now_ms=6001, lease_ms=LEASE_MS)


def test_a_process_that_ends_again_and_again_is_started_ever_later_until_it_has_run_for_a_while() -> None:
    clock = Clock()
    process = ModelProcess(monotonic=clock)

    def pause() -> float:
        clock.now += 1
        return process.has_ended("SIGSEGV", is_explained=False)

    assert [pause() for _ in range(9)] == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    clock.now += 100
    assert pause() == 0.0


def test_ends_that_a_request_explains_make_no_pause_longer() -> None:
    process = ModelProcess(monotonic=Clock())
    assert max(process.has_ended("SIGSEGV", is_explained=True) for _ in range(50)) < 0.1


def test_a_version_cannot_serve_when_its_process_is_away_for_longer_than_a_moment() -> None:
    clock = Clock()
    process = ModelProcess(monotonic=clock)
    assert process.fault == ""
    process.has_ended("SIGSEGV", is_explained=False)
    clock.now += 1
    process.has_ended("SIGFPE", is_explained=False)
    assert process.fault == ""
    clock.now += 2
    assert process.fault == "its process has ended (SIGFPE) and is started again in a moment"
    process.is_back()
    assert process.fault == ""


def test_what_one_process_writes_into_the_shared_memory_another_reads() -> None:
    fd = make()
    theirs, ours = ProcessMemory(fd), ProcessMemory(fd)
    theirs.begin_loading(5, now_s=100.0)
    theirs.status(16_383).work(123.0)
    ours.clock_offset_ms = 7000.0
    assert (ours.loading, ours.loading_s(now_s=103.0)) == (5, 3.0)
    theirs.first_runs_since_s = 101.0
    assert ours.first_runs_since_s == 101.0
    theirs.end_loading()
    assert ours.first_runs_since_s == 0.0
    assert (ours.loading, ours.loading_s(now_s=104.0)) == (0, 0.0)
    assert ours.status(16_383).overdue_ms(124.0) == 1.0
    assert not ours.status(16_382).is_working
    assert SharedClock(theirs, Clock()).now_ms() == 107_000.0


@settings(max_examples=20)
@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_a_suspect_works_alone_and_nobody_waits_for_ever(are_alone: list[bool]) -> None:
    quarantine, lock = Quarantine(), threading.Lock()
    together = alone = 0
    seen: list[tuple[int, int]] = []

    def work(is_alone: bool) -> None:
        nonlocal together, alone
        for _ in range(3):
            with quarantine.alone if is_alone else quarantine.together:
                with lock:
                    together, alone = together + (not is_alone), alone + is_alone
                    seen.append((together, alone))
                with lock:
                    together, alone = together - (not is_alone), alone - is_alone

    threads = [threading.Thread(target=work, args=(is_alone,)) for is_alone in are_alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert len(seen) == 3 * len(are_alone)
    assert all(alone == 0 or (together, alone) == (0, 1) for together, alone in seen)


def test_a_long_row_of_suspects_lets_others_work_in_between() -> None:
    """One who waits to work beside others comes before the second suspect of two that wait."""
    quarantine, order = Quarantine(), list[str]()
    first, leave = threading.Event(), threading.Event()

    def suspects() -> None:
        for name in ("first", "second"):
            with quarantine.alone:
                order.append(name)
                first.set()
                assert leave.wait(20)

    def other() -> None:
        with quarantine.together:
            order.append("other")

    row, beside = threading.Thread(target=suspects), threading.Thread(target=other)
    row.start()
    assert first.wait(20)
    beside.start()
    until(lambda: quarantine.waiting == 1, what="the other one to wait")
    leave.set()
    row.join(20)
    beside.join(20)
    assert order == ["first", "other", "second"]


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="the system does not say how long a process waits")
def test_a_process_for_bulk_that_waits_for_a_processor_is_starved_and_no_other() -> None:
    clock = Clock()
    bulk, other = ModelProcess(is_for_bulk=True, monotonic=clock), ModelProcess(monotonic=clock)
    command = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(command) for _ in range(2 * len(os.sched_getaffinity(0)))]
    try:
        for process in (bulk, other):
            process.has_started(busy[0].pid)
        assert not bulk.is_starved()
        until(bulk.is_starved)
        assert not other.is_starved()
        busy[0].send_signal(signal.SIGSTOP)
        until(lambda: psutil.Process(busy[0].pid).status() == psutil.STATUS_STOPPED)
        bulk.is_starved()
        clock.now += 5
        assert bulk.is_starved()
        clock.now += 6
        assert not bulk.is_starved()
    finally:
        for each in busy:
            each.kill()
            each.wait()


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="the system has no SCHED_IDLE")
def test_who_leads_a_group_of_processes_gives_way_too_in_a_session_of_its_own() -> None:
    code = "import os; os.setpgrp(); from millrace.yielding import give_way; give_way(); give_way()"
    code += "; print(os.sched_getscheduler(0) == os.SCHED_IDLE, os.getsid(0) == os.getpid())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True True\n"
