"""The models as the live workers announced them: the API knows no other source, so what it says is the truth.

Which version answers a request:

    it names a version          that version
    it names a label            the version that was given the label at run time, else in `models.config`
    neither, weights are set    one of the weighted versions that are available, by chance
    neither                     the newest that is available, and that no worker which serves an older one still loads
"""

import random
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import msgspec

from millrace.broker.keys import Queue
from millrace.protocol.desired_state import DesiredState, Shadow, held_back
from millrace.protocol.errors import (
    InvalidRequest,
    MillraceError,
    ModelNotFound,
    NotReady,
    NoWorker,
    SignatureNotFound,
    Unavailable,
    VersionOutOfRange,
)
from millrace.protocol.messages import NO_VERSION, ModelAnnouncement, WorkerAnnouncement
from millrace.protocol.paths import without_paths
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec

AVAILABLE = "AVAILABLE"
_VERSIONS = 2**63  # there are no more
# Of several workers' states for one version, the one that says most to a caller; states unknown here say least.
_RANKS = {AVAILABLE: 4, "LOADING": 3, "START": 2, "UNLOADING": 1}


class ServedModel:
    """One version of a model, as some live worker has it. `shadow` is what a share of its requests is copied to."""

    def __init__(self, announcement: ModelAnnouncement) -> None:
        self.announcement = announcement
        self.name = announcement.name
        self.version = announcement.version
        self.max_batch_size = announcement.max_batch_size
        self.has_whole_requests = announcement.has_whole_requests
        self.shadow: ServedShadow | None = None

    def signature(self, name: str = "") -> Signature:
        """The signature of that name, "" for the default. Raises `SignatureNotFound`."""
        try:
            return self.announcement.signatures[name or DEFAULT_SIGNATURE]
        except KeyError:
            raise SignatureNotFound(name or DEFAULT_SIGNATURE) from None

    @cached_property
    def output_names(self) -> frozenset[str]:
        """The names of the default signature's outputs."""
        return frozenset(spec.name for spec in self.signature().outputs)

    @cached_property
    def only_input(self) -> TensorSpec | None:
        """The default signature's `only_input`."""
        signature = self.announcement.signatures.get(DEFAULT_SIGNATURE)
        return only_input(signature) if signature else None


class ServedShadow(NamedTuple):
    """A version that is sent copies, and the share of the requests, from 0 to 1."""

    model: ServedModel
    share: float


def only_input(signature: Signature) -> TensorSpec | None:
    """The signature's one required input, else the only one that it has; None where neither is there."""
    specs = [spec for spec in signature.inputs if not spec.optional] or signature.inputs
    return specs[0] if len(specs) == 1 else None


class _WeightedVersions:
    """Versions among which requests are shared out by weight."""

    def __init__(self, versions: Sequence[ServedModel], weights: Sequence[float]) -> None:
        self._versions = versions
        self._bounds = list(accumulate(weights))

    def draw(self, chance: float) -> ServedModel:
        """The version that a number from 0 to 1, 1 itself left out, falls to."""
        return self._versions[bisect(self._bounds, chance * self._bounds[-1], hi=len(self._versions) - 1)]


