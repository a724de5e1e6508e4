"""What happens in the jobs' Redis in one step: the scripts of `lua/`, loaded where the server lacks them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import redis

from millrace.jobs import units
from millrace.jobs.keys import INDEX, UNFINISHED, WAITING, JobKeys
from millrace.jobs.records import State

_FOLDER = Path(__file__).parent / "lua"


class Scripts:
    """The scripts, over one client of the jobs' Redis."""

    def __init__(self, client: "redis.Redis") -> None:
        self._create = client.register_script((_FOLDER / "create.lua").read_text(encoding="utf-8"))
        self._transition = client.register_script((_FOLDER / "transition.lua").read_text(encoding="utf-8"))

    def create(
        self, job: str, fingerprint: str, max_waiting: int, now_s: float, fields: Mapping[str, str | bytes]
    ) -> str:
        """Make the job, with its first unit in RQ's queue; "made", "same", "other" or "full" (see the script)."""
        keys, unit = JobKeys(job), units.Unit(job, units.PLAN)
        rq_id = units.new_id(unit)
        outcome: Any = self._create(
            keys=[
                *(keys.record, INDEX, WAITING, UNFINISHED, keys.changes),
                *(f"rq:job:{rq_id}", units.QUEUES_KEY, units.QUEUE_KEY),
            ],
            args=[job, fingerprint, max_waiting, now_s, len(fields), *_flat(fields), rq_id, *_flat(units.fields(unit))],
        )
        return str(outcome, "utf-8")

    def transition(
        self, job: str, allowed: Sequence[State], state: State, fields: Mapping[str, str | bytes]
    ) -> State | None:
        """Move the job to `state` if it is in an allowed one; the state that it was in, None without such a job."""
        keys = JobKeys(job)
        was: Any = self._transition(
            keys=[keys.record, WAITING, UNFINISHED, keys.changes],
            args=[job, ",".join(allowed), state, *_flat(fields)],
        )
        return str(was, "utf-8") or None  # type: ignore[return-value]


def enqueue(client: "redis.Redis", unit: units.Unit) -> None:
    """Put a unit into RQ's queue."""
    rq_id = units.new_id(unit)
    mapping: Any = units.fields(unit)
    with client.pipeline() as pipe:
        pipe.hset(f"rq:job:{rq_id}", mapping=mapping)
        pipe.sadd(units.QUEUES_KEY, units.QUEUE_KEY)
        pipe.rpush(units.QUEUE_KEY, rq_id)
        pipe.execute()


def _flat(fields: Mapping[str, str | bytes]) -> list[str | bytes]:
    return [each for pair in fields.items() for each in pair]
