"""What happens in the jobs' Redis in one step: the scripts of `lua/`, loaded where the server lacks them.

Scripts find the key of a state by what the state is: a Redis Cluster, which forbids that, cannot keep jobs anyhow.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import redis

from millrace.jobs import units
from millrace.jobs.keys import CALLS, COUNTS, IN_STATE, INDEX, LOG_LINES, UPLOADS, JobKeys
from millrace.jobs.records import FINAL, State

_FOLDER = Path(__file__).parent / "lua"
# Of a job that was deleted meanwhile, nothing must come back. KEYS: record, and the key that is written.
_LOG = """
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
return redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[1], '*', 'text', ARGV[2])
"""
_COUNT_TRY = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
return redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
"""
_FIRST = """
if redis.call('EXISTS', KEYS[1]) == 0 then return ARGV[2] end
redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2])
return redis.call('HGET', KEYS[2], ARGV[1])
"""


class Scripts:
    """The scripts, over one client of the jobs' Redis."""

    def __init__(self, client: "redis.Redis") -> None:
        self._create = client.register_script((_FOLDER / "create.lua").read_text(encoding="utf-8"))
        self._transition = client.register_script((_FOLDER / "transition.lua").read_text(encoding="utf-8"))
        self._delete = client.register_script((_FOLDER / "delete.lua").read_text(encoding="utf-8"))
        self._log = client.register_script(_LOG)
        self._count_try = client.register_script(_COUNT_TRY)
        self._first = client.register_script(_FIRST)

    def create(
        self,
        job: str,
        fingerprint: str,
        max_waiting: int,
        now_s: float,
        kind: str,
        upload: str,
        fields: Mapping[str, str | bytes],
    ) -> str:
        """Make the job, with its first unit in RQ's queue; "made", "same", "other" or "full" (see the script)."""
        keys, unit = JobKeys(job), units.Unit(job, units.PLAN)
        rq_id = units.new_id(unit)
        outcome: Any = self._create(
            keys=[
                *(keys.record, INDEX, f"{IN_STATE}queued", COUNTS, UPLOADS),
                *(f"rq:job:{rq_id}", units.QUEUES_KEY, units.QUEUE_KEY),
            ],
            args=[
                *(job, fingerprint, max_waiting, repr(now_s), kind, upload),
                *(len(fields), *_flat(fields)),
                *(rq_id, *_flat(units.fields(unit))),
            ],
        )
        return str(outcome, "utf-8")

    def transition(
        self, job: str, allowed: Sequence[State], state: State, now_s: float, fields: Mapping[str, str | bytes]
    ) -> State | None:
        """Move the job to `state` if it is in an allowed one; the state that it was in, None without such a job."""
        was: Any = self._transition(
            keys=[JobKeys(job).record, COUNTS, CALLS],
            args=[IN_STATE, job, ",".join(allowed), state, repr(now_s), *_flat(fields)],
        )
        return str(was, "utf-8") or None  # type: ignore[return-value]

    def delete(self, job: str) -> State | None:
        """Forget a job that has ended; the state that it was in, None without such a job."""
        keys = JobKeys(job)
        was: Any = self._delete(
            keys=[keys.record, INDEX, COUNTS, UPLOADS, CALLS, *keys.all], args=[IN_STATE, job, ",".join(FINAL)]
        )
        return str(was, "utf-8") or None  # type: ignore[return-value]

    def log(self, job: str, text: str) -> None:
        """Add a line to the job's log."""
        keys = JobKeys(job)
        self._log(keys=[keys.record, keys.logs], args=[LOG_LINES, text])

    def count_try(self, job: str, what: str) -> int:
        """`what` was tried in vain once more; how often it was."""
        keys = JobKeys(job)
        tries: Any = self._count_try(keys=[keys.record, keys.tries], args=[what])
        return int(tries)

    def first_s(self, job: str, what: str, now_s: float) -> float:
        """When this was first asked of the job."""
        keys = JobKeys(job)
        first: Any = self._first(keys=[keys.record, keys.tries], args=[what, repr(now_s)])
        return float(first)


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
