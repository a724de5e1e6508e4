"""The runtimes that can run a model, one module each; a new one is a new module and a line here."""

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from millrace.artifacts import misplaced, modelfiles
from worker.backends.base import Backend, Device, LoadError
from worker.backends.texts import place, public

# name -> (the file that says a version has this format, module, the runtime it needs), the first choice first
FORMATS: dict[str, tuple[str, str, str]] = {
    "onnx": ("model.onnx", "worker.backends.onnx", "onnxruntime"),
    "savedmodel": ("saved_model.pb", "worker.backends.savedmodel", "tensorflow"),
    "tflite": ("model.tflite", "worker.backends.tflite", "ai_edge_litert"),
    "tfserving": ("tfserving.json", "worker.backends.tfserving", "grpc"),
}
# Formats whose file may have another name than the usual one.
_ANY_NAME = {"onnx", "tflite"}

# Formats whose models run code of their own, each in a process that serves nothing else.
OWN_PROCESS: frozenset[str] = frozenset()


def needs_own_process(folder: Path) -> bool:
    """Whether the model in a version's folder must not share its process with another."""
    return any((folder / FORMATS[name][0]).exists() for name in OWN_PROCESS)


def load(folder: Path, device: Device, wanted: str = "auto", file: str = "") -> Backend:
    """The model in a version's folder, loaded by the first runtime that is installed and has a format there.

    `wanted` names one format instead, `file` the file or folder that is the model. Raises `LoadError` with what is
    there and what is missing.
    """
    present = _present(folder, file)
    chosen = [name for name in present if wanted in ("auto", name)]
    if not chosen:
        raise LoadError(f"{place(folder)} has no {wanted} format, only {', '.join(present)}")
    for name in chosen:
        _, module, runtime = FORMATS[name]
        if find_spec(runtime):
            return _loaded(importlib.import_module(module), present[name], device)
    missing = " or ".join(FORMATS[name][2] for name in chosen)
    raise LoadError(f"{place(folder)} holds {', '.join(chosen)}, which needs {missing}, and that is not installed")


def _present(folder: Path, file: str) -> dict[str, modelfiles.ModelFile]:
    """The models in a version's folder by their formats, the first choice first. Raises `LoadError` for none."""
    try:
        found = {model.format: model for model in modelfiles.find(folder, file)}
        for name, (usual, _, _) in FORMATS.items():
            if name not in found and not file and (folder / usual).is_file():
                found[name] = modelfiles.ModelFile(name, folder, usual)
        present = {name: found[name] for name in FORMATS if name in found}
        if present:
            return present
        if file:
            raise LoadError(f"{place(folder)} has no model {file!r}, which default_model_filename names")
        advice = misplaced.in_version(folder)
    except OSError as error:
        raise LoadError(f"{place(folder)}: {public(str(error), folder)}") from error
    files = ", ".join(file for file, _, _ in FORMATS.values())
    raise LoadError(f"{place(folder)} holds no model: {advice or f'one of {files} is wanted'}")


def _loaded(module: Any, model: modelfiles.ModelFile, device: Device) -> Backend:
    """The model, by a format's module; those whose file may have any name are told it."""
    loaded: Backend
    if model.format in _ANY_NAME:
        loaded = module.load(model.folder, device, model.name)
    else:
        loaded = module.load(model.folder, device)
    return loaded
