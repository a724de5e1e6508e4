"""Who works on a unit, and what the books say of it; on a real Redis, without a jobs program."""

import queue
from pathlib import Path

import pytest

from jobs.addresses import is_public
from jobs.advancing import advance, waiting
from jobs.claims import Claim
from jobs.context import Progress
from jobs.ledger import Ledger
from jobs.parts import Outcome, Plan, cut
from millrace.jobs.documents import read_document
from millrace.jobs.keys import JobKeys
from millrace.jobs.records import JobRecord, State
from millrace.jobs.store import JobLimits, JobStore
from millrace.jobs.units import Unit
from millrace.protocol.errors import NotFound
from tests.support.running import RedisServer, until

PLAN = Plan(parts=tuple(cut(100, 10)), rows=100)


@pytest.fixture
def store(redis_server: RedisServer, tmp_path: Path) -> JobStore:
    return JobStore(redis_server.url, tmp_path, JobLimits())


@pytest.fixture
def job(store: JobStore) -> JobRecord:
    """A job that has started and is cut."""
    made = store.submit(read_document({"kind": "score", "model": "m", "input": "a.csv"}))
    store.transition(made.id, ("queued",), "started")
    Ledger(store, made.id).write_plan(PLAN)
    store.client.delete("rq:queue:millrace-jobs")
    return store.get(made.id)


def claimed(store: JobStore, unit: Unit, progress: Progress) -> tuple[Claim, "queue.Queue[str]"]:
    """A claim that is taken, and where it says why it must be given up."""
    reasons: queue.Queue[str] = queue.Queue()
    claim = Claim(store, unit, progress, reasons.put)
    assert claim.take()
    return claim, reasons


def test_a_unit_is_in_one_pair_of_hands(store: JobStore, job: JobRecord) -> None:
    unit = Unit(job.id, "part-0")
    claim, _ = claimed(store, unit, Progress())
    assert not Claim(store, unit, Progress(), print).take()
    claim.release()
    again, _ = claimed(store, unit, Progress())
    again.release()


@pytest.mark.parametrize(
    ("state", "reason"),
    [("canceled", "canceled"), ("finished", "the job has ended"), ("failed", "the job has ended")],
)
def test_whoever_works_on_a_job_that_ended_is_told_why(
    store: JobStore, job: JobRecord, state: State, reason: str
) -> None:
    """Only what a canceled job wrote is removed: a process that comes late must not take a result away."""
    claim, reasons = claimed(store, Unit(job.id, "part-0"), Progress())
    store.transition(job.id, ("started",), state)
    assert reasons.get(timeout=10) == reason
    claim.release()


def test_whoever_works_on_a_job_that_was_deleted_leaves_nothing_behind(store: JobStore, job: JobRecord) -> None:
    progress = Progress()
    claim, reasons = claimed(store, Unit(job.id, "part-0"), progress)
    store.delete(job.id)
    progress.add(5, 0)
    assert reasons.get(timeout=10) == "canceled"
    Ledger(store, job.id).finish("part-0", Outcome(rows=10))
    Ledger(store, job.id).write_plan(PLAN)
    claim.release()
    assert store.client.keys(f"{JobKeys(job.id).record}*") == []
    with pytest.raises(NotFound):
        store.get(job.id)


def test_the_rows_of_a_part_count_once_however_often_it_is_done(store: JobStore, job: JobRecord) -> None:
    progress = Progress()
    claim, _ = claimed(store, Unit(job.id, "part-0"), progress)
    progress.add(4, 1)
    until(lambda: (store.get(job.id).rows_done, store.get(job.id).errors) == (4, 1), 10)
    ledger = Ledger(store, job.id)
    for _ in range(2):
        ledger.finish("part-0", Outcome(rows=10, errors=2))
    progress.add(6, 1)
    claim.release()
    assert (store.get(job.id).rows_done, store.get(job.id).errors) == (10, 2)
    ledger.forget(["part-0", "part-1"])
    assert (store.get(job.id).rows_done, store.get(job.id).errors) == (0, 0)


def test_only_a_few_parts_of_a_job_wait_and_each_once(store: JobStore, job: JobRecord) -> None:
    for _ in range(3):
        advance(store, job.id)
    assert waiting(store) == {Unit(job.id, "part-0"), Unit(job.id, "part-1")}
    assert store.client.llen("rq:queue:millrace-jobs") == 2


def test_what_is_next_is_neither_done_nor_claimed_and_the_join_comes_last(store: JobStore, job: JobRecord) -> None:
    ledger = Ledger(store, job.id)
    ledger.finish("part-0", Outcome(rows=10))
    claim, _ = claimed(store, Unit(job.id, "part-1"), Progress())
    advance(store, job.id)
    assert waiting(store) == {Unit(job.id, "part-2")}
    claim.release()
    store.client.delete("rq:queue:millrace-jobs")
    for part in PLAN.parts:
        ledger.finish(f"part-{part.number}", Outcome(rows=10))
    advance(store, job.id)
    assert waiting(store) == {Unit(job.id, "join")}


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.0.1", "0.0.0.0", "224.0.0.1", "100.64.0.1"),
        *("::1", "fe80::1", "::ffff:10.0.0.1"),
    ],
)
def test_a_webhook_goes_to_no_address_that_is_not_public(address: str) -> None:
    assert not is_public(address)


def test_a_webhook_goes_to_public_addresses() -> None:
    assert is_public("93.184.216.34")
    assert is_public("2606:2800:220:1::1")
