"""Which version of a model answers a call, by what the workers announced and operators want."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from millrace.protocol.desired_state import DesiredState, held_back
from millrace.protocol.errors import NoWorker
from millrace.protocol.messages import ModelAnnouncement, WorkerAnnouncement

_AVAILABLE = "AVAILABLE"


class ServedModels:
    """The versions that live workers had at one moment. `chance` gives numbers from 0 to 1, for what goes by weight."""

    def __init__(
        self,
        workers: Sequence[WorkerAnnouncement] = (),
        desired_states: Iterable[DesiredState] = (),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._versions: dict[str, dict[int, ModelAnnouncement]] = {}
        self._workers: Counter[tuple[str, int]] = Counter()
        for model in (model for worker in workers for model in worker.models if model.state == _AVAILABLE):
            self._versions.setdefault(model.name, {})[model.version] = model
            self._workers[model.name, model.version] += 1
        self._held_back = held_back(workers)
        self._desired = {desired.model: desired for desired in desired_states}
        self._chance = chance

    def workers(self, name: str, version: int) -> int:
        """How many of the workers have that version."""
        return self._workers[name, version]

    def choose(self, name: str, version: int | None = None, label: str | None = None) -> ModelAnnouncement:
        """The version that is named, or has the label, or else that a request is answered by which names none.

        That is one of the weighted versions where weights are set, else the newest that no worker still loads in the
        place of an older one. Raises `NoWorker` where no live worker has it.
        """
        served = self._versions.get(name, {})
        desired = self._desired.get(name) or DesiredState(model=name)
        if label is not None:
            version = desired.labels.get(label) or _labelled(served, label)
        if version in served:
            return served[version]
        if not served or version is not None or label is not None:
            which = f" version {version}" if version is not None else f" with the label '{label}'" if label else ""
            raise NoWorker(f"no worker serves model '{name}'{which}")
        weights = {each: weight for each, weight in desired.weights.items() if each in served and weight > 0}
        if weights:
            return served[_drawn(weights, self._chance())]
        held = {of for model, of in self._held_back if model == name}
        return served[max(served.keys() - held or served.keys())]


def _drawn(weights: Mapping[int, float], chance: float) -> int:
    left = chance * sum(weights.values())
    for version, weight in weights.items():
        left -= weight
        if left < 0:
            return version
    return max(weights)


def _labelled(served: Mapping[int, ModelAnnouncement], label: str) -> int | None:
    return max((version for version, model in served.items() if label in model.version_labels), default=None)
