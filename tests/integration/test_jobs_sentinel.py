"""Jobs whose Redis has a replica and Sentinels: a master that dies, or steps down, is followed without a restart."""

from pathlib import Path

import pytest

from millrace.jobs.documents import read_document
from millrace.jobs.store import JobLimits, JobStore
from millrace.protocol.errors import Unavailable
from tests.support.jobs import SHOUT, Jobs
from tests.support.running import RedisServer, until
from tests.support.topologies import Watched

SCORE = {"kind": "score", "model": "m", "input": "a.csv"}


def _submitted(store: JobStore) -> bool:
    try:
        store.submit(read_document(SCORE), id="after")
    except Unavailable:
        return False
    return True


def _submit_before(watched: Watched, store: JobStore) -> None:
    """Submit a job, and wait until the replica has it."""
    store.submit(read_document(SCORE), id="before")
    with watched.nodes[1].client() as replica:
        until(lambda: replica.exists("millrace:job:before"), what="the replica to have the job")


@pytest.mark.slow
def test_the_store_and_the_jobs_program_follow_a_master_that_dies(
    watched: Watched, redis_server: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "shout.py").write_text(SHOUT)
    jobs = Jobs(watched, redis_server, tmp_path, {"MILLRACE_JOBS_KINDS": str(tmp_path / "kinds")})
    try:
        program = jobs.start()
        until(lambda: "shout" in jobs.store.kinds(), what="the jobs program")
        _submit_before(watched, jobs.store)
        watched.nodes[0].kill()
        until(lambda: _submitted(jobs.store), 30, "the new master")
        assert {record.id for record in jobs.store.list()} == {"before", "after"}
        job = jobs.submit({"kind": "shout", "options": {"mark": "!"}}, b"hey")
        assert jobs.ended(job.id, 60).outputs == ("loud.txt",)
        assert program.poll() is None
    finally:
        jobs.stop()


@pytest.mark.slow
def test_a_master_that_steps_down_is_followed(watched: Watched, tmp_path: Path) -> None:
    store = JobStore(watched.url, tmp_path, JobLimits())
    _submit_before(watched, store)
    watched.sentinels[0].ask("SENTINEL", "FAILOVER", "mill")
    with watched.nodes[1].client() as replica:
        until(lambda: replica.info("replication")["role"] == "master", what="the replica to be master")
    # What the Sentinels do after ten seconds, but for closing our connections: the next write finds it read-only.
    watched.nodes[0].ask("REPLICAOF", "127.0.0.1", watched.nodes[1].port)
    until(lambda: _submitted(store), 10, "the new master")
    assert {record.id for record in store.list()} == {"before", "after"}
