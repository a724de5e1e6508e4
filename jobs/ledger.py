"""What the jobs program writes down of a job: how it is cut, which units are done, and what they found out."""

from typing import Any

import msgspec

from jobs.parts import Outcome, Plan
from millrace.jobs.keys import ROWS, JobKeys
from millrace.jobs.store import JobStore, in_words

# Nothing is written of a job that was canceled or deleted meanwhile: it must not come back in pieces.
_DONE = """
if redis.call('HGET', KEYS[3], 'state') ~= 'started' then return redis.call('HGET', KEYS[3], 'errors') end
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 1 then
  redis.call('HINCRBY', KEYS[3], 'rows_done', ARGV[3])
  redis.call('HINCRBY', KEYS[3], 'errors', ARGV[4])
  redis.call('HINCRBY', KEYS[4], redis.call('HGET', KEYS[3], 'kind'), ARGV[3])
end
redis.call('HDEL', KEYS[2], ARGV[1])
return redis.call('HGET', KEYS[3], 'errors')
"""
_FORGET = """
local raw = redis.call('HGET', KEYS[1], ARGV[1])
if not raw then return 0 end
local outcome = cjson.decode(raw)
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HINCRBY', KEYS[2], 'rows_done', -outcome.rows)
redis.call('HINCRBY', KEYS[2], 'errors', -outcome.errors)
return 1
"""
_PLAN = """
if redis.call('HGET', KEYS[2], 'state') ~= 'started' then return 0 end
if not redis.call('SET', KEYS[1], ARGV[1], 'NX') then return 0 end
if ARGV[2] ~= '' then redis.call('HSET', KEYS[2], 'rows', ARGV[2]) end
redis.call('HSET', KEYS[2], 'rows_done', '0', 'errors', '0', 'rows_before', '0')
redis.call('DEL', KEYS[3])
return 1
"""


class Ledger:
    """One job's book. Methods raise `Unavailable`."""

    def __init__(self, store: JobStore, job: str) -> None:
        self._client = store.client
        self._keys = JobKeys(job)

    def plan(self) -> Plan | None:
        """How the job is cut; None before it is."""
        with in_words():
            raw: Any = self._client.get(self._keys.plan)
        return msgspec.json.decode(raw, type=Plan) if raw else None

    def write_plan(self, plan: Plan) -> None:
        """Say how the job is cut, once: a second plan changes nothing."""
        rows = "" if plan.rows is None else str(plan.rows)
        keys = (self._keys.plan, self._keys.record, self._keys.done)
        with in_words():
            self._client.eval(_PLAN, 3, *keys, msgspec.json.encode(plan), rows)

    def state(self) -> tuple[Plan | None, set[str]]:
        """How the job is cut, and the names of the finished units."""
        with in_words(), self._client.pipeline(transaction=False) as pipe:
            pipe.get(self._keys.plan)
            pipe.hkeys(self._keys.done)
            raw, names = pipe.execute()
        plan = msgspec.json.decode(raw, type=Plan) if raw else None
        return plan, {str(name, "utf-8") for name in names}

    def is_done(self, unit: str) -> bool:
        """Whether the unit is finished."""
        with in_words():
            return bool(self._client.hexists(self._keys.done, unit))

    def done(self) -> dict[str, Outcome]:
        """The finished units, by name."""
        with in_words():
            found: Any = self._client.hgetall(self._keys.done)
        return {str(unit, "utf-8"): msgspec.json.decode(raw, type=Outcome) for unit, raw in found.items()}

    def finish(self, unit: str, outcome: Outcome) -> int:
        """A unit is done; its rows count once, however often it is. Returns the job's errors so far."""
        keys = (self._keys.done, self._keys.progress, self._keys.record, ROWS)
        with in_words():
            errors: Any = self._client.eval(
                _DONE, 4, *keys, unit, msgspec.json.encode(outcome), str(outcome.rows), str(outcome.errors)
            )
        return int(errors or 0)

    def forget(self, units: list[str]) -> None:
        """These units are to be done again: their files are gone."""
        with in_words():
            for unit in units:
                self._client.eval(_FORGET, 2, self._keys.done, self._keys.record, unit)
