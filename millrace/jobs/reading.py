"""A job's record out of what Redis holds of it."""

from collections.abc import Mapping, Sequence

import msgspec

from millrace.jobs.records import FINAL, JobRecord


def record_of(job: str, fields: Mapping[bytes, bytes], progress: Sequence[bytes], now_s: float) -> JobRecord:
    """The record. `progress` are the units in work, "ROWS ERRORS" each; `now_s` is in seconds since 1970."""
    found = {str(name, "utf-8"): str(value, "utf-8") for name, value in fields.items() if name != b"document"}
    counted = () if found["state"] in FINAL else progress  # of a job that ended, nothing is in work
    in_work = [(int(rows), int(errors)) for rows, errors in (each.split() for each in counted)]
    rows = int(found["rows"]) if found.get("rows") else None
    rows_done = int(found.get("rows_done", "0")) + sum(each for each, _ in in_work)
    started_s, ended_s = float(found.get("started_s", "0")), float(found.get("ended_s", "0"))
    rate = _rate(rows_done - int(found.get("rows_before", "0")), started_s, ended_s or now_s)
    has_eta = rate and rows is not None and found["state"] == "started"
    return JobRecord(
        id=job,
        kind=found["kind"],
        state=found["state"],  # type: ignore[arg-type]
        document=msgspec.json.decode(fields[b"document"]),
        rows=rows,
        rows_done=rows_done,
        errors=int(found.get("errors", "0")) + sum(each for _, each in in_work),
        rows_per_second=rate,
        eta_s=max(0, (rows or 0) - rows_done) / rate if has_eta and rate else None,
        created_s=float(found["created_s"]),
        started_s=started_s,
        ended_s=ended_s,
        error=found.get("error", ""),
        outputs=tuple(msgspec.json.decode(found.get("outputs") or "[]")),
        written_to=found.get("written_to", ""),
        upload=found.get("upload", ""),
    )


def _rate(rows: int, started_s: float, until_s: float) -> float | None:
    """Rows a second since the job was started, or went on after a failure; None where nothing is known."""
    return rows / (until_s - started_s) if rows > 0 and 0 < started_s < until_s else None
