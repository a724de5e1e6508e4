"""What a server says of a background job."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from millrace_client.errors import InvalidResponse

FINAL = ("finished", "failed", "canceled")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """A job at one moment: `queued`, `started`, `finished`, `failed` or `canceled`.

    `rows` is None until they are counted, `rows_per_second` and `eta_s` until something is known. `errors` counts the
    rows that the model refused, `error` says why the job failed. `outputs` are the names of the result's files.
    `created`, `started` and `ended` are times in ISO 8601, "" for what has not happened yet.
    """

    id: str
    kind: str
    state: str
    rows: int | None = None
    rows_done: int = 0
    rows_per_second: float | None = None
    eta_s: float | None = None
    errors: int = 0
    error: str = ""
    created: str = ""
    started: str = ""
    ended: str = ""
    outputs: tuple[str, ...] = ()
    written_to: str = ""
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL

    @property
    def fraction(self) -> float | None:
        """How much of it is done, from 0 to 1; None where that is not known."""
        if self.state == "finished":
            return 1.0
        return self.rows_done / self.rows if self.rows else None


def status_from_json(document: Any) -> JobStatus:
    """The answer of `GET /v1/jobs/ID`. Raises `InvalidResponse` for something else."""
    try:
        return JobStatus(
            id=str(document["id"]),
            kind=str(document["kind"]),
            state=str(document["state"]),
            rows=document.get("rows"),
            rows_done=int(document.get("rows_done") or 0),
            rows_per_second=document.get("rows_per_second"),
            eta_s=document.get("eta_s"),
            errors=int(document.get("errors") or 0),
            error=str(document.get("error") or ""),
            created=str(document.get("created") or ""),
            started=str(document.get("started") or ""),
            ended=str(document.get("ended") or ""),
            outputs=tuple(map(str, document.get("outputs") or ())),
            written_to=str(document.get("written_to") or ""),
            document=dict(document.get("document") or {}),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidResponse(f"the server's word on a job cannot be read: {error!r}") from None


def statuses_of_jobs(document: Any) -> list[JobStatus]:
    """The answer of `GET /v1/jobs`. Raises `InvalidResponse` for something else."""
    try:
        jobs = list(document["jobs"])
    except (KeyError, TypeError) as error:
        raise InvalidResponse(f"the server's list of jobs cannot be read: {error!r}") from None
    return [status_from_json(job) for job in jobs]
