"""Who takes part: the live workers and what they announced, what operators want of the models, and whether the queue
is there. Learned with a heartbeat.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from millrace.broker.base import ProducerLink
from millrace.protocol.desired_state import DesiredState, DesiredStates
from millrace.protocol.errors import MillraceError
from millrace.protocol.messages import WorkerAnnouncement


class Membership:
    """What the last heartbeat told.

    `workers` is what the live workers announced, but for those that are leaving; while nothing changes but the times in
    it, it stays the same object. `desired_states` is what operators want of the models. `is_connected` says whether the
    queue answered, `has_heard` whether it ever did: before that, nothing is known. `on_lost` is called when the queue
    lost its memory, and so every request in it.
    """

    def __init__(self, link: ProducerLink, on_lost: Callable[[], None]) -> None:
        self._link = link
        self._on_lost = on_lost
        self._had_stream = False
        self._refreshing = asyncio.Lock()
        self.desired_states = DesiredStates(link.clock.now_ms)
        self.workers: Sequence[WorkerAnnouncement] = ()
        self._everyone: Sequence[WorkerAnnouncement] = ()
        self._counts: Counter[tuple[str, int]] = Counter()
        self._answering: dict[str, frozenset[tuple[str, int]]] = {}  # by worker
        self.is_connected = self.has_heard = False
        self._has_asked = asyncio.Event()

    async def asked(self, within_s: float) -> None:
        """Return when the first heartbeat was answered or has failed, after `within_s` at the latest."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._has_asked.wait(), within_s)

    async def refresh(self) -> None:
        """A heartbeat now. Raises `Unavailable`."""
        async with self._refreshing:  # of two that find no reply stream only one may make it
            try:
                workers, kept, desired_states = await self._link.heartbeat()
                self._take(workers)
                self.desired_states.take(desired_states)
                if forgotten := self.desired_states.forget():
                    await self._link.forget(forgotten)
                if missing := self.desired_states.missing_from(desired_states):
                    await self._link.put_back(missing)
            except MillraceError:
                self.is_connected = False
                raise
            finally:
                self._has_asked.set()
            if self._had_stream and not kept:
                self._on_lost()
            self._had_stream = self.is_connected = self.has_heard = True

    def worker_count(self, model: str, version: int) -> int:
        """How many live workers have that version available."""
        return self._counts[model, version]

    def can_be_answered(self, model: str, version: int) -> bool:
        """Whether a live worker may answer a request that was sent to that version.

        It has the version available, or finishes what it has of it, or had it and is about to have it again.
        """
        return any((model, version) in versions for versions in self._answering.values())

    def _take(self, everyone: Sequence[WorkerAnnouncement]) -> None:
        if _said(everyone) == _said(self._everyone):
            return
        self._everyone = everyone
        self._answering = {
            worker.worker: _answered_by(worker, self._answering.get(worker.worker, frozenset())) for worker in everyone
        }
        self.workers = [worker for worker in everyone if not worker.is_leaving]
        self._counts = Counter(
            version
            for worker in self.workers
            for version in {(m.name, m.version) for m in worker.models if m.state == "AVAILABLE"}
        )

    async def change_desired_state(self, model: str, change: Callable[[DesiredState], DesiredState]) -> DesiredState:
        """Change what is wanted of a model; `change` is asked again where somebody else was quicker.

        Returns the document as it was written; its `generation` is what workers announce when they have done it.
        Raises `Unavailable`, and what `change` raises.
        """
        while True:
            known = self.desired_states.of(model)
            generation = max(known.generation + 1, int(self._link.clock.now_ms()))
            wanted = msgspec.structs.replace(change(known), generation=generation)
            newer = await self._link.write_desired_state(wanted, replaces=known.generation)
            self.desired_states.take([newer or wanted])
            if newer is None:
                return wanted


def _answered_by(worker: WorkerAnnouncement, before: frozenset[tuple[str, int]]) -> frozenset[tuple[str, int]]:
    """The versions whose requests the worker may answer; `before` are those of its last announcement.

    One that it had and that has an error now, because its process ended, it will have again.
    """
    return frozenset(
        (model.name, model.version)
        for model in worker.models
        if worker.is_leaving
        or model.state in ("AVAILABLE", "UNLOADING")
        or ((model.name, model.version) in before and (model.state != "END" or model.error))
    )


def _said(workers: Sequence[WorkerAnnouncement]) -> list[object]:
    """What announcements say, but for their times. Unchanged models are the same objects, and soon compared."""
    return [(worker.worker, worker.models, worker.generations, worker.is_leaving) for worker in workers]
