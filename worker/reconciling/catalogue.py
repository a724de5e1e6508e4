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
from millrace.artifacts.misplaced import in_model, in_root
from millrace.artifacts.onemodel import OneModel, one_model
from millrace.artifacts.repository import ModelRepository, RepositoryError, version_folders
from millrace.protocol import names
from millrace.protocol.desired_state import DesiredState, ModelSettings, VersionPolicy

_log = logging.getLogger(__name__)
_LOOKS_BETWEEN = 10  # after so many reads of the repository, what a folder holds beside versions is looked at again


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredModel:
    """One model: the versions in its folder, and which of them to hold.

    `error` says why none more can be loaded: what is held then stays. `generation` says the operators' document that
    this is made of. `file` is the model's, where its folder holds other things, too. `notes` say what in the folder is
    passed over, and what to do about it.
    """

    name: str
    folder: Path
    folders: Mapping[int, Path] = field(default_factory=dict)
    file: str = ""
    notes: tuple[str, ...] = ()
    policy: VersionPolicy = field(default_factory=VersionPolicy)
    pinned: frozenset[int] = frozenset()
    labels: Mapping[str, int] = field(default_factory=dict)
    config: TritonConfig | None = None
    is_loaded: bool = True
    generation: int = 0
    error: str = ""

    @property
    def there(self) -> Collection[int]:
        """The versions in its folder, the oldest first."""
        return self.folders.keys()

    def version_folder(self, version: int) -> Path:
        """Where that version's files are, or were."""
        return self.folders.get(version, self.folder / str(version))

    def versions(self, failed: Collection[int] = ()) -> list[int]:
        """The versions that the model has when it is loaded, the newest first.

        One that failed counts as not there, so that an older one serves in its place.
        """
        there = [version for version in self.there if version not in failed]
        return sorted({*self.policy.choose(there), *self.pinned.intersection(there)}, reverse=True)


class Catalogue:
    """Reads the repository below `root`, and `models_config`, or else the one in the repository if there is one.

    `root` may name a single model instead: see `onemodel.py`.
    """

    def __init__(self, root: Path, models_config: Path | None = None) -> None:
        self._repository = ModelRepository(root)
        self._models_config = models_config
        self._settings: tuple[ModelSettings, ...] = ()
        self._is_one: bool | None = None
        self._asides: dict[str, tuple[int, int, tuple[str, ...]]] = {}
        self._reads = 0
        self._folders: dict[Path, Mapping[int, Path]] = {}  # of this read
        self._has_found = False
        self._configs: dict[Path, tuple[tuple[int, int], TritonConfig | None]] = {}

    def read(self, desired_states: Mapping[str, DesiredState]) -> dict[str, DesiredModel]:
        """What is desired of every model now, by name. Raises `RepositoryError` and `ConfigError`."""
        self._reads += 1
        self._folders = {}
        if one := self._one_model():
            return {one.name: self._desired(ModelSettings(name=one.name), desired_states.get(one.name), one)}
        if not self._repository.root.is_dir():
            self._repository.folders()  # which says what is wrong
        settings = {model.name: model for model in self._configured()}
        for name, control in desired_states.items():
            if control.base_path and name not in settings:
                settings[name] = ModelSettings(name=name)
        desired = {name: self._desired(model, desired_states.get(name)) for name, model in sorted(settings.items())}
        return {**self._misplaced(desired), **desired}

    def _one_model(self) -> OneModel | None:
        """The model that the root is. What it is at the first look, it stays: a repository may be empty for a while."""
        if self._is_one is False or self._models_config is not None:
            return None
        try:
            one = one_model(self._repository.root)
        except OSError as error:
            raise RepositoryError(str(error)) from error
        if self._is_one is None:
            self._is_one = one is not None
        if one is None and self._is_one:
            raise RepositoryError(f"{self._repository.root} holds no model any more")
        return one

    def _misplaced(self, desired: Mapping[str, DesiredModel]) -> dict[str, DesiredModel]:
        """What looks like a model in the repository and is none: each with what to do about it as its error."""
        root = self._repository.root
        if self._has_settings:
            return {}
        found = in_root(root, desired)
        return {name: DesiredModel(name=name, folder=root / name, error="; ".join(found[name])) for name in found}

    @property
    def _has_settings(self) -> bool:
        """Whether a `models.config` says which models there are."""
        return self._models_config is not None or (self._repository.root / MODELS_CONFIG).exists()

    def _configured(self) -> Collection[ModelSettings]:
        """The models of `models.config`, else those with a folder in the repository."""
        path = self._models_config or self._repository.root / MODELS_CONFIG
        if not self._has_settings:
            found = self._found()
            if self._has_found and not found:  # as a volume looks that is not mounted any more
                raise RepositoryError(f"{self._repository.root} is empty")
            self._has_found = bool(found)
            return [ModelSettings(name=name) for name in found]
        config = read_models_config(path)
        if config.ignored and config.models != self._settings:
            _log.warning("models.config asks for what is not done", extra={"fields": config.ignored})
        self._settings = config.models
        return config.models

    def _found(self) -> list[str]:
        """The models with a version in the repository, or whose folder cannot be read, which is said of the model."""
        found = []
        for name in self._repository.folders():
            folder = self._repository.root / name
            try:
                self._folders[folder] = version_folders(folder)
            except OSError:
                found.append(name)
            else:
                found += [name] if self._folders[folder] else []
        return found

    def _desired(
        self, settings: ModelSettings, control: DesiredState | None, one: OneModel | None = None
    ) -> DesiredModel:
        control = control or DesiredState(model=settings.name)
        folder = Path(settings.base_path) if settings.base_path else self._repository.root / settings.name
        folders: Mapping[int, Path] = {}
        notes: tuple[str, ...] = ()
        config, error = None, names.unfit(settings.name)
        try:
            if one:
                folder, folders = one.folder, one.versions
            elif control.base_path:
                folder = self._inside(control.base_path)
            if not one:
                folders = self._folders.get(folder) or (version_folders(folder) if folder.is_dir() else {})
            if (not one or one.is_whole) and (folders or folder.is_dir()):
                notes = self._passed_over(settings.name, folder)
            config = (
                TritonConfig(model_file=one.file, is_alone=True) if one and one.file else self._triton_config(folder)
            )
        except (ConfigError, RepositoryError, OSError) as problem:
            error = str(problem)
        if not folders and not error:
            error = "; ".join(notes) or f"{folder} holds no version: <model>/<number>/ is wanted"
        policy = control.policy or settings.policy or (config.policy if config else None) or VersionPolicy()
        return DesiredModel(
            name=settings.name,
            folder=folder,
            folders=folders,
            file=one.file if one else "",
            notes=notes,
            policy=policy,
            pinned=control.pinned | frozenset(settings.labels.values()),
            labels=settings.labels,
            config=config,
            is_loaded=control.is_loaded,
            generation=control.generation,
            error=error,
        )

    def _passed_over(self, name: str, folder: Path) -> tuple[str, ...]:
        """What `in_model` says; looked for again when the folder has changed, and now and then."""
        changed_ns = folder.stat().st_mtime_ns
        known = self._asides.get(name)
        if known is None or known[0] != changed_ns or self._reads - known[1] >= _LOOKS_BETWEEN:
            sentences = tuple(in_model(name, folder))
            if sentences and (known is None or sentences != known[2]):
                _log.warning("something in a model's folder is passed over", extra={"model": name, "what": sentences})
            self._asides[name] = known = (changed_ns, self._reads, sentences)
        return known[2]

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
