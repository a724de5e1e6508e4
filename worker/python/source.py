"""A version's `model.py` as a module, and the model's class in it."""

import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from worker.backends.base import LoadError, ends_the_program
from worker.backends.texts import place, public

FILE = "model.py"
CLASS = "Model"
MODULE = "model"  # what classes of it have as their module, for those who unpickle them


def imported(folder: Path) -> ModuleType:
    """The module; the modules beside it can be imported by it. Raises `LoadError`.

    Nothing is written into the folder, which would look like a change of the version.
    """
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(MODULE, folder / FILE)
    assert spec  # noqa: S101 - a file called so has a loader
    assert spec.loader  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        if ends_the_program(error):
            raise
        raise LoadError(f"{place(folder, FILE)}: {told(error, folder)}") from error
    return module


def model_class(module: ModuleType, folder: Path) -> type[Any]:
    """The class `Model`, else the only class of the module with a method `predict`. Raises `LoadError`."""
    own = [each for each in vars(module).values() if inspect.isclass(each) and each.__module__ == module.__name__]
    found = [each for each in own if callable(getattr(each, "predict", None))]
    named = [each for each in found if each.__name__ == CLASS]
    if len(named or found) == 1:
        return (named or found)[0]
    where = place(folder, FILE)
    if any(each.__name__ == "TritonPythonModel" for each in own):
        raise LoadError(
            f"{where} is written for Triton's Python backend: give it a class {CLASS} with load(folder, device) for "
            "initialize and predict(**inputs) for execute"
        )
    several = f"has several: {', '.join(each.__name__ for each in found)}" if found else "has none"
    raise LoadError(f"{where} must have a class {CLASS} with a method predict(**inputs), but {several}")


def told(error: BaseException, folder: Path) -> str:
    """The error in one line, with the line of the model's code that it came from."""
    inside = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == folder]
    where = f" ({Path(inside[-1].filename).name}, line {inside[-1].lineno})" if inside else ""
    text = public(str(error).strip(), folder)
    return f"{type(error).__name__}{where}" + (f": {text}" if text else "")
