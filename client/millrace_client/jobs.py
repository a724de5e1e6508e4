"""Background jobs of a server: `Client.jobs` and `AsyncClient.jobs`.

job = client.jobs.score("sentiment", "reviews.parquet", column="text")
for status in job.progress():
    print(status.rows_done, status.rows)
job.result("out.parquet")
"""

from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from millrace_client.exchange import Conversation
from millrace_client.jobrequests import JobRequests, Source, failure, score_document
from millrace_client.jobstatus import JobStatus

T = TypeVar("T")


class _Run(Protocol):
    def __call__(self, conversation: Conversation[T]) -> T: ...


class _AsyncRun(Protocol):
    def __call__(self, conversation: Conversation[T]) -> Awaitable[T]: ...


class Job:
    """One job. `status` is what was last known of it."""

    def __init__(self, requests: JobRequests, status: JobStatus, run: _Run) -> None:
        self.status = status
        self._requests = requests
        self._run = run

    @property
    def id(self) -> str:
        """Its id."""
        return self.status.id

    @property
    def state(self) -> str:
        """Its state when it was last asked for."""
        return self.status.state

    def refresh(self) -> JobStatus:
        """Ask for its status."""
        self.status = self._run(self._requests.get(self.id))
        return self.status

    def progress(self) -> Iterator[JobStatus]:
        """Its status now, and at each change, until it ends."""
        last = None
        while last is None or not last.is_final:
            self.status = self._run(self._requests.next_status(last, self.id))
            if self.status != last:
                yield self.status
            last = self.status

    def wait(self) -> JobStatus:
        """Wait until it has finished. Raises `JobFailed`."""
        for _ in self.progress():
            pass
        if self.status.state != "finished":
            raise failure(self.status)
        return self.status

    def result(self, path: str | Path, *, name: str | None = None) -> Path:
        """Wait until it has finished, and write its result to the path; `name` is one of `status.outputs`.

        Raises `JobFailed`.
        """
        self.wait()
        return self._run(self._requests.result(self.id, Path(path), name))

    def cancel(self) -> JobStatus:
        """Cancel it; one that has ended stays as it is."""
        self.status = self._run(self._requests.cancel(self.id))
        return self.status

    def retry(self) -> JobStatus:
        """Go on with it after it failed or was canceled."""
        self.status = self._run(self._requests.retry(self.id))
        return self.status

    def delete(self) -> None:
        """Forget it and its files; it is canceled first if it runs."""
        self._run(self._requests.delete(self.id))

    def logs(self) -> list[str]:
        """The last lines of its log."""
        return self._run(self._requests.logs(self.id))


class Jobs:
    """The jobs of one server."""

    def __init__(self, requests: JobRequests, run: _Run) -> None:
        self._requests = requests
        self._run = run

    def score(
        self,
        model: str,
        source: Source = None,
        *,
        column: str | None = None,
        columns: Mapping[str, str] | None = None,
        output: str | None = None,
        id: str | None = None,  # noqa: A002
        **options: Any,
    ) -> Job:
        """Submit a job that has the model score every row of `source`, a file here or a URL that the server allows.

        `column` feeds a model with one input; `columns` says for each input which column feeds it. `output` is a URL to
        write to; without it, `Job.result` fetches the result. `id` is one of your own: the same job is made once.
        Further options are the fields of the document, such as `labels=True`, `top_k=3`, `output_format="parquet"`, or
        `input="reviews.csv"` for a file below the server's root. Raises `InvalidRequest` for one that is wrong.
        """
        document = score_document(model, output, {"column": column, "columns": columns, **options})
        return self.submit(document, source, id=id)

    def evaluate(
        self,
        model: str,
        source: Source = None,
        *,
        target: str,
        column: str | None = None,
        columns: Mapping[str, str] | None = None,
        id: str | None = None,  # noqa: A002
        **options: Any,
    ) -> Job:
        """Submit a job that compares the answers with `target`, the column of the right ones; else as `score`."""
        document = {
            "kind": "evaluate",
            "model": model,
            "target": target,
            "column": column,
            "columns": columns,
            **options,
        }
        return self.submit(document, source, id=id)

    def export(
        self,
        model: str | Path,
        *,
        formats: Sequence[str] | None = None,
        id: str | None = None,  # noqa: A002
        **options: Any,
    ) -> Job:
        """Submit a job that exports a published model by name, or the `.keras` file that a `pathlib.Path` names."""
        is_file = isinstance(model, Path)
        document = {"kind": "export", "model": None if is_file else model, "formats": formats, **options}
        return self.submit(document, model if is_file else None, id=id)

    def submit(
        self,
        document: Mapping[str, Any],
        source: Source = None,
        *,
        id: str | None = None,  # noqa: A002
    ) -> Job:
        """Submit a job of any kind by its document, with a file or a URL as its input."""
        return Job(self._requests, self._run(self._requests.submit(document, source, id)), self._run)

    def get(self, id: str) -> Job:  # noqa: A002
        """The job of that id. Raises `NotFound`."""
        return Job(self._requests, self._run(self._requests.get(id)), self._run)

    def list(self, *, limit: int = 100, states: Sequence[str] = ()) -> "list[Job]":
        """The newest jobs, the newest first."""
        found = self._run(self._requests.newest(limit, states))
        return [Job(self._requests, status, self._run) for status in found]


