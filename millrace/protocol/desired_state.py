"""What is wanted of the models at run time, beside what their files say: one small document for each model.

    operator ──change──► API ──write_desired_state──► Redis ──heartbeat──► every worker: loads, unloads, announces the
                                                  │                  generation that it has reached
                                                  └────heartbeat──► every API process: labels, weights, shadow

A document is changed whole: whoever changes one says which generation it replaces, and reads again where another was
quicker, so that no change is lost. A generation is the broker's time in ms, or one more than the last: it grows even
where Redis came back empty. Every process keeps the newest document that it saw of each model, and puts it back where
the broker has none or an older one; so the documents live as long as any process that knew them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from millrace.protocol.messages import WorkerAnnouncement

_FORGOTTEN_MS = 3_600_000
_SILENCE_MS = 3_000  # a worker looks at its repository every second


class VersionPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which versions to load: those that are `specific`, else the newest `latest` of them, where that is 0 all."""

    latest: int = 1
    specific: tuple[int, ...] = ()

    def choose(self, versions: Iterable[int]) -> list[int]:
        """Of the versions that there are, those to load, the oldest first."""
        there = sorted(versions)
        if self.specific:
            return [version for version in there if version in self.specific]
        return there[-self.latest :] if self.latest else there


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a configuration says of one model; without a `base_path` its folder is that of its name."""

    name: str
    base_path: str = ""
    policy: VersionPolicy | None = None
    labels: Mapping[str, int] = {}


class Shadow(msgspec.Struct, frozen=True):
    """A version that is sent copies of `percent` of the requests; their answers are dropped."""

    version: int
    percent: float


class Rollout(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A roll-out of a version, step by step: whoever carries it out keeps its place here.

    `state` is "running", "promoted" or "went back", the latter for a `reason`. `steps` are percentages of the requests,
    `step` the number of the present one, from 0. `weights_before` and `shadow_before` are what it goes back to.
    """

    version: int
    state: str
    steps: tuple[float, ...]
    step: int = 0
    promote_if: str = ""
    every_s: float = 0.0
    weights_before: dict[int, float] = {}
    shadow_before: Shadow | None = None
    reason: str = ""


class DesiredState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is wanted of one model. Each field's default leaves the matter to the model's files.

    `weights` share out the requests that name neither version nor label; without any, the newest version has them all.
    A version that a label, a weight or the shadow names is loaded whatever the policy.
    """

    model: str
    generation: int = 0
    is_loaded: bool = True
    base_path: str = ""
    policy: VersionPolicy | None = None
    labels: dict[str, int] = {}
    weights: dict[int, float] = {}
    shadow: Shadow | None = None
    rollout: Rollout | None = None

    @property
    def pinned(self) -> frozenset[int]:
        """The versions that are named, and so are to be loaded."""
        shadow = {self.shadow.version} if self.shadow else set()
        return frozenset({*self.labels.values(), *self.weights} | shadow)

    @property
    def asks_for_nothing(self) -> bool:
        """Whether all is left to the model's files."""
        return self == DesiredState(model=self.model, generation=self.generation)


class DesiredStates:
    """The newest document of each model that this process has seen.

    `by_model` is replaced as a whole when one changes: other threads may read it. `now_ms` is the broker's clock.
    """

    def __init__(self, now_ms: Callable[[], float]) -> None:
        self.by_model: Mapping[str, DesiredState] = {}
        self._now_ms = now_ms

    def of(self, model: str) -> DesiredState:
        """The model's document; one that asks for nothing where there is none."""
        return self.by_model.get(model) or DesiredState(model=model)

    def take(self, seen: Iterable[DesiredState]) -> None:
        """Take in the documents that are newer than those known."""
        newer = {control.model: control for control in seen if control.generation > self.of(control.model).generation}
        if newer:
            self.by_model = {**self.by_model, **newer}

    def forget(self) -> list[DesiredState]:
        """Drop the documents that have asked for nothing for an hour, and return them."""
        before_ms = self._now_ms() - _FORGOTTEN_MS
        old = [known for known in self.by_model.values() if known.generation < before_ms and known.asks_for_nothing]
        if old:
            gone = {known.model for known in old}
            self.by_model = {model: known for model, known in self.by_model.items() if model not in gone}
        return old

    def missing_from(self, seen: Iterable[DesiredState]) -> list[DesiredState]:
        """The documents that whoever showed these has not, or has only older."""
        generations = {control.model: control.generation for control in seen}
        return [known for known in self.by_model.values() if known.generation > generations.get(known.model, 0)]


def held_back(workers: Sequence[WorkerAnnouncement]) -> set[tuple[str, int]]:
    """The versions that are not to get the traffic yet: a worker that serves an older one has still to load them.

    While one worker still loads version 2, version 1 keeps the traffic; otherwise the first worker that has version 2
    would get all of it. A worker that has not reported version 2 for `_SILENCE_MS` since another has it is not waited
    for.
    """
    since: dict[str, dict[int, int]] = {}
    for model in (model for worker in workers for model in worker.models if model.state == "AVAILABLE"):
        versions = since.setdefault(model.name, {})
        versions[model.version] = min(model.available_ms, versions.get(model.version, model.available_ms))
    held: set[tuple[str, int]] = set()
    for worker in workers:
        states: dict[str, dict[int, str]] = {}
        for model in worker.models:
            states.setdefault(model.name, {})[model.version] = model.state
        for name, own in states.items():
            oldest = min((version for version, state in own.items() if state == "AVAILABLE"), default=None)
            if oldest is None:
                continue
            held.update((name, v) for v, state in own.items() if state == "LOADING" and v > oldest)
            held.update(
                (name, v) for v, ms in since[name].items() if v > max(own) and ms and worker.sent_ms < ms + _SILENCE_MS
            )
    return held
