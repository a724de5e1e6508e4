"""Background jobs end to end: submitted to the store, run by RQ workers as processes, their rows by a real worker."""

import contextlib
import csv
import hashlib
import hmac
import io
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet
import pytest
from redis import Redis
from rq import Queue

from jobs.expiry import expire
from jobs.outputs import ERROR
from millrace.jobs import units
from millrace.jobs.keys import CALLS, RQ_QUEUE, JobKeys
from millrace.jobs.records import JobRecord
from millrace.jobs.store import JobLimits, JobStore
from millrace.protocol.errors import Conflict, NotFound, StorageFull
from tests.support.jobs import Jobs, csv_of, kill_all, model_worker
from tests.support.onnxmodels import FLOAT, INT64, constant, info, node, save
from tests.support.pages import blocks
from tests.support.running import ROOT, RedisServer, until

TINY = {"kind": "score", "model": "tiny", "column": "x"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, make_onnx: Callable[..., Path]) -> Path:
    """`tiny`; and `lookup`, which cannot stand a row with a number above 9."""
    folder = tmp_path_factory.mktemp("models")
    make_onnx(folder)
    table = constant("table", np.arange(10, dtype=np.float32) * 2)
    made = [node("Gather", ["table", "x"], ["y"])]
    save(folder / "lookup" / "1", made, [info("x", INT64, ["n"])], [info("y", FLOAT, ["n"])], table)
    return folder


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory, models: Path, _session_redis: RedisServer) -> Iterator[RedisServer]:
    """The models' Redis, with a worker."""
    server = RedisServer(tmp_path_factory.mktemp("queue") / "redis.sock")
    server.start()
    with model_worker(server, models):
        yield server
    server.kill()


@pytest.fixture
def jobs(redis_server: RedisServer, queue: RedisServer, tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(redis_server, queue, tmp_path)
    yield made
    made.stop()


def expected(rows: int) -> list[tuple[str, list[float]]]:
    sums = [n + 2 * (n % 7) + 3 for n in range(rows)]
    return [(str(n), [each, 10 * each]) for n, each in enumerate(sums)]


def table(raw: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(raw.decode())))


def is_complete(jobs: Jobs, record: JobRecord, rows: int) -> bool:
    """Whether the job has finished with all rows in order, and said so."""
    assert (record.state, record.error) == ("finished", "")
    assert (record.rows, record.rows_done, record.errors) == (rows, rows, 0)
    found = table(jobs.result(record.id))
    assert {row[ERROR] for row in found} == {""}
    assert [(row["id"], json.loads(row["scores"])) for row in found] == expected(rows)
    return True


def until_rows(jobs: Jobs, job: str, rows: int, timeout_s: float = 60.0) -> None:
    until(lambda: jobs.store.get(job).rows_done >= rows, timeout_s, f"{rows} rows")


def test_a_scored_file_has_every_row_in_order(jobs: Jobs) -> None:
    jobs.start()
    job = jobs.submit(TINY, csv_of(1050))
    assert is_complete(jobs, jobs.ended(job.id), 1050)
    until(lambda: not (jobs.store.job_folder(job.id) / "parts").exists(), 10, "the end of the parts")
    assert {"started", "finished"} <= {line.text for line in jobs.store.logs(job.id)}


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="the system has no SCHED_IDLE")
def test_the_process_that_runs_a_part_gives_way_to_everybody_and_the_program_does_not(jobs: Jobs) -> None:
    program = psutil.Process(jobs.start(MILLRACE_JOBS_GIVES_WAY="true").pid)
    job = jobs.submit(TINY, csv_of(20_000))

    def gives_way() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            return any(os.sched_getscheduler(each.pid) == os.SCHED_IDLE for each in program.children())
        return False

    until(gives_way)
    assert os.sched_getscheduler(program.pid) == os.SCHED_OTHER
    jobs.store.cancel(job.id)