class ModelRegistry:
    """Looks models up in the announcements that `workers` returns, as `desired_states` asks; cheap on every request.

    `chance` gives numbers from 0 to 1, for what is shared out by weight. Until it `is_known` who serves, every question
    raises `Unavailable`.
    """

    def __init__(
        self,
        workers: Callable[[], Sequence[WorkerAnnouncement]],
        desired_states: Callable[[], Mapping[str, DesiredState]] = dict,
        chance: Callable[[], float] = random.random,
        is_known: Callable[[], bool] = lambda: True,
    ) -> None:
        self._is_known = is_known
        self._workers = workers
        self._desired_states = desired_states
        self._chance = chance
        self._seen: Sequence[WorkerAnnouncement] = ()
        self._was_ready = False
        self._seen_desired: Mapping[str, DesiredState] = {}
        self._versions: dict[str, dict[int, ModelAnnouncement]] = {}
        self._announcers: dict[tuple[str, int], frozenset[str]] = {}
        self._lost: frozenset[tuple[str, int]] = frozenset()
        self._available: dict[tuple[str, int | None], ServedModel | _WeightedVersions] = {}
        self._labels: dict[str, dict[str, int]] = {}

    def find(self, name: str, version: int | None = None, label: str | None = None) -> ServedModel:
        """The version that is to answer a request, see the module.

        Raises `ModelNotFound`, also for what was unloaded or deleted; `NoWorker` for what a worker may have again;
        `InvalidRequest` for a label that is not known.
        """
        self._refresh()
        if label is not None:
            version = self.labelled(name, label)
        model = self._available.get((name, version))
        if model is None:
            raise self._absence(name, version)
        return model if isinstance(model, ServedModel) else model.draw(self._chance())

    def labelled(self, name: str, label: str) -> int:
        """The version that has the label. Raises `ModelNotFound`, or `InvalidRequest` where none has it."""
        labels = self.labels(name)
        if label not in labels:
            raise InvalidRequest(f"Unrecognized servable version label: {label}")
        return labels[label]

    def labels(self, name: str) -> dict[str, int]:
        """The version of each label of the model. Raises `ModelNotFound`."""
        self._refresh()
        if name not in self._versions:
            self.check_known()
            raise ModelNotFound(name)
        return self._labels.get(name, {})

    def _absence(self, name: str, version: int | None) -> MillraceError:
        """Why there is no such model to answer."""
        self.check_known()
        if not self._seen:
            return NoWorker(f"no worker is running, so model {name!r} cannot answer; try again when one has started")
        if version is not None and version >= _VERSIONS:
            return VersionOutOfRange(version)
        versions = self._versions.get(name, {})
        asked = [v for v in versions.values() if v.version == version or (version is None and v.state != "UNLOADING")]
        expected = [known for known in asked if self._may_come(known)]
        if not expected:
            was_here = bool(versions) if version is None else version in versions
            return ModelNotFound(name, version, was_here=was_here)
        newest = max(expected, key=lambda known: known.version)
        return NotReady(name, newest.version, newest.error or f"its state is {newest.state}")

    def check_known(self) -> None:
        """Raises `Unavailable` while nothing is known of workers and models, because the queue has never answered."""
        if not self._is_known():
            raise Unavailable("the queue has not answered since the server started; try again when it does")

    def _may_come(self, known: ModelAnnouncement) -> bool:
        """Whether a version that is not available was neither unloaded nor deleted."""
        key = known.name, known.version
        return key in self._announcers or key in self._lost

    def versions(self, name: str, version: int | None = None, label: str | None = None) -> list[ModelAnnouncement]:
        """Every version ever announced to this process, newest first, or just one. Raises as `find` does."""
        self._refresh()
        if label is not None:
            version = self.labelled(name, label)
        if version is not None and version >= _VERSIONS:
            raise VersionOutOfRange(version)
        versions = self._versions.get(name, {})
        if not versions or (version is not None and version not in versions):
            self.check_known()
            raise ModelNotFound(name, version)
        return [versions[number] for number in sorted(versions, reverse=True) if version in (None, number)]

    def names(self) -> list[str]:
        """Every model ever announced to this process, in order."""
        self._refresh()
        if not self._versions:
            self.check_known()
        return sorted(self._versions)

    def queues(self) -> list[Queue]:
        """The queues of all versions that were ever announced to this process."""
        self._refresh()
        return [Queue(name, v) for name, versions in self._versions.items() for v in versions if v != NO_VERSION]

    def expected(self, name: str, version: int | None) -> tuple[str, int]:
        """The version that should have answered a request, the newest where it named none; ("", 0) for none known."""
        versions = self._versions.get(name, {})
        number = max(versions, default=NO_VERSION) if version is None else version
        return (name, number) if number in versions and number != NO_VERSION else ("", 0)

    @property
    def is_ready(self) -> bool:
        """Whether at least one model is available, and at the start none is still loading its first version.

        A model that is loaded later takes nothing from the others, so it does not make the server unready again.
        """
        self._refresh()
        states = [{announced.state for announced in versions.values()} for versions in self._versions.values()]
        serving = [AVAILABLE in of_model for of_model in states]
        waits = any(
            of_model & {"START", "LOADING"} for of_model, serves in zip(states, serving, strict=True) if not serves
        )
        self._was_ready |= any(serving) and not waits
        return any(serving) and self._was_ready

    def _refresh(self) -> None:
        workers, desired_states = self._workers(), self._desired_states()
        if workers is self._seen and desired_states is self._seen_desired:
            return
        found = {
            name: ended
            for name, versions in self._versions.items()
            if (ended := {v: _ended(m) for v, m in versions.items() if v != NO_VERSION})
        }
        for announced in (_for_callers(model) for worker in workers for model in worker.models):
            versions = found.setdefault(announced.name, {})
            known = versions.get(announced.version)
            if known is None or _RANKS.get(announced.state, 0) >= _RANKS.get(known.state, 0):
                versions[announced.version] = announced
        held = held_back(workers)
        available: dict[tuple[str, int | None], ServedModel | _WeightedVersions] = {}
        for name, versions in found.items():
            served = {v: ServedModel(model) for v, model in versions.items() if model.state == AVAILABLE}
            if served:
                control = desired_states.get(name, DesiredState(model=name))
                newest = max((v for v in served if (name, v) not in held), default=max(served))
                available |= {(name, version): model for version, model in served.items()}
                available[name, None] = _weighted(served, control.weights) or served[newest]
                if control.shadow:
                    _cast(control.shadow, served)
        self._remember_announcers(workers)
        # Each whole at once: Flask's threads look things up meanwhile.
        self._versions, self._available, self._labels = found, available, _labels(found, desired_states)
        self._seen, self._seen_desired = workers, desired_states

    def _remember_announcers(self, workers: Sequence[WorkerAnnouncement]) -> None:
        """Tell versions that went with their worker from those that a living worker has no more."""
        announcers: dict[tuple[str, int], frozenset[str]] = {}
        for worker in workers:
            for model in worker.models:
                key = model.name, model.version
                if model.state != "END" or model.error:  # else it was unloaded
                    announcers[key] = announcers.get(key, frozenset()) | {worker.worker}
        live = {worker.worker for worker in workers}
        left = {key for key, by in self._announcers.items() if key not in announcers and not by & live}
        gone = {key for key in left if self._state(*key) != "UNLOADING"}  # which was not to come again
        self._lost = frozenset((self._lost | gone) - announcers.keys())
        self._announcers = announcers

    def _state(self, name: str, version: int) -> str:
        """The state that was last known of a version, "" of one that was never announced."""
        known = self._versions.get(name, {}).get(version)
        return known.state if known else ""


