"""The files of the payload log: `<folder>/<model>/<time>-….jsonl`, bounded together in bytes and age."""

import contextlib
import errno
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from urllib.parse import quote

_FILE_BYTES = 16 * 1024**2
_FILE_S = 3600.0
_SHARE = 8  # a file has at most an eighth of all bytes, so that little is lost when the oldest goes
_LONGEST = 200
_SUFFIXES = (".jsonl", ".parquet", ".part")  # the last one is left behind where a writer was killed


class PayloadFiles:
    """Appends lines, one file for each model at a time; a file is closed when it is full or an hour old.

    `name` tells this writer's files from those of others in the same folder. When all files there have more than
    `most_bytes`, or one is older than `most_age_s`, the oldest go. `wall` is the time in seconds since 1970. `closed`
    is told of each file that is complete.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        most_bytes: int,
        most_age_s: float,
        wall: Callable[[], float] = time.time,
        closed: Callable[[Path], None] | None = None,
    ) -> None:
        self._folder = folder
        self._name = name
        self._most_bytes = most_bytes
        self._file_bytes = min(_FILE_BYTES, most_bytes // _SHARE)
        self._most_age_s = most_age_s
        self._wall = wall
        self._closed = closed
        self._open: dict[str, tuple[FileIO, float]] = {}
        self._written = 0
        self._number = 0

    def append(self, model: str, line: bytes) -> None:
        """Write one line, where others can read it at once, or nothing of it. Raises `OSError`."""
        file, opened_s = self._open.get(model) or self._opened(model)
        if file.tell() and (file.tell() + len(line) > self._file_bytes or self._wall() - opened_s > _FILE_S):
            self._close(model)
            file, _ = self._opened(model)
        _write(file, line)
        self._written += len(line)
        if self._written >= self._file_bytes:
            self.prune()

    def close(self) -> None:
        """Close all files. Raises `OSError`."""
        for model in list(self._open):
            self._close(model)

    def prune(self) -> None:
        """Close files that are an hour old, and remove the oldest, as far as there is too much or they are too old.

        Raises `OSError`.
        """
        for model, (_, opened_s) in list(self._open.items()):
            if self._wall() - opened_s > _FILE_S:
                self._close(model)
        self._written = 0
        found = sorted(
            (status.st_mtime, status.st_size, path)
            for path in self._folder.glob("*/*")
            if path.suffix in _SUFFIXES and (status := _status(path)) is not None
        )
        size, too_old_s = sum(size for _, size, _ in found), self._wall() - self._most_age_s
        for changed_s, bytes_, path in found:
            if size + self._file_bytes <= self._most_bytes and changed_s >= too_old_s:
                break
            path.unlink(missing_ok=True)
            size -= bytes_
            self._forget(path)

    def _close(self, model: str) -> None:
        file, _ = self._open.pop(model)
        file.close()
        if self._closed:
            self._closed(Path(file.name))

    def _forget(self, path: Path) -> None:
        for model, (file, _) in list(self._open.items()):
            if file.name == str(path):
                del self._open[model]
                file.close()

    def _opened(self, model: str) -> tuple[FileIO, float]:
        now_s = self._wall()
        folder = self._folder / quote(model, safe=" ")[:_LONGEST]  # no model's name has a slash
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._number += 1
        began = datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%dT%H%M%SZ")
        path = folder / f"{began}-{self._name}-{self._number}.jsonl"
        self._open[model] = opened = (open(path, "xb", buffering=0, opener=_private), now_s)  # noqa: SIM115
        return opened


def _write(file: FileIO, line: bytes) -> None:
    """Write all of it or nothing. Raises `OSError`."""
    begin = file.tell()
    if file.write(line) < len(line):  # a disk that is full takes a part
        file.truncate(begin)
        file.seek(begin)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _status(path: Path) -> os.stat_result | None:
    with contextlib.suppress(OSError):  # another writer has removed it
        return path.stat()
    return None
