"""The runtimes that can run a model, one module each; a new one is a new module and a line here."""

import importlib
from importlib.util import find_spec
from pathlib import Path

from millrace.model import Models
from worker.backends.base import Backend, Device, LoadError
from worker.backends.texts import place

# name -> (the file that says a version has this format, module, the runtime it needs), the first choice first
FORMATS: dict[str, tuple[str, str, str]] = {
    "python": ("model.py", "worker.backends.python", "packaging"),
    "onnx": ("model.onnx", "worker.backends.onnx", "onnxruntime"),
    "savedmodel": ("saved_model.pb", "worker.backends.savedmodel", "tensorflow"),
    "tflite": ("model.tflite", "worker.backends.tflite", "ai_edge_litert"),
    "tfserving": ("tfserving.json", "worker.backends.tfserving", "grpc"),
    "mlflow": ("MLmodel", "worker.backends.mlflow", "mlflow"),
}
# Formats whose models run code of their own: only where that is allowed, each in a process that serves nothing else.
OWN_PROCESS: frozenset[str] = frozenset({"python", "mlflow"})


def needs_own_process(folder: Path, wanted: str = "auto") -> bool:
    """Whether the model that `load` would load runs code of its own."""
    usable = [name for name in _present(folder) if wanted in ("auto", name) and find_spec(FORMATS[name][2])]
    return bool(usable) and usable[0] in OWN_PROCESS


def _present(folder: Path) -> list[str]:
    return [name for name, (file, _, _) in FORMATS.items() if (folder / file).exists()]


def code_refused(folder: Path) -> LoadError:
    """The error for a model of code where code is not allowed."""
    file = next(FORMATS[name][0] for name in _present(folder) if name in OWN_PROCESS)
    return LoadError(
        f"{place(folder, file)} is Python code, which runs only where the operator allows it: start with --allow-code, "
        "or set MILLRACE_WORKER_ALLOW_CODE=true"
    )


def load(folder: Path, device: Device, wanted: str = "auto", models: Models | None = None) -> Backend:
    """The model in a version's folder, loaded by the first runtime that is installed and has a format there.

    `wanted` names one format instead. `models` is what code of its own calls others with; without it such code does not
    run. Raises `LoadError` with what is there and what is missing.
    """
    present = _present(folder)
    if not present:
        files = ", ".join(file for file, _, _ in FORMATS.values())
        raise LoadError(f"{place(folder)} holds no model: one of {files} is wanted")
    chosen = [name for name in present if wanted in ("auto", name)]
    if not chosen:
        raise LoadError(f"{place(folder)} has no {wanted} format, only {', '.join(present)}")
    for name in chosen:
        _, module, runtime = FORMATS[name]
        if not find_spec(runtime):
            continue
        loaded: Backend
        if name not in OWN_PROCESS:
            loaded = importlib.import_module(module).load(folder, device)
        elif models is None:
            raise code_refused(folder)
        else:
            loaded = importlib.import_module(module).load(folder, device, models)
        return loaded
    missing = " or ".join(FORMATS[name][2] for name in chosen)
    raise LoadError(f"{place(folder)} holds {', '.join(chosen)}, which needs {missing}, and that is not installed")
