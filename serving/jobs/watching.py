"""Who watches jobs: one thread looks at all that are watched, and tells of each change.

A thread for each watcher would let watchers use up the threads; so however many there are, one asks Redis four times a
second. It ends when nobody watches any more.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from millrace.jobs.records import JobRecord
from millrace.jobs.store import JobStore
from millrace.protocol.errors import MillraceError, Unavailable

_LOOK_S = 0.25
_MOST = 256
Tell = Callable[[JobRecord | MillraceError], None]


@dataclass(eq=False, slots=True)
class Watcher:
    """One that watches a job. `tell` is called in the watching thread, with the last record or an error at the end."""

    job: str
    tell: Tell
    last: JobRecord | None = field(default=None)


class Watching:
    """All watchers of one process. Its methods do not block, and any thread may call them."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._watchers: set[Watcher] = set()
        self._is_running = False
        self._woken = threading.Event()

    def watch(self, job: str, tell: Tell) -> Watcher:
        """Tell of the job now, and at every change. Raises `Unavailable` where too many watch."""
        watcher = Watcher(job, tell)
        with self._lock:
            if len(self._watchers) >= _MOST:
                raise Unavailable(f"{_MOST} callers watch jobs already; ask for the job itself, or try again")
            self._watchers.add(watcher)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="watch-jobs", daemon=True).start()
        self._woken.set()
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Tell it nothing more. Leaving again does nothing."""
        with self._lock:
            self._watchers.discard(watcher)

    def _run(self) -> None:
        next_look = 0.0
        while watchers := self._current():
            now = time.monotonic()
            if now < next_look:  # only at what nobody has looked at
                watchers = [watcher for watcher in watchers if watcher.last is None]
            else:
                next_look = now + _LOOK_S
            for job in {watcher.job for watcher in watchers}:
                self._look([watcher for watcher in watchers if watcher.job == job], job)
            self._woken.wait(max(0.0, next_look - time.monotonic()))
            self._woken.clear()

    def _current(self) -> list[Watcher]:
        with self._lock:
            self._is_running = bool(self._watchers)
            return list(self._watchers)

    def _look(self, watchers: list[Watcher], job: str) -> None:
        found: JobRecord | MillraceError
        try:
            found = self._store.get(job)
        except MillraceError as error:
            found = error
        for watcher in watchers:
            if found == watcher.last:
                continue
            if isinstance(found, MillraceError) or found.is_final:
                self.leave(watcher)
            watcher.last = found if isinstance(found, JobRecord) else None
            watcher.tell(found)
