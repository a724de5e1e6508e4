"""The versions that a worker holds, brought step by step to what is desired, while those that serve go on.

      its files stand still, it is loaded   not desired, and what is desired is here
    LOADING ────────────────────► AVAILABLE ───────────────────────────────────────► UNLOADING
       │ ▲                            ▲                                                │    │
       │ │ its files changed, or      └──────────────── desired again ─────────────────┘    │ nothing can come any more
       ▼ │ somebody asked again, or the failure may have passed                             ▼
      END, with its error                                                     END, it is unloaded

A version that failed counts as not there: an older one serves in its place, or goes on to. One that serves and whose
files change in place is loaded again, beside itself, once they stand still (`files.py`). One that is UNLOADING still
answers, for an API process hears of it with its next heartbeat only. It is unloaded when all must have heard and its
queue is empty, or another worker has it.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

from msgspec.structs import replace

from millrace.broker.keys import Queue
from millrace.protocol.desired_state import held_back
from millrace.protocol.errors import Unavailable
from millrace.protocol.messages import NO_VERSION, ModelAnnouncement, WorkerAnnouncement
from worker.backends.base import LoadError
from worker.reconciling.catalogue import DesiredModel
from worker.reconciling.files import Stillness, VersionFiles, version_files
from worker.reconciling.hosts import ServedVersion

_log = logging.getLogger(__name__)
_RETRY_S, _LONGEST_RETRY_S = 5.0, 300.0
_LONGEST_ERROR = 2000
_PATIENCE_S = 10.0
_MOST_LOOKED_AT = 100  # models, about, whose files are looked at in one reconciliation, where they serve
UNLOAD_GRACE_S = 3.0  # for so long an API process may go on as if it had heard nothing
_STILL_CHANGING = "its files are still being written; it is loaded once they stand still"


@dataclass(frozen=True, slots=True)
class _Load:
    """A version that is being loaded, from which files, since when (`time.perf_counter`)."""

    files: VersionFiles
    began: float
    future: "Future[ServedVersion]"


@dataclass(slots=True)
class _Held:
    """One version: what is said of it, and what serves it.

    `files` and `generation` are those for which it was loaded last, or failed; `failures` counts those in a row, and
    `retry_at` is when one that may pass is worth another try. `reported` is when the others were first told that it is
    UNLOADING.
    """

    announcement: ModelAnnouncement
    served: ServedVersion | None = None
    files: VersionFiles = field(default_factory=VersionFiles)
    generation: int = 0
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    failures: int = 0
    retry_at: float = math.inf
    reported: float | None = None

    @property
    def state(self) -> str:
        return self.announcement.state

    def become(self, state: str) -> None:
        self.announcement = replace(self.announcement, state=state)
        self.reported = None

    def shown(self) -> ModelAnnouncement:
        """What to say of it now: a version may be unable to serve for a while."""
        shown = self.announcement
        if self.labels or self.notes:
            shown = replace(shown, version_labels=self.labels, notes=(*shown.notes, *self.notes))
        if self.state == "AVAILABLE" and self.served and (fault := self.served.fault):
            return replace(shown, state="END", error=fault)
        return shown


class Versions:
    """What one worker holds. One thread calls `reconcile`; any may read.

    `load` begins to load a version, up to `loads_at_once` of them at a time; `is_idle` says whether nothing waits for a
    version or is in work, at any worker; `on_change` is called whenever there is something to announce; `now_ms` is the
    broker's clock. `unload_grace_s` is for how long a version that is unloaded goes on to serve those who have not
    heard of it, `stillness` tells which versions' files are being written. A load that takes longer than `patience_s`
    is looked at again later, so that it keeps no other model waiting.
    """

    def __init__(
        self,
        *,
        load: "Callable[[DesiredModel, int], Future[ServedVersion]]",
        is_idle: Callable[[Queue], bool],
        on_change: Callable[[], None],
        now_ms: Callable[[], float],
        loads_at_once: Callable[[], int] = lambda: 1,
        unload_grace_s: float = UNLOAD_GRACE_S,
        stillness: Stillness | None = None,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._stillness = stillness or Stillness(1.0)
        self._patience_s = patience_s
        self._waiting: set[tuple[str, int]] = set()
        self._slow: dict[tuple[str, int], _Load] = {}
        self._rounds = 0
        self._load = load
        self._is_idle = is_idle
        self._on_change = on_change
        self._now_ms = now_ms
        self._loads_at_once = loads_at_once
        self._unload_grace_s = unload_grace_s
        self._due_later: dict[tuple[str, int], DesiredModel] = {}
        self._begun: dict[tuple[str, int], _Load] = {}
        self._held: dict[str, dict[int, _Held]] = {}
        self._absent: tuple[ModelAnnouncement, ...] = ()
        self._unloading: list[ServedVersion] = []
        self._is_closed = False
        self._announced: tuple[object, ...] = ()
        self._errors: dict[str, str] = {}
        self.generations: dict[str, int] = {}

    def announcements(self) -> tuple[ModelAnnouncement, ...]:
        """What to tell the others, of every version."""
        return (*(held.shown() for _, _, held in self._all()), *self._absent)

    def reported(self, announced: Iterable[ModelAnnouncement]) -> None:
        """The others were told this."""
        for model in announced:
            held = self._of(model.name).get(model.version)
            if held and held.reported is None and model.state == held.state == "UNLOADING":
                held.reported = time.monotonic()

    @property
    def waits(self) -> bool:
        """Whether there are versions whose files do not stand still yet, or that load for long: look again soon."""
        return bool(self._waiting)

    def close(self) -> None:
        """Start nothing any more: a version that is still being loaded is dropped."""
        self._is_closed = True

    def reconcile(
        self,
        desired: Mapping[str, DesiredModel],
        generations: Mapping[str, int],
        others: Callable[[], Sequence[WorkerAnnouncement]],
    ) -> None:
        """Do what there is to do now: load what is missing, and unload what is not desired.

        `generations` are those of the documents that `desired` is made of, `others` the other workers' announcements.
        """
        self._rounds += 1
        self._forget(desired)
        self._log_errors(desired)
        self._absent = tuple(absent for model in desired.values() for absent in _not_held(model, self._of(model.name)))
        in_order = sorted(desired.values(), key=lambda model: model.is_loaded)  # what is only to go need not wait
        self._waiting = set()
        due = {model.name: self._still(model, self._due(model)) for model in in_order}
        for name, version in [(name, version) for name, version in self._slow if version not in due.get(name, ())]:
            _abandon(self._slow.pop((name, version)))
        self._report_changes()
        self._due_later = {(model.name, version): model for model in in_order for version in due[model.name]}
        try:
            for model in in_order:
                self._load_all(model, due[model.name])
                self._begin_unloading(model, others())
                if self.generations.get(model.name, 0) != model.generation and not self._waits_for(model.name):
                    self.generations = {**self.generations, model.name: model.generation}
                    self._on_change()
        finally:
            self._abandon_loads()
        self.generations = {
            name: self.generations.get(name, 0) if self._waits_for(name) else generation
            for name, generation in generations.items()
        }
        self._end_unloading(others())
        self._report_changes()

    def _report_changes(self) -> None:
        """Have it announced at once if anything is new."""
        now = (*self.announcements(), self.generations)
        if now != self._announced:
            self._announced = now
            self._on_change()

    def _log_errors(self, desired: Mapping[str, DesiredModel]) -> None:
        """Log what keeps a model from being loaded, once."""
        errors = {name: model.error for name, model in desired.items() if model.error}
        for name, error in errors.items():
            if self._errors.get(name) != error:
                _log.error("a model cannot be loaded", extra={"model": name, "reason": error})
        self._errors = errors

    def _of(self, name: str) -> dict[int, _Held]:
        return self._held.get(name, {})

    def _all(self) -> list[tuple[str, int, _Held]]:
        """A list of its own, for other threads ask while versions come and go."""
        return [(name, v, held) for name, versions in list(self._held.items()) for v, held in list(versions.items())]

    def _waits_for(self, name: str) -> bool:
        return any(name == waiting for waiting, _ in self._waiting)

    def _drop(self, name: str, version: int) -> None:
        self._stillness.forget(name, version)
        del self._held[name][version]
        if not self._held[name]:
            del self._held[name]

    def _forget(self, desired: Mapping[str, DesiredModel]) -> None:
        """Begin to unload models that are gone, and forget failures whose files are gone."""
        for name, version, held in self._all():
            model = desired.get(name)
            if model is None and held.state == "AVAILABLE":
                held.become("UNLOADING")
            elif held.served is None and (model is None or version not in model.there):
                self._drop(name, version)

    # Loading

    def _due(self, model: DesiredModel) -> list[int]:
        """The versions to load now, the newest first; those that are desired again after all become AVAILABLE."""
        if model.error or not model.is_loaded:
            return []
        held = self._of(model.name)
        hopeless = {v for v, of in held.items() if of.served is None and not self._is_due(model, v, of)}
        chosen = model.versions(hopeless)
        serving = {v for v, of in held.items() if of.served}
        written = {v for v in chosen if v not in serving and self._stillness.waits_long(model.name, v)}
        others = model.versions(hopeless | written) if written else []  # which serve until that is done
        due = []
        for version in dict.fromkeys((*chosen, *others)):
            known = held.get(version)
            was_going = known is not None and known.state == "UNLOADING"
            if known and was_going:
                known.become("AVAILABLE")
            if known is None or self._is_due(model, version, known, came_back=was_going):
                due.append(version)
        return due

    def _is_due(self, model: DesiredModel, version: int, held: _Held, *, came_back: bool = False) -> bool:
        """Whether one that failed is worth another try, or one that serves has changed and is to be looked at again."""
        is_asked_again = came_back or held.generation != model.generation
        if held.served and not is_asked_again and not self._is_looked_at(model.name, version):
            return False
        files = version_files(model, version)
        if held.served and not is_asked_again:
            return not files.has_code and held.files.is_changed(files)
        if held.served:
            return held.files.are_others(files)
        return is_asked_again or held.files != files or time.monotonic() >= held.retry_at

    def _is_looked_at(self, name: str, version: int) -> bool:
        """Whether the files of a version that serves are to be looked at this time: of very many, a part each time."""
        return (hash(name) + version + self._rounds) % (1 + len(self._held) // _MOST_LOOKED_AT) == 0

    def _still(self, model: DesiredModel, due: Sequence[int]) -> list[int]:
        """Of the versions to load, those whose files stand still; the others wait. All are LOADING from now on."""
        still = []
        for version in due:
            if self._stillness.is_still(model.name, version, version_files(model, version)):
                still.append(version)
                self._mark_loading(model.name, version)
            else:
                self._wait(model.name, version)
        return still

    def _wait(self, name: str, version: int) -> None:
        """The version's files are still being written; when that takes long, nobody is told to wait for it."""
        self._waiting.add((name, version))
        state = "END" if self._stillness.waits_long(name, version) else "LOADING"
        self._mark_loading(name, version, state, _STILL_CHANGING)

    def _mark_loading(self, name: str, version: int, state: str = "LOADING", why: str = "") -> None:
        held = self._of(name).get(version)
        if held is None or held.served is None:
            self._held.setdefault(name, {})[version] = _Held(
                ModelAnnouncement(name=name, version=version, state=state, error=why),
                failures=held.failures if held else 0,
            )

    def _load_all(self, model: DesiredModel, versions: Sequence[int]) -> None:
        """Load these, and for each that fails an older one that takes its place."""
        tried: set[int] = set()
        left = list(versions)
        while left and not self._is_closed:
            version = left.pop(0)
            tried.add(version)
            if not self._try(model, version) and not left:
                left = self._still(model, [other for other in self._due(model) if other not in tried])
            self._on_change()
        for version, held in self._of(model.name).items():
            if (model.name, version) not in self._waiting:
                held.generation = model.generation
            held.notes = model.notes
            held.labels = tuple(sorted(label for label, of in model.labels.items() if of == version))

    def _try(self, model: DesiredModel, version: int) -> bool:
        """Load a version beside all that serves; whether it can serve now, or may yet where it loads for long."""
        held = self._held[model.name][version]
        place = (model.name, version)
        load = self._slow.pop(place, None) or self._begun.pop(place, None) or self._begin(model, version)
        self._begin_more()
        if not wait([load.future], max(0.0, load.began + self._patience_s - time.perf_counter())).done:
            self._slow[place] = load
            self._waiting.add(place)
            return True  # until it has failed, no older one takes its place
        about = {"model": model.name, "version": version}
        try:
            loaded = load.future.result()
        except Exception as error:  # a broken version must not take the others with it
            if not self._is_closed:
                is_ours = not isinstance(error, LoadError)
                _log.error("a model failed to load", extra={**about, "reason": str(error)}, exc_info=is_ours)
            held.files = load.files
            self._fail(held, error)
            return held.served is not None
        if self._is_closed:
            loaded.drain()
            return False
        if load.files.is_changed(version_files(model, version)):  # so nobody knows which of them it was made of
            _log.warning("a model's files changed while it was loaded; it is loaded again", extra=about)
            loaded.drain()
            self._wait(model.name, version)
            return held.served is not None
        held.files = load.files
        self._stillness.forget(model.name, version)
        replaced, held.served = held.served, loaded
        loaded.serve()
        held.failures = 0
        held.announcement = replace(loaded.announcement, available_ms=int(self._now_ms()))
        if replaced:
            self._drain(replaced)
        took_ms = round((time.perf_counter() - load.began) * 1000)
        _log.info("loaded a model", extra={**about, "platform": held.announcement.platform, "duration_ms": took_ms})
        return True

    def _fail(self, held: _Held, error: Exception) -> None:
        state = "AVAILABLE" if held.served else "END"
        held.announcement = replace(held.announcement, state=state, error=_in_words(str(error)))
        retry_s = min(_RETRY_S * 2.0 ** min(held.failures, 10), _LONGEST_RETRY_S)
        held.retry_at = time.monotonic() + retry_s if getattr(error, "can_retry", False) else math.inf
        held.failures += 1

    def _begin(self, model: DesiredModel, version: int) -> "_Load":
        self._due_later.pop((model.name, version), None)
        files = version_files(model, version)
        return _Load(files, time.perf_counter(), self._load(model, version))

    def _begin_more(self) -> None:
        """Begin to load what is due next, while another one is being loaded."""
        while self._due_later and len(self._begun) + 1 < self._loads_at_once() and not self._is_closed:
            (name, version), model = next(iter(self._due_later.items()))
            self._begun[name, version] = self._begin(model, version)

    def _abandon_loads(self) -> None:
        """What was begun ahead and will not be waited for is unloaded when it is loaded."""
        for load in self._begun.values():
            _abandon(load)
        self._begun, self._due_later = {}, {}

    # Unloading

    def _begin_unloading(self, model: DesiredModel, others: Sequence[WorkerAnnouncement]) -> None:
        """Say that versions which are not desired are UNLOADING, if what is desired is here to take their place."""
        held = self._of(model.name)
        failed = {version for version, of in held.items() if of.served is None}
        kept = model.versions(failed) if model.is_loaded else []
        unloading = [version for version, of in held.items() if of.state == "AVAILABLE" and version not in kept]
        if not unloading or (model.is_loaded and not self._is_settled(model, kept, failed, others)):
            return
        for version in unloading:
            held[version].become("UNLOADING")
            _log.info("unloading a version", extra={"model": model.name, "version": version})

    def _is_settled(
        self, model: DesiredModel, kept: Sequence[int], failed: set[int], others: Sequence[WorkerAnnouncement]
    ) -> bool:
        """Whether what is desired of the model is here, and held back by no worker."""
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

    def _end_unloading(self, others: Sequence[WorkerAnnouncement]) -> None:
        """Unload the versions to which nothing can come any more."""
        elsewhere = {(m.name, m.version) for worker in others for m in worker.models if m.state == "AVAILABLE"}
        now = time.monotonic()
        for name, version, held in self._all():
            if held.served is None or held.reported is None or now - held.reported < self._unload_grace_s:
                continue
            try:
                is_done = (name, version) in elsewhere or self._is_idle(held.served.queue)
            except Unavailable as error:
                _log.warning("the queue does not answer", extra={"reason": str(error)})
                return
            if is_done:
                self._drop(name, version)
                self._drain(held.served)
        for served in [unloading for unloading in self._unloading if not unloading.is_alive]:
            self._unloading.remove(served)
            _log.info("unloaded a version", extra={"model": served.queue.model, "version": served.queue.version})

    def _drain(self, version: ServedVersion) -> None:
        version.drain()
        self._unloading.append(version)


def _abandon(load: _Load) -> None:
    """Unload what it loads as soon as it has."""
    load.future.add_done_callback(lambda future: None if future.exception() else future.result().drain())


def _not_held(model: DesiredModel, held: Mapping[int, _Held]) -> Iterator[ModelAnnouncement]:
    """What to say of versions that are not even tried: those of a model that is not to be loaded, or cannot be.

    `NO_VERSION` stands for a model that has none at all.
    """
    if model.error or not model.is_loaded:
        error = _in_words(model.error)
        for version in model.versions() or ([] if held else [NO_VERSION]):
            if version not in held:
                yield ModelAnnouncement(name=model.name, version=version, state="END", error=error, notes=model.notes)


def _in_words(error: str) -> str:
    """An error as it is announced with every heartbeat: of bounded length, and without bytes that are no text."""
    return error[:_LONGEST_ERROR].encode(errors="backslashreplace").decode()
