"""The models that a stack is to serve, each with the example request of its newest version."""

from pathlib import Path
from typing import Any

from millrace.artifacts import manifest as manifests
from millrace.artifacts.manifest import ManifestError
from millrace.artifacts.onemodel import OneModel, one_model
from millrace.artifacts.repository import ModelRepository, RepositoryError, version_folders
from ops.errors import UpError


def served_models(root: Path, models_config: str | None) -> dict[str, dict[str, Any]]:
    """The example of each model's newest version by the model's name, {} where it has none. Raises `UpError`.

    The root is a repository, or a single model.
    """
    if models_config is None and (one := _one(root)):
        newest = one.versions[max(one.versions)]
        return {one.name: {} if one.file else _example(newest)}
    examples = {}
    for name, folder in _folders(root, models_config).items():
        if versions := version_folders(folder) if folder.is_dir() else {}:
            examples[name] = _example(versions[max(versions)])
    return examples


def _one(root: Path) -> OneModel | None:
    try:
        return one_model(root)
    except (RepositoryError, OSError) as error:
        raise UpError(str(error)) from None


def _folders(root: Path, models_config: str | None) -> dict[str, Path]:
    """The models' folders by name: those that `models.config` names, where there is one, else all in the repository."""
    path = Path(models_config or root / "models.config")
    if models_config is not None or path.exists():
        return _configured(path)
    try:
        return {name: root / name for name in ModelRepository(root).models()}
    except RepositoryError as error:
        raise UpError(f"{error} (--models)") from None


def _configured(path: Path) -> dict[str, Path]:
    from millrace.artifacts.configs import ConfigError, read_models_config  # needs protobuf, as both programs do

    try:
        return {model.name: Path(model.base_path) for model in read_models_config(path).models}
    except ConfigError as error:
        raise UpError(str(error)) from None


def _example(folder: Path) -> dict[str, Any]:
    try:
        manifest = manifests.read(folder)
    except ManifestError:
        return {}  # the worker says what is wrong with it
    return manifest.example if manifest else {}