def test_a_job_whose_program_is_killed_again_and_again_goes_on_within_10_s_with_the_same_bytes(jobs: Jobs) -> None:
    undisturbed = jobs.submit(TINY, csv_of(3000))
    jobs.start()
    jobs.ended(undisturbed.id, 60)
    job = jobs.submit(TINY, csv_of(3000))
    for kills in range(1, 4):
        until_rows(jobs, job.id, 400 * kills)
        if kills == 2:
            jobs.programs[-1].kill()  # the process that runs the part is left behind
        else:
            kill_all(jobs.programs[-1])
        done = jobs.store.get(job.id).rows_done
        jobs.start()
        killed_at = time.monotonic()
        until_rows(jobs, job.id, done + 1)
        assert time.monotonic() - killed_at < 10
    assert is_complete(jobs, jobs.ended(job.id, 60), 3000)
    assert jobs.result(job.id) == jobs.result(undisturbed.id)


def test_a_program_that_is_told_to_stop_gives_its_unit_back_at_once(jobs: Jobs) -> None:
    first = jobs.start()
    job = jobs.submit({**TINY, "part_rows": 20_000}, csv_of(20_000))
    until_rows(jobs, job.id, 100)
    first.terminate()
    assert first.wait(10) == 0
    assert not jobs.redis_client().exists(JobKeys(job.id).claim("part-0"))
    jobs.start()
    assert is_complete(jobs, jobs.ended(job.id, 120), 20_000)


@pytest.mark.slow
def test_two_programs_share_the_parts_of_a_job(jobs: Jobs) -> None:
    jobs.start()
    jobs.start()
    job = jobs.submit(TINY, csv_of(2000))
    assert is_complete(jobs, jobs.ended(job.id, 60), 2000)


def test_a_unit_that_was_taken_and_never_started_goes_on(jobs: Jobs) -> None:
    """A worker may die between the two: RQ alone would look after a minute, and call the job failed."""
    job = jobs.submit(TINY, csv_of(10))
    client = jobs.redis_client()
    client.lmove(units.QUEUE_KEY, units.INTERMEDIATE_KEY)
    jobs.start()
    assert is_complete(jobs, jobs.ended(job.id, 30), 10)
    assert client.llen(units.INTERMEDIATE_KEY) == 0


def test_a_job_goes_on_without_anything_that_rq_knew_of_it(jobs: Jobs) -> None:
    job = jobs.submit(TINY, csv_of(10))
    client = jobs.redis_client()
    client.delete(*client.keys("rq:*"))
    jobs.start()
    assert is_complete(jobs, jobs.ended(job.id), 10)


def test_a_unit_whose_process_dies_goes_on_and_the_third_death_fails_the_job(jobs: Jobs) -> None:
    program = jobs.start()
    job = jobs.submit({**TINY, "part_rows": 400_000}, csv_of(400_000))
    for _ in range(3):
        until(lambda: psutil.Process(program.pid).children() or jobs.store.get(job.id).is_final, 30)
        until(lambda: jobs.redis_client().exists(JobKeys(job.id).claim("part-0")), 60, "the claim of the part")
        for horse in psutil.Process(program.pid).children():
            horse.kill()
            horse.wait(10)
        until(lambda: not jobs.redis_client().exists(JobKeys(job.id).claim("part-0")), 30, "the end of the claim")
    record = jobs.ended(job.id, 30)
    assert (record.state, record.error) == ("failed", "part-0 ended its process 3 times: signal 9")
    assert program.poll() is None


def test_a_redis_that_is_killed_and_comes_back_costs_nothing(tmp_path: Path, queue: RedisServer) -> None:
    server = RedisServer(tmp_path / "redis.sock", persists=True)
    server.start()
    jobs = Jobs(server, queue, tmp_path)
    try:
        jobs.start()
        job = jobs.submit(TINY, csv_of(2000))
        until_rows(jobs, job.id, 500)
        server.kill()
        server.start()
        assert is_complete(jobs, jobs.ended(job.id, 90), 2000)
    finally:
        jobs.stop()
        server.kill()


