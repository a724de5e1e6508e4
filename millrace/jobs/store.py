"""The jobs, as whoever submits and watches them has them. Safe in threads; every method may wait for Redis or a disk.

    store = JobStore("redis://127.0.0.1:6380/0", Path("/var/lib/millrace/jobs"), JobLimits())
    with store.upload("reviews.csv") as writer:
        writer.write(b"text\\nit works\\n")
        upload = writer.finish()
    job = store.submit(read_document({"kind": "score", "model": "sentiment", "column": "text"}), upload=upload)
    for record in store.changes(job.id):
        print(record.state, record.rows_done, record.rows)
    result = store.open_result(job.id)

Every method raises `Unavailable` where the jobs' Redis does not answer.
"""

import contextlib
import hashlib
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from millrace.broker.discovery import servers
from millrace.jobs import scripts, units
from millrace.jobs.documents import JobDocument, RowsDocument, encode_document
from millrace.jobs.keys import CALLS, INDEX, KINDS, UNFINISHED, WAITING, JobKeys
from millrace.jobs.reading import record_of
from millrace.jobs.records import FINAL, JobRecord, JobStatistics, LogLine, State
from millrace.jobs.room import Room
from millrace.jobs.settings import JobStoreSettings, check_store_url
from millrace.jobs.uploads import Upload, UploadWriter
from millrace.protocol.errors import Conflict, InvalidRequest, NotFound, QueueFull, Unavailable

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_CONNECT_S, _ANSWER_S = 2.0, 10.0
_AGAIN_S = 5.0  # what a caller who meets the limit of waiting jobs is told


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """How much there may be; the fields are those of `JobStoreSettings`."""

    max_upload_bytes: int = 2 * 1024**3
    max_bytes: int = 20 * 1024**3
    max_waiting: int = 1000
    callback_hosts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Result:
    """One file of a job's result, its name for the caller, and its size in bytes. The path is open to read."""

    path: Path
    name: str
    size: int


def open_store(settings: JobStoreSettings) -> "JobStore":
    """The store that the settings name. Raises `ValueError` where they name none."""
    if settings.store_url is None:
        raise ValueError("MILLRACE_JOBS_REDIS_URL is not set: there are no jobs")
    limits = JobLimits(
        max_upload_bytes=settings.max_upload_bytes,
        max_bytes=settings.max_bytes,
        max_waiting=settings.max_waiting,
        callback_hosts=settings.allowed_callback_hosts,
    )
    return JobStore(settings.store_url.get_secret_value(), settings.folder, limits)


