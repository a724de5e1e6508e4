"""Where a job's files are: what was uploaded with it, a path below the operator's root, or a URL."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs import remote
from jobs.context import Job
from jobs.kinds.base import whole
from millrace.jobs.room import Room
from millrace.protocol.errors import InvalidRequest


def input_path(job: Job, named: str) -> Path:
    """The file or folder to read: the upload, or `named` in the document, which is fetched if it is a URL.

    Raises `InvalidRequest`, or `StorageFull`.
    """
    if job.upload is not None:
        if not job.upload.exists():
            raise InvalidRequest("input: the uploaded file is gone")
        return job.upload
    if not named:
        raise InvalidRequest("input: upload a file, or name one")
    if "://" in named:
        room = Room(job.settings.folder, job.settings.max_bytes)
        return remote.fetch(job.settings, named, job.folder / "parts" / "fetched", room.check)
    path = _below_root(job, named, "input")
    if not path.exists():
        raise InvalidRequest(f"input: there is no {named!r}")
    if not path.is_file() and not path.is_dir():
        raise InvalidRequest(f"input: {named!r} is no file and no folder")
    return path


def check_output(job: Job, named: str, source: str = "") -> None:
    """Raises `InvalidRequest` where no result can be written to `named`, or where it is the input, `source`."""
    if "://" in named:
        remote.check_writable(job.settings, named)
        is_input = named == source
    else:
        path = _below_root(job, named, "output")
        if path.is_dir():
            raise InvalidRequest(f"output: {named!r} is a folder: name a file")
        is_input = bool(source) and "://" not in source and path == _below_root(job, source, "input")
    if is_input:
        raise InvalidRequest("output: this is the input, which would be lost")


@contextmanager
def output(job: Job, named: str) -> Iterator[Path]:
    """A path to write the result to; it is in its place, as a whole, when the block ends without an error.

    Raises `InvalidRequest`.
    """
    if "://" not in named:
        with whole(_below_root(job, named, "output")) as path:
            yield path
        return
    remote.check_writable(job.settings, named)
    kept = job.folder / "parts" / "result"
    with whole(kept) as path:
        yield path
    remote.send(kept, named)
    kept.unlink()


def _below_root(job: Job, named: str, field: str) -> Path:
    if job.settings.root is None:
        raise InvalidRequest(f"{field}: no folder is open to jobs (MILLRACE_JOBS_ROOT): upload the file")
    root = job.settings.root.resolve()
    try:
        path = (root / named).resolve()
        path.exists()
    except (ValueError, OSError, RuntimeError):  # a NUL, a name that is too long, links in a circle
        raise InvalidRequest(f"{field}: {named!r} is no path") from None
    if not path.is_relative_to(root) or (path == root and field == "output"):
        raise InvalidRequest(f"{field}: {named!r} is not below the folder that is open to jobs")
    return path
