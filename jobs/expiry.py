"""Deletes what nobody needs any more: jobs that ended long ago, and files that belong to no job."""

import shutil
from pathlib import Path

from millrace.jobs.records import FINAL
from millrace.jobs.store import JobStore
from millrace.protocol.errors import NotFound

_ORPHAN_S = 3600.0  # an upload belongs to no job while it arrives


def expire(store: JobStore, result_ttl_s: float) -> None:
    """Delete jobs that ended more than `result_ttl_s` seconds ago, and files without a job. Raises `Unavailable`."""
    for record in store.list(limit=1_000_000, states=FINAL):
        if record.ended_s + result_ttl_s < store.clock():
            store.delete(record.id)
    _drop_orphans(store)


def _drop_orphans(store: JobStore) -> None:
    records = store.list(limit=1_000_000)
    uploads = {record.upload.partition("/")[0] for record in records if record.upload}
    for folder in _folders(store.folder / "uploads"):
        if folder.name not in uploads and _is_old(folder, store.clock()):
            shutil.rmtree(folder, ignore_errors=True)
    ids = {record.id for record in records}
    for folder in _folders(store.folder / "jobs"):
        if folder.name not in ids and _is_old(folder, store.clock()) and not _exists(store, folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _exists(store: JobStore, job: str) -> bool:
    try:
        store.get(job)
    except NotFound:
        return False
    return True


def _folders(path: Path) -> list[Path]:
    return [each for each in path.iterdir() if each.is_dir()] if path.is_dir() else []


def _is_old(path: Path, now_s: float) -> bool:
    """Whether nothing was written there for long: an upload may take hours to arrive."""
    try:
        newest = max(each.stat().st_mtime for each in (path, *path.iterdir()))
    except OSError:
        return False
    return newest + _ORPHAN_S < now_s
