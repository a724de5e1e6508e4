"""The kinds of jobs: every module here that has `KIND`. A module is imported when its kind runs for the first time."""

import importlib
import pkgutil
from typing import cast

from jobs.kinds.base import Kind
from millrace.protocol.errors import InvalidRequest

_NOT_KINDS = {"base"}


def names() -> list[str]:
    """The kinds that there are."""
    return sorted(each.name for each in pkgutil.iter_modules(__path__) if each.name not in _NOT_KINDS)


def find(name: str) -> Kind:
    """The kind of that name. Raises `InvalidRequest`."""
    if name not in names():
        raise InvalidRequest(f"kind: this jobs program has no kind {name!r}; it has {', '.join(names())}")
    return cast(Kind, importlib.import_module(f"{__name__}.{name}").KIND)
