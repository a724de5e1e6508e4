"""The model repository: a folder `<root>/<model>/<version>/`, as TensorFlow Serving and Triton lay it out too.

Versions are positive integers of 63 bits without leading zeros, models' names have printable characters; other entries
are passed over. Publishing is atomic: a version is
written beside its place and renamed into it, so that nobody reads half of one.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TOO_LARGE = 2**63  # for the protocols


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
        """The names of all folders below the root, in order, whether they hold versions or not.

        Raises `RepositoryError` when the root is not a folder, or cannot be read.
        """
        try:
            if not self.root.is_dir():
                raise RepositoryError(f"{self.root} is not a folder; give the folder that holds <model>/<version>/")
            return sorted(entry.name for entry in self.root.iterdir() if entry.name.isprintable() and entry.is_dir())
        except OSError as error:
            raise RepositoryError(str(error)) from error

    def folder(self, model: str, version: int) -> Path:
        """Where that version's files are, or would be."""
        return self.root / model / str(version)

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
    names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    numbers = [int(name) for name in names if name.isascii() and name.isdigit() and not name.startswith("0")]
    return sorted(number for number in numbers if number < _TOO_LARGE)
