"""The runtimes that can run a model, one module each; a new one is a new module and a line here."""

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from millrace.artifacts import misplaced, modelfiles
from millrace.model import Models
from worker.backends.base import Backend, Device, LoadError
from worker.backends.texts import place, public

# name -> (the file that says a version has this format, module, the runtime it needs), the first choice first
FORMATS: dict[str, tuple[str, str, str]] = {
    "python": ("model.py", "worker.backends.python", "packaging"),
    "onnx": ("model.onnx", "worker.backends.onnx.backend", "onnxruntime"),
    "savedmodel": ("saved_model.pb", "worker.backends.savedmodel.backend", "tensorflow"),
    "tflite": ("model.tflite", "worker.backends.tflite.backend", "ai_edge_litert"),
    "tfserving": ("tfserving.json", "worker.backends.tfserving", "grpc"),
    "mlflow": ("MLmodel", "worker.backends.mlflow", "mlflow"),
}
_CODE = ("python", "mlflow")
# Formats whose file may have another name than the usual one.
_ANY_NAME = {"onnx", "tflite"}
# Formats whose models run code of their own: only where that is allowed, each in a process that serves nothing else.
OWN_PROCESS: frozenset[str] = frozenset(_CODE)


def needs_own_process(folder: Path, wanted: str = "auto", file: str = "") -> bool:
    """Whether the model that `load` would load runs code of its own."""
    try:
        present = _present(folder, file)
    except LoadError:
        return False  # as `load` will say
    usable = [name for name in present if wanted in ("auto", name) and find_spec(FORMATS[name][2])]
    return bool(usable) and usable[0] in OWN_PROCESS


def code_refused(folder: Path) -> LoadError:
    """The error for a model of code where code is not allowed."""
    file = next(FORMATS[name][0] for name in _CODE if (folder / FORMATS[name][0]).exists())
    return LoadError(
        f"{place(folder, file)} is Python code, which runs only where the operator allows it: start with --allow-code, "
        "or set MILLRACE_WORKER_ALLOW_CODE=true"
    )


def load(folder: Path, device: Device, wanted: str = "auto", file: str = "", models: Models | None = None) -> Backend:
    """The model in a version's folder, loaded by the first runtime that is installed and has a format there.

    `wanted` names one format instead, `file` the file or folder that is the model. `models` is what code of its own
    calls others with; without it such code does not run. Raises `LoadError` with what is there and what is missing.
    """
    present = _present(folder, file)
    chosen = [name for name in present if wanted in ("auto", name)]
    if not chosen:
        raise LoadError(f"{place(folder)} has no {wanted} format, only {', '.join(present)}")
    for name in chosen:
        _, module, runtime = FORMATS[name]
        if not find_spec(runtime):
            continue
        if name in OWN_PROCESS and models is None:
            raise code_refused(folder)
        return _loaded(importlib.import_module(module), present[name], device, models)
    missing = " or ".join(FORMATS[name][2] for name in chosen)
    raise LoadError(f"{place(folder)} holds {', '.join(chosen)}, which needs {missing}, and that is not installed")


def _present(folder: Path, file: str) -> dict[str, modelfiles.ModelFile]:
    """The models in a version's folder by their formats, the first choice first. Raises `LoadError` for none."""
    try:
        found = {model.format: model for model in modelfiles.find(folder, file)}
        for name, (usual, _, _) in FORMATS.items():
            if name not in found and file in ("", usual) and (folder / usual).is_file():
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


def _loaded(module: Any, model: modelfiles.ModelFile, device: Device, models: Models | None) -> Backend:
    """The model, by a format's module; those whose file may have any name are told it, and code has the others."""
    loaded: Backend
    if model.format in OWN_PROCESS:
        loaded = module.load(model.folder, device, models)
    elif model.format in _ANY_NAME:
        loaded = module.load(model.folder, device, model.name)
    else:
        loaded = module.load(model.folder, device)
    return loaded
