"""A file that arrives in pieces: bounded, hashed on the way, and in its place only when it is complete."""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from millrace.jobs.room import DISK_FULL, is_disk_full
from millrace.protocol.errors import PayloadTooLarge, StorageFull

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_ARRIVING = ".arriving"


@dataclass(frozen=True, slots=True)
class Upload:
    """A complete upload: its path below the folder of uploads ("TOKEN/NAME"), its size and the SHA-256 of its bytes."""

    path: str
    size: int
    sha256: str


class UploadWriter:
    """Writes one file; a context manager. Left without `finish`, it leaves nothing behind. Not for several threads."""

    def __init__(self, folder: Path, name: str, max_bytes: int, check_room: Callable[[int], None]) -> None:
        self._folder = folder / secrets.token_hex(12)
        self._name = safe_name(name)
        self._max_bytes = max_bytes
        self._check_room = check_room
        self._size = 0
        self._hash = hashlib.sha256()
        self._folder.mkdir(parents=True)
        self._path = self._folder / (self._name + _ARRIVING)
        self._file = self._path.open("xb")

    def write(self, data: bytes | memoryview) -> None:
        """Append. Raises `PayloadTooLarge`, or `StorageFull`; the writer is then of no more use."""
        self._size += len(data)
        if self._size > self._max_bytes:
            raise PayloadTooLarge(
                f"the uploaded file is larger than {self._max_bytes} bytes (MILLRACE_JOBS_MAX_UPLOAD_BYTES)"
            )
        self._check_room(len(data))
        self._hash.update(data)
        with _full_disk_in_words():
            self._file.write(data)

    def finish(self) -> Upload:
        """The file is complete: put it on the disk and in its place. Raises `StorageFull`."""
        with _full_disk_in_words():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        self._path.rename(self._folder / self._name)
        return Upload(f"{self._folder.name}/{self._name}", self._size, self._hash.hexdigest())

    def __enter__(self) -> "UploadWriter":
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        if not self._file.closed:
            with contextlib.suppress(OSError):  # what could not be written is given up
                self._file.close()
            shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def _full_disk_in_words() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise StorageFull(DISK_FULL) from error
        raise


def safe_name(name: str) -> str:
    """The last part of a caller's file name, of characters that mean nothing to any file system."""
    last = _UNSAFE.sub("_", re.split(r"[/\\]", name)[-1]).lstrip(".-")
    return last[-100:] or "input"