def _labels(
    found: Mapping[str, Mapping[int, ModelAnnouncement]], desired_states: Mapping[str, DesiredState]
) -> dict[str, dict[str, int]]:
    """The version of each label, by model: those set at run time win over those of the configuration."""
    labels = {
        name: {label: version for version, model in versions.items() for label in model.version_labels}
        for name, versions in found.items()
    }
    return {name: labels[name] | (desired_states[name].labels if name in desired_states else {}) for name in labels}


def _weighted(served: Mapping[int, ServedModel], weights: Mapping[int, float]) -> _WeightedVersions | None:
    """The weighted versions that are available, None where there is none."""
    drawn = [version for version in weights if version in served and weights[version] > 0]
    return (
        _WeightedVersions([served[version] for version in drawn], [weights[version] for version in drawn])
        if drawn
        else None
    )


def _cast(shadow: Shadow, served: Mapping[int, ServedModel]) -> None:
    """Let every other version's requests be copied to the shadow, where it is available."""
    if model := served.get(shadow.version):
        for other in served.values():
            if other is not model:
                other.shadow = ServedShadow(model, shadow.percent / 100)


def _for_callers(model: ModelAnnouncement) -> ModelAnnouncement:
    """The announcement without the paths that its texts name: callers read them."""
    error, description = without_paths(model.error), without_paths(model.description)
    notes = tuple(map(without_paths, model.notes))
    if (error, description, notes) == (model.error, model.description, model.notes):
        return model
    return msgspec.structs.replace(model, error=error, description=description, notes=notes)


def _ended(model: ModelAnnouncement) -> ModelAnnouncement:
    """What is left to say of a version that no live worker announces: why it had ended, where it had."""
    error = model.error if model.state == "END" else ""
    return ModelAnnouncement(
        name=model.name, version=model.version, state="END", error=error, description=model.description
    )
