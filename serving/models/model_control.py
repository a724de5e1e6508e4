"""What is wanted of the models, changed at run time: load, unload, policy, labels, traffic.

Each change is written for the workers and for the other API processes (`millrace/protocol/desired_state.py`). They act
on it with their next heartbeat. A change that workers must carry out is waited for.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from millrace.protocol.desired_state import DesiredState, ModelSettings, Rollout, Shadow, VersionPolicy
from millrace.protocol.errors import InvalidRequest, ModelNotFound, NotAllowed, NoWorker, Unavailable
from millrace.protocol.messages import NO_VERSION, ModelAnnouncement
from serving.access.audit import Action, recorded
from serving.access.callers import Caller
from serving.models.registry import AVAILABLE, ModelRegistry
from serving.queueing.producer import Producer
from serving.settings import ServingSettings

_NOBODY = Caller()
_LOOK_S = 0.1
_SEEK_S = 3.0  # that workers have to look, which may be busy with loading
_LOOK = "/"  # no model can have this name: a document of it asks for nothing but a look at the repository
MOST_MODELS = 1000
_MOST_UNSEEN = 16
_MOST_BYTES = 1_000_000
_MOST_WAITING = 16
_MOST_LABELS = 100
_MOST_VERSIONS = 1000
_LONGEST_NAME = 128
_LONGEST_PATH = 4096
# TensorFlow Serving's states in Triton's words.
_STATES = {AVAILABLE: "READY", "START": "LOADING", "LOADING": "LOADING", "UNLOADING": "UNLOADING", "END": "UNAVAILABLE"}


class IndexEntry(NamedTuple):
    """One version in the index, in Triton's words; `reason` says why it is not ready.

    `notes` and `warmed`, which Triton has not, are what its worker announced.
    """

    name: str
    version: str
    state: str
    reason: str
    notes: tuple[str, ...] = ()
    warmed: bool = True


class ModelControl:
    """Changes what the workers hold. All but `index` run on the event loop.

    `tell` returns when the API processes beside this one know of what was changed.

    Every change raises `NotAllowed` where the settings switch them off, and `Unavailable` without the queue.
    """

    def __init__(
        self,
        producer: Producer,
        models: ModelRegistry,
        settings: ServingSettings,
        tell: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._tell = tell
        self._producer = producer
        self._models = models
        self._settings = settings
        self._waiting = 0
        self._is_stopping = False

    async def stop(self) -> None:
        """Let nobody wait for workers any more; what was asked for is written, and they do it all the same."""
        self._is_stopping = True
        while self._waiting:
            await asyncio.sleep(_LOOK_S)

    def index(self, *, ready: bool = False) -> list[IndexEntry]:
        """Every version of every model, or with `ready` those that can answer."""
        entries = [_entry(version) for name in self._models.names() for version in self._models.versions(name)]
        return [entry for entry in entries if not ready or entry.state == "READY"]

    async def load(self, name: str, *, caller: Caller = _NOBODY) -> None:
        """Load the model, and again what failed or has changed; returns when a worker has it available.

        Raises `InvalidRequest` with the workers' reason where none can.
        """
        async with self._acting(caller, "load", name) as action:
            _check_loadable(name)
            await self._seek([name])
            control = await self._change(name, lambda known: replace(known, is_loaded=True), action)
            await self._done([control])
            self._check_loaded(name)

    async def unload(self, name: str, *, caller: Caller = _NOBODY) -> None:
        """Take the model from the callers; returns when no worker offers it. What was sent before is answered."""
        async with self._acting(caller, "unload", name) as action:
            if name not in self._models.names():
                raise InvalidRequest(f"failed to unload {shown(name)}, the model is not known")
            await self._done([await self._change(name, _unloaded, action)])

    async def reload(self, configs: Sequence[ModelSettings], *, caller: Caller = _NOBODY) -> None:
        """TensorFlow Serving's HandleReloadConfigRequest: serve these models as they say, and no others.

        Labels are set once the versions are there. Raises `InvalidRequest` where a model cannot be loaded, or a label
        names a version that is not available; the other changes are made all the same. A model that no worker has a
        folder of is refused before anything else is changed.
        """
        async with self._acting(caller, "reload", "") as action:
            self._check_configs(configs)
            await self._find(configs, action)
            desired_states = [await self._change(c.name, _configured(c), action) for c in configs]
            for name in set(self._models.names()) - {config.name for config in configs}:
                desired_states.append(await self._change(name, _unloaded, action))
            await self._done(desired_states)
            for config in configs:
                self._check_loaded(config.name)
                await self._set_labels(config.name, config.labels, action)

    async def set_policy(self, name: str, policy: VersionPolicy | None, *, caller: Caller = _NOBODY) -> None:
        """Load the versions that the policy says, None for what the model's files say; returns when it is done."""
        async with self._acting(caller, "policy", name) as action:
            self._check_known(name)
            if policy and len(policy.specific) > _MOST_VERSIONS:
                raise InvalidRequest(f"a policy may name at most {_MOST_VERSIONS} versions")
            await self._done([await self._change(name, lambda known: replace(known, policy=policy), action)])

    async def set_label(self, name: str, label: str, version: int, *, caller: Caller = _NOBODY) -> None:
        """Let the label name the version, which must be available. Applies at once here, elsewhere in a heartbeat."""
        async with self._acting(caller, "label", name) as action:
            await self._set_labels(name, {label: version}, action)

    async def remove_label(self, name: str, label: str, *, caller: Caller = _NOBODY) -> None:
        """Take back what was set at run time; a label of the model's configuration then says what it says there."""

        def change(known: DesiredState) -> DesiredState:
            if label not in known.labels:
                raise InvalidRequest(f"the label {shown(label)} of model {shown(name)} was not set at run time")
            left = {key: version for key, version in known.labels.items() if key != label}
            return replace(known, labels=left)

        async with self._acting(caller, "remove label", name) as action:
            self._check_known(name)
            await self._change(name, change, action)

    async def set_traffic(
        self,
        name: str,
        weights: Mapping[int, float],
        shadow: Shadow | None,
        rollout: Rollout | None = None,
        *,
        caller: Caller = _NOBODY,
    ) -> None:
        """Share out the requests that name neither version nor label, and copy a share of all to a shadow.

        `rollout` is the record of the roll-out that asks for it; without one, a roll-out that runs ends. Without
        weights the newest version has them all. Every version that is named must be available.
        """
        async with self._acting(caller, "traffic", name) as action:
            self._check_known(name)
            _check_shares(weights, shadow)
            for version in (*weights, *([shadow.version] if shadow else [])):
                self._check_available(name, version, "requests cannot be sent to")
            wanted: dict[str, Any] = {"weights": dict(weights), "shadow": shadow, "rollout": rollout}
            await self._change(name, lambda known: replace(known, **wanted), action)

    def control(self, name: str) -> DesiredState:
        """What is wanted of the model at run time. Raises `ModelNotFound`."""
        self._check_known(name)
        return self._producer.desired_states.of(name)

    # The parts

    @contextlib.asynccontextmanager
    async def _acting(self, caller: Caller, name: str, model: str) -> AsyncIterator[Action]:
        """Record what is done inside, if it is allowed, and tell of what was changed, also where it failed halfway."""
        with recorded(caller, name, model) as action:
            self._check_allowed()
            try:
                yield action
            finally:
                if self._tell and action.changes:
                    await self._tell()

    async def _change(self, name: str, change: Callable[[DesiredState], DesiredState], action: Action) -> DesiredState:
        old = DesiredState(model=name)

        def checked(known: DesiredState) -> DesiredState:
            nonlocal old
            old, wanted = known, change(known)
            self._check_room([wanted])
            return wanted

        new = await self._producer.change_desired_state(name, checked)
        action.changed(old, new)
        return new

    async def _set_labels(self, name: str, labels: Mapping[str, int], action: Action) -> None:
        for label, version in labels.items():
            _check_name(label, "label")
            self._check_available(name, version, f"the label {label!r} cannot be given to")
        if not labels:
            return

        def change(known: DesiredState) -> DesiredState:
            changed = {**known.labels, **labels}
            if len(changed) > _MOST_LABELS:
                raise InvalidRequest(f"a model may have at most {_MOST_LABELS} labels")
            return replace(known, labels=changed)

        await self._change(name, change, action)

    async def _find(self, configs: Sequence[ModelSettings], action: Action) -> None:
        """Return when the workers have seen a folder of each model. Raises `InvalidRequest` where there is none.

        A worker announces what lies in its repository under the folder's name. Only a worker can say whether another
        folder is there: a few models with one are tried out, and taken back where it is not.
        """
        known = set(self._models.names())
        unseen = [config for config in configs if config.name not in known]
        elsewhere = [config for config in unseen if not _is_at_its_name(config)]
        if len(elsewhere) > _MOST_UNSEEN:
            raise InvalidRequest(
                f"at most {_MOST_UNSEEN} new models can have a base_path that does not end with their name"
            )
        await self._seek([config.name for config in unseen if _is_at_its_name(config)])
        try:
            await self._done([await self._change(config.name, _configured(config), action) for config in elsewhere])
            for config in elsewhere:
                self._check_loaded(config.name)
        finally:
            for config in elsewhere:
                if not self._has_folder(config.name):
                    await self._change(config.name, lambda known: DesiredState(model=known.model), action)

    def _has_folder(self, name: str) -> bool:
        """Whether some worker has seen a version of the model."""
        try:
            return any(version.version != NO_VERSION for version in self._models.versions(name))
        except ModelNotFound:
            return False

    async def _seek(self, names: Collection[str]) -> None:
        """Return when workers have seen all these models. Raises `InvalidRequest` when all have looked and one is not.

        They are asked to look now, so that a model that was just published is found, and one that is not is told soon.
        """

        def missing() -> list[str]:
            known = set(self._models.names())
            return [name for name in names if name not in known]

        if not missing():
            return
        look = await self._producer.change_desired_state(_LOOK, lambda known: known)
        with contextlib.suppress(TimeoutError):
            await self._until(lambda: not missing() or self._have_done([look]), _SEEK_S)
        if name := missing()[:1]:
            raise InvalidRequest(_not_found(name[0]))

    async def _done(self, desired_states: Sequence[DesiredState]) -> None:
        """Return when every live worker has done what these ask for. Raises `NoWorker` where none is there to do it."""

        limit_s = self._settings.load_timeout_s
        try:
            await self._until(lambda: self._have_done(desired_states), limit_s)
        except TimeoutError:
            raise Unavailable(f"not done within {limit_s:.0f} s; the workers go on, see the index") from None

    def _have_done(self, desired_states: Sequence[DesiredState]) -> bool:
        """Whether every live worker has done what these ask for. Raises `NoWorker` where there is none."""
        workers = self._producer.workers
        if not workers:
            raise NoWorker("no worker is running; what was asked for is done when one starts")
        return all(w.generations.get(c.model, 0) >= c.generation for w in workers for c in desired_states)

    async def _until(self, condition: Callable[[], bool], limit_s: float) -> None:
        """Return when what workers announce fulfils the condition. Raises `TimeoutError`, or `Unavailable`."""
        ends = asyncio.get_running_loop().time() + limit_s
        self._waiting += 1
        try:
            while True:
                await self._producer.refresh()
                if condition():
                    return
                if self._is_stopping:
                    raise Unavailable("the server is shutting down; the workers do what was asked for all the same")
                if asyncio.get_running_loop().time() > ends:
                    raise TimeoutError
                await asyncio.sleep(_LOOK_S)
        finally:
            self._waiting -= 1

    def _check_allowed(self) -> None:
        if self._settings.model_control == "none":
            raise NotAllowed("explicit model load / unload is not allowed if polling is enabled")
        if self._waiting >= _MOST_WAITING:
            raise Unavailable("other changes are still waited for; try again when they are done")

    def _check_configs(self, configs: Sequence[ModelSettings]) -> None:
        if len(configs) > MOST_MODELS:
            raise InvalidRequest(f"at most {MOST_MODELS} models can be configured at run time")
        for config in configs:
            _check_settings(config)
        if len({config.name for config in configs}) != len(configs):
            raise InvalidRequest("Illegal to list the same model twice in config")
        self._check_room([_configured(c)(self._producer.desired_states.of(c.name)) for c in configs])

    def _check_room(self, wanted: Sequence[DesiredState]) -> None:
        """Every heartbeat carries what is wanted of all models. What makes it smaller is always let in."""
        stored = self._producer.desired_states.by_model
        before = sum(_size(state) for state in stored.values())
        after = sum(_size(state) for state in {**stored, **{state.model: state for state in wanted}}.values())
        if after > max(before, _MOST_BYTES):
            raise InvalidRequest(
                f"what is wanted of all models may take {_MOST_BYTES} bytes together, and would take {after}"
            )

    def _check_known(self, name: str) -> None:
        if name not in self._models.names():
            raise ModelNotFound(name)

    def _check_loaded(self, name: str) -> None:
        """Whether some worker has a version available. Raises `InvalidRequest` with the reason."""
        try:
            versions = self._models.versions(name)
        except ModelNotFound:
            raise InvalidRequest(_not_found(name)) from None
        serving = max((v.version for v in versions if v.state == AVAILABLE and not v.error), default=None)
        failed = versions if serving is None else [v for v in versions if v.version > serving and v.error]
        if failed:
            reasons = " ".join(f"version {v.shown_version} is at UNAVAILABLE state: {_reason(v)};" for v in failed)
            raise InvalidRequest(f"load failed for model '{name}': {reasons}")

    def _check_available(self, name: str, version: int, what: str) -> None:
        available = [str(v.version) for v in self._models.versions(name) if v.state == AVAILABLE]
        if str(version) not in available:
            raise InvalidRequest(
                f"{what} version {version} of model {name}, which is not currently available for inference; "
                f"available: {', '.join(available) or 'none'}"
            )


