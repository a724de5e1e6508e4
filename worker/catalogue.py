"""What a worker should hold: what is in the repository, as its configuration files and the operators wish.

Which versions of a model, the first of these that says anything:

    what was set at run time (`millrace/protocol/desired_state.py`)
    models.config, TensorFlow Serving's, which also says which models there are
    config.pbtxt, Triton's, in the model's folder
    the newest version

and besides, whatever a label, a weight or the shadow names.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from millrace.artifacts.configs import (
    CONFIG_PBTXT,
    MODELS_CONFIG,
    ConfigError,
    TritonConfig,
    read_models_config,
    read_triton_config,
)
from millrace.artifacts.repository import ModelRepository, RepositoryError, versions_in
from millrace.protocol.desired_state import DesiredState, ModelSettings, VersionPolicy

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredModel:
    """One model: the versions in its folder, and which of them to hold.

    `error` says why none more can be loaded: what is held then stays. `generation` says the operators' document that
    this is made of.
    """

    name: str
    folder: Path
    there: tuple[int, ...] = ()
    policy: VersionPolicy = field(default_factory=VersionPolicy)
    pinned: frozenset[int] = frozenset()
    labels: Mapping[str, int] = field(default_factory=dict)
    config: TritonConfig | None = None
    is_loaded: bool = True
    generation: int = 0
    error: str = ""

    def versions(self, failed: Collection[int] = ()) -> list[int]:
        """The versions that the model has when it is loaded, the newest first.

        One that failed counts as not there, so that an older one serves in its place.
        """
        there = [version for version in self.there if version not in failed]
        return sorted({*self.policy.choose(there), *self.pinned.intersection(there)}, reverse=True)


class Catalogue:
    """Reads the repository below `root`, and `models_config`, or else the one in the repository if there is one."""

    def __init__(self, root: Path, models_config: Path | None = None) -> None:
        self._repository = ModelRepository(root)
        self._models_config = models_config
        self._settings: tuple[ModelSettings, ...] = ()
        self._has_found = False
        self._configs: dict[Path, tuple[tuple[int, int], TritonConfig | None]] = {}

    def read(self, desired_states: Mapping[str, DesiredState]) -> dict[str, DesiredModel]:
        """What is desired of every model now, by name. Raises `RepositoryError` and `ConfigError`."""
        if not self._repository.root.is_dir():
            self._repository.folders()  # which says what is wrong
        settings = {model.name: model for model in self._configured()}
        for name, control in desired_states.items():
            if control.base_path and name not in settings:
                settings[name] = ModelSettings(name=name)
        return {name: self._desired(model, desired_states.get(name)) for name, model in sorted(settings.items())}

    def _configured(self) -> Collection[ModelSettings]:
        """The models of `models.config`, else those with a folder in the repository."""
        path = self._models_config or self._repository.root / MODELS_CONFIG
        if self._models_config is None and not path.exists():
            found = [name for name in self._repository.folders() if _is_model(self._repository.root / name)]
            if self._has_found and not found:  # as a volume looks that is not mounted any more
                raise RepositoryError(f"{self._repository.root} is empty")
            self._has_found = bool(found)
            return [ModelSettings(name=name) for name in found]
        config = read_models_config(path)
        if config.ignored and config.models != self._settings:
            _log.warning("models.config asks for what is not done", extra={"fields": config.ignored})
        self._settings = config.models
        return config.models

    def _desired(self, settings: ModelSettings, control: DesiredState | None) -> DesiredModel:
        control = control or DesiredState(model=settings.name)
        folder = Path(settings.base_path) if settings.base_path else self._repository.root / settings.name
        there: tuple[int, ...] = ()
        config, error = None, ""
        try:
            if control.base_path:
                folder = self._inside(control.base_path)
            there = tuple(versions_in(folder)) if folder.is_dir() else ()
            config = self._triton_config(folder)
        except (ConfigError, RepositoryError, OSError) as problem:
            error = str(problem)
        if not there and not error:
            error = f"{folder} holds no version: <model>/<number>/ is wanted"
        policy = control.policy or settings.policy or (config.policy if config else None) or VersionPolicy()
        return DesiredModel(
            name=settings.name,
            folder=folder,
            there=there,
            policy=policy,
            pinned=control.pinned | frozenset(settings.labels.values()),
            labels=settings.labels,
            config=config,
            is_loaded=control.is_loaded,
            generation=control.generation,
            error=error,
        )

    def _triton_config(self, folder: Path) -> TritonConfig | None:
        """The model's `config.pbtxt`, read again when it has changed."""
        path = folder / CONFIG_PBTXT
        if not path.exists():
            return None
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        if folder not in self._configs or self._configs[folder][0] != stamp:
            self._configs[folder] = (stamp, read_triton_config(folder))
        return self._configs[folder][1]

    def _inside(self, base_path: str) -> Path:
        """A folder that a caller named: it must lie in the repository, for callers may not roam the disk."""
        root = self._repository.root.resolve()
        try:
            folder = (root / base_path).resolve()
        except (ValueError, RuntimeError) as error:  # a NUL in it, or links in a circle
            raise RepositoryError(f"base_path {base_path!r}: {error}") from error
        if not folder.is_relative_to(root):
            raise RepositoryError(f"base_path {base_path!r} is outside of the model repository {root}")
        return folder


def _is_model(folder: Path) -> bool:
    """Whether there are versions in it, or it cannot be read: then that is said of the model."""
    try:
        return bool(versions_in(folder))
    except OSError:
        return True
