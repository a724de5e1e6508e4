"""Whether what a model's `requirements.txt` asks for is installed."""

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

FILE = "requirements.txt"
_MOST_FILES = 20


def unmet(folder: Path) -> list[str]:
    """What is missing, or there in another version, in words; [] where all is there, or no such file is.

    Lines that say where packages come from are passed over, as this installs nothing. Raises `OSError` and
    `UnicodeDecodeError`.
    """
    path = folder / FILE
    return [text for line in _lines(path, set()) if (text := _fault(line))] if path.exists() else []


def _lines(path: Path, read: set[Path]) -> Iterator[str]:
    """The requirements in a file and in those that it refers to (`-r`)."""
    if path in read or len(read) >= _MOST_FILES:
        return
    read.add(path)
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in (raw.partition(" #")[0].strip() for raw in text.splitlines()):
        if line.startswith(("-r ", "--requirement ", "-r=", "--requirement=")):
            yield from _lines(path.parent / line.replace("=", " ", 1).split(None, 1)[1], read)
        elif line and not line.startswith(("#", "-")):
            yield " ".join(line.partition(" --")[0].split())


def _fault(line: str) -> str:
    """What is wrong with one requirement, "" where nothing is."""
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return f"{line} (which cannot be checked: it names no package)"
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
        return ""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{line} (not installed)"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{line} ({version} is installed)"
