"""Brings a cache to what a store holds: one look after another, each of which leaves the cache whole.

A version is taken when nobody writes it any more:

    its manifest names files, and all of them are there      at once: it takes its place if the hashes are right
    else, no file is younger than `quiet_s`                  at once
    else, every look found it alike for `quiet_s`            then

and if it was the same after it was fetched as before. What cannot be read, or does not match, leaves all as it is.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from millrace.artifacts import manifest as manifests
from millrace.artifacts.manifest import Manifest, ManifestError
from millrace.artifacts.repository import RepositoryError
from worker.mirroring.cache import Cache, Mirrored
from worker.mirroring.layout import Key, Layout, StoredVersion, layout
from worker.mirroring.selection import select
from worker.mirroring.store import Store, StoredFile, StoreError

_log = logging.getLogger(__name__)
_QUIET_S = 60.0
_AGAIN_S = 300.0  # when a version that did not match its manifest is fetched once more
_SPARE_BYTES = 64 * 1024**2  # of the disk, which are left free
_MOST_BESIDE_BYTES = 16 * 1024**2


class Mirror:
    """Mirrors `store` into `cache`. One thread calls `look`.

    `most_bytes` bounds what the versions take on the disk, 0 for no bound. `in_use` tells which versions must stay and
    are wanted most: those that serve anywhere, and those that an operator names. `wall` is the time that files have,
    `monotonic` any other, both in seconds.
    """

    def __init__(
        self,
        store: Store,
        cache: Cache,
        *,
        most_bytes: int,
        in_use: Callable[[], Collection[Key]],
        quiet_s: float = _QUIET_S,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._cache = cache
        self._most_bytes = most_bytes
        self._in_use = in_use
        self._quiet_s = quiet_s
        self._wall = wall
        self._monotonic = monotonic
        self._seen: dict[Key, tuple[str, float]] = {}  # the stamp, and since when each look found it
        self._missing: set[Key] = set()
        self._failed: dict[Key, tuple[str, float]] = {}  # the stamp that did not match, and when to try again
        self._beside: dict[tuple[str, str], str] = {}
        self._said: dict[str, str] = {}

    def look(self) -> None:
        """Take what is new in the store, and drop what is gone from it. Raises `OSError` of the cache's disk."""
        if not self._cache.is_ours():
            return
        try:
            found = layout(self._store.files(), self._store.name)
        except StoreError as error:
            self._say("store", "the model store cannot be read; what is served stays", str(error))
            return
        if not found.versions:
            self._say("store", "the model store holds no model; what is served stays", self._store.url)
            return
        if self._said.pop("store", ""):
            _log.warning("the model store can be read again", extra={"store": self._store.url})
        self._follow(found)

    def _follow(self, found: Layout) -> None:
        for key, version in found.versions.items():
            if version.refused:
                self._say(f"{key} refused", "a version in the store is refused", version.refused)
        there = {key: version for key, version in found.versions.items() if version.files and not version.refused}
        wanted = self._wanted({key: version.size for key, version in there.items()})
        self._drop(found, there.keys() - wanted)
        self._take_beside(found)
        here = self._cache.versions()
        for key in wanted:
            about = "/".join(map(str, key))
            try:
                self._take(key, there[key], here.get(key))
            except (StoreError, ManifestError, RepositoryError, OSError) as error:
                self._say(about, "a version was not taken from the store", f"{about}: {error}")
            else:
                self._said.pop(about, None)

    def _wanted(self, sizes: Mapping[Key, int]) -> list[Key]:
        wanted = select(sizes, self._in_use(), self._most_bytes)
        newest = {model: max(number for name, number in sizes if name == model) for model, _ in sizes}
        if too_large := sorted(model for model, number in newest.items() if (model, number) not in wanted):
            self._say("room", "the newest version does not fit (MILLRACE_WORKER_MODELS_CACHE_MB)", ", ".join(too_large))
        else:
            self._said.pop("room", None)
        return wanted

    def _drop(self, found: Layout, left_out: Collection[Key]) -> None:
        """Drop what does not fit any more, and what two looks in a row have not found in the store."""
        here = self._cache.versions().keys()
        missing = here - found.versions.keys()
        for key in (here & left_out) | (missing & self._missing):
            _log.info("a mirrored version is dropped", extra={"model": key[0], "version": key[1]})
            self._cache.drop(key)
        self._missing = missing
        self._seen = {key: seen for key, seen in self._seen.items() if key in found.versions}
        self._failed = {key: failed for key, failed in self._failed.items() if key in found.versions}

    def _take_beside(self, found: Layout) -> None:
        """Have the files beside versions, of models that have any."""
        models = {model for model, _ in found.versions}
        files = {where: file for where, file in found.beside.items() if where[0] in models}
        here = self._cache.beside()
        for (model, name), file in files.items():
            is_known = (model, name) in here and self._beside.get((model, name)) == file.stamp
            if not is_known and 0 <= file.size <= _MOST_BESIDE_BYTES:
                try:
                    self._cache.put_beside(model, name, self._read(file))
                    self._beside[model, name] = file.stamp
                except (StoreError, OSError) as error:  # again at the next look
                    self._say(f"{model} {name}", "a file was not taken from the store", str(error))
        for model, name in here - files.keys():
            self._cache.drop_beside(model, name)

    def _take(self, key: Key, version: StoredVersion, here: Mirrored | None) -> None:
        """Fetch a version, if it is another than that in the cache and nobody writes it any more."""
        stamp, now = version.stamp, self._monotonic()
        failed, again_at = self._failed.get(key, ("", 0.0))
        if (here and here.stamp == stamp) or (failed == stamp and now < again_at):
            return
        if self._seen.get(key, ("", 0.0))[0] != stamp:
            self._seen[key] = (stamp, now)
        if not (self._is_quiet(key, version) or self._has_all_of_its_manifest(version)):
            return
        if self._cache.free_bytes() < version.size + _SPARE_BYTES:
            raise StoreError(f"there is no room on the disk for its {version.size} bytes")
        try:
            with self._cache.publishing(key, Mirrored(stamp, version.size)) as folder:
                self._fetch(version, folder)
                if self._now(key).stamp != stamp:
                    raise StoreError("it changed while it was fetched")
        except ManifestError:
            self._failed[key] = (stamp, now + _AGAIN_S)
            raise
        _log.info("a version was mirrored", extra={"model": key[0], "version": key[1], "bytes": version.size})

    def _fetch(self, version: StoredVersion, folder: Path) -> None:
        for path, file in version.files.items():
            self._store.fetch(file, folder / path)
        if manifest := manifests.read(folder):
            manifests.verify(folder, manifest)

    def _now(self, key: Key) -> StoredVersion:
        return layout(self._store.files(), self._store.name).versions.get(key) or StoredVersion()

    def _is_quiet(self, key: Key, version: StoredVersion) -> bool:
        changed = [file.changed_s for file in version.files.values()]
        known = [when for when in changed if when is not None]
        if len(known) == len(changed) and self._wall() - max(known) >= self._quiet_s:
            return True
        return self._monotonic() - self._seen[key][1] >= self._quiet_s

    def _has_all_of_its_manifest(self, version: StoredVersion) -> bool:
        """Whether it has a manifest with hashes, and every file that this names."""
        file = version.files.get(manifests.FILE_NAME)
        if not file or file.size > manifests.MOST_BYTES:
            return False
        try:
            manifest = msgspec.json.decode(self._read(file), type=Manifest)
        except (ValueError, RecursionError):
            return False
        return bool(manifest.files) and manifest.files.keys() <= version.files.keys()

    def _read(self, file: StoredFile) -> bytes:
        with tempfile.TemporaryDirectory(prefix="millrace-") as folder:
            path = Path(folder) / "file"
            self._store.fetch(file, path)
            return path.read_bytes()

    def _say(self, about: str, event: str, reason: str) -> None:
        """Log what is wrong, once."""
        if self._said.get(about) != reason:
            _log.error(event, extra={"reason": reason})
        self._said[about] = reason
