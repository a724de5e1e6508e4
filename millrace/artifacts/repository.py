"""The model repository: a folder `<root>/<model>/<version>/`, as TensorFlow Serving and Triton lay it out too.

Versions are whole numbers from 0 on, of 63 bits; they may have leading zeros, as TensorFlow Serving's `00000123` has.
Which names models may have is in `millrace/protocol/names.py`. What else lies in the repository is not passed over
without a word: see `misplaced.py`. Publishing is atomic: a version is written beside its place and renamed into it, so
that nobody reads half of one.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from millrace.protocol import names

_TOO_LARGE = 2**63  # for the protocols
_LONGEST_NUMBER = 100  # digits, most of them zeros


class RepositoryError(Exception):
    """The folder cannot be used as a model repository, or a version is there already."""


class ModelRepository:
    """The models below one folder. Nothing is read before a method is called."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def models(self) -> dict[str, list[int]]:
        """Every model's versions, oldest first, by name; models without one, or that cannot be read, are left out.

        Raises `RepositoryError` as `folders` does.
        """
        found = {}
        for name in self.folders():
            with contextlib.suppress(OSError):
                found[name] = versions_in(self.root / name)
        return {name: versions for name, versions in found.items() if versions}

    def folders(self) -> list[str]:
        """The names of all folders below the root that can be a model's, in order, whether they hold versions or not.

        Raises `RepositoryError` when the root is not a folder, or cannot be read.
        """
        try:
            if not self.root.is_dir():
                raise RepositoryError(f"{self.root} is not a folder; give the folder that holds <model>/<version>/")
            with os.scandir(self.root) as entries:
                return sorted(entry.name for entry in entries if _is_models(entry))
        except OSError as error:
            raise RepositoryError(str(error)) from error

    def folder(self, model: str, version: int) -> Path:
        """Where that version's files are, or would be."""
        path = self.root / model
        there = version_folders(path) if path.is_dir() else {}
        return there.get(version, path / str(version))

    @contextmanager
    def publishing(self, model: str, version: int, *, replace: bool = False) -> Iterator[Path]:
        """An empty folder to write a version into; it becomes the version when the block ends without an error.

        With an error nothing is published and the folder is removed. Raises `RepositoryError` when the version exists,
        or another writer was quicker, unless `replace` is true: then the old one makes way at the end.
        """
        target = self.folder(model, version)
        there = RepositoryError(f"{target} exists; versions do not change once published, so choose the next number")
        if target.exists() and not replace:
            raise there
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".publishing-", dir=target.parent) as scratch:
            staging = Path(scratch) / str(version)
            staging.mkdir()
            yield staging
            if replace and target.exists():
                target.rename(Path(scratch) / "old")
            try:
                staging.rename(target)
            except OSError as error:
                if target.exists():
                    raise there from error
                raise


def versions_in(folder: Path) -> list[int]:
    """The versions in a model's folder, the oldest first. Raises `OSError`."""
    return list(version_folders(folder))


def version_folders(folder: Path) -> dict[int, Path]:
    """The folder of each version in a model's folder, the oldest first. Raises `OSError`.

    Where several name one number, as `1` and `0001` do, the shortest name is taken.
    """
    found: dict[int, Path] = {}
    with os.scandir(folder) as entries:
        numbered = [entry.name for entry in entries if version_of(entry.name) is not None and is_folder(entry)]
    for name in sorted(numbered, key=len):
        found.setdefault(int(name), folder / name)
    return dict(sorted(found.items())) if len(found) > 1 else found


def version_of(name: str) -> int | None:
    """The version that a folder of this name is; None where the name is not a version's."""
    number = int(name) if name.isascii() and name.isdigit() and len(name) <= _LONGEST_NUMBER else _TOO_LARGE
    return number if number < _TOO_LARGE else None


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a folder, or a link to one; a link that leads nowhere, or in a circle, is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_models(entry: "os.DirEntry[str]") -> bool:
    return not entry.name.startswith(".") and not names.unfit(entry.name) and is_folder(entry)
