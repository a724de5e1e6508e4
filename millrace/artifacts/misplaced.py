"""What strangers put into a repository that cannot be served as it lies there, and what to do about it, in words."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from millrace.artifacts import modelfiles
from millrace.artifacts.repository import version_folders, version_of
from millrace.protocol import names

_KERAS = "Keras' format; `millrace export` makes a model of it that can be served"
_TORCH = "PyTorch's format; export it with torch.onnx.export, as model.onnx"
_PICKLE = "a pickle, which would run code; convert it to ONNX (skl2onnx for scikit-learn), as model.onnx"
_OTHER_FORMATS = {
    **dict.fromkeys((".keras", ".h5", ".hdf5"), _KERAS),
    **dict.fromkeys((".pt", ".pth", ".torchscript", ".ptl", ".pt2"), _TORCH),
    ".safetensors": "weights without their program; export the model from its framework to ONNX, as model.onnx",
    ".ckpt": "a checkpoint; export the model from its framework to ONNX, as model.onnx",
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), _PICKLE),
    **dict.fromkeys((".ubj", ".xgb"), "XGBoost's format; convert it to ONNX (onnxmltools), as model.onnx"),
    **dict.fromkeys((".plan", ".engine", ".trt"), "a TensorRT plan; serve the ONNX file that it was built from"),
    **dict.fromkeys((".mlmodel", ".mlpackage"), "Core ML's format, for Apple's devices; export the model to ONNX"),
    ".pb": "a frozen graph of TensorFlow 1; convert it to a SavedModel (saved_model.pb) or, with tf2onnx, to ONNX",
    ".gguf": "llama.cpp's format, which no runtime here reads",
    ".pdmodel": "Paddle's format; convert it with paddle2onnx, as model.onnx",
}
_ARCHIVES = dict.fromkeys((".zip", ".tgz", ".tar", ".gz"), "an archive; unpack it here")
_CONFIG = "config.pbtxt"
_OF_SAVED_MODELS = ("saved_model.pb", "fingerprint.pb", "keras_metadata.pb")


def in_version(folder: Path) -> str:
    """Why a version's folder without a model has none, and what to do; "" where there is nothing to point at.

    Raises `OSError`.
    """
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if several := modelfiles.candidates(folder):
        called = f"call it model{Path(several[0]).suffix}, or name it as default_model_filename in {_CONFIG}"
        return f"{' and '.join(several)} could each be the model; choose one: {called}"
    known = {**_OTHER_FORMATS, **_ARCHIVES}
    if any(path.name == "checkpoint" for path in entries):
        return "it is a checkpoint of TensorFlow; export it as a SavedModel"
    if any(path.name == "saved_model.pbtxt" for path in entries):
        return "saved_model.pbtxt is a SavedModel in text form; save it as saved_model.pb"
    if foreign := [f"{path.name} is {known[path.suffix.lower()]}" for path in entries if path.suffix.lower() in known]:
        return "; ".join(foreign)
    deeper = [path.name for path in entries if path.is_dir() and modelfiles.find(path)]
    return f"the model lies one folder too deep, in {deeper[0]}; move its files up" if deeper else ""


def in_model(name: str, folder: Path) -> list[str]:
    """A sentence for each thing in a model's folder that looks like a version or a model, and is not served.

    Raises `OSError`.
    """
    versions = version_folders(folder)
    free = max(versions, default=0) + 1
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    sentences = [
        sentence
        for entry in entries
        if entry not in versions.values() and (sentence := _beside_versions(name, entry, versions, free))
    ]
    if not sentences and not versions and any(entry.name == _CONFIG for entry in entries):
        return [f"{name} has a {_CONFIG} and no version's folder; put the model into {name}/1"]
    return sentences


def format_of(path: Path) -> str:
    """What a model of another format is, and what to do about it, in words; "" for anything else."""
    return _OTHER_FORMATS.get(_foreign(path), "")


def _beside_versions(name: str, entry: Path, versions: Mapping[int, Path], free: int) -> str:
    """What is to be said of something in a model's folder that is no version."""
    what = f"{name}/{entry.name}"
    if known := format_of(entry):
        return f"{what} is {known}"
    if modelfiles.is_model(entry.name):
        return f"{what} lies outside of a version's folder; move it to {name}/{free}/{_proper(entry)}"
    if not entry.is_dir():
        return ""
    number = version_of(entry.name)
    if number is not None:
        if number not in versions:  # it has come since the versions were looked up
            return ""
        served = f"{name}/{versions[number].name}"
        return f"{what} names version {number} as {served} does, and only {served} is looked at; rename it"
    if _has_model(entry):
        return f"{what} is no version, for its name is no whole number below 2^63; rename it to {name}/{free}"
    return ""


def in_root(root: Path, models: Collection[str]) -> dict[str, list[str]]:
    """What lies in the repository itself and is none of these `models`: sentences, by the name to give them in a list.

    Raises `OSError`.
    """
    found: dict[str, list[str]] = {}
    with os.scandir(root) as entries:
        others = [entry.name for entry in entries if not entry.name.startswith(".") and entry.name not in models]
    for entry in (root / name for name in sorted(others)):
        if not entry.is_dir():
            if sentence := _in_the_root(root, entry):
                found.setdefault(_fit(_name(root, entry)), []).append(sentence)
        elif why := names.unfit(entry.name):
            if _holds_something(entry):
                found[_fit(entry.name)] = [f"{names.quoted(entry.name)} cannot be served: {why}; rename it"]
        elif sentences := _of_folder(entry):
            found[entry.name] = sentences
    return found


def _in_the_root(root: Path, entry: Path) -> str:
    if known := format_of(entry):
        return f"{entry.name} is {known}"
    if modelfiles.is_model(entry.name):
        return f"{entry.name} lies in the repository itself; move it to {_name(root, entry)}/1/{_proper(entry)}"
    return ""


def _name(root: Path, file: Path) -> str:
    """The name that a model in a file gets, where it has none of its own."""
    return root.resolve().name if file.stem in ("model", "saved_model", "tfserving") else file.stem


def _of_folder(folder: Path) -> list[str]:
    try:
        return in_model(folder.name, folder)
    except OSError as error:
        return [str(error)]


def _holds_something(folder: Path) -> bool:
    try:
        return bool(version_folders(folder)) or bool(in_model("", folder))
    except OSError:
        return False


def _has_model(folder: Path) -> bool:
    try:
        return any(modelfiles.is_model(path.name) or _foreign(path) for path in folder.iterdir())
    except OSError:
        return False


def _foreign(path: Path) -> str:
    """The suffix of a model of another format, "" for anything else."""
    suffix = path.suffix.lower()
    return suffix if suffix in _OTHER_FORMATS and path.name not in _OF_SAVED_MODELS else ""


def _proper(path: Path) -> str:
    """How a model's file is to be called in its version's folder."""
    suffix = path.suffix.lower()
    return f"model{suffix}" if suffix in (".onnx", ".ort", ".tflite") else path.name


def _fit(name: str) -> str:
    """A name that can be announced, for something that has none."""
    fit = "".join(c if c.isprintable() and c not in "/:" else "_" for c in name)
    return fit[: names.LONGEST] or "_"
