"""What is asked of a server about background jobs, as conversations that know no network: see `exchange`."""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from millrace_client.conversations import Conversations
from millrace_client.encoding import json_of
from millrace_client.errors import InvalidRequest, InvalidResponse, JobFailed
from millrace_client.exchange import Conversation, Request, Wait
from millrace_client.jobstatus import JobStatus, status_from_json, statuses_of_jobs
from millrace_client.protocol import MALFORMED, Operation
from millrace_client.transfers import Download, FileForm

POLL_S = 0.5
_JSON = {"Content-Type": "application/json"}
TRANSFER_TIMEOUT_S = 86_400.0  # of one file
_FORMATS = {
    **{".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".arrow": "arrow"},
    **{".feather": "arrow", ".npy": "npy", ".npz": "npz"},
}
Source = str | Path | None
T = TypeVar("T")


def format_of(path: str | Path) -> str:
    """The format that the name of a file to write stands for; "auto" where it stands for none."""
    return _FORMATS.get(Path(path).suffix.lower(), "auto")


@dataclass(frozen=True, slots=True)
class JobRequests:
    """One method per operation."""

    ask: Conversations

    def submit(self, document: Mapping[str, Any], source: Source, job: str | None) -> Conversation[JobStatus]:
        """Submit; `source` is a file here, or a URL. Under an id, so that an attempt that is repeated makes one job."""
        job = job or secrets.token_hex(8)
        given = {name: value for name, value in document.items() if value is not None}
        if source is not None and "://" in str(source):
            given["input"] = str(source)
            source = None
        path = f"/v1/jobs/{quote(job, safe='')}"
        if source is None:
            request = Request(method="PUT", path=path, body=json.dumps(given).encode(), headers=_JSON)
            return (yield from self._one(request))
        form = FileForm(given, Path(source))
        request = Request(method="PUT", path=path, body=form, headers=form.headers)
        return (yield from self._one(request, TRANSFER_TIMEOUT_S))

    def get(self, job: str) -> Conversation[JobStatus]:
        """The job now."""
        return (yield from self._one(_request("GET", job)))

    def newest(self, limit: int, states: Sequence[str]) -> Conversation[list[JobStatus]]:
        """The newest jobs."""
        query = urlencode([("limit", limit), *(("state", state) for state in states)])
        request = Request(method="GET", path=f"/v1/jobs?{query}")
        return (yield from self.ask.operate(_reading(request, statuses_of_jobs)))

    def cancel(self, job: str) -> Conversation[JobStatus]:
        """Cancel the job."""
        return (yield from self._one(_request("POST", job, "/cancel")))

    def retry(self, job: str) -> Conversation[JobStatus]:
        """Go on with it."""
        return (yield from self._one(_request("POST", job, "/retry")))

    def delete(self, job: str) -> Conversation[None]:
        """Forget it."""
        status = yield from self.get(job)
        if not status.is_final:
            yield from self.cancel(job)
        yield from self.ask.operate(Operation((_request("DELETE", job),), lambda _: None))

    def logs(self, job: str) -> Conversation[list[str]]:
        """The last lines of its log."""
        return (yield from self.ask.operate(_reading(_request("GET", job, "/logs"), _lines)))

    def result(self, job: str, path: Path, name: str | None) -> Conversation[Path]:
        """Write a file of its result to the path."""
        query = f"?{urlencode({'name': name})}" if name else ""
        download = Download(path)
        request = Request(method="GET", path=f"/v1/jobs/{quote(job, safe='')}/result{query}", sink=download)
        try:
            yield from self.ask.operate(Operation((request,), lambda _: None), TRANSFER_TIMEOUT_S)
            return download.finish()
        finally:
            download.drop()

    def next_status(self, last: JobStatus | None, job: str) -> Conversation[JobStatus]:
        """The status when it may have changed: at first at once, then after a pause."""
        if last is not None:
            yield Wait(POLL_S)
        return (yield from self.get(job))

    def _one(self, request: Request, timeout_s: float | None = None) -> Conversation[JobStatus]:
        return (yield from self.ask.operate(_reading(request, status_from_json), timeout_s))


def score_document(model: str, output: Source, options: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a job that scores. Raises `InvalidRequest` where `output` is no URL."""
    if output is not None and "://" not in str(output):
        raise InvalidRequest("output has to be a URL; without it the result is fetched with result(path)")
    return {"kind": "score", "model": model, "output": None if output is None else str(output), **options}


def failure(status: JobStatus) -> JobFailed:
    """The error of a job that did not finish."""
    return JobFailed(f"job {status.id} {'was canceled' if status.state == 'canceled' else 'failed: ' + status.error}")


def _request(method: str, job: str, ending: str = "") -> Request:
    return Request(method=method, path=f"/v1/jobs/{quote(job, safe='')}{ending}")


def _reading(request: Request, read: Callable[[Any], T]) -> Operation[T]:
    return Operation((request,), lambda responses: read(json_of(responses[0].body)))


def _lines(document: Any) -> list[str]:
    try:
        return [str(line["text"]) for line in document["lines"]]
    except MALFORMED as error:
        raise InvalidResponse(f"the job's log cannot be read: {error!r}") from None
