"""Deletes what nobody needs any more: jobs that ended long ago, and files that belong to no job."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from millrace.jobs.keys import UPLOADS
from millrace.jobs.store import JobStore, in_words
from millrace.protocol.errors import NotFound

_ORPHAN_S = 3600.0  # an upload belongs to no job while it arrives
_AT_ONCE = 500


def expire(store: JobStore, result_ttl_s: float) -> None:
    """Delete jobs that ended more than `result_ttl_s` seconds ago, the next thousand. Raises `Unavailable`."""
    for job in store.ended_before(store.clock() - result_ttl_s):
        try:
            store.delete(job)
        except NotFound:  # its caller was faster
            continue


def drop_orphans(store: JobStore) -> None:
    """Delete files of no job to which nothing was written for an hour. Raises `Unavailable`."""
    for uploads in _in_groups(_old_folders(store.folder / "uploads", store.clock())):
        paths = [next((f"{each.name}/{file.name}" for file in each.iterdir()), "") for each in uploads]
        with in_words():
            found = store.client.smismember(UPLOADS, paths)
        _drop(uploads, [bool(each) for each in found])
    for jobs in _in_groups(_old_folders(store.folder / "jobs", store.clock())):
        _drop(jobs, store.is_known([each.name for each in jobs]))


def _drop(folders: Sequence[Path], kept: Sequence[bool]) -> None:
    for folder, is_kept in zip(folders, kept, strict=True):
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)


def _in_groups(folders: Iterator[Path]) -> Iterator[list[Path]]:
    group: list[Path] = []
    for folder in folders:
        group.append(folder)
        if len(group) == _AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _old_folders(path: Path, now_s: float) -> Iterator[Path]:
    return (each for each in path.iterdir() if each.is_dir() and _is_old(each, now_s)) if path.is_dir() else iter(())


def _is_old(path: Path, now_s: float) -> bool:
    """Whether nothing was written there for long: an upload may take hours to arrive."""
    try:
        newest = max(each.stat().st_mtime for each in (path, *path.iterdir()))
    except OSError:
        return False
    return newest + _ORPHAN_S < now_s