class AsyncJob:
    """As `Job`, with its methods awaited, and `progress` as an asynchronous iterator."""

    def __init__(self, requests: JobRequests, status: JobStatus, run: _AsyncRun) -> None:
        self.status = status
        self._requests = requests
        self._run = run

    @property
    def id(self) -> str:
        """Its id."""
        return self.status.id

    @property
    def state(self) -> str:
        """Its state when it was last asked for."""
        return self.status.state

    async def refresh(self) -> JobStatus:
        """As `Job.refresh`."""
        self.status = await self._run(self._requests.get(self.id))
        return self.status

    async def progress(self) -> AsyncIterator[JobStatus]:
        """As `Job.progress`."""
        last = None
        while last is None or not last.is_final:
            self.status = await self._run(self._requests.next_status(last, self.id))
            if self.status != last:
                yield self.status
            last = self.status

    async def wait(self) -> JobStatus:
        """As `Job.wait`."""
        async for _ in self.progress():
            pass
        if self.status.state != "finished":
            raise failure(self.status)
        return self.status

    async def result(self, path: str | Path, *, name: str | None = None) -> Path:
        """As `Job.result`."""
        await self.wait()
        return await self._run(self._requests.result(self.id, Path(path), name))

    async def cancel(self) -> JobStatus:
        """As `Job.cancel`."""
        self.status = await self._run(self._requests.cancel(self.id))
        return self.status

    async def retry(self) -> JobStatus:
        """As `Job.retry`."""
        self.status = await self._run(self._requests.retry(self.id))
        return self.status

    async def delete(self) -> None:
        """As `Job.delete`."""
        await self._run(self._requests.delete(self.id))

    async def logs(self) -> list[str]:
        """As `Job.logs`."""
        return await self._run(self._requests.logs(self.id))


class AsyncJobs:
    """As `Jobs`, with its methods awaited."""

    def __init__(self, requests: JobRequests, run: _AsyncRun) -> None:
        self._requests = requests
        self._run = run

    async def score(
        self,
        model: str,
        source: Source = None,
        *,
        column: str | None = None,
        columns: Mapping[str, str] | None = None,
        output: str | None = None,
        id: str | None = None,  # noqa: A002
        **options: Any,
    ) -> AsyncJob:
        """As `Jobs.score`."""
        document = score_document(model, output, {"column": column, "columns": columns, **options})
        return await self.submit(document, source, id=id)

    async def evaluate(
        self,
        model: str,
        source: Source = None,
        *,
        target: str,
        column: str | None = None,
        columns: Mapping[str, str] | None = None,
        id: str | None = None,  # noqa: A002
        **options: Any,
    ) -> AsyncJob:
        """As `Jobs.evaluate`."""
        document = {
            "kind": "evaluate",
            "model": model,
            "target": target,
            "column": column,
            "columns": columns,
            **options,
        }
        return await self.submit(document, source, id=id)

    async def export(
        self,
        model: str | Path,
        *,
        formats: Sequence[str] | None = None,
        id: str | None = None,  # noqa: A002
        **options: Any,
    ) -> AsyncJob:
        """As `Jobs.export`."""
        is_file = isinstance(model, Path)
        document = {"kind": "export", "model": None if is_file else model, "formats": formats, **options}
        return await self.submit(document, model if is_file else None, id=id)

    async def submit(
        self,
        document: Mapping[str, Any],
        source: Source = None,
        *,
        id: str | None = None,  # noqa: A002
    ) -> AsyncJob:
        """As `Jobs.submit`."""
        return AsyncJob(self._requests, await self._run(self._requests.submit(document, source, id)), self._run)

    async def get(self, id: str) -> AsyncJob:  # noqa: A002
        """As `Jobs.get`."""
        return AsyncJob(self._requests, await self._run(self._requests.get(id)), self._run)

    async def list(self, *, limit: int = 100, states: Sequence[str] = ()) -> "list[AsyncJob]":
        """As `Jobs.list`."""
        found = await self._run(self._requests.newest(limit, states))
        return [AsyncJob(self._requests, status, self._run) for status in found]
