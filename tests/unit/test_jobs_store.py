"""Jobs as the API has them: documents, the store, uploads, limits; on a real Redis, without a jobs program."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rq import Queue
from rq.job import Job

from jobs.expiry import drop_orphans
from millrace.jobs import units
from millrace.jobs.documents import CustomDocument, encode_document, read_document
from millrace.jobs.keys import RQ_QUEUE, JobKeys
from millrace.jobs.settings import JobStoreSettings
from millrace.jobs.store import JobLimits, JobStore
from millrace.jobs.uploads import Upload, safe_name
from millrace.protocol.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    StorageFull,
    Unavailable,
)
from millrace.settings import SettingsError, load
from tests.support.running import RedisServer

SCORE = {"kind": "score", "model": "m", "input": "a.csv"}


@pytest.fixture
def store(redis_server: RedisServer, tmp_path: Path) -> JobStore:
    return JobStore(redis_server.url, tmp_path / "jobs", JobLimits())


def uploaded(store: JobStore, data: bytes = b"x\n1\n", name: str = "a.csv") -> Upload:
    with store.upload(name) as writer:
        writer.write(data)
        return writer.finish()


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"model": "m"}, "kind: a job needs one: evaluate, export, score"),
        ({"kind": "other"}, "kind: 'other' is none of evaluate, export, score"),
        ({"kind": "../x"}, "kind: a job needs one: evaluate, export, score"),
        ({"kind": "score"}, "model: Object missing required field `model`"),
        (SCORE | {"modle": 1}, "modle: Object contains unknown field `modle`"),
        (SCORE | {"version": "1"}, "version: Expected `int | null`, got `str`"),
        (SCORE | {"columns": {"x": 1}}, "columns[...]: Expected `str`, got `int`"),
        (SCORE | {"top_k": 0}, "top_k: Expected `int` >= 1"),
        (SCORE | {"column": "x", "columns": {"x": "y"}}, "column: use either column or columns"),
        (SCORE | {"version": 1, "label": "x"}, "label: use either version or label"),
        *(
            (SCORE | {"callback_url": url}, "callback_url: must be an http:// or https:// URL with a host")
            for url in ("file:///x", "http:///x", "http://[::1", "http://[name]/", "https://a.example:70000/")
        ),
        ({"kind": "evaluate", "model": "m"}, "target: Object missing required field `target`"),
        ({"kind": "export", "model": "../m"}, "model: must be the name of a published model"),
        ({"kind": "export", "formats": ["exe"]}, "formats[0]: Invalid enum value 'exe'"),
    ],
)
def test_a_document_that_does_not_fit_is_refused_with_the_fields_name(document: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_document(document)
    assert str(caught.value) == error


@pytest.mark.parametrize("raw", [b"{", b"\xff", b"[]", b"[" * 100_000])
def test_what_is_no_document_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_document(raw)


def test_a_document_is_read_as_it_was_written() -> None:
    document = read_document(SCORE | {"columns": {"x": "y"}, "carry": []})
    assert read_document(encode_document(document)) == document
    custom = read_document({"kind": "tidy", "options": {"a": 1}}, ["tidy"])
    assert custom == CustomDocument(kind="tidy", options={"a": 1})


def test_a_submitted_job_is_what_rq_reads(store: JobStore) -> None:
    job = store.submit(read_document(SCORE))
    queue = Queue(RQ_QUEUE, connection=store.client, serializer="json")
    (rq_id,) = queue.job_ids
    found = Job.fetch(rq_id, connection=store.client, serializer="json")
    assert (found.func_name, found.args, found.kwargs) == (units.FUNCTION, [job.id, "plan"], {})
    assert (found.timeout, found.result_ttl, str(found.get_status())) == (-1, 0, "JobStatus.QUEUED")
    assert units.unit_of(rq_id) == (job.id, "plan")


def test_an_id_of_the_callers_own_makes_submitting_idempotent(store: JobStore) -> None:
    document = read_document({"kind": "score", "model": "m"})
    job = store.submit(document, id="mine_1", upload=uploaded(store))
    again = store.submit(document, id="mine_1", upload=uploaded(store))
    assert (again.id, again.upload, again.created_s) == ("mine_1", job.upload, job.created_s)
    assert len(list((store.folder / "uploads").iterdir())) == 1
    with pytest.raises(Conflict):
        store.submit(document, id="mine_1", upload=uploaded(store, b"other"))
    with pytest.raises(Conflict):
        store.submit(read_document(SCORE), id="mine_1")
    assert len(store.list()) == 1
    assert len(list((store.folder / "uploads").iterdir())) == 1


def test_of_many_who_submit_one_id_at_once_one_makes_it(store: JobStore) -> None:
    threads = [threading.Thread(target=lambda: store.submit(read_document(SCORE), id="one")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.client.llen(units.QUEUE_KEY) == 1


@pytest.mark.parametrize("job", ["", "-a", "a/b", "a.b", "a" * 65, "ä", "a\n"])
def test_an_id_that_cannot_be_is_refused(store: JobStore, job: str) -> None:
    with pytest.raises(InvalidRequest):
        store.submit(read_document(SCORE), id=job)
    with pytest.raises(NotFound):
        store.get(job)


def test_a_job_reads_one_file(store: JobStore) -> None:
    with pytest.raises(InvalidRequest, match=r"input: .* one of them is needed"):
        store.submit(read_document({"kind": "score", "model": "m"}))
    with pytest.raises(InvalidRequest, match=r"input: .* not both"):
        store.submit(read_document(SCORE), upload=uploaded(store))
    assert list((store.folder / "uploads").iterdir()) == []


def test_waiting_jobs_are_bounded(redis_server: RedisServer, tmp_path: Path) -> None:
    store = JobStore(redis_server.url, tmp_path, JobLimits(max_waiting=2))
    jobs = [store.submit(read_document(SCORE)) for _ in range(2)]
    with pytest.raises(QueueFull, match="2 jobs wait already"):
        store.submit(read_document(SCORE))
    store.cancel(jobs[0].id)
    store.submit(read_document(SCORE))


def test_an_upload_is_bounded_while_it_arrives(redis_server: RedisServer, tmp_path: Path) -> None:
    store = JobStore(redis_server.url, tmp_path, JobLimits(max_upload_bytes=10))
    with pytest.raises(PayloadTooLarge, match="larger than 10 bytes"):
        uploaded(store, b"12345678901")
    assert list((tmp_path / "uploads").iterdir()) == []


def test_all_files_together_are_bounded(redis_server: RedisServer, tmp_path: Path) -> None:
    store = JobStore(redis_server.url, tmp_path, JobLimits(max_bytes=100))
    uploaded(store, b"x" * 60)
    with pytest.raises(StorageFull, match="more than 100 bytes"):
        uploaded(store, b"x" * 60)


def test_an_upload_that_breaks_off_leaves_nothing(store: JobStore) -> None:
    with store.upload("a.csv") as writer:
        writer.write(b"half")
    assert list((store.folder / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\x\\a b.csv", "a_b.csv"),
        (".hidden", "hidden"),
        ("", "input"),
        ("/", "input"),
    ],
)
def test_a_callers_file_name_names_no_other_place(name: str, kept: str) -> None:
    assert safe_name(name) == kept


def test_a_job_moves_only_as_it_may(store: JobStore) -> None:
    job = store.submit(read_document(SCORE))
    assert store.retry(job.id).state == "queued"
    store.transition(job.id, ("queued",), "started")
    store.transition(job.id, ("started",), "finished")
    assert store.cancel(job.id).state == "finished"
    with pytest.raises(Conflict):
        store.retry(job.id)
    store.delete(job.id)
    for call in (store.get, store.cancel, store.retry, store.delete, store.logs, store.open_result):
        with pytest.raises(NotFound):
            call(job.id)


def test_jobs_are_listed_newest_first(redis_server: RedisServer, tmp_path: Path) -> None:
    times = iter(range(1, 100))
    store = JobStore(redis_server.url, tmp_path, JobLimits(), clock=lambda: float(next(times)))
    jobs = [store.submit(read_document(SCORE)).id for _ in range(3)]
    store.cancel(jobs[1])
    assert [record.id for record in store.list()] == jobs[::-1]
    assert [record.id for record in store.list(limit=1)] == [jobs[2]]
    assert [record.id for record in store.list(states=("canceled",))] == [jobs[1]]
    found = store.statistics()
    assert found.counts == {("score", "queued"): 2, ("score", "canceled"): 1}
    store.cancel(jobs[0])
    assert [record.id for record in store.list(states=("canceled",))] == [jobs[0], jobs[1]]
    assert [record.id for record in store.list(states=("canceled", "queued"), limit=2)] == [jobs[0], jobs[1]]
    assert store.unfinished() == {jobs[2]: "queued"}


def test_jobs_are_counted_as_they_change_and_never_by_reading_them_all(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    now = 1000.0
    store = JobStore(redis_server.url, tmp_path, JobLimits(), clock=lambda: now)
    first, second, third = (store.submit(read_document(SCORE)).id for _ in range(3))
    now = 1060.0
    store.transition(first, ("queued",), "started")
    store.transition(first, ("started",), "failed")
    store.transition(first, ("started",), "finished")  # which it may not
    store.retry(first)
    store.cancel(second)
    now = 1100.0
    asked_before = redis_commands(store)
    found = store.statistics()
    assert redis_commands(store) - asked_before <= 4
    assert {pair: count for pair, count in found.counts.items() if count} == {
        ("score", "queued"): 2,
        ("score", "canceled"): 1,
    }
    assert found.oldest_waiting_s == 100
    store.delete(second)
    store.cancel(third)
    assert store.statistics().counts["score", "canceled"] == 1
    assert store.statistics().oldest_waiting_s == 40  # of the one that waits again
    assert store.ended_before(1100.0) == []
    assert store.ended_before(1100.5) == [third]


def redis_commands(store: JobStore) -> int:
    found: Any = store.client.info("stats")
    return int(found["total_commands_processed"])


@pytest.mark.parametrize("other", ["a:plan", "a:logs", "a:done", "a ", "", "*"])
def test_an_id_that_is_none_names_no_other_key(redis_server: RedisServer, tmp_path: Path, other: str) -> None:
    store = JobStore(redis_server.url, tmp_path, JobLimits())
    store.submit(read_document(SCORE), id="a")
    store.log("a", "a line")
    store.client.set(JobKeys("a").plan, "{}")
    for use in (store.get, store.logs, store.cancel, store.retry, store.delete, store.open_result):
        with pytest.raises(NotFound):
            use(other)
    assert store.get("a").state == "queued"


def test_a_callback_goes_to_hosts_that_are_allowed(redis_server: RedisServer, tmp_path: Path) -> None:
    store = JobStore(redis_server.url, tmp_path, JobLimits(callback_hosts=frozenset({"a.example"})))
    store.submit(read_document(SCORE | {"callback_url": "https://A.example/x"}))
    with pytest.raises(InvalidRequest, match=r"callback_url: the host 'b\.example' is not allowed"):
        store.submit(read_document(SCORE | {"callback_url": "https://b.example/a.example"}))


def test_a_redis_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    store = JobStore(f"unix://{tmp_path}/nobody.sock", tmp_path, JobLimits())
    calls: list[Callable[[], object]] = [
        lambda: store.submit(read_document(SCORE)),
        lambda: store.get("a"),
        lambda: store.list(),
    ]
    for call in calls:
        with pytest.raises(Unavailable, match="the jobs' Redis does not answer"):
            call()


@pytest.mark.parametrize("url", ["redis+cluster://a:1,b:2", "rediss+cluster://a:1"])
def test_a_cluster_is_refused_in_words(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jobs cannot be kept in a Redis Cluster"):
        JobStore(url, tmp_path, JobLimits())
    with pytest.raises(SettingsError, match="MILLRACE_JOBS_REDIS_URL: jobs cannot be kept in a Redis Cluster"):
        load(JobStoreSettings, {"MILLRACE_JOBS_REDIS_URL": url})


def test_the_api_reads_its_part_of_the_settings() -> None:
    environ = {"MILLRACE_JOBS_REDIS_URL": "redis://h:1/0", "MILLRACE_JOBS_ROOT": "/data", "MILLRACE_SERVING_PORT": "1"}
    settings = load(JobStoreSettings, environ | {"MILLRACE_JOBS_MAX_WAITING": "7"})
    assert settings.store_url is not None
    assert (settings.store_url.get_secret_value(), settings.max_waiting) == ("redis://h:1/0", 7)


def test_an_upload_stays_when_only_the_answer_was_lost(own_redis: RedisServer, tmp_path: Path) -> None:
    """The job may have been made: it must not find its file gone. Asked again, it is the same job with its file."""
    store = JobStore(own_redis.url, tmp_path, JobLimits())
    upload, again = uploaded(store), uploaded(store)
    own_redis.kill()
    document = read_document({"kind": "score", "model": "m"})
    with pytest.raises(Unavailable):
        store.submit(document, id="a", upload=upload)
    assert (tmp_path / "uploads" / upload.path).exists()
    own_redis.start()
    assert store.submit(document, id="a", upload=upload).upload == upload.path
    assert store.submit(document, id="a", upload=upload).upload == upload.path
    assert (tmp_path / "uploads" / upload.path).exists()
    assert store.submit(document, id="a", upload=again).upload == upload.path
    assert not (tmp_path / "uploads" / again.path).exists()


@pytest.mark.slow
def test_a_redis_that_hangs_holds_nobody_for_long(own_redis: RedisServer, tmp_path: Path) -> None:
    store = JobStore(own_redis.url, tmp_path, JobLimits())
    store.list()
    assert own_redis.process
    own_redis.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        with pytest.raises(Unavailable):
            store.get("a")
    finally:
        own_redis.process.send_signal(signal.SIGCONT)
    assert time.monotonic() - began < 9


def test_only_files_that_belong_to_no_job_for_an_hour_are_dropped(store: JobStore, tmp_path: Path) -> None:
    kept = store.submit(read_document({"kind": "score", "model": "m"}), upload=uploaded(store))
    slow, lost = store.upload("slow.csv"), store.upload("lost.csv")
    store.job_folder("gone").mkdir(parents=True)
    store.job_folder(kept.id).mkdir(parents=True)
    for each in (*(tmp_path / "jobs").glob("uploads/*"), *(tmp_path / "jobs").glob("uploads/*/*")):
        os.utime(each, (0, 0))
    for each in (tmp_path / "jobs").glob("jobs/*"):
        os.utime(each, (0, 0))
    slow.write(bytes(100_000))  # it has been arriving for hours
    drop_orphans(store)
    assert sorted(each.name for each in (tmp_path / "jobs").glob("uploads/*/*")) == ["a.csv", "slow.csv.arriving"]
    assert [each.name for each in (tmp_path / "jobs" / "jobs").iterdir()] == [kept.id]
    slow.__exit__(None, None, None)
    lost.__exit__(None, None, None)