def _configured(config: ModelSettings) -> Callable[[DesiredState], DesiredState]:
    """The document of a model that is to be served as a configuration says, with no labels yet."""
    return lambda known: DesiredState(
        model=known.model,
        base_path=config.base_path,
        policy=config.policy or VersionPolicy(),
        labels={label: version for label, version in known.labels.items() if config.labels.get(label) == version},
    )


def _is_at_its_name(config: ModelSettings) -> bool:
    """Whether its folder is called as the model is, so that workers have announced it where it is there."""
    return not config.base_path or PurePosixPath(config.base_path).name == config.name


def _unloaded(known: DesiredState) -> DesiredState:
    return replace(known, is_loaded=False)


def _check_shares(weights: Mapping[int, float], shadow: Shadow | None) -> None:
    if len(weights) > _MOST_VERSIONS or not all(0 <= weight < math.inf for weight in weights.values()):
        raise InvalidRequest(f"weights are numbers from 0 on, of at most {_MOST_VERSIONS} versions")
    if weights and not 0 < sum(weights.values()) < math.inf:
        raise InvalidRequest("the weights must not all be 0")
    if shadow and not 0 < shadow.percent <= 100:
        raise InvalidRequest("the shadow's percent must be above 0, and at most 100")


def _check_settings(config: ModelSettings) -> None:
    _check_name(config.name, "model name")
    if len(config.base_path) > _LONGEST_PATH:
        raise InvalidRequest(f"a base_path may have at most {_LONGEST_PATH} characters")
    if config.policy and len(config.policy.specific) > _MOST_VERSIONS:
        raise InvalidRequest(f"a policy may name at most {_MOST_VERSIONS} versions")
    if len(config.labels) > _MOST_LABELS:
        raise InvalidRequest(f"a model may have at most {_MOST_LABELS} labels")


