"""The files of a version: whether they have changed, and whether they stand still, so that none is half written."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from millrace.artifacts.configs import CONFIG_PBTXT
from millrace.artifacts.repository import is_folder
from worker.reconciling.catalogue import DesiredModel

QUIET_S = 30.0
_Stamp = tuple[int, int]


@dataclass(frozen=True, slots=True)
class VersionFiles:
    """Each file's time of change in ns and size, by path; `newest_ns` is the last change of any file or folder.

    `numbers` are the files' numbers in their file system, which some file systems give anew at each look. Hidden files
    and what Python caches are left out: no model is made of them.
    """

    stamps: Mapping[str, _Stamp] = field(default_factory=dict)
    newest_ns: int = 0
    numbers: Mapping[str, int] = field(default_factory=dict, compare=False)

    def are_others(self, now: "VersionFiles") -> bool:
        """Whether other files are in their place, even of the same size and time."""
        return self != now or self.numbers != now.numbers

    def is_changed(self, now: "VersionFiles") -> bool:
        """Whether a file that is in both is another one now. What came or went beside them does not count."""
        return any(self.stamps.get(path, stamp) != stamp for path, stamp in now.stamps.items())

    @property
    def has_code(self) -> bool:
        """Whether there is Python code, which may write into its own folder."""
        return any(path.endswith(".py") for path in self.stamps)


def version_files(model: DesiredModel, version: int) -> VersionFiles:
    """What there is of a version now, with the model's `config.pbtxt` and what that names."""
    found: dict[str, _Stamp] = {}
    numbers: dict[str, int] = {}
    newest = 0
    labels = (model.config.labels_file if model.config else None) or CONFIG_PBTXT
    of_model = {str(model.folder / CONFIG_PBTXT), str(model.folder / labels)}
    folder = model.version_folder(version)
    paths = [str(folder / model.file)] if model.file else _below(str(folder))
    for path in (*of_model, *paths):
        with contextlib.suppress(OSError):  # it went away, or was never there
            status = os.stat(path)  # noqa: PTH116 - of very many files
            newest = max(newest, status.st_mtime_ns)
            if not os.path.isdir(path):  # noqa: PTH112
                found[path] = (status.st_mtime_ns, status.st_size)
                numbers[path] = status.st_ino
    return VersionFiles(found, newest, numbers)


def _below(folder: str) -> Iterator[str]:
    """The folder, and all files and folders below it."""
    yield folder
    with contextlib.suppress(OSError), os.scandir(folder) as entries:  # it went away while it was looked at
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__pycache__":
                continue
            if is_folder(entry):
                yield from _below(entry.path)
            else:
                yield entry.path


class Stillness:
    """Tells when a version's files stand still: nobody writes them any more.

    Files that changed last `QUIET_S` ago or earlier do at once; others when two looks, at least `between_s` apart,
    found them alike. `wall` is the time that files have, `monotonic` any other, both in seconds.
    """

    def __init__(
        self,
        between_s: float,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._between_s = between_s
        self._wall = wall
        self._monotonic = monotonic
        self._seen: dict[tuple[str, int], tuple[VersionFiles, float]] = {}
        self._first_seen: dict[tuple[str, int], float] = {}

    def is_still(self, name: str, version: int, files: VersionFiles) -> bool:
        """Whether the version can be loaded from these files, as they are now."""
        now = self._monotonic()
        if self._wall() - files.newest_ns / 1e9 >= QUIET_S:
            self.forget(name, version)
            return True
        self._first_seen.setdefault((name, version), now)
        seen, since = self._seen.get((name, version), (VersionFiles(), now))
        if seen != files:
            self._seen[name, version] = (files, now)
            return False
        return now - since >= self._between_s

    def waits_long(self, name: str, version: int) -> bool:
        """Whether the version's files have not stood still for so long that nobody should wait for it."""
        return self._monotonic() - self._first_seen.get((name, version), self._monotonic()) >= QUIET_S

    def forget(self, name: str, version: int) -> None:
        """The version is loaded, or gone."""
        self._seen.pop((name, version), None)
        self._first_seen.pop((name, version), None)
