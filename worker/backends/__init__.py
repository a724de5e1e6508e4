"""The runtimes that can run a model, one module each; a new one is a new module and a line here."""

import importlib
from importlib.util import find_spec
from pathlib import Path

from worker.backends.base import Backend, Device, LoadError
from worker.backends.texts import place

# name -> (the file that says a version has this format, module, the runtime it needs), the first choice first
FORMATS: dict[str, tuple[str, str, str]] = {
    "onnx": ("model.onnx", "worker.backends.onnx", "onnxruntime"),
    "savedmodel": ("saved_model.pb", "worker.backends.savedmodel", "tensorflow"),
    "tflite": ("model.tflite", "worker.backends.tflite", "ai_edge_litert"),
    "tfserving": ("tfserving.json", "worker.backends.tfserving", "grpc"),
}


# Formats whose models run code of their own, each in a process that serves nothing else.
OWN_PROCESS: frozenset[str] = frozenset()


def needs_own_process(folder: Path) -> bool:
    """Whether the model in a version's folder must not share its process with another."""
    return any((folder / FORMATS[name][0]).exists() for name in OWN_PROCESS)


def load(folder: Path, device: Device, wanted: str = "auto") -> Backend:
    """The model in a version's folder, loaded by the first runtime that is installed and has a format there.

    `wanted` names one format instead. Raises `LoadError` with what is there and what is missing.
    """
    present = [name for name, (file, _, _) in FORMATS.items() if (folder / file).exists()]
    if not present:
        files = ", ".join(file for file, _, _ in FORMATS.values())
        raise LoadError(f"{place(folder)} holds no model: one of {files} is wanted")
    chosen = [name for name in present if wanted in ("auto", name)]
    if not chosen:
        raise LoadError(f"{place(folder)} has no {wanted} format, only {', '.join(present)}")
    for name in chosen:
        _, module, runtime = FORMATS[name]
        if find_spec(runtime):
            loaded: Backend = importlib.import_module(module).load(folder, device)
            return loaded
    missing = " or ".join(FORMATS[name][2] for name in chosen)
    raise LoadError(f"{place(folder)} holds {', '.join(chosen)}, which needs {missing}, and that is not installed")
