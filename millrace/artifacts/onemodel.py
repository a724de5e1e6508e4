"""A path that names one model in place of a repository: its file, its version's folder, or its own folder."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from millrace.artifacts import misplaced, modelfiles
from millrace.artifacts.repository import RepositoryError, is_folder, version_folders, version_of
from millrace.protocol import names

_GENERIC = ("model", "saved_model", "tfserving")


@dataclass(frozen=True, slots=True)
class OneModel:
    """A model's name, the folder where its configuration would be, and its versions' folders.

    `file` is the name of the model's file where the folder around it holds other things, too. `is_whole` says that all
    versions in the model's folder are meant.
    """

    name: str
    folder: Path
    versions: Mapping[int, Path]
    file: str = ""
    is_whole: bool = False


def one_model(path: Path) -> OneModel | None:
    """The model that the path names; None where it may be a repository, or is not there.

    Raises `RepositoryError` for a file that is no model, and `OSError`.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolving links would change names
    if path.is_file():
        model: OneModel | None = _of_file(path)
    else:
        model = _of_folder(path) if path.is_dir() else None
    if model and (why := names.unfit(model.name)):
        raise RepositoryError(f"{path} gives the model the name {names.quoted(model.name)}, but {why}")
    return model


def _of_file(path: Path) -> OneModel:
    found = modelfiles.find(path.parent, path.name)
    if not found:
        known = misplaced.format_of(path)
        raise RepositoryError(f"{path} is {known}" if known else f"{path} is no model: .onnx, .tflite or a SavedModel")
    is_whole_folder = path.stem in _GENERIC and path in [f.folder / f.name for f in modelfiles.by_name(path.parent)]
    if found[0].format == "savedmodel" or (is_whole_folder and version_of(path.parent.name) is not None):
        return _of_version(path.parent)
    return OneModel(path.stem, path.parent, {1: path.parent}, path.name)


def _of_folder(path: Path) -> OneModel | None:
    if modelfiles.is_version(path) and not _has_models(path):
        return _of_version(path)
    versions = version_folders(path)
    if any(modelfiles.has_one(folder) for folder in versions.values()):
        return OneModel(path.name, path, versions, is_whole=True)
    is_repository = any(version_folders(folder) for folder in versions.values())  # of models that are called by numbers
    return OneModel(path.name, path, versions, is_whole=True) if versions and not is_repository else None


def _has_models(path: Path) -> bool:
    """Whether there are folders with versions in it: then what lies beside them is astray."""
    with os.scandir(path) as entries:
        return any(version_folders(Path(entry.path)) for entry in entries if is_folder(entry))


def _of_version(folder: Path) -> OneModel:
    number = version_of(folder.name)
    if number is None:
        return OneModel(folder.name, folder, {1: folder})
    return OneModel(folder.parent.name, folder.parent, {number: folder})
