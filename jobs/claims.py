"""Who works on a unit: a key that expires in seconds unless a thread renews it, so that a death shows soon.

The same thread publishes the unit's progress, and sees that the job was canceled or that the worker above is gone.
"""

import logging
import os
import secrets
import threading
from collections.abc import Callable
from typing import Any

import redis

from jobs.context import Progress
from millrace.jobs.keys import JobKeys
from millrace.jobs.store import JobStore
from millrace.jobs.units import Unit

_log = logging.getLogger(__name__)
LEASE_MS = 4000
_BEAT_S = 0.25
# KEYS: claim, record, progress, done. ARGV: token, lease in ms, unit, its progress ("" where it is as before).
# Returns why the unit must stop, "" where it need not. Nothing is written of a job that is gone.
_BEAT = """
local state = redis.call('HGET', KEYS[2], 'state')
if not state or state == 'canceled' then return 'canceled' end
if state ~= 'started' and state ~= 'queued' then return 'the job has ended' end
if redis.call('HEXISTS', KEYS[4], ARGV[3]) == 1 then return '' end
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 'another process has the unit' end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
end
return ''
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Claim:
    """One unit in this process' hands. `give_up` is called in a thread, with the reason, when it must stop at once."""

    def __init__(self, store: JobStore, unit: Unit, progress: Progress, give_up: Callable[[str], None]) -> None:
        self._store = store
        self._unit = unit
        self._keys = JobKeys(unit.job)
        self._key = self._keys.claim(unit.name)
        self._token = secrets.token_hex(8)
        self._progress = progress
        self._give_up = give_up
        self._parent = os.getppid()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="claim", daemon=True)
        self._shown: tuple[int, int] | None = None

    def take(self) -> bool:
        """Whether nobody else has the unit, and now this process has it."""
        if not self._store.client.set(self._key, self._token, nx=True, px=LEASE_MS):
            return False
        self._thread.start()
        return True

    def release(self) -> None:
        """Let others have it; where Redis does not answer, the claim expires."""
        self._ended.set()
        try:
            self._store.client.eval(_RELEASE, 1, self._key, self._token)
            self._store.client.hdel(self._keys.progress, self._unit.name)
        except (redis.RedisError, OSError) as error:
            _log.warning("a claim is left to expire", extra={"job": self._unit.job, "reason": str(error)})

    def _run(self) -> None:
        while not self._ended.wait(_BEAT_S):
            if os.getppid() != self._parent:
                self._give_up("the worker above is gone")
                return
            try:
                reason = self._beat()
            except (redis.RedisError, OSError) as error:
                _log.warning("the jobs' Redis does not answer", extra={"job": self._unit.job, "reason": str(error)})
                continue
            if reason and not self._ended.is_set():
                self._give_up(reason)
                return

    def _beat(self) -> str:
        """Renew, and publish progress; why the unit must stop, "" where it need not."""
        now = self._progress.now()
        shown = f"{now[0]} {now[1]}" if now != self._shown else ""
        keys = (self._key, self._keys.record, self._keys.progress, self._keys.done)
        reason: Any = self._store.client.eval(_BEAT, 4, *keys, self._token, str(LEASE_MS), self._unit.name, shown)
        self._shown = now
        return str(reason, "utf-8")
