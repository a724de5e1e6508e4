"""The versions that a worker holds, brought step by step to what is wanted, while those that serve go on.

                 loaded, warmed up            not wanted, and what is wanted is here
    LOADING ────────────────────► AVAILABLE ───────────────────────────────────────► UNLOADING
       │ ▲                            ▲                                                │    │
       │ │ its files changed, or      └──────────────── wanted again ──────────────────┘    │ nothing can come any more
       ▼ │ somebody asked again, or the failure may have passed                             ▼
      END, with its error                                                     END, its instances leave

A version that failed counts as not there: an older one serves in its place, or goes on to. One that is UNLOADING still
answers, for an API process hears of it with its next heartbeat only. It leaves when all must have heard and its queue
is empty, or another worker has it.
"""

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from millrace.artifacts.configs import CONFIG_PBTXT
from millrace.broker.keys import Queue
from millrace.protocol.desired_state import held_back
from millrace.protocol.errors import Unavailable
from millrace.protocol.messages import ModelAnnouncement, WorkerAnnouncement
from worker.backends.base import LoadError
from worker.catalogue import Wanted
from worker.instances import Instances
from worker.model import Model

_log = logging.getLogger(__name__)
_RETRY_S = 5.0
_LONGEST_ERROR = 2000
HEARD_S = 3.0  # for so long an API process may go on as if it had heard nothing
_Files = frozenset[tuple[str, int, int]]


@dataclass(slots=True)
class _Held:
    """One version: what is said of it, and what serves it.

    `files` and `generation` are those for which it was loaded last, or failed; `retry_at` is when a failure that may
    pass is worth another try, `told` when the others were first told that it is UNLOADING.
    """

    announcement: ModelAnnouncement
    instances: Instances | None = None
    files: _Files = frozenset()
    generation: int = 0
    labels: tuple[str, ...] = ()
    retry_at: float = math.inf
    told: float | None = None

    @property
    def state(self) -> str:
        return self.announcement.state

    def become(self, state: str) -> None:
        self.announcement = replace(self.announcement, state=state)
        self.told = None

    def shown(self) -> ModelAnnouncement:
        """What to say of it now: a version may be unable to serve for a while."""
        shown = replace(self.announcement, version_labels=self.labels) if self.labels else self.announcement
        if self.state == "AVAILABLE" and self.instances and (fault := self.instances.fault):
            return replace(shown, state="END", error=fault)
        return shown


