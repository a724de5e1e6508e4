"""What a kind is given to work with."""

import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jobs.settings import JobsSettings
from millrace.jobs.documents import JobDocument
from millrace.jobs.records import JobRecord


class Progress:
    """Rows done and rows refused in the unit in work; any thread may read it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows = self._errors = 0

    def add(self, rows: int, errors: int) -> None:
        """Count more rows, `errors` of them refused."""
        with self._lock:
            self._rows += rows
            self._errors += errors

    def now(self) -> tuple[int, int]:
        """Rows and errors so far."""
        with self._lock:
            return self._rows, self._errors


@dataclass(frozen=True, slots=True)
class Job:
    """One job, as a kind sees it while a unit runs.

    `folder` is the job's own: a kind writes part N to `part_path(N, …)`, which appears whole or not at all, and its
    results below `outputs`. `upload` is the uploaded file, None without one. `log` adds a line to the job's log.
    `programs` are those that the kind starts: they are ended with the unit.
    """

    record: JobRecord
    document: JobDocument
    settings: JobsSettings
    folder: Path
    upload: Path | None
    log: Callable[[str], None]
    progress: Progress = field(default_factory=Progress)
    programs: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def part_path(self, number: int, suffix: str) -> Path:
        """Where the result of a part is, when it is complete."""
        return self.folder / "parts" / f"{number:06d}{suffix}"

    @property
    def outputs(self) -> Path:
        """The folder of results."""
        return self.folder / "outputs"
