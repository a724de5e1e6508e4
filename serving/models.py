"""The models as the live workers announced them: the API knows no other source, so what it says is the truth."""

from collections.abc import Callable, Sequence
from functools import cached_property

from millrace.protocol.errors import ModelNotFound, NoWorker, SignatureNotFound
from millrace.protocol.messages import ModelAnnouncement, WorkerAnnouncement
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec

AVAILABLE = "AVAILABLE"
# Of several workers' states for one version, the one that says most to a caller; states unknown here say least.
_RANKS = {AVAILABLE: 4, "LOADING": 3, "START": 2, "UNLOADING": 1}


class ServedModel:
    """One version of a model, as some live worker has it."""

    def __init__(self, announcement: ModelAnnouncement) -> None:
        self.announcement = announcement
        self.name = announcement.name
        self.version = announcement.version
        self.max_batch_size = announcement.max_batch_size

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
        """The default signature's one required input, None where there are several or none."""
        signature = self.announcement.signatures.get(DEFAULT_SIGNATURE)
        return only_input(signature) if signature else None


def only_input(signature: Signature) -> TensorSpec | None:
    """The signature's one required input, None where there are several or none."""
    required = [spec for spec in signature.inputs if not spec.optional]
    return required[0] if len(required) == 1 else None


class Models:
    """Looks models up in the announcements that `workers` returns; cheap to ask on every request."""

    def __init__(self, workers: Callable[[], Sequence[WorkerAnnouncement]]) -> None:
        self._workers = workers
        self._seen: Sequence[WorkerAnnouncement] = ()
        self._versions: dict[str, dict[int, ModelAnnouncement]] = {}
        self._available: dict[tuple[str, int | None], ServedModel] = {}

    def find(self, name: str, version: int | None = None) -> ServedModel:
        """The version, or the newest that is available. Raises `ModelNotFound`, or `NoWorker` for one that was here."""
        self._refresh()
        model = self._available.get((name, version))
        if model is None:
            self._explain(name, version)
        return model  # type: ignore[return-value]  # _explain never returns

    def _explain(self, name: str, version: int | None) -> None:
        if not self._seen:
            raise NoWorker(f"no worker is running, so model {name!r} cannot answer; try again when one has started")
        versions = self._versions.get(name)
        if versions is None or (version is not None and version not in versions):
            raise ModelNotFound(name, version)
        states = {
            announced.version: announced for announced in versions.values() if version in (None, announced.version)
        }
        newest = states[max(states)]
        reason = newest.error or f"its state is {newest.state}"
        raise NoWorker(f"no live worker has model {name!r} version {newest.version} available: {reason}")

    def versions(self, name: str, version: int | None = None) -> list[ModelAnnouncement]:
        """Every version ever announced to this process, newest first, or just one. Raises `ModelNotFound`."""
        self._refresh()
        versions = self._versions.get(name, {})
        if not versions or (version is not None and version not in versions):
            raise ModelNotFound(name, version)
        return [versions[number] for number in sorted(versions, reverse=True) if version in (None, number)]

    def names(self) -> list[str]:
        """Every model ever announced to this process, in order."""
        self._refresh()
        return sorted(self._versions)

    @property
    def is_ready(self) -> bool:
        """Whether at least one model is available and none is still loading."""
        self._refresh()
        states = {announced.state for versions in self._versions.values() for announced in versions.values()}
        return AVAILABLE in states and not states & {"START", "LOADING"}

    def _refresh(self) -> None:
        workers = self._workers()
        if workers is self._seen:
            return
        found = {name: {v: _ended(m) for v, m in versions.items()} for name, versions in self._versions.items()}
        for announced in (model for worker in workers for model in worker.models):
            versions = found.setdefault(announced.name, {})
            known = versions.get(announced.version)
            if known is None or _RANKS.get(announced.state, 0) >= _RANKS.get(known.state, 0):
                versions[announced.version] = announced
        available: dict[tuple[str, int | None], ServedModel] = {}
        for name, versions in found.items():
            for number in sorted(versions):
                if versions[number].state == AVAILABLE:
                    available[name, number] = available[name, None] = ServedModel(versions[number])
        # Whole at once: Flask's threads look things up meanwhile.
        self._versions, self._available, self._seen = found, available, workers


def _ended(model: ModelAnnouncement) -> ModelAnnouncement:
    """What is left to say of a version that no live worker announces."""
    return ModelAnnouncement(
        name=model.name, version=model.version, state="END", error=model.error, description=model.description
    )