class JobStore:
    """All jobs. `clock` gives seconds since 1970, for what people see. Raises `ValueError` for a URL that cannot be.

    `client` is the connection to the jobs' Redis, for the jobs program's own keys.
    """

    def __init__(self, url: str, folder: Path, limits: JobLimits, clock: Callable[[], float] = time.time) -> None:
        check_store_url(url)
        self.client = connect(url)
        self.folder = folder
        self.clock = clock
        self._limits = limits
        self._room = Room(folder, limits.max_bytes)
        self._scripts = scripts.Scripts(self.client)

    # Submitting

    def upload(self, name: str) -> UploadWriter:
        """A writer for a file of that name, to be passed on to `submit` when it is finished.

        Raises `StorageFull`; its `write` raises `PayloadTooLarge` and `StorageFull`.
        """
        self._room.check(0)
        return UploadWriter(self.folder / "uploads", name, self._limits.max_upload_bytes, self._room.check)

    def submit(self, document: JobDocument, *, id: str | None = None, upload: Upload | None = None) -> JobRecord:  # noqa: A002
        """Make a job; its record. An id of the caller's own makes this idempotent: the same job is not made again.

        Raises `InvalidRequest`, `Conflict` where another job has the id, `QueueFull` where too many jobs wait,
        `StorageFull`. What was uploaded is deleted unless a new job has it.
        """
        made = False
        try:
            record, made = self._submit(document, id, upload)
        finally:
            if upload and not made:
                shutil.rmtree((self.folder / "uploads" / upload.path).parent, ignore_errors=True)
        return record

    def kinds(self) -> Sequence[str]:
        """The kinds of jobs that live jobs programs have, sorted."""
        with in_words():
            known: Any = self.client.hgetall(KINDS)
        return sorted(str(name, "utf-8") for name, until in known.items() if float(until) >= self.clock())

    # Watching

    def get(self, id: str) -> JobRecord:  # noqa: A002
        """The job. Raises `NotFound`."""
        found = self._records([id])
        if not found:
            raise NotFound(f"no job {id!r}")
        return found[0]

    def list(self, *, limit: int = 100, states: Sequence[State] = ()) -> Sequence[JobRecord]:
        """The newest jobs, the newest first, at most `limit`; with `states`, only those in one of them."""
        with in_words():
            found_ids: Any = self.client.zrevrange(INDEX, 0, -1 if states else max(0, limit - 1))
        ids = [str(each, "utf-8") for each in found_ids]
        found = (record for at in range(0, len(ids), 200) for record in self._records(ids[at : at + 200]))
        kept = (record for record in found if not states or record.state in states)
        return [record for record, _ in zip(kept, range(limit), strict=False)]

    def changes(self, id: str, *, beat_s: float = 10.0) -> Iterator[JobRecord]:  # noqa: A002
        """The job now, and again at every change, or after `beat_s` without one; ends with the record that is final.

        Raises `NotFound`, also when the job is deleted meanwhile. Reads at most 5 records a second.
        """
        stream = JobKeys(id).changes
        while True:
            with in_words():
                last: Any = self.client.xrevrange(stream, count=1)
            record = self.get(id)
            yield record
            if record.is_final:
                return
            with in_words():
                self.client.xread({stream: last[0][0] if last else "0"}, count=1, block=int(beat_s * 1000))
            time.sleep(0.2)  # progress comes more often than people can read

    def logs(self, id: str) -> Sequence[LogLine]:  # noqa: A002
        """The last 1,000 lines of the job's log, the oldest first. Raises `NotFound`."""
        self.get(id)
        with in_words():
            entries: Any = self.client.xrange(JobKeys(id).logs)
        return [LogLine(time_s=int(at.split(b"-")[0]) / 1000, text=str(line[b"text"], "utf-8")) for at, line in entries]

    def open_result(self, id: str, name: str | None = None) -> Result:  # noqa: A002
        """One of the files that `JobRecord.outputs` names, the first one without a name.

        Raises `NotFound`, or `Conflict` where the job has not finished.
        """
        record = self.get(id)
        if record.state != "finished":
            raise Conflict(f"job {id!r} has no result: it is {record.state}")
        wanted = name or (record.outputs[0] if record.outputs else "")
        if wanted not in record.outputs:
            where = f"; it was written to {record.written_to}" if record.written_to and not name else ""
            raise NotFound(f"job {id!r} has no result {name or ''}".rstrip() + where)
        path = self.job_folder(id) / "outputs" / wanted
        try:
            return Result(path, wanted, path.stat().st_size)
        except OSError:
            raise NotFound(f"the result of job {id!r} is gone") from None

    def statistics(self) -> JobStatistics:
        """All jobs in numbers."""
        records = self.list(limit=100_000)
        counts: dict[tuple[str, str], int] = {}
        rows: dict[str, int] = {}
        for record in records:
            counts[record.kind, record.state] = counts.get((record.kind, record.state), 0) + 1
            rows[record.kind] = rows.get(record.kind, 0) + record.rows_done
        waiting = [self.clock() - record.created_s for record in records if record.state == "queued"]
        return JobStatistics(
            counts=counts, rows_done=rows, bytes_used=self._room.used(), oldest_waiting_s=max(waiting, default=0.0)
        )

    # Changing

    def cancel(self, id: str) -> JobRecord:  # noqa: A002
        """Stop a job: within a second nothing works on it, and its partial output is gone. A job that ended stays.

        Raises `NotFound`.
        """
        was = self.transition(id, ("queued", "started"), "canceled")
        if was is None:
            raise NotFound(f"no job {id!r}")
        if was not in FINAL:
            self.drop_work(id)
            self.log(id, "canceled")
        return self.get(id)

    def retry(self, id: str) -> JobRecord:  # noqa: A002
        """Go on with a job that failed, from its last part, or start a canceled one over; others stay as they are.

        Raises `NotFound`, or `Conflict` for a job that finished.
        """
        was = self.transition(id, ("failed", "canceled"), "queued", error="", ended_s="0", started_s="0")
        if was is None:
            raise NotFound(f"no job {id!r}")
        if was == "finished":
            raise Conflict(f"job {id!r} has finished: there is nothing to retry")
        if was in FINAL:
            self.log(id, "retried")
            with in_words():
                self.client.delete(JobKeys(id).tries)
                scripts.enqueue(self.client, units.Unit(id, units.PLAN))
        return self.get(id)

    def delete(self, id: str) -> None:  # noqa: A002
        """Forget a job that ended, with its upload and its result; one that has not is canceled. Raises `NotFound`."""
        record = self.cancel(id)
        if record.upload:
            shutil.rmtree((self.folder / "uploads" / record.upload).parent, ignore_errors=True)
        shutil.rmtree(self.job_folder(id), ignore_errors=True)
        with in_words(), self.client.pipeline() as pipe:
            pipe.delete(*JobKeys(id).all)
            pipe.zrem(INDEX, id)
            pipe.zrem(CALLS, id)
            pipe.srem(WAITING, id)
            pipe.srem(UNFINISHED, id)
            pipe.execute()

    # For the jobs program

    def check_room(self, more: int = 0) -> None:
        """Raises `StorageFull` where `more` bytes of files do not fit."""
        self._room.check(more)

    def job_folder(self, id: str) -> Path:  # noqa: A002
        """Where the job's parts and outputs are."""
        if not _ID.fullmatch(id):
            raise NotFound(f"no job {id!r}")
        return self.folder / "jobs" / id

    def transition(self, id: str, allowed: Sequence[State], state: State, **fields: str) -> State | None:  # noqa: A002
        """Move the job to `state` if it is in an allowed one, with fields of its record; the state that it was in.

        Returns None where there is no such job.
        """
        if state in FINAL:
            fields = {"ended_s": repr(self.clock())} | fields
        with in_words():
            return self._scripts.transition(id, allowed, state, fields)

    def log(self, id: str, text: str) -> None:  # noqa: A002
        """Add a line to the job's log."""
        with in_words():
            self.client.xadd(JobKeys(id).logs, {"text": text[:4096]}, maxlen=1000, approximate=True)

    def drop_work(self, id: str) -> None:  # noqa: A002
        """Delete what was made of a result that nobody wants any more: parts, outputs, and what is known of them."""
        for name in ("parts", "outputs"):
            shutil.rmtree(self.job_folder(id) / name, ignore_errors=True)
        keys = JobKeys(id)
        with in_words():
            self.client.delete(keys.plan, keys.done, keys.progress)

    def _submit(self, document: JobDocument, id: str | None, upload: Upload | None) -> tuple[JobRecord, bool]:  # noqa: A002
        self._check(document, id, upload)
        encoded = encode_document(document)
        number = id or secrets.token_hex(8)
        given = encoded + (upload.sha256.encode() if upload else b"")
        fields: dict[str, str | bytes] = {
            "kind": document.kind,
            "state": "queued",
            "document": encoded,
            "created_s": repr(self.clock()),
            "upload": upload.path if upload else "",
        }
        with in_words():
            outcome = self._scripts.create(
                number, hashlib.sha256(given).hexdigest(), self._limits.max_waiting, self.clock(), fields
            )
        if outcome == "other":
            raise Conflict(f"there is another job {number!r}: it has another document, or another upload")
        if outcome == "full":
            raise QueueFull(f"{self._limits.max_waiting} jobs wait already; try again when one has started", _AGAIN_S)
        return self.get(number), outcome == "made"

    def _check(self, document: JobDocument, id: str | None, upload: Upload | None) -> None:  # noqa: A002
        if id is not None and not _ID.fullmatch(id):
            raise InvalidRequest("id: up to 64 letters, digits, '-' and '_', beginning with a letter or a digit")
        if document.callback_url:
            check_callback(document.callback_url, self._limits.callback_hosts)
        if isinstance(document, RowsDocument) and bool(document.input) == bool(upload):
            what = "not both" if upload else "one of them is needed"
            raise InvalidRequest(f"input: a job reads an uploaded file or the place that it names: {what}")
        self._room.check(0)

    def _records(self, ids: Sequence[str]) -> Sequence[JobRecord]:
        keys = [JobKeys(each) for each in ids if _ID.fullmatch(each)]
        with in_words(), self.client.pipeline(transaction=False) as pipe:
            for each in keys:
                pipe.hgetall(each.record)
                pipe.hvals(each.progress)
            answers = pipe.execute()
        pairs = zip(keys, answers[::2], answers[1::2], strict=True)
        return [
            record_of(each.id, fields, progress, self.clock()) for each, fields, progress in pairs if b"kind" in fields
        ]


def connect(url: str) -> "redis.Redis":
    """A client of the jobs' Redis; it connects when it is first used, and again where the connection is lost."""
    where = servers(url).find(INDEX)
    return redis.Redis.from_url(
        where, socket_connect_timeout=_CONNECT_S, socket_timeout=None, health_check_interval=_ANSWER_S
    )


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Redis' errors as `Unavailable`."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise Unavailable(f"the jobs' Redis does not answer: {type(error).__name__}") from error


def check_callback(url: str, hosts: frozenset[str]) -> None:
    """Raises `InvalidRequest` where the operator does not allow the URL's host."""
    host = (urlsplit(url).hostname or "").lower()
    if "*" not in hosts and host not in hosts:
        raise InvalidRequest(f"callback_url: the host {host!r} is not allowed (MILLRACE_JOBS_CALLBACK_HOSTS)")
