"""Where a job's file is: what was uploaded with it, or a path below the operator's root."""

from pathlib import Path

from jobs.context import Job
from millrace.protocol.errors import InvalidRequest


def input_path(job: Job, named: str) -> Path:
    """The file to read: `named` in the document, or the upload. Raises `InvalidRequest`."""
    if job.upload is not None:
        if not job.upload.exists():
            raise InvalidRequest("input: the uploaded file is gone")
        return job.upload
    return _below_root(job, named, "input", must_exist=True)


def output_path(job: Job, named: str) -> Path:
    """The file to write. Raises `InvalidRequest`."""
    return _below_root(job, named, "output", must_exist=False)


def _below_root(job: Job, named: str, field: str, *, must_exist: bool) -> Path:
    if "://" in named:
        raise InvalidRequest(f"{field}: URLs of this protocol are not allowed (MILLRACE_JOBS_PROTOCOLS)")
    if job.settings.root is None:
        raise InvalidRequest(f"{field}: no folder is open to jobs (MILLRACE_JOBS_ROOT): upload the file")
    root = job.settings.root.resolve()
    path = (root / named).resolve()
    if not path.is_relative_to(root):
        raise InvalidRequest(f"{field}: {named!r} is not below the folder that is open to jobs")
    if must_exist and not path.exists():
        raise InvalidRequest(f"{field}: there is no {named!r}")
    return path
