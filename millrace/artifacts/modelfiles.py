"""Which file or folder of a version is its model: our names, Triton's, or the only one there is.

    model.onnx, model.ort             ONNX; Triton's model.onnx/model.onnx, with its data beside it
    saved_model.pb                    SavedModel; Triton's model.savedmodel/saved_model.pb
    model.tflite                      TFLite
    tfserving.json                    a model on a remote TensorFlow Serving

A single `.onnx`, `.ort` or `.tflite` file of another name is the model where none of these is there; Triton's
`default_model_filename` names any.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FORMATS = {".onnx": "onnx", ".ort": "onnx", ".tflite": "tflite"}
_SAVED_MODEL = "saved_model.pb"
FOLDERS = ("model.savedmodel", "model.onnx")
_REMOTE = "tfserving.json"
_CODE = ("model.py", "MLmodel")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model's file, of which format, and in which folder: that of the version, or one below it."""

    format: str
    folder: Path
    name: str


def find(folder: Path, named: str = "") -> list[ModelFile]:
    """The models in a version's folder, one of each format at most; only what is `named` where something is.

    Empty where there is none, or where several files could be meant. Raises `OSError`.
    """
    if named:
        return _named(folder / named)
    return by_name(folder) or _only(folder)


def by_name(folder: Path) -> list[ModelFile]:
    """The models in a version's folder that are called as they should be, one of each format at most."""
    return list(_by_name(folder))


def is_version(folder: Path) -> bool:
    """Whether a folder holds a model that is called as it should be, or Python code that makes one."""
    return bool(by_name(folder)) or any((folder / name).is_file() for name in _CODE)


def has_one(folder: Path) -> bool:
    """Whether a folder holds a model, as a version's folder does. Raises `OSError`."""
    return is_version(folder) or bool(find(folder))


def candidates(folder: Path) -> list[str]:
    """The names of the files that could be the model, were they the only one. Raises `OSError`."""
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in _FORMATS and path.is_file())


def is_model(name: str) -> bool:
    """Whether a file or folder of that name is a model, or Python code that makes one, once it is in its place."""
    return name in (_SAVED_MODEL, *FOLDERS, _REMOTE, *_CODE) or Path(name).suffix.lower() in _FORMATS


def _by_name(folder: Path) -> Iterator[ModelFile]:
    for name in ("model.onnx", "model.ort"):
        if onnx := _named(folder / name):
            yield onnx[0]
            break
    for place in (folder, folder / "model.savedmodel"):
        if saved := _saved_model(place):
            yield saved
            break
    for name, format_name in (("model.tflite", "tflite"), (_REMOTE, "tfserving")):
        if (folder / name).is_file():
            yield ModelFile(format_name, folder, name)


def _only(folder: Path) -> list[ModelFile]:
    names = candidates(folder)
    return _named(folder / names[0]) if len(names) == 1 else []


def _named(path: Path) -> list[ModelFile]:
    """The model at that path: a file, or a folder that holds one."""
    if path.is_dir():
        if saved := _saved_model(path):
            return [saved]
        inside = path / "model.onnx"
        return [ModelFile("onnx", path, inside.name)] if inside.is_file() else []
    if not path.is_file():
        return []
    if path.name == _SAVED_MODEL:
        return [ModelFile("savedmodel", path.parent, path.name)]
    format_name = "tfserving" if path.name == _REMOTE else _FORMATS.get(path.suffix.lower())
    return [ModelFile(format_name, path.parent, path.name)] if format_name else []


def _saved_model(folder: Path) -> ModelFile | None:
    return ModelFile("savedmodel", folder, _SAVED_MODEL) if (folder / _SAVED_MODEL).is_file() else None