def test_cancel_stops_a_running_job_and_removes_what_it_wrote(jobs: Jobs) -> None:
    program = jobs.start()
    job = jobs.submit({**TINY, "part_rows": 100_000}, csv_of(100_000))
    until_rows(jobs, job.id, 100)
    (horse,) = psutil.Process(program.pid).children()
    assert jobs.store.cancel(job.id).state == "canceled"
    began = time.monotonic()
    until(lambda: not horse.is_running() or horse.status() == psutil.STATUS_ZOMBIE, 10)
    assert time.monotonic() - began < 1
    assert not list(jobs.store.job_folder(job.id).glob("*/*"))
    next_job = jobs.submit(TINY, csv_of(10))
    assert is_complete(jobs, jobs.ended(next_job.id), 10)
    assert jobs.store.get(job.id).state == "canceled"


def _files(jobs: Jobs, job: str) -> dict[str, int]:
    """The files of finished parts, by name, and which file it is: one that is written again is another one."""
    found: dict[str, int] = {}
    for each in (jobs.store.job_folder(job) / "parts").glob("0*"):
        with contextlib.suppress(FileNotFoundError):
            found[each.name] = each.stat().st_ino
    return found


def test_a_failed_job_is_resumed_by_retry_from_its_last_part(
    redis_server: RedisServer, own_redis: RedisServer, models: Path, tmp_path: Path
) -> None:
    jobs = Jobs(redis_server, own_redis, tmp_path, {"MILLRACE_JOBS_MODEL_WAIT_S": "3"})
    client = Redis.from_url(own_redis.url)
    try:
        jobs.start()
        with model_worker(own_redis, models) as worker:
            until(lambda: client.hlen("millrace:{workers}"), 60, "the worker")
            job = jobs.submit(TINY, csv_of(5000))
            until_rows(jobs, job.id, 300)
            worker.kill()
            record = jobs.ended(job.id, 60)
        assert record.state == "failed"
        assert "no live worker" in record.error
        parts = _files(jobs, job.id)
        assert len(parts) >= 2
        client.delete("millrace:{workers}")  # the dead worker's announcement
        with model_worker(own_redis, models):
            until(lambda: client.hlen("millrace:{workers}"), 60, "the worker")
            jobs.store.retry(job.id)
            seen: dict[str, int] = {}
            until(lambda: seen.update(_files(jobs, job.id)) or jobs.store.get(job.id).is_final, 60)
            assert {name: seen[name] for name in parts} == parts
            assert is_complete(jobs, jobs.store.get(job.id), 5000)
    finally:
        jobs.stop()


def test_rows_that_cannot_be_scored_are_rows_with_their_errors(jobs: Jobs) -> None:
    jobs.start()
    values = ["1", "99", "3", "", "x", "9", "-99"]
    job = jobs.submit(
        {"kind": "score", "model": "lookup"}, ("id,x\n" + "".join(f"0,{value}\n" for value in values)).encode()
    )
    record = jobs.ended(job.id)
    assert (record.state, record.rows, record.errors) == ("finished", 7, 4)
    rows = table(jobs.result(job.id))
    assert [row["x"] for row in rows] == values
    assert [row["y"] for row in rows] == ["2.0", "", "6.0", "", "", "18.0", ""]
    assert [bool(row[ERROR]) for row in rows] == [False, True, False, True, True, False, True]
    assert "99" in rows[1][ERROR]


def test_a_column_of_the_file_keeps_its_name_beside_one_of_the_results(jobs: Jobs) -> None:
    jobs.start()
    rows = b'label,scores,output_scores,x\nmine,9,8,"[1, 0, 0]"\n'
    job = jobs.submit({**TINY, "labels": True}, rows)
    assert jobs.ended(job.id).state == "finished"
    assert list(table(jobs.result(job.id))[0].items()) == [
        *[("label", "mine"), ("scores", "9"), ("output_scores", "8"), ("x", "[1, 0, 0]")],
        *[("output_output_scores", "[1.0,10.0]"), ("output_label", "1"), (ERROR, "")],
    ]


