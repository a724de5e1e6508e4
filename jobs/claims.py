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
_RENEW = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
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
        with self._store.client.pipeline(transaction=False) as pipe:
            pipe.eval(_RENEW, 1, self._key, self._token, str(LEASE_MS))
            pipe.hget(self._keys.record, "state")
            if now != self._shown:
                pipe.hset(self._keys.progress, self._unit.name, f"{now[0]} {now[1]}")
                pipe.xadd(self._keys.changes, {"progress": self._unit.name}, maxlen=1, approximate=False)
            answers: list[Any] = pipe.execute()
        self._shown = now
        if answers[1] != b"started" and answers[1] != b"queued":
            return "canceled"
        return "" if answers[0] else "another process has the unit"
