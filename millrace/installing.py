"""What to install for a part of Millrace that needs more than the rest: an extra of its own checkout."""

import re
import sys
from collections.abc import Collection, Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

_REQUIREMENT = re.compile(r"""([A-Za-z0-9._-]+)[^;]*;\s*extra == ['"]([^'"]+)['"]\s*""")


def hint(extras: Iterable[str]) -> str:
    """How to install these extras, as the end of a message."""
    return f"install it from Millrace's checkout with: {_python()} -m pip install -e '.[{','.join(extras)}]'"


def client_hint() -> str:
    """How to install the client, which is a distribution of its own."""
    return f"install it from Millrace's checkout with: {_python()} -m pip install -e ./client"


def _python() -> Path:
    python = Path(sys.executable)
    return python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python


def missing(requirements: Iterable[str], extras: Collection[str]) -> list[str]:
    """The distributions that are not installed, of those that these extras bring on every system."""
    matches = map(_REQUIREMENT.fullmatch, requirements)
    return [match[1] for match in matches if match and match[2] in extras and not _is_installed(match[1])]


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
