"""What is wanted of the models at run time, beside what their files say: one small document for each model.

    operator ──change──► API ──write_desired_state──► Redis ──heartbeat──► every worker: loads, unloads, announces the
                                                  │                  generation that it has reached
                                                  └────heartbeat──► every API process: labels, weights, shadow

A document is changed whole: whoever changes one says which generation it replaces, and reads again where another was
quicker, so that no change is lost. A generation is the broker's time in ms, or one more than the last: it grows even
where Redis came back empty. Every process keeps the newest document that it saw of each model, and puts it back where
the broker has none or an older one; so the documents live as long as any process that knew them.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from millrace.protocol.messages import WorkerAnnouncement

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

    @property
    def pinned(self) -> frozenset[int]:
        """The versions that are named, and so are to be loaded."""
        shadow = {self.shadow.version} if self.shadow else set()
        return frozenset({*self.labels.values(), *self.weights} | shadow)


class DesiredStates:
    """The newest document of each model that this process has seen.

    `by_model` is replaced as a whole when one changes: other threads may read it.
    """

    def __init__(self) -> None:
        self.by_model: Mapping[str, DesiredState] = {}

    def of(self, model: str) -> DesiredState:
        """The model's document; one that asks for nothing where there is none."""
        return self.by_model.get(model) or DesiredState(model=model)

    def take(self, seen: Iterable[DesiredState]) -> None:
        """Take in the documents that are newer than those known."""
        newer = {control.model: control for control in seen if control.generation > self.of(control.model).generation}
        if newer:
            self.by_model = {**self.by_model, **newer}

    def missing_from(self, seen: Iterable[DesiredState]) -> list[DesiredState]:
        """The documents that whoever showed these has not, or has only older."""
        generations = {control.model: control.generation for control in seen}
        return [known for known in self.by_model.values() if known.generation > generations.get(known.model, 0)]


def held_back(workers: Sequence[WorkerAnnouncement]) -> set[tuple[str, int]]:
    """The models' versions that some worker which serves an older one is still loading, or has perhaps not seen yet.

    Until it is done, whoever has loaded such a version already would have to carry everything alone: so requests that
    name no version go on to the older one, and it stays where it is. A worker that has not said a word of a version
    for `_SILENCE_MS` since another has it does not want it.
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