def test_a_file_that_unpacks_to_more_memory_than_there_may_be_fails_its_job_alone(jobs: Jobs, tmp_path: Path) -> None:
    program = jobs.start(MILLRACE_JOBS_MAX_MEMORY_BYTES=str(512 * 2**20))
    one = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, np.int32)), pa.array(["x" * 10_000_000]))
    pa.parquet.write_table(pa.table({"x": one}), tmp_path / "bomb.parquet", row_group_size=100_000)
    bomb = jobs.submit(TINY, (tmp_path / "bomb.parquet").read_bytes(), "bomb.parquet")
    record = jobs.ended(bomb.id, 60)
    assert record.state == "failed"
    assert "malloc" in record.error or "memory" in record.error
    small = jobs.submit(TINY, csv_of(3))
    assert is_complete(jobs, jobs.ended(small.id), 3)
    assert program.poll() is None


def test_too_many_errors_end_the_job(jobs: Jobs) -> None:
    jobs.start()
    job = jobs.submit({"kind": "score", "model": "lookup", "max_errors": 1}, b"x\n1\n99\n98\n")
    record = jobs.ended(job.id)
    assert (record.state, record.error) == ("failed", "2 rows were refused, and max_errors is 1")


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"column": "z"}, "column: the file has no column 'z'; it has id, x"),
        ({"columns": {"y": "x"}}, "columns: the model has no input 'y'; it has x"),
        ({"carry": ["z"], "column": "x"}, "carry: the file has no column 'z'; it has id, x"),
        ({"signature": "s"}, "signature: model 'tiny' has no signature 's'; it has serving_default"),
    ],
)
def test_what_does_not_fit_the_file_or_the_model_fails_the_job_with_the_fields_name(
    jobs: Jobs, document: dict[str, Any], error: str
) -> None:
    jobs.start()
    job = jobs.submit({"kind": "score", "model": "tiny"} | document, csv_of(3))
    record = jobs.ended(job.id)
    assert (record.state, record.error) == ("failed", error)


@pytest.mark.slow
def test_jobs_go_on_beside_one_whose_model_is_not_there(jobs: Jobs) -> None:
    jobs.start(MILLRACE_JOBS_MODEL_WAIT_S="5")
    waiting = jobs.submit({"kind": "score", "model": "nobody-has-it"}, csv_of(3))
    until(lambda: jobs.store.get(waiting.id).state == "started", what="the job to wait for its model")
    small = jobs.submit(TINY, csv_of(10))
    assert is_complete(jobs, jobs.ended(small.id), 10)
    assert jobs.store.get(waiting.id).state == "started"
    record = jobs.ended(waiting.id)
    assert (record.state, record.error) == ("failed", "no live worker has model 'nobody-has-it', for 5 s")
    assert jobs.store.retry(waiting.id).state == "queued"
    until(lambda: jobs.store.get(waiting.id).state == "started", what="the job to wait again")
    jobs.store.cancel(waiting.id)
    assert not list(jobs.store.job_folder(waiting.id).glob("*/*"))


def test_a_small_job_does_not_wait_for_all_parts_of_a_large_one(jobs: Jobs) -> None:
    jobs.start()
    large = jobs.submit(TINY, csv_of(10_000))
    until_rows(jobs, large.id, 100)
    small = jobs.submit(TINY, csv_of(10))
    assert is_complete(jobs, jobs.ended(small.id), 10)
    assert jobs.store.get(large.id).state == "started"
    jobs.store.cancel(large.id)


