"""What the source imports, read without running it, and what an extra of pyproject.toml brings along."""

import ast
import importlib.metadata
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.running import ROOT

# Imports each module that it is given while the forbidden top-level names cannot be found.
_IMPORTER = """
import importlib, json, sys

work = json.loads(sys.argv[1])

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in work["forbidden"]:
            raise ModuleNotFoundError(f"no module named {name!r}: no requirement brings it", name=name)

sys.meta_path.insert(0, Missing())
for name in work["modules"]:
    importlib.import_module(name)
"""


def sources(package: str) -> dict[str, Path]:
    """The modules of a package by their full names."""
    root = ROOT / "client" if package == "millrace_client" else ROOT
    found = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(source: str) -> Iterator[str]:
    """The full names that a module imports, wherever in it; for `from a import b` that is `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name: str, package: str) -> bool:
    """Whether the name is that package, or is in it."""
    return name == package or name.startswith(package + ".")


def extras_of(project: Path) -> list[str]:
    """The names of a project's extras."""
    return list(tomllib.loads((project / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def requirements(project: Path, *extras: str) -> list[Requirement]:
    """What the project requires with these extras; an extra that names other extras of the project brings theirs."""
    table: dict[str, Any] = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    found = [Requirement(line) for line in table["dependencies"]]
    for extra in extras:
        for line in table["optional-dependencies"][extra]:
            needed = Requirement(line)
            own = needed.name == table["name"]
            found += requirements(project, *needed.extras) if own else [needed]
    return found


def brought_by(needed: Iterable[Requirement]) -> set[str]:
    """The installed distributions that these bring, their own requirements included, by canonical name."""
    waiting, seen = list(needed), set[tuple[str, frozenset[str]]]()
    while waiting:
        requirement = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            waiting += _required(requirement)
    return {name for name, _ in seen}


def _required(requirement: Requirement) -> list[Requirement]:
    """What an installed distribution requires in its turn; nothing where it is not installed."""
    try:
        lines = importlib.metadata.requires(requirement.name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        needed = Requirement(line)
        if needed.marker and not any(needed.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
            continue
        needed.marker = None
        found.append(needed)
    return found


def installed() -> dict[str, set[str]]:
    """The top-level names that can be imported here, each with the distributions that have it."""
    found = importlib.metadata.packages_distributions()
    return {name: {canonicalize_name(each) for each in distributions} for name, distributions in found.items()}


def import_without(forbidden: Iterable[str], modules: Iterable[str]) -> str:
    """Import the modules in a process of their own where the forbidden names cannot be found; what went wrong."""
    work = json.dumps({"forbidden": sorted(forbidden), "modules": sorted(modules)})
    command = [sys.executable, "-c", _IMPORTER, work]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'client'}", "PATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.stderr[-500:] if done.returncode else ""
