"""What is known of a job at one moment."""

from typing import Any, Literal

import msgspec

State = Literal["queued", "started", "finished", "failed", "canceled"]
FINAL: tuple[State, ...] = ("finished", "failed", "canceled")
STATES: tuple[State, ...] = ("queued", "started", *FINAL)


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One job. Times are seconds since 1970, 0 for what has not happened yet.

    `document` is what the caller asked for, as JSON that `read_document` reads. `rows` is None until the job is
    planned, or where the kind has no rows. `errors` counts the rows that the model refused. `rows_per_second` and
    `eta_s` are None until something is known. `error` says why the job failed. `outputs` names the files that
    `JobStore.open_result` opens, the main one first; `written_to` is where the result went instead, if the document
    named a place. `upload` is the uploaded file below `uploads/`, "" without one.
    """

    id: str
    kind: str
    state: State
    document: dict[str, Any]
    rows: int | None = None
    rows_done: int = 0
    errors: int = 0
    rows_per_second: float | None = None
    eta_s: float | None = None
    created_s: float = 0.0
    started_s: float = 0.0
    ended_s: float = 0.0
    error: str = ""
    outputs: tuple[str, ...] = ()
    written_to: str = ""
    upload: str = ""

    @property
    def is_final(self) -> bool:
        """Whether nothing will happen to it unless somebody asks for it."""
        return self.state in FINAL


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a job's log, of `time_s` seconds since 1970."""

    time_s: float
    text: str


class JobStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """All jobs in numbers: how many by kind and state, rows done by kind, bytes in the folder, and ages in seconds."""

    counts: dict[tuple[str, str], int]
    rows_done: dict[str, int]
    bytes_used: int
    oldest_waiting_s: float
