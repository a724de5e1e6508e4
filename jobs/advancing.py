"""Which units a job needs next: whatever is neither done, nor claimed, nor in RQ's queue, is put there.

This is the one rule by which jobs go on, after a part and after any loss. Only a few parts of one job wait at a time,
so that jobs share the workers.
"""

from collections.abc import Sequence

from jobs.ledger import Ledger
from millrace.jobs import scripts, units
from millrace.jobs.keys import RQ_QUEUE, JobKeys
from millrace.jobs.store import JobStore, in_words
from millrace.jobs.units import JOIN, PLAN, Unit

_WORKERS_KEY = f"rq:workers:{RQ_QUEUE}"


def waiting(store: JobStore) -> set[Unit]:
    """The units that are in RQ's queue, or between it and a worker. Raises `Unavailable`."""
    with in_words(), store.client.pipeline(transaction=True) as pipe:
        pipe.lrange(units.QUEUE_KEY, 0, -1)
        pipe.lrange(units.INTERMEDIATE_KEY, 0, -1)
        queued, taken = pipe.execute()
    found = (units.unit_of(str(each, "utf-8")) for each in (*queued, *taken))
    return {unit for unit in found if unit}


def workers(store: JobStore) -> int:
    """How many RQ workers there are. Raises `Unavailable`."""
    with in_words():
        return int(store.client.scard(_WORKERS_KEY))


def advance(store: JobStore, job: str, present: set[Unit] | None = None, worker_count: int | None = None) -> None:
    """Put into the queue what the job needs next. `present` are the units that wait there, where that is known.

    Raises `Unavailable`.
    """
    plan, done = Ledger(store, job).state()
    present = waiting(store) if present is None else present
    if plan is None:
        _ensure(store, [Unit(job, PLAN)], 1, present)
        return
    missing = [Unit(job, units.part(part.number)) for part in plan.parts if units.part(part.number) not in done]
    if missing:
        count = workers(store) if worker_count is None else worker_count
        _ensure(store, missing, max(2, 2 * count), present)
    else:
        _ensure(store, [Unit(job, JOIN)], 1, present)


def _ensure(store: JobStore, wanted: Sequence[Unit], most: int, present: set[Unit]) -> None:
    """Have the first `most` of the units in the queue, or in somebody's hands."""
    first = wanted[: 4 * most]
    if sum(unit in present for unit in first) >= most:
        return
    with in_words(), store.client.pipeline(transaction=False) as pipe:
        for unit in first:
            pipe.exists(JobKeys(unit.job).claim(unit.name))
        claimed = pipe.execute()
    there = present | {unit for unit, has in zip(first, claimed, strict=True) if has}
    room = most - sum(unit in there for unit in first)
    for unit in [unit for unit in first if unit not in there][: max(0, room)]:
        with in_words():
            scripts.enqueue(store.client, unit)