class Versions:
    """What one worker holds. One thread calls `follow`; any may read.

    `load` and `start` make a version and its instances; `is_idle` says whether nothing waits for a version or is in
    work, at any worker; `news` is called whenever there is something to announce; `now_ms` is the broker's clock.
    """

    def __init__(
        self,
        *,
        load: Callable[[Wanted, int], Model],
        start: Callable[[Model], Instances],
        is_idle: Callable[[Queue], bool],
        news: Callable[[], None],
        now_ms: Callable[[], float],
        heard_s: float = HEARD_S,
    ) -> None:
        self._load = load
        self._start = start
        self._is_idle = is_idle
        self._news = news
        self._now_ms = now_ms
        self._heard_s = heard_s
        self._held: dict[str, dict[int, _Held]] = {}
        self._absent: tuple[ModelAnnouncement, ...] = ()
        self._leaving: list[Instances] = []
        self._is_closed = False
        self._announced: tuple[object, ...] = ()
        self._errors: dict[str, str] = {}
        self.generations: dict[str, int] = {}

    def announcements(self) -> tuple[ModelAnnouncement, ...]:
        """What to tell the others, of every version."""
        return (*(held.shown() for _, _, held in self._all()), *self._absent)

    def instances(self) -> list[Instances]:
        """All that run, those that are leaving too."""
        return [held.instances for _, _, held in self._all() if held.instances] + self._leaving

    def told(self, announced: Iterable[ModelAnnouncement]) -> None:
        """The others were told this."""
        for model in announced:
            held = self._of(model.name).get(model.version)
            if held and held.told is None and model.state == held.state == "UNLOADING":
                held.told = time.monotonic()

    def close(self) -> None:
        """Start nothing any more: a version that is still being loaded is dropped."""
        self._is_closed = True

    def follow(
        self,
        wanted: Mapping[str, Wanted],
        generations: Mapping[str, int],
        others: Callable[[], Sequence[WorkerAnnouncement]],
    ) -> None:
        """Do what there is to do now: load what is missing, one after the other, and part with what is not wanted.

        `generations` are those of the documents that `wanted` is made of, `others` the other workers' announcements.
        """
        self._forget(wanted)
        self._complain(wanted)
        self._absent = tuple(absent for model in wanted.values() for absent in _not_held(model, self._of(model.name)))
        due = {name: self._due(model) for name, model in wanted.items()}
        for name, versions in due.items():
            for version in versions:
                self._say_loading(name, version)
        self._tell()
        for model in sorted(wanted.values(), key=lambda model: model.is_loaded):  # what is only to go need not wait
            self._load_all(model, due[model.name])
            self._part(model, others())
            if self.generations.get(model.name, 0) != model.generation:
                self.generations = {**self.generations, model.name: model.generation}
                self._tell()
        self.generations = dict(generations)
        self._leave(others())
        self._tell()

    def _tell(self) -> None:
        """Have it announced at once if anything is new."""
        now = (*self.announcements(), self.generations)
        if now != self._announced:
            self._announced = now
            self._news()

    def _complain(self, wanted: Mapping[str, Wanted]) -> None:
        """Log what keeps a model from being loaded, once."""
        errors = {name: model.error for name, model in wanted.items() if model.error}
        for name, error in errors.items():
            if self._errors.get(name) != error:
                _log.error("a model cannot be loaded", extra={"model": name, "reason": error})
        self._errors = errors

    def _of(self, name: str) -> dict[int, _Held]:
        return self._held.get(name, {})

    def _all(self) -> list[tuple[str, int, _Held]]:
        """A list of its own, for other threads ask while versions come and go."""
        return [(name, v, held) for name, versions in list(self._held.items()) for v, held in list(versions.items())]

    def _drop(self, name: str, version: int) -> None:
        del self._held[name][version]
        if not self._held[name]:
            del self._held[name]

    def _forget(self, wanted: Mapping[str, Wanted]) -> None:
        """Part with models that are gone, and forget failures whose files are gone."""
        for name, version, held in self._all():
            model = wanted.get(name)
            if model is None and held.state == "AVAILABLE":
                held.become("UNLOADING")
            elif held.instances is None and (model is None or version not in model.there):
                self._drop(name, version)

    # Loading

    def _due(self, model: Wanted) -> list[int]:
        """The versions to load now, the newest first; those that are wanted again after all become AVAILABLE."""
        if model.error or not model.is_loaded:
            return []
        held = self._of(model.name)
        hopeless = {v for v, of in held.items() if of.instances is None and not self._is_due(model, v, of)}
        due = []
        for version in model.versions(hopeless):
            known = held.get(version)
            was_going = known is not None and known.state == "UNLOADING"
            if known and was_going:
                known.become("AVAILABLE")
            if known is None or self._is_due(model, version, known, came_back=was_going):
                due.append(version)
        return due

    def _is_due(self, model: Wanted, version: int, held: _Held, *, came_back: bool = False) -> bool:
        """Whether one that failed is worth another try, or one that serves has changed and is to be looked at again."""
        is_asked_again = came_back or held.generation != model.generation
        if held.instances:
            return is_asked_again and held.files != _files(model, version)
        return is_asked_again or held.files != _files(model, version) or time.monotonic() >= held.retry_at

    def _say_loading(self, name: str, version: int) -> None:
        held = self._of(name).get(version)
        if held is None or held.instances is None:
            self._held.setdefault(name, {})[version] = _Held(
                ModelAnnouncement(name=name, version=version, state="LOADING")
            )

    def _load_all(self, model: Wanted, versions: Sequence[int]) -> None:
        """Load these, and for each that fails an older one that takes its place."""
        tried: set[int] = set()
        left = list(versions)
        while left and not self._is_closed:
            version = left.pop(0)
            tried.add(version)
            if not self._try(model, version) and not left:
                left = [other for other in self._due(model) if other not in tried]
                for other in left:
                    self._say_loading(model.name, other)
            self._tell()
        for version, held in self._of(model.name).items():
            held.generation = model.generation
            held.labels = tuple(sorted(label for label, of in model.labels.items() if of == version))

    def _try(self, model: Wanted, version: int) -> bool:
        """Load a version beside all that serves; whether it can serve now."""
        held = self._held[model.name][version]
        held.files, held.generation = _files(model, version), model.generation
        about = {"model": model.name, "version": version}
        started = time.perf_counter()
        try:
            loaded = self._load(model, version)
        except Exception as error:  # a broken version must not take the others with it
            is_ours = not isinstance(error, LoadError)
            _log.error("a model failed to load", extra={**about, "reason": str(error)}, exc_info=is_ours)
            state = "AVAILABLE" if held.instances else "END"
            held.announcement = replace(held.announcement, state=state, error=_in_words(str(error)))
            held.retry_at = time.monotonic() + _RETRY_S if getattr(error, "can_retry", False) else math.inf
            return held.instances is not None
        if self._is_closed:
            return False
        replaced, held.instances = held.instances, self._start(loaded)
        held.announcement = replace(loaded.announcement, available_ms=int(self._now_ms()))
        if replaced:
            self._drain(replaced)
        took_ms = round((time.perf_counter() - started) * 1000)
        _log.info("loaded a model", extra={**about, "platform": held.announcement.platform, "duration_ms": took_ms})
        return True

    # Parting

    def _part(self, model: Wanted, others: Sequence[WorkerAnnouncement]) -> None:
        """Tell that versions which are not wanted are UNLOADING, if what is wanted is here to take their place."""
        held = self._of(model.name)
        failed = {version for version, of in held.items() if of.instances is None}
        kept = model.versions(failed) if model.is_loaded else []
        parting = [version for version, of in held.items() if of.state == "AVAILABLE" and version not in kept]
        if not parting or (model.is_loaded and not self._is_settled(model, kept, failed, others)):
            return
        for version in parting:
            held[version].become("UNLOADING")
            _log.info("unloading a version", extra={"model": model.name, "version": version})

    def _is_settled(
        self, model: Wanted, kept: Sequence[int], failed: set[int], others: Sequence[WorkerAnnouncement]
    ) -> bool:
        """Whether what is wanted of the model is here, and held back by no worker."""
        held = self._of(model.name)
        if model.error or not kept or not held.keys() >= set(kept):
            return False
        if model.policy.specific and failed.intersection(model.versions()):  # nothing takes their place
            return False
        mine = WorkerAnnouncement(
            worker="", expires_ms=0, sent_ms=int(self._now_ms()), models=tuple(of.shown() for of in held.values())
        )
        about = [replace(worker, models=tuple(m for m in worker.models if m.name == model.name)) for worker in others]
        return not held_back([*about, mine]).intersection((model.name, version) for version in kept)

    def _leave(self, others: Sequence[WorkerAnnouncement]) -> None:
        """Let the instances go to which nothing can come any more."""
        elsewhere = {(m.name, m.version) for worker in others for m in worker.models if m.state == "AVAILABLE"}
        now = time.monotonic()
        for name, version, held in self._all():
            if held.instances is None or held.told is None or now - held.told < self._heard_s:
                continue
            try:
                is_done = (name, version) in elsewhere or self._is_idle(held.instances.queue)
            except Unavailable as error:
                _log.warning("the queue does not answer", extra={"reason": str(error)})
                return
            if is_done:
                self._drop(name, version)
                self._drain(held.instances)
        for instances in [leaving for leaving in self._leaving if not leaving.are_alive]:
            self._leaving.remove(instances)
            _log.info("unloaded a version", extra={"model": instances.queue.model, "version": instances.queue.version})

    def _drain(self, instances: Instances) -> None:
        instances.drain()
        self._leaving.append(instances)


def _not_held(model: Wanted, held: Mapping[int, _Held]) -> Iterator[ModelAnnouncement]:
    """What to say of versions that are not even tried: those of a model that is not to be loaded, or cannot be.

    Version 0 stands for a model that has none at all.
    """
    if model.error or not model.is_loaded:
        for version in model.versions() or ([] if held else [0]):
            if version not in held:
                yield ModelAnnouncement(name=model.name, version=version, state="END", error=_in_words(model.error))


def _in_words(error: str) -> str:
    """An error as it is announced with every heartbeat: of bounded length, and without bytes that are no text."""
    return error[:_LONGEST_ERROR].encode(errors="backslashreplace").decode()


def _files(model: Wanted, version: int) -> _Files:
    """What tells whether anything of a version has changed."""
    found = set()
    with contextlib.suppress(OSError):  # a folder went away while it was looked at
        for path in itertools.chain([model.folder / CONFIG_PBTXT], (model.folder / str(version)).rglob("*")):
            with contextlib.suppress(OSError):  # it went away, or was never there
                status = path.stat()
                found.add((str(path), status.st_mtime_ns, status.st_size))
    return frozenset(found)
