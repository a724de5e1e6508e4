"""The folder that a store is mirrored into: a repository, and a note of what each version in it was made from.

A version is written beside its place and renamed into it, and one that goes is renamed away first, so that no reader
ever sees half of one. Only whoever holds the lock writes: workers of one machine share a cache, and one of them fills
it. The lock goes with the process that holds it.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from millrace.artifacts.repository import ModelRepository
from worker.mirroring.layout import Key

_NOTES, _LOCK = ".mirrored.json", ".lock"


class CacheError(Exception):
    """The folder cannot be made or written; the text says how to name another."""


class Mirrored(msgspec.Struct, frozen=True):
    """What a version in the cache was made from (`StoredVersion.stamp`), and its bytes."""

    stamp: str
    size: int


class Cache:
    """The mirrored versions below one folder, which is made. Raises `CacheError`."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(f"no place for the models of a store: {error} (MILLRACE_WORKER_MODELS_CACHE)") from None
        self.folder = folder
        self._repository = ModelRepository(folder)
        self._lock: int | None = None

    def is_ours(self) -> bool:
        """Whether this process may write: it has the lock, or gets it now."""
        if self._lock is None:
            lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            self._lock = lock
            self._clear()
        return True

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def versions(self) -> dict[Key, Mirrored]:
        """The versions that are here, whole."""
        notes = self._notes()
        there = {(model, number) for model, found in self._repository.models().items() for number in found}
        return {(model, number): notes.get(f"{model}/{number}", Mirrored("", 0)) for model, number in there}

    @contextlib.contextmanager
    def publishing(self, key: Key, mirrored: Mirrored) -> Iterator[Path]:
        """An empty folder for the version's files; it takes its place when the block ends without an error."""
        with self._repository.publishing(*key, replace=True) as staging:
            yield staging
        self._write_notes({**self._notes(), f"{key[0]}/{key[1]}": mirrored})

    def drop(self, key: Key) -> None:
        """Remove a version, and its model's folder with the last one."""
        model, number = key
        folder = self._repository.folder(model, number)
        with tempfile.TemporaryDirectory(prefix=".dropping-", dir=self.folder) as scratch:
            folder.rename(Path(scratch) / folder.name)
        self._write_notes({name: note for name, note in self._notes().items() if name != f"{model}/{number}"})
        if not any(path.is_dir() and not path.name.startswith(".") for path in folder.parent.iterdir()):
            shutil.rmtree(folder.parent)

    def put_beside(self, model: str, name: str, content: bytes) -> None:
        """Have a file of this content beside the model's versions."""
        path = self.folder / model / name
        if path.is_file() and path.read_bytes() == content:
            return
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{name}.partial")
        partial.write_bytes(content)
        partial.replace(path)

    def beside(self) -> set[tuple[str, str]]:
        """The files beside versions: model and name."""
        return {
            (model, path.name)
            for model in self._repository.folders()
            for path in (self.folder / model).iterdir()
            if path.is_file() and not path.name.startswith(".")
        }

    def drop_beside(self, model: str, name: str) -> None:
        """Remove a file beside a model's versions."""
        (self.folder / model / name).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """What is free on the disk."""
        return shutil.disk_usage(self.folder).free

    def _notes(self) -> dict[str, Mirrored]:
        try:
            return msgspec.json.decode((self.folder / _NOTES).read_bytes(), type=dict[str, Mirrored])
        except (OSError, ValueError):  # none yet, or not ours: everything is fetched again
            return {}

    def _write_notes(self, notes: dict[str, Mirrored]) -> None:
        partial = self.folder / f"{_NOTES}.partial"
        partial.write_bytes(msgspec.json.encode(notes))
        partial.replace(self.folder / _NOTES)

    def _clear(self) -> None:
        """Remove what a process that was killed has left half done."""
        for path in (*self.folder.glob(".dropping-*"), *self.folder.glob("*/.publishing-*")):
            shutil.rmtree(path, ignore_errors=True)
