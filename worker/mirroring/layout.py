"""Which model versions the files of a store make up.

    <model>/<version>/…     a repository, with each model's own files (`config.pbtxt`, labels) beside its versions
    <version>/…             one model, called as the URL's last part (`model_name`)
    files                   its version 1

What is hidden (its name begins with a dot) is passed over. A name that could lead out of the folder that it is mirrored
into makes its whole version refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from millrace.artifacts.repository import version_of
from millrace.protocol import names
from worker.mirroring.store import UNKNOWN_SIZE, StoredFile

Key = tuple[str, int]
_MOST_NAME_BYTES = 255


@dataclass(slots=True)
class StoredVersion:
    """One version: its files by their path below its folder, and why it is `refused`, "" where it is not."""

    files: dict[str, StoredFile] = field(default_factory=dict)
    refused: str = ""

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(file.size for file in self.files.values())

    @property
    def stamp(self) -> str:
        """Changes when any file changes, comes or goes."""
        return "\n".join(f"{path}|{file.size}|{file.stamp}" for path, file in sorted(self.files.items()))


@dataclass(slots=True)
class Layout:
    """The versions by model and number, and the files that lie beside a model's versions, by model and name."""

    versions: dict[Key, StoredVersion] = field(default_factory=dict)
    beside: dict[tuple[str, str], StoredFile] = field(default_factory=dict)


def layout(files: Mapping[str, StoredFile], name: str) -> Layout:
    """What the files, by their path relative to the store's URL, make up. `name` is the URL's."""
    found = Layout()
    chosen: dict[Key, str] = {}  # where several folders name one number, as 1 and 0001 do, the shortest name is taken
    for path, file in _placed(files, name).items():
        parts = path.split("/")
        model, number = parts[0], version_of(parts[1]) if len(parts) > 2 else None
        if model.startswith(".") or names.unfit(model):
            continue
        if number is None:
            is_hidden = parts[-1].startswith(".")
            if len(parts) == 2 and not _unsafe(parts[1:]) and not is_hidden and version_of(parts[1]) is None:
                found.beside[model, parts[1]] = file
            continue
        key, below = (model, number), parts[2:]
        folder = chosen.setdefault(key, parts[1])
        if folder != parts[1] and len(folder) <= len(parts[1]):
            continue
        if folder != parts[1]:
            chosen[key] = parts[1]
            found.versions.pop(key, None)
        version = found.versions.setdefault(key, StoredVersion())
        if why := _unsafe(below):
            version.refused = f"{path!r} {why}"
        elif any(part.startswith(".") for part in below):
            continue
        elif file.size == UNKNOWN_SIZE:
            version.refused = f"the store does not say how long {path!r} is, so there may be no room for it"
        else:
            version.files["/".join(below)] = file
    return found


def _placed(files: Mapping[str, StoredFile], name: str) -> Mapping[str, StoredFile]:
    """The same files as paths in a repository."""
    split = [path.split("/") for path in files]
    if any(len(parts) > 2 and version_of(parts[1]) is not None for parts in split):
        return files
    if any(len(parts) > 1 and version_of(parts[0]) is not None for parts in split):
        return {f"{name}/{path}": file for path, file in files.items()}
    if not any(len(parts) == 1 for parts in split):
        return files
    return {f"{name}/1/{path}": file for path, file in files.items()}


def _unsafe(parts: list[str]) -> str:
    """Why a file of this path is not written, "" where it is."""
    if any(part in ("", ".", "..") for part in parts):
        return "would lead out of its folder"
    if any("\\" in part or not part.isprintable() or len(part.encode()) > _MOST_NAME_BYTES for part in parts):
        return "is no name for a file"
    return ""
