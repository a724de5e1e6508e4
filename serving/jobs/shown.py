"""A job as callers see it: its record, when things happened, and where to go on."""

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from millrace.jobs.records import JobRecord


def show(record: JobRecord) -> dict[str, Any]:
    """The record as JSON has it. Times are in ISO 8601, null for what has not happened yet."""
    return {
        "id": record.id,
        "kind": record.kind,
        "state": record.state,
        "rows": record.rows,
        "rows_done": record.rows_done,
        "rows_per_second": _rounded(record.rows_per_second),
        "eta_s": _rounded(record.eta_s),
        "errors": record.errors,
        "error": record.error,
        "created": _time(record.created_s),
        "started": _time(record.started_s),
        "ended": _time(record.ended_s),
        "document": record.document,
        "outputs": list(record.outputs),
        "written_to": record.written_to,
        "links": _links(record),
    }


def event(record: JobRecord) -> bytes:
    """The record as a server-sent event, of the type `progress`, or `end` for the last one."""
    name = "end" if record.is_final else "progress"
    return f"event: {name}\ndata: {json.dumps(show(record))}\n\n".encode()


def _links(record: JobRecord) -> dict[str, str]:
    own = path_of(record.id)
    links = {"self": own, "events": f"{own}/events", "logs": f"{own}/logs"}
    if record.state == "finished" and record.outputs:
        links["result"] = f"{own}/result"
    return links


def path_of(job: str) -> str:
    """The path of a job."""
    return f"/v1/jobs/{quote(job, safe='')}"


def _time(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds") if seconds else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
