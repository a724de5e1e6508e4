"""Jobs as processes: a store over a real Redis, jobs programs that a test may kill, and workers for their models."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
import redis

from millrace.jobs.documents import read_document
from millrace.jobs.records import JobRecord
from millrace.jobs.store import JobLimits, JobStore
from tests.support.running import ROOT, RedisServer, ended, our_environment, until

SHOUT = """
from jobs.kinds.base import whole
from jobs.parts import Outcome, Outputs, Part, Plan
from millrace.protocol.errors import InvalidRequest


class Shout:
    name = "shout"

    def plan(self, job):
        if not isinstance(job.document.options.get("mark"), str):
            raise InvalidRequest("options.mark: a text is needed")
        return Plan(parts=(Part(0, 0, 1),), rows=1)

    def run(self, job, plan, part):
        with whole(job.part_path(0, ".txt")) as path:
            path.write_text(job.upload.read_text().upper() + job.document.options["mark"])
        return Outcome(rows=1)

    def join(self, job, plan, outcomes):
        with whole(job.outputs / "loud.txt") as path:
            path.write_text(job.part_path(0, ".txt").read_text())
        return Outputs(names=("loud.txt",))


KIND = Shout()
"""


class HasUrl(Protocol):
    """A Redis, or Sentinels."""

    @property
    def url(self) -> str: ...


@dataclass
class Jobs:
    """A store, and the jobs programs on it. `queue` is the Redis of the models' workers."""

    server: HasUrl
    queue: RedisServer
    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    limits: JobLimits = field(default_factory=JobLimits)
    programs: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = JobStore(self.server.url, self.folder / "store", self.limits)
        self.log = self.folder / "jobs.log"

    def start(self, **settings: str) -> "subprocess.Popen[bytes]":
        """One more jobs program."""
        environment = our_environment() | {
            "MILLRACE_REDIS_URL": self.queue.url,
            "MILLRACE_JOBS_REDIS_URL": self.server.url,
            "MILLRACE_JOBS_FOLDER": str(self.folder / "store"),
            "MILLRACE_JOBS_PART_ROWS": "100",
            **self.settings,
            **settings,
        }
        with self.log.open("ab") as log:
            command = [sys.executable, "-P", "-m", "jobs"]
            program = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        self.programs.append(program)
        return program

    def submit(self, document: dict[str, Any], upload: bytes | None = None, name: str = "rows.csv") -> JobRecord:
        """Submit, with an upload where bytes are given."""
        made = None
        if upload is not None:
            with self.store.upload(name) as writer:
                writer.write(upload)
                made = writer.finish()
        return self.store.submit(read_document(document, self.store.kinds()), upload=made)

    def redis_client(self) -> "redis.Redis":
        return redis.Redis.from_url(self.server.url)

    def ended(self, job: str, timeout_s: float = 30.0) -> JobRecord:
        """The record when the job has ended."""
        until(lambda: self.store.get(job).is_final, timeout_s, f"the end of the job ({self.store.get(job)})")
        return self.store.get(job)

    def result(self, job: str, name: str | None = None) -> bytes:
        return self.store.open_result(job, name).path.read_bytes()

    def stop(self) -> None:
        for program in self.programs:
            program.send_signal(signal.SIGCONT)
            program.terminate()
        for program in self.programs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(5)
            program.kill()
            program.wait()
        self.programs.clear()


def kill_all(program: "subprocess.Popen[bytes]") -> None:
    """SIGKILL to the program and to the process that runs its unit, as when their machine is lost."""
    program.send_signal(signal.SIGSTOP)  # so that it starts no other one meanwhile
    children = psutil.Process(program.pid).children(recursive=True)
    for process in (*children, psutil.Process(program.pid)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    program.wait()
    psutil.wait_procs(children, timeout=30)


@contextlib.contextmanager
def model_worker(redis: RedisServer, models: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker with these models."""
    environment = our_environment() | {"MILLRACE_REDIS_URL": redis.url, "MILLRACE_LOG_LEVEL": "error"}
    command = [sys.executable, "-P", "-m", "worker", "--models", str(models)]
    with ended(subprocess.Popen(command, cwd=ROOT, env=environment)) as worker:
        yield worker


def csv_of(rows: int) -> bytes:
    """Rows of the tiny model: an id, and `x` as a JSON list of three numbers."""
    lines = ["id,x", *(f'{n},"[{n}, {n % 7}, 1]"' for n in range(rows))]
    return ("\n".join(lines) + "\n").encode()