def test_an_evaluation_reports_on_rows_whose_answer_is_known(jobs: Jobs) -> None:
    """The tiny model's second score is the larger one for positive rows, and the first one for negative rows."""
    jobs.start()
    rows = ["x,right", *('"[1, 0, 0]",1' for _ in range(150)), '"[-1, 0, 0]",0', '"[-1, 0, 0]",1', '"[1, 0, 0]",7']
    job = jobs.submit({**TINY, "kind": "evaluate", "target": "right"}, ("\n".join(rows) + "\n").encode())
    record = jobs.ended(job.id)
    assert (record.state, record.rows_done, record.errors) == ("finished", 153, 1)
    assert record.outputs == ("report.json", "report.md", "confusion.svg", "calibration.svg")
    report = json.loads(jobs.result(job.id))
    assert (report["rows"], report["errors"], report["accuracy"]) == (152, 1, pytest.approx(151 / 152))
    assert report["confusion"] == [[1, 0], [1, 150]]
    assert [each["row"] for each in report["worst"]] == [152]
    assert b"| 0 | 1 |" in jobs.result(job.id, "report.md")
    assert jobs.result(job.id, "confusion.svg").startswith(b"<svg")


def test_a_kind_of_the_operators_own_is_one_file(jobs: Jobs, tmp_path: Path) -> None:
    folder = tmp_path / "kinds"
    folder.mkdir()
    page = (ROOT / "docs" / "howto" / "add-a-job-kind.md").read_text(encoding="utf-8")
    (code,) = [block.code for block in blocks(page) if block.language == "python"]
    (folder / "shout.py").write_text(code)
    jobs.start(MILLRACE_JOBS_KINDS=str(folder))
    until(lambda: "shout" in jobs.store.kinds())
    job = jobs.submit({"kind": "shout", "options": {"mark": "!"}}, b"hey")
    assert jobs.ended(job.id).outputs == ("loud.txt",)
    assert jobs.result(job.id) == b"HEY!"
    job = jobs.submit({"kind": "shout", "options": {}}, b"hey")
    assert jobs.ended(job.id).error == "options.mark: a text is needed"


def test_nothing_runs_because_redis_names_it(jobs: Jobs, tmp_path: Path) -> None:
    """Whoever can write to Redis must not be able to run `os.system`: not as the function, and not as a callback."""
    jobs.start()
    touched = tmp_path / "touched"
    queue = Queue(RQ_QUEUE, connection=jobs.redis_client(), serializer="json")
    queue.enqueue("os.system", f"touch {touched}")
    job = jobs.submit(TINY, csv_of(3))
    for key in jobs.redis_client().scan_iter("rq:job:*"):
        jobs.redis_client().hset(
            key, mapping={"success_callback_name": "os._exit", "failure_callback_name": "os.abort"}
        )
    assert is_complete(jobs, jobs.ended(job.id), 3)
    until(lambda: queue.failed_job_registry.count == 1, 30, "the refusal")
    assert not touched.exists()


