"""One unit of a job, from its claim to its outcome, in a process of its own."""

import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence

import msgspec

from jobs import kinds
from jobs.advancing import advance
from jobs.claims import Claim
from jobs.context import Job
from jobs.failures import NoModel
from jobs.kinds.base import Kind
from jobs.ledger import Ledger
from jobs.parts import Outcome, Plan
from jobs.settings import JobsSettings
from millrace.jobs import units
from millrace.jobs.documents import RowsDocument, read_document
from millrace.jobs.keys import JobKeys
from millrace.jobs.room import DISK_FULL, is_disk_full
from millrace.jobs.store import JobStore
from millrace.protocol.errors import InvalidRequest, MillraceError, NotFound, Unavailable
from millrace.protocol.paths import without_paths

_log = logging.getLogger(__name__)
_MOST_DEATHS = 3


class UnitRunner:
    """Runs units. `leave` ends the process at once: what is at work cannot be interrupted otherwise."""

    def __init__(self, store: JobStore, settings: JobsSettings, leave: Callable[[int], None] = os._exit) -> None:
        self._store = store
        self._settings = settings
        self._leave = leave
        self._claim: Claim | None = None
        self._programs: list[subprocess.Popen[bytes]] = []

    def run(self, job: str, unit: str) -> None:
        """Do the unit unless somebody else does, or it is done, or nobody wants it any more."""
        try:
            record = self._store.get(job)
        except NotFound:
            return
        if record.is_final or Ledger(self._store, job).is_done(unit):
            return
        self._start(job)
        context = _context(self._store, self._settings, job)
        self._programs = context.programs
        self._claim = Claim(self._store, units.Unit(job, unit), context.progress, lambda why: self._stop(job, why))
        if not self._claim.take():
            return
        try:
            is_settled = self._attempt(context, unit)
        finally:
            self._claim.release()
        if is_settled and not self._has_ended(job):
            advance(self._store, job)

    def tidy(self, job: str) -> None:
        """Delete what a job that has ended needs no more; nothing of ours works on it now. Raises `Unavailable`."""
        try:
            state = self._store.get(job).state
        except NotFound:
            shutil.rmtree(self._store.job_folder(job), ignore_errors=True)
            return
        if state == "canceled":
            self._store.drop_work(job)
        elif state == "finished":
            shutil.rmtree(self._store.job_folder(job) / "parts", ignore_errors=True)

    def interrupt(self) -> None:
        """Give the unit back to whoever comes next, and end the process."""
        self._end_programs()
        if self._claim:
            self._claim.release()
        self._leave(0)

    def died(self, job: str, unit: str, how: str) -> None:
        """The process that ran the unit has died, and not by our will; the third time, the job fails."""
        deaths = self._store.count_try(job, unit)
        self._store.log(job, f"{unit}: its process ended: {how}")
        self._store.client.delete(JobKeys(job).claim(unit))
        if deaths >= _MOST_DEATHS:
            self._fail(job, f"{unit} ended its process {deaths} times: {how}")
        elif not self._has_ended(job):
            advance(self._store, job)

    def _has_ended(self, job: str) -> bool:
        try:
            return self._store.get(job).is_final
        except NotFound:
            return True

    def _attempt(self, job: Job, unit: str) -> bool:
        """Do the unit; a job whose fault it is fails, and a fault of ours is tried again, as a death is.

        Returns False where Redis was out of reach: the sweeper will see to the unit.
        """
        number = job.record.id
        try:
            self._do(job, unit)
        except Unavailable as error:
            _log.warning("the unit is put back", extra={"job": number, "unit": unit, "reason": str(error)})
            return False
        except NoModel as error:
            return self._wait_on(number, unit, error)
        except MillraceError as error:
            self._fail(number, str(error))
        except MemoryError:
            self._fail(number, "a part needs more memory than it may have (MILLRACE_JOBS_MAX_MEMORY_BYTES)")
        except Exception as error:
            if is_disk_full(error):
                self._fail(number, DISK_FULL)
                return True
            if self._has_ended(number):  # canceled: its files went away under it
                return True
            _log.exception("a unit failed", extra={"job": number, "unit": unit})
            self.died(number, unit, f"{type(error).__name__}: {error}")
        return True

    def _wait_on(self, job: str, unit: str, error: NoModel) -> bool:
        """Have the unit put back, unless it waits too long for its model."""
        if self._store.waited_s(job, unit) <= self._settings.model_wait_s:
            return False
        self._fail(job, str(error))
        return True

    def _do(self, job: Job, unit: str) -> None:
        kind = kinds.find(job.record.kind, self._settings.kinds)
        ledger = Ledger(self._store, job.record.id)
        plan = ledger.plan()
        if unit == units.PLAN:
            if plan is None:
                ledger.write_plan(kind.plan(job))
            return
        if plan is None:  # it was dropped: the job was canceled and retried meanwhile
            return
        if unit == units.JOIN:
            self._join(kind, job, plan, ledger)
            return
        self._store.check_room()
        number = int(unit.rpartition("-")[2])
        outcome = kind.run(job, plan, plan.parts[number])
        errors = ledger.finish(unit, outcome)
        _check_errors(job, errors)

    def _join(self, kind: Kind, job: Job, plan: Plan, ledger: Ledger) -> None:
        done = ledger.done()
        names = [units.part(part.number) for part in plan.parts]
        if any(name not in done for name in names):
            return
        outcomes: Sequence[Outcome] = [done[name] for name in names]
        _check_errors(job, sum(outcome.errors for outcome in outcomes))
        try:
            outputs = kind.join(job, plan, outcomes)
        except FileNotFoundError as error:
            gone = [name for part, name in zip(plan.parts, names, strict=True) if not _has_files(job, part.number)]
            if not gone:
                raise
            job.log(f"files of {len(gone)} parts are gone, they are made again: {error.filename}")
            ledger.forget(gone)
            return
        self._finish(job, outputs.names, outputs.written_to)

    def _start(self, job: str) -> None:
        rows = str(self._store.get(job).rows_done)
        was = self._store.transition(job, ("queued",), "started", started_s=repr(self._store.clock()), rows_before=rows)
        if was == "queued":
            self._store.log(job, "started")

    def _finish(self, job: Job, names: Sequence[str], written_to: str) -> None:
        number = job.record.id
        outputs = str(msgspec.json.encode(list(names)), "utf-8")
        was = self._store.transition(number, ("started",), "finished", outputs=outputs, written_to=written_to)
        if was == "started":
            self._store.log(number, "finished")

    def _fail(self, job: str, error: str) -> None:
        said = without_paths(error)[:4096]
        if self._store.transition(job, ("queued", "started"), "failed", error=said) in ("queued", "started"):
            self._store.log(job, f"failed: {said}")

    def _stop(self, job: str, why: str) -> None:
        """In the thread of the claim: nobody wants the unit any more, at least not from this process."""
        _log.info("a unit is left", extra={"job": job, "reason": why})
        self._end_programs()
        if why == "canceled":
            self._store.drop_work(job)
        elif self._claim:
            self._claim.release()
        self._leave(0)

    def _end_programs(self) -> None:
        for program in self._programs:
            program.kill()


def _context(store: JobStore, settings: JobsSettings, job: str) -> Job:
    record = store.get(job)
    return Job(
        record=record,
        document=read_document(record.document, [record.kind]),
        settings=settings,
        folder=store.job_folder(job),
        upload=store.folder / "uploads" / record.upload if record.upload else None,
        log=lambda text: store.log(job, text),
    )


def _check_errors(job: Job, errors: int) -> None:
    """Raises `InvalidRequest` where more rows were refused than the job allows."""
    document = job.document
    if isinstance(document, RowsDocument) and document.max_errors is not None and errors > document.max_errors:
        raise InvalidRequest(f"{errors} rows were refused, and max_errors is {document.max_errors}")


def _has_files(job: Job, number: int) -> bool:
    return any((job.folder / "parts").glob(f"{number:06d}.*"))
