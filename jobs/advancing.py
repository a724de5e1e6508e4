"""Which units a job needs next: whatever is neither done, nor claimed, nor in RQ's queue, is put there.

This is the one rule by which jobs go on, after a part and after any loss. Only a few parts of one job wait at a time,
so that jobs share the workers.
"""

from collections.abc import Iterable
from typing import Any

from jobs.ledger import Ledger
from millrace.jobs import scripts, units
from millrace.jobs.keys import RQ_QUEUE, JobKeys
from millrace.jobs.store import JobStore, in_words
from millrace.jobs.units import JOIN, PLAN, Unit

_WORKERS_KEY = f"rq:workers:{RQ_QUEUE}"


def waiting(store: JobStore) -> set[Unit]:
    """The units that are in RQ's queue, or between it and a worker."""
    with in_words(), store.client.pipeline(transaction=True) as pipe:
        pipe.lrange(units.QUEUE_KEY, 0, -1)
        pipe.lrange(units.INTERMEDIATE_KEY, 0, -1)
        queued, taken = pipe.execute()
    found = (units.unit_of(str(each, "utf-8")) for each in (*queued, *taken))
    return {unit for unit in found if unit}


def advance(store: JobStore, job: str) -> None:
    """Put into the queue what the job needs next. Raises `Unavailable`."""
    ledger = Ledger(store, job)
    plan = ledger.plan()
    if plan is None:
        _ensure(store, [Unit(job, PLAN)], 1)
        return
    done = ledger.done()
    missing = [Unit(job, units.part(part.number)) for part in plan.parts if units.part(part.number) not in done]
    if missing:
        with in_words():
            workers: Any = store.client.scard(_WORKERS_KEY)
        _ensure(store, missing, max(2, 2 * workers))
    else:
        _ensure(store, [Unit(job, JOIN)], 1)


def _ensure(store: JobStore, wanted: Iterable[Unit], most: int) -> None:
    """Have the first `most` of the units in the queue, or in somebody's hands."""
    first = list(wanted)[: 4 * most]
    present = waiting(store)
    with in_words(), store.client.pipeline(transaction=False) as pipe:
        for unit in first:
            pipe.exists(JobKeys(unit.job).claim(unit.name))
        claimed = pipe.execute()
    present |= {unit for unit, has in zip(first, claimed, strict=True) if has}
    room = most - sum(unit in present for unit in first)
    for unit in [unit for unit in first if unit not in present][: max(0, room)]:
        with in_words():
            scripts.enqueue(store.client, unit)