def _not_found(name: str) -> str:
    return f"failed to load {shown(name)}, failed to poll from model repository"


def _check_loadable(name: str) -> None:
    """Raises `InvalidRequest` for what is no folder's name, in Triton's words."""
    if not name.strip():
        raise InvalidRequest("Model name cannot be empty. Please enter a valid name to deploy.")
    if name.strip() == ".." or "/" in name:
        raise InvalidRequest(f"invalid model name {shown(name)}, model name must not contain path traversal characters")


def shown(name: str) -> str:
    """A name that a caller gave, as an error's text repeats it: cut, and between quotes."""
    return f"'{name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + '…'}'"


def _check_name(name: str, what: str) -> None:
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable() or "/" in name or ":" in name:
        raise InvalidRequest(f"a {what} has 1 to {_LONGEST_NAME} printable characters, without '/' and ':'")


def _size(state: DesiredState) -> int:
    return len(msgspec.json.encode(state))


def _entry(version: ModelAnnouncement) -> IndexEntry:
    state = _STATES.get(version.state, "UNKNOWN")
    reason = "" if state == "READY" else _reason(version)
    return IndexEntry(version.name, version.shown_version, state, reason, version.notes, version.warmed)


def _reason(version: ModelAnnouncement) -> str:
    return version.error or ("unloaded" if version.state == "END" else "")
