"""An RQ worker that runs our units and nothing else, whatever somebody writes into Redis.

RQ forks a process for each unit. A unit's RQ job says which function to run: it is looked up in a list of one, so that
nothing is imported because Redis says so; callbacks, webhooks, retries and repeats of RQ's are taken off each job. The
serializer is JSON: nothing is unpickled.
"""

import contextlib
import importlib
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import redis
from rq import Queue, Worker
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer

from jobs.memory import limit_memory
from jobs.settings import JobsSettings
from jobs.sweeper import Sweeper
from jobs.units import UnitRunner
from jobs.webhooks import Webhooks
from millrace import yielding
from millrace.jobs import units
from millrace.jobs.keys import RQ_QUEUE
from millrace.jobs.store import open_store
from millrace.protocol.errors import Unavailable

_log = logging.getLogger(__name__)
_AGAIN_S = 1.0
_WORKER_TTL_S = 30  # also bounds how long RQ waits for a Redis that says nothing: 5 s less
_TELL_EVERY_S, _MOST_TELLINGS = 0.25, 20
_functions: dict[str, Callable[..., None]] = {}


class UnitJob(Job):
    """RQ's job, of which only the name of an allowed function and its two texts are believed."""

    @property
    def func(self) -> Callable[..., None]:
        """The function. Raises `ValueError` for any other name than ours."""
        try:
            return _functions[self.func_name or ""]
        except KeyError:
            raise ValueError(f"{self.func_name!r} is no function of jobs") from None

    def restore(self, raw_data: Any) -> Any:
        """See `Job`; what names other code or other hosts is left out."""
        kept = {name: value for name, value in raw_data.items() if _text(name) in _BELIEVED}
        super().restore(kept)

    def _deserialize_data(self) -> None:
        super()._deserialize_data()  # type: ignore[no-untyped-call]
        self._instance, self._kwargs = None, {}


_BELIEVED = {
    *("data", "created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat", "origin", "description"),
    *("worker_name", "status", "timeout", "result_ttl", "failure_ttl"),
}


class UnitWorker(Worker):
    """RQ's worker. Told to stop, it gives the unit at work back at once; others go on with it."""

    job_class = UnitJob
    runner: UnitRunner
    is_told = False  # to stop; for all workers of this process
    _is_dequeuing = False

    def request_stop(self, _signum: int | None, _frame: FrameType | None) -> None:
        """See `Worker`, which would let a unit run to its end, and some stops be lost."""
        UnitWorker.is_told = self._stop_requested = True
        if self.horse_pid:
            threading.Thread(target=self._end_horse, args=(self.horse_pid,), daemon=True).start()
        elif self._is_dequeuing:
            raise StopRequested

    def dequeue_job_and_maintain_ttl(self, *arguments: Any, **options: Any) -> Any:
        """See `Worker`; a stop that came before is not forgotten while it waits."""
        self._is_dequeuing = True
        try:
            if self._stop_requested:
                raise StopRequested
            return super().dequeue_job_and_maintain_ttl(*arguments, **options)
        finally:
            self._is_dequeuing = False

    def execute_job(self, job: Job, queue: Queue) -> None:
        """See `Worker`; afterwards nothing of a job that was canceled meanwhile is left."""
        super().execute_job(job, queue)
        if found := units.unit_of(job.id):
            try:
                self.runner.tidy(found.job)
            except Unavailable as error:
                _log.warning("a job could not be tidied", extra={"job": found.job, "reason": str(error)})

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """See `Worker`; a stop that came before ends this process too."""
        super().fork_work_horse(job, queue)
        if self._stop_requested and self.horse_pid:
            threading.Thread(target=self._end_horse, args=(self.horse_pid,), daemon=True).start()

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """See `Worker`, which would end our own group of processes before the new process has left it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.horse_pid, sig)

    def _end_horse(self, pid: int) -> None:
        """Tell the process to give its unit back until it has: it may not listen yet."""
        for attempt in range(_MOST_TELLINGS):
            if self.horse_pid != pid:
                return
            self.kill_horse(signal.SIGTERM if attempt < _MOST_TELLINGS - 1 else signal.SIGKILL)
            time.sleep(_TELL_EVERY_S)

    def perform_job(self, job: Job, queue: Queue) -> bool:
        """See `Worker`, which says nothing of its own errors here."""
        try:
            return super().perform_job(job, queue)
        except Exception:
            _log.exception("a unit could not be run", extra={"unit": job.id})
            raise

    def setup_work_horse_signals(self) -> None:
        """See `Worker`."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._leave)

    def handle_work_horse_killed(self, job: Job, _pid: Any, status: Any, _usage: Any) -> None:
        """See `Worker`: the unit goes on at once, in another process."""
        found = units.unit_of(job.id)
        if found:
            self.runner.died(found.job, found.name, _how(status))

    def _leave(self, _number: int, _frame: FrameType | None) -> None:
        # In a thread: the main thread may hold any lock now.
        threading.Thread(target=self.runner.interrupt).start()


class Program:
    """One jobs program: the worker, and beside it the threads that look after jobs of whoever died."""

    def __init__(self, settings: JobsSettings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._worker: UnitWorker | None = None
        _functions[units.FUNCTION] = self._run_unit

    def run(self) -> None:
        """Work until told to stop."""
        importlib.import_module("jobs.scoring")  # pyarrow among it, which survives a fork: not again for each unit
        store = open_store(self._settings)
        threads: list[Sweeper | Webhooks] = [Sweeper(store, self._settings), Webhooks(store, self._settings)]
        running = [threading.Thread(target=each.run, args=(self._stopping,), daemon=True) for each in threads]
        for thread in running:
            thread.start()
        while not UnitWorker.is_told:
            try:
                self._work()
            except (redis.RedisError, OSError) as error:
                _log.warning("the jobs' Redis does not answer", extra={"reason": str(error)})
            if not UnitWorker.is_told:
                time.sleep(_AGAIN_S)
        self._stopping.set()

    def _work(self) -> None:
        store = open_store(self._settings)
        queue = Queue(RQ_QUEUE, connection=store.client, serializer=JSONSerializer, job_class=UnitJob)
        name = f"jobs-{os.getpid()}-{random.randrange(2**32):08x}"  # noqa: S311  # no secret
        options: dict[str, Any] = {"serializer": JSONSerializer, "job_class": UnitJob, "worker_ttl": _WORKER_TTL_S}
        worker = UnitWorker([queue], name=name, connection=store.client, **options)
        worker.runner = UnitRunner(store, self._settings)
        self._worker = worker
        worker.work(logging_level="WARNING", with_scheduler=False)

    def _run_unit(self, job: str, unit: str) -> None:
        """What RQ calls, in the process that it forked: with connections of its own, and a bound on its memory."""
        if self._settings.gives_way:
            yielding.give_way()
        limit_memory(self._settings.max_memory_bytes)
        worker = self._worker
        runner = UnitRunner(open_store(self._settings), self._settings)
        if worker:
            worker.runner = runner
        runner.run(str(job), str(unit))


def _text(name: bytes | str) -> str:
    return str(name, "utf-8") if isinstance(name, bytes) else name


def _how(status: int | None) -> str:
    """What ended a process, in words."""
    if status is not None and os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"status {os.waitstatus_to_exitcode(status)}" if status is not None else "unknown"