class _Hook(BaseHTTPRequestHandler):
    """Answers 503 first, then 204."""

    calls: "list[tuple[dict[str, str], bytes]]"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.calls.append((dict(self.headers), body))
        self.send_response(503 if len(self.calls) == 1 else 204)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def hook() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    calls: list[tuple[dict[str, str], bytes]] = []
    server = HTTPServer(("127.0.0.1", 0), type("Hook", (_Hook,), {"calls": calls}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/told?x=1", calls
    server.shutdown()
    server.server_close()


def _told(jobs: Jobs, url: str) -> JobRecord:
    jobs.store = JobStore(jobs.server.url, jobs.folder / "store", JobLimits(callback_hosts=frozenset({"127.0.0.1"})))
    return jobs.submit({**TINY, "callback_url": url}, csv_of(3))


def test_a_webhook_tells_the_end_signed_and_again_until_it_is_heard(
    jobs: Jobs, hook: tuple[str, list[tuple[dict[str, str], bytes]]]
) -> None:
    url, calls = hook
    allowed = {"MILLRACE_JOBS_CALLBACK_HOSTS": "127.0.0.1", "MILLRACE_JOBS_CALLBACK_PRIVATE": "true"}
    jobs.start(MILLRACE_JOBS_CALLBACK_SECRET="secret", **allowed)
    job = _told(jobs, url)
    jobs.ended(job.id)
    until(lambda: len(calls) == 2, 30, "the second call")
    headers, body = calls[1]
    assert json.loads(body)["id"] == job.id
    assert json.loads(body)["state"] == "finished"
    signed = headers["X-Millrace-Timestamp"].encode() + b"." + body
    assert headers["X-Millrace-Signature"] == "sha256=" + hmac.new(b"secret", signed, hashlib.sha256).hexdigest()
    until(lambda: "webhook delivered" in [line.text for line in jobs.store.logs(job.id)])


def test_a_webhook_does_not_reach_a_private_address(
    jobs: Jobs, hook: tuple[str, list[tuple[dict[str, str], bytes]]]
) -> None:
    url, calls = hook
    jobs.start(MILLRACE_JOBS_CALLBACK_HOSTS="127.0.0.1")
    job = _told(jobs, url)
    jobs.ended(job.id)
    until(lambda: any("private address" in line.text for line in jobs.store.logs(job.id)), 30, "the refusal")
    assert calls == []


def test_jobs_that_ended_expire_with_their_files_and_others_stay(jobs: Jobs) -> None:
    jobs.start()
    job = jobs.submit(TINY, csv_of(3))
    jobs.ended(job.id)
    jobs.stop()
    waiting = jobs.submit(TINY, csv_of(3))
    expire(jobs.store, 60.0)
    assert jobs.result(job.id)
    with pytest.raises(Conflict):
        jobs.result(waiting.id)
    later = JobStore(jobs.server.url, jobs.store.folder, JobLimits(), clock=lambda: time.time() + 100)
    expire(later, 60.0)
    with pytest.raises(NotFound):
        jobs.store.get(job.id)
    assert jobs.store.get(waiting.id).state == "queued"
    assert len(list((jobs.store.folder / "uploads").iterdir())) == 1
    assert not jobs.store.job_folder(job.id).exists()


@pytest.mark.slow
def test_a_part_whose_file_is_gone_is_made_again(jobs: Jobs) -> None:
    first = jobs.start()
    job = jobs.submit(TINY, csv_of(2000))
    until_rows(jobs, job.id, 300)
    kill_all(first)
    shutil.rmtree(jobs.store.job_folder(job.id) / "parts")
    jobs.start()
    assert is_complete(jobs, jobs.ended(job.id, 60), 2000)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    folder = tmp_path / "store"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_fails_the_job_in_words_and_retry_goes_on_when_there_is_room(jobs: Jobs, small_disk: Path) -> None:
    """The rows come in, and their scores are larger than what is left."""
    job = jobs.submit({**TINY, "part_rows": 5000}, csv_of(40_000))
    (small_disk / "other").write_bytes(bytes(6_700_000))
    with pytest.raises(StorageFull, match="the disk that the files of jobs are on is full"):
        jobs.submit(TINY, csv_of(60_000))
    assert len(list((small_disk / "uploads").iterdir())) == 1
    jobs.start()
    record = jobs.ended(job.id, 60)
    assert (record.state, record.error) == ("failed", "the disk that the files of jobs are on is full")
    (small_disk / "other").unlink()
    jobs.store.retry(job.id)
    record = jobs.ended(job.id, 60)
    assert (record.state, record.error, record.rows_done) == ("finished", "", 40_000)


def test_a_webhook_is_due_whenever_a_job_ends_and_not_when_it_goes_on(jobs: Jobs) -> None:
    job = _told(jobs, "http://127.0.0.1:1/")
    client = jobs.redis_client()
    for state, is_due in (("started", False), ("failed", True)):
        jobs.store.transition(job.id, ("queued", "started"), state)  # type: ignore[arg-type]
        assert bool(client.zscore(CALLS, job.id)) == is_due
    jobs.store.retry(job.id)
    assert client.zscore(CALLS, job.id) is None
    jobs.store.cancel(job.id)
    assert client.zscore(CALLS, job.id)
    jobs.store.delete(job.id)
    assert client.zscore(CALLS, job.id) is None
