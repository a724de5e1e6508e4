"""The kinds of jobs: every module here that has `KIND`, and every file in the operator's own folder of kinds.

A module is imported when its kind runs for the first time. A kind of ours cannot be replaced.
"""

import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import cast

from jobs.kinds.base import Kind
from millrace.protocol.errors import InvalidRequest

_NOT_KINDS = {"base"}


def names(folder: Path | None = None) -> list[str]:
    """The kinds that there are; `folder` is the operator's own."""
    own = {each.stem for each in folder.glob("[a-z]*.py")} if folder else set()
    return sorted(_ours() | own)


def find(name: str, folder: Path | None = None) -> Kind:
    """The kind of that name. Raises `InvalidRequest`."""
    if name not in names(folder):
        raise InvalidRequest(
            f"kind: this jobs program has no kind {name!r}; it has {', '.join(names(folder))} (MILLRACE_JOBS_KINDS)"
        )
    if folder is None or name in _ours():
        return cast(Kind, importlib.import_module(f"{__name__}.{name}").KIND)
    return cast(Kind, _own(folder / f"{name}.py").KIND)


def _ours() -> set[str]:
    return {each.name for each in pkgutil.iter_modules(__path__)} - _NOT_KINDS


def _own(path: Path) -> ModuleType:
    """The operator's module, under a name that no other one has."""
    name = f"{__name__}.own_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise InvalidRequest(f"kind: {path.stem!r} cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
