"""RQ's form of one unit of work, written with plain commands: the API puts units into RQ's queue without RQ.

Importing RQ costs an API process 0.13 s and 4 MB (measured), and its image a library, for ten fields of a hash. Tests
hold this form to RQ's own `Job.fetch`. A unit is enqueued under a new id each time: RQ's records of an attempt whose
worker died never meet those of the next one.
"""

import json
import secrets
import zlib
from datetime import UTC, datetime
from typing import NamedTuple

from millrace.jobs.keys import RQ_QUEUE

FUNCTION = "millrace.jobs.unit"  # the one name that the jobs program runs; it is looked up, and never imported
QUEUE_KEY = f"rq:queue:{RQ_QUEUE}"
INTERMEDIATE_KEY = f"{QUEUE_KEY}:intermediate"
QUEUES_KEY = "rq:queues"
_KEPT_S = 3600  # what RQ keeps of a unit that failed, for its dashboard
PLAN, JOIN = "plan", "join"


class Unit(NamedTuple):
    """One unit of a job: `plan`, `part-N` or `join`."""

    job: str
    name: str


def part(number: int) -> str:
    """The name of the part of that number, from 0."""
    return f"part-{number}"


def new_id(unit: Unit) -> str:
    """A new id of RQ's for the unit."""
    return f"{unit.job}_{unit.name}_{secrets.token_hex(4)}"


def unit_of(rq_id: str) -> Unit | None:
    """The unit that RQ's id was made for; None for a foreign id."""
    job, separator, name = rq_id.rpartition("_")[0].rpartition("_")
    return Unit(job, name) if separator else None


def fields(unit: Unit, now: datetime | None = None) -> dict[str, str | bytes]:
    """The hash at `rq:job:ID` of a unit that waits in the queue: JSON, no time limit, nothing kept when it is done."""
    time = (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    call = json.dumps([FUNCTION, None, [unit.job, unit.name], {}])
    return {
        "created_at": time,
        "enqueued_at": time,
        "data": zlib.compress(call.encode()),
        "origin": RQ_QUEUE,
        "description": f"{unit.job}: {unit.name}",
        "timeout": "-1",
        "result_ttl": "0",
        "failure_ttl": str(_KEPT_S),
        "status": "queued",
    }
