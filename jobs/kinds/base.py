"""What a kind of job is. To add one, write one file whose module has `KIND`, an instance of a class.

The file is found by its place, here or in the operator's own folder (MILLRACE_JOBS_KINDS); nothing else names it. A
kind of an operator's own gets a `CustomDocument`, whose `options` it validates in `plan`. Methods may run again, in
another process, at any time: what they write is written under another name and renamed (`whole`), and they depend on
nothing but their arguments.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from jobs.context import Job
from jobs.parts import Outcome, Outputs, Part, Plan


class Kind(Protocol):
    """A kind of job. Methods raise `MillraceError` for what the caller is to be told: the job has then failed."""

    name: str

    def plan(self, job: Job) -> Plan:
        """Check what the job names, and cut it. Called once, or again where it was interrupted."""

    def run(self, job: Job, plan: Plan, part: Part) -> Outcome:
        """Do one part; counts what it does in `job.progress`."""

    def join(self, job: Job, plan: Plan, outcomes: Sequence[Outcome], /) -> Outputs:
        """Make the result of all parts, whose outcomes come in order."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Another name to write a file under; it gets its own when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        yield writing
        with writing.open("rb") as file:
            os.fsync(file.fileno())
        writing.replace(path)
    finally:
        writing.unlink(missing_ok=True)
