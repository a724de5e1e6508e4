"""The jobs, as whoever submits and watches them has them. Safe in threads; every method may wait for Redis or a disk.

    store = JobStore("redis://127.0.0.1:6380/0", Path("/var/lib/millrace/jobs"), JobLimits())
    with store.upload("reviews.csv") as writer:
        writer.write(b"text\\nit works\\n")
        upload = writer.finish()
    job = store.submit(read_document({"kind": "score", "model": "sentiment", "column": "text"}), upload=upload)
    print(store.get(job.id).state)
    result = store.open_result(job.id)

Every method raises `Unavailable` where the jobs' Redis does not answer.
"""

import contextlib
import hashlib
import heapq
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

from millrace.jobs import scripts, units
from millrace.jobs.connecting import connect
from millrace.jobs.documents import JobDocument, RowsDocument, encode_document
from millrace.jobs.keys import COUNTS, IN_STATE, INDEX, KINDS, ROWS, JobKeys
from millrace.jobs.reading import record_of
from millrace.jobs.records import FINAL, JobRecord, JobStatistics, LogLine, State
from millrace.jobs.room import Room
from millrace.jobs.settings import JobStoreSettings, check_store_url
from millrace.jobs.uploads import Upload, UploadWriter
from millrace.protocol.errors import Conflict, InvalidRequest, MillraceError, NotFound, QueueFull, Unavailable

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
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
        `StorageFull`. What was uploaded is deleted unless a new job has it, or may have it.
        """
        try:
            record = self._submit(document, id, upload)
        except Unavailable:  # perhaps the job was made, and only the answer was lost
            raise
        except MillraceError:
            self._drop_upload(upload.path if upload else "")
            raise
        if upload and record.upload != upload.path:
            self._drop_upload(upload.path)
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
        """The newest jobs, the newest first, at most `limit`.

        With `states`, only those in one of them, and first those that came into it last.
        """
        indexes = [f"{IN_STATE}{state}" for state in dict.fromkeys(states)] or [INDEX]
        with in_words(), self.client.pipeline(transaction=False) as pipe:
            for index in indexes:
                pipe.zrevrange(index, 0, max(0, limit - 1), withscores=True)
            found = [pair for pairs in pipe.execute() for pair in pairs]
        ids = [str(job, "utf-8") for job, _ in heapq.nlargest(limit, found, key=lambda pair: pair[1])]
        records = [record for at in range(0, len(ids), 200) for record in self._records(ids[at : at + 200])]
        return [record for record in records if not states or record.state in states]

    def unfinished(self) -> "dict[str, State]":
        """The ids of jobs that are queued or started, and in which of the two states each is."""
        states: tuple[State, ...] = ("queued", "started")
        with in_words(), self.client.pipeline(transaction=True) as pipe:
            for state in states:
                pipe.zrange(f"{IN_STATE}{state}", 0, -1)
            found = pipe.execute()
        return {str(each, "utf-8"): state for state, ids in zip(states, found, strict=True) for each in ids}

    def ended_before(self, until_s: float, limit: int = 1000) -> Sequence[str]:
        """The ids of at most `limit` jobs that ended before that time."""
        with in_words(), self.client.pipeline(transaction=False) as pipe:
            for state in FINAL:
                pipe.zrange(f"{IN_STATE}{state}", "-inf", f"({until_s!r}", byscore=True, offset=0, num=limit)
            return [str(each, "utf-8") for found in pipe.execute() for each in found][:limit]

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
        """All jobs in numbers, which are kept as jobs change: it costs the same however many there are."""
        with in_words(), self.client.pipeline(transaction=False) as pipe:
            pipe.hgetall(COUNTS)
            pipe.hgetall(ROWS)
            pipe.zrange(f"{IN_STATE}queued", 0, 0, withscores=True)
            counted, rows, oldest = pipe.execute()
        counts: dict[tuple[str, str], int] = {}
        for raw, count in counted.items():
            kind, _, state = str(raw, "utf-8").partition(" ")
            counts[kind, state] = int(count)
        return JobStatistics(
            counts=counts,
            rows_done={str(kind, "utf-8"): int(done) for kind, done in rows.items()},
            bytes_used=self._room.used(),
            oldest_waiting_s=max(0.0, self.clock() - oldest[0][1]) if oldest else 0.0,
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
        with in_words():
            was = self._scripts.delete(id)
        if was in FINAL:  # and not retried meanwhile
            self._drop_upload(record.upload)
            shutil.rmtree(self.job_folder(id), ignore_errors=True)

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
        if not _ID.fullmatch(id):  # which could name another key of a job
            return None
        if state in FINAL:
            fields = {"ended_s": repr(self.clock())} | fields
        with in_words():
            return self._scripts.transition(id, allowed, state, self.clock(), fields)

    def log(self, id: str, text: str) -> None:  # noqa: A002
        """Add a line to the job's log."""
        with in_words():
            self._scripts.log(id, text[:4096])

    def count_try(self, id: str, what: str) -> int:  # noqa: A002
        """`what` was tried in vain once more for the job; how often it was."""
        with in_words():
            return self._scripts.count_try(id, what)

    def waited_s(self, id: str, what: str) -> float:  # noqa: A002
        """Seconds since this was first asked of the job, or since it was retried."""
        with in_words():
            return self.clock() - self._scripts.first_s(id, f"{what} waits", self.clock())

    def is_known(self, ids: Sequence[str]) -> Sequence[bool]:
        """Whether there is a job of each id."""
        with in_words(), self.client.pipeline(transaction=False) as pipe:
            for each in ids:
                pipe.exists(JobKeys(each).record)
            return [bool(found) for found in pipe.execute()]

    def drop_work(self, id: str) -> None:  # noqa: A002
        """Delete what was made of a result that nobody wants any more: parts, outputs, and what is known of them."""
        for name in ("parts", "outputs"):
            shutil.rmtree(self.job_folder(id) / name, ignore_errors=True)
        keys = JobKeys(id)
        with in_words():
            self.client.delete(keys.plan, keys.done, keys.progress)

    def _submit(self, document: JobDocument, id: str | None, upload: Upload | None) -> JobRecord:  # noqa: A002
        self._check(document, id, upload)
        encoded = encode_document(document)
        number = id or secrets.token_hex(8)
        fingerprint = hashlib.sha256(encoded + (upload.sha256.encode() if upload else b"")).hexdigest()
        path, most = upload.path if upload else "", self._limits.max_waiting
        fields = {"document": encoded, "has_callback": b"1" if document.callback_url else b"0"}
        with in_words():
            outcome = self._scripts.create(number, fingerprint, most, self.clock(), document.kind, path, fields)
        if outcome == "other":
            raise Conflict(f"there is another job {number!r}: it has another document, or another upload")
        if outcome == "full":
            raise QueueFull(f"{self._limits.max_waiting} jobs wait already; try again when one has started", _AGAIN_S)
        return self.get(number)

    def _check(self, document: JobDocument, id: str | None, upload: Upload | None) -> None:  # noqa: A002
        if id is not None and not _ID.fullmatch(id):
            raise InvalidRequest("id: up to 64 letters, digits, '-' and '_', beginning with a letter or a digit")
        if document.callback_url:
            check_callback(document.callback_url, self._limits.callback_hosts)
        if isinstance(document, RowsDocument) and bool(document.input) == bool(upload):
            what = "not both" if upload else "one of them is needed"
            raise InvalidRequest(f"input: a job reads an uploaded file or the place that it names: {what}")
        self._room.check(0)

    def _drop_upload(self, path: str) -> None:
        if path:
            shutil.rmtree((self.folder / "uploads" / path).parent, ignore_errors=True)

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
