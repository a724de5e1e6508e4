"""Looks after all jobs once a second: whatever died, of a job, of a worker, of Redis, is put into the queue again.

One of all jobs programs does it at a time. A unit that RQ took out of the queue and never started, because its worker
died in between, stays in RQ's intermediate list: after a few seconds it is taken out of there.
"""

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from jobs import kinds
from jobs.advancing import advance, waiting, workers
from jobs.expiry import drop_orphans, expire
from jobs.settings import JobsSettings
from millrace.jobs import units
from millrace.jobs.keys import KINDS, SWEEPER
from millrace.jobs.store import JobStore, in_words
from millrace.protocol.errors import MillraceError

_log = logging.getLogger(__name__)
_EVERY_S = 1.0
_HELD_MS = 3000  # how long a sweeper that died keeps others from sweeping
_TAKEN_S = 4.0  # how long a unit may be between the queue and a process
_EXPIRE_EVERY_S, _ORPHANS_EVERY_S = 30.0, 600.0
_KINDS_KNOWN_S = 60.0
_HOLD = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


class Sweeper:
    """The sweeper of one program. `clock` counts seconds, monotonically."""

    def __init__(self, store: JobStore, settings: JobsSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._token = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._taken_since: dict[bytes, float] = {}
        self._expired_at = self._tidied_at = float("-inf")

    def run(self, stopping: threading.Event) -> None:
        """Sweep until it stops."""
        while True:
            try:
                self._announce()
                if self._is_the_one():
                    self.sweep()
            except (MillraceError, redis.RedisError, OSError) as error:
                _log.warning("jobs could not be looked after", extra={"reason": str(error)})
            except Exception:
                _log.exception("jobs could not be looked after")
            if stopping.wait(_EVERY_S):
                return

    def sweep(self) -> None:
        """Look after every job once. Raises `Unavailable`."""
        self._put_back()
        unfinished = self._store.unfinished()
        present, count = waiting(self._store), workers(self._store)
        at_hand = {unit.job for unit in present}
        for job, state in sorted(unfinished.items()):
            if state == "started" or job not in at_hand:
                advance(self._store, job, present, count)
        if self._clock() - self._expired_at >= _EXPIRE_EVERY_S:
            self._expired_at = self._clock()
            expire(self._store, self._settings.result_ttl_s)
        if self._clock() - self._tidied_at >= _ORPHANS_EVERY_S:
            self._tidied_at = self._clock()
            drop_orphans(self._store)

    def _put_back(self) -> None:
        """Take units out of the intermediate list that no worker will start any more; `advance` sees to them."""
        with in_words():
            taken: Any = self._store.client.lrange(units.INTERMEDIATE_KEY, 0, -1)
        now = self._clock()
        self._taken_since = {each: self._taken_since.get(each, now) for each in taken}
        for each, since in self._taken_since.items():
            if now - since >= _TAKEN_S:
                with in_words():
                    self._store.client.lrem(units.INTERMEDIATE_KEY, 0, str(each, "utf-8"))
                    self._store.client.delete(f"rq:job:{str(each, 'utf-8')}")
                _log.warning("a unit was taken and never started", extra={"unit": str(each, "utf-8")})

    def _announce(self) -> None:
        until = repr(self._store.clock() + _KINDS_KNOWN_S)
        with in_words():
            self._store.client.hset(KINDS, mapping=dict.fromkeys(kinds.names(self._settings.kinds), until))

    def _is_the_one(self) -> bool:
        with in_words():
            return bool(self._store.client.eval(_HOLD, 1, SWEEPER, self._token, str(_HELD_MS)))
