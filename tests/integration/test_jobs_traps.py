"""What RQ alone would lose or keep for ever, provoked: a death or a stop at any moment, and what RQ calls abandoned."""

import contextlib
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from rq import Queue
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from jobs.program import UnitJob
from millrace.jobs import units
from millrace.jobs.keys import RQ_QUEUE
from millrace.jobs.records import JobRecord
from tests.support.jobs import SHOUT, Jobs, csv_of, kill_all, model_worker
from tests.support.running import RedisServer, until

SHOUTED = {"kind": "shout", "options": {"mark": "!"}}
TINY = {"kind": "score", "model": "tiny", "column": "x"}
TAKEN_OVER_S = 10.0
Program = subprocess.Popen[bytes]


@pytest.fixture
def jobs(redis_server: RedisServer, tmp_path: Path) -> Iterator[Jobs]:
    """Jobs with a kind that needs no model."""
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "shout.py").write_text(SHOUT)
    made = Jobs(redis_server, redis_server, tmp_path, {"MILLRACE_JOBS_KINDS": str(tmp_path / "kinds")})
    yield made
    made.stop()


def started(jobs: Jobs) -> Program:
    program = jobs.start()
    until(lambda: "shout" in jobs.store.kinds(), what="the jobs program")
    until(lambda: jobs.redis_client().scard(f"rq:workers:{RQ_QUEUE}"), what="RQ's worker")
    return program


def stopped_between(jobs: Jobs, program: Program) -> JobRecord:
    """A job whose unit this program has taken and not started: the program stands still there (SIGSTOP)."""
    client = jobs.redis_client()
    for _ in range(200):
        job = jobs.submit(SHOUTED, b"hey")
        while not client.llen(units.INTERMEDIATE_KEY) and jobs.store.get(job.id).state == "queued":
            pass  # the moment is short
        program.send_signal(signal.SIGSTOP)
        if client.llen(units.INTERMEDIATE_KEY) and not psutil.Process(program.pid).children():
            return job
        program.send_signal(signal.SIGCONT)
        jobs.ended(job.id)
    raise AssertionError("the program could not be stopped between taking a unit and starting it")


def goes_on(jobs: Jobs, job: JobRecord, since: float) -> bool:
    record = jobs.ended(job.id, 30)
    assert (record.state, record.error) == ("finished", "")
    assert time.monotonic() - since < TAKEN_OVER_S
    assert jobs.result(job.id) == b"HEY!"
    assert jobs.redis_client().llen(units.INTERMEDIATE_KEY) == 0
    return True


@pytest.mark.slow
def test_a_unit_whose_program_is_killed_between_taking_and_starting_it_goes_on(jobs: Jobs) -> None:
    program = started(jobs)
    job = stopped_between(jobs, program)
    kill_all(program)
    killed_at = time.monotonic()
    jobs.start()
    assert goes_on(jobs, job, killed_at)


@pytest.mark.slow
def test_a_unit_whose_program_is_told_to_stop_between_taking_and_starting_it_goes_on(jobs: Jobs) -> None:
    program = started(jobs)
    job = stopped_between(jobs, program)
    program.terminate()
    program.send_signal(signal.SIGCONT)
    assert program.wait(TAKEN_OVER_S) == 0
    told_at = time.monotonic()
    jobs.start()
    assert goes_on(jobs, job, told_at)


def registries(jobs: Jobs) -> tuple[StartedJobRegistry, FailedJobRegistry]:
    queue = Queue(RQ_QUEUE, connection=jobs.redis_client(), serializer=JSONSerializer, job_class=UnitJob)
    return StartedJobRegistry(queue=queue, job_class=UnitJob), FailedJobRegistry(queue=queue, job_class=UnitJob)


_WRITES = "        with whole(job.part_path"
_WAITS = "        while not (job.folder / 'go').exists():\n            pass\n"
SLOW = SHOUT.replace("shout", "slow").replace(_WRITES, _WAITS + _WRITES)


def test_a_unit_that_rq_calls_abandoned_goes_on_and_rq_forgets_it_in_an_hour(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "kinds" / "slow.py").write_text(SLOW)
    program = started(jobs)
    job = jobs.submit({**SHOUTED, "kind": "slow"}, b"hey")
    client = jobs.redis_client()
    until(lambda: client.exists(f"millrace:job:{job.id}:claim:part-0"), what="the part to be at work")
    kill_all(program)
    began, failed = registries(jobs)
    assert began.get_job_ids(cleanup=False)
    began.cleanup(timestamp=time.time() + 10_000)  # what RQ's maintenance does when the heartbeat is too old
    (abandoned,) = failed.get_job_ids()
    assert 0 < client.ttl(f"rq:job:{abandoned}") <= 3600
    forgotten_at = client.zscore(failed.key, abandoned)
    assert forgotten_at is not None
    assert forgotten_at <= time.time() + 3600
    assert jobs.store.get(job.id).state == "started"
    jobs.store.job_folder(job.id).mkdir(parents=True)
    (jobs.store.job_folder(job.id) / "go").touch()
    killed_at = time.monotonic()
    jobs.start()
    assert goes_on(jobs, job, killed_at)
    failed.cleanup(timestamp=time.time() + 4000)
    assert failed.get_job_ids() == []


def test_rq_keeps_nothing_of_units_that_are_done(jobs: Jobs) -> None:
    started(jobs)
    assert jobs.ended(jobs.submit(SHOUTED, b"hey").id).state == "finished"
    client = jobs.redis_client()
    until(lambda: not client.keys("rq:job:*") and not client.keys("rq:results:*"), 10, "the end of RQ's records")
    began, failed = registries(jobs)
    assert began.get_job_ids() == failed.get_job_ids() == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_programs_that_are_killed_at_random_moments_cost_no_row_and_change_no_byte(
    redis_server: RedisServer, own_redis: RedisServer, make_onnx: Callable[..., Path], tmp_path: Path, seed: int
) -> None:
    """Two programs; every second or so one of them is lost with all its processes, or without the one at work."""
    make_onnx(tmp_path / "models")
    moments = random.Random(seed)
    jobs = Jobs(redis_server, own_redis, tmp_path, {"MILLRACE_JOBS_PART_ROWS": "400"})
    try:
        with model_worker(own_redis, tmp_path / "models"):
            jobs.start()
            undisturbed = jobs.submit(TINY, csv_of(20_000))
            assert jobs.ended(undisturbed.id, 120).error == ""
            jobs.start()
            job = jobs.submit(TINY, csv_of(20_000))
            kills = 0
            while not jobs.store.get(job.id).is_final and kills < 12:
                with contextlib.suppress(AssertionError):  # it ended meanwhile, or a moment has passed
                    until(lambda: jobs.store.get(job.id).is_final, moments.uniform(0, 0.8))
                victim = jobs.programs.pop(moments.randrange(len(jobs.programs)))
                kill_all(victim) if moments.random() < 0.7 else victim.kill()
                victim.wait()
                kills += 1
                jobs.start()
            done = jobs.store.get(job.id).rows_done
            seen_at = time.monotonic()
            until(lambda: jobs.store.get(job.id).rows_done > done or jobs.store.get(job.id).is_final, 30)
            assert time.monotonic() - seen_at < TAKEN_OVER_S
            record = jobs.ended(job.id, 180)
            assert (record.state, record.error, record.rows_done, record.errors) == ("finished", "", 20_000, 0)
            assert kills >= 3
            assert jobs.result(job.id) == jobs.result(undisturbed.id)
    finally:
        jobs.stop()


_LINGERS = """
from jobs.kinds.base import whole
from jobs.parts import Outcome, Outputs, Part, Plan


def linger(job, step):
    with whole(job.outputs / f"{step}.txt") as path:
        path.write_text("partial")
    with whole(job.part_path(0, ".txt")) as path:
        path.write_text("partial")
    while job.document.options["step"] == step:
        job.outputs.mkdir(parents=True, exist_ok=True)
        (job.outputs / ".half").write_text("partial")


class Lingers:
    name = "lingers"

    def plan(self, job):
        linger(job, "plan")
        return Plan(parts=(Part(0, 0, 1),), rows=1)

    def run(self, job, plan, part):
        linger(job, "run")
        return Outcome(rows=1)

    def join(self, job, plan, outcomes):
        linger(job, "join")
        return Outputs(names=("join.txt",))


KIND = Lingers()
"""


def test_cancel_ends_planning_work_and_joining_and_leaves_nothing(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "kinds" / "lingers.py").write_text(_LINGERS)
    program = started(jobs)
    for step in ("plan", "run", "join"):
        job = jobs.submit({"kind": "lingers", "options": {"step": step}}, b"hey")
        half = jobs.store.job_folder(job.id) / "outputs" / ".half"
        until(half.exists, what=f"the job to {step}")
        (horse,) = psutil.Process(program.pid).children()
        jobs.store.cancel(job.id)
        canceled_at = time.monotonic()
        until(lambda: not horse.is_running() or horse.status() == psutil.STATUS_ZOMBIE, 10)  # noqa: B023
        assert time.monotonic() - canceled_at < 1
        until(lambda: not list(half.parent.parent.glob("*/*")), 5, "the end of what it wrote")  # noqa: B023
        assert jobs.store.get(job.id).state == "canceled"
    assert jobs.ended(jobs.submit(SHOUTED, b"hey").id).state == "finished"
