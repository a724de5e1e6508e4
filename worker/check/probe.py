"""A process that loads one version, measures its runs, finds a request that it answers, and reports.

    python -m worker.check.probe JOB FD

JOB is a `Job` as JSON; what it reports goes to the file descriptor, as JSON lines. A model that ends the process ends
nothing else: whoever started it knows by its last `Phase` what it did.
"""

import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from millrace import logs
from millrace.artifacts import manifest as manifests
from millrace.broker.keys import Queue
from millrace.broker.memory import MemoryBroker
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature
from worker.backends.base import Arrays, Device, LoadError, ends_the_program
from worker.backends.texts import reason_of
from worker.calls.models import QueueModels
from worker.check import requests
from worker.check.report import Job, Phase, Report, Runs
from worker.check.requests import MOST_WRITTEN, Request
from worker.loading import model as models
from worker.loading import warmup_requests
from worker.loading.model import Model
from worker.loading.samples import Subject

_MB = 1_000_000
_SEARCH_S, _RUN_S, _MOST_RUNS = 20.0, 1.0, 5
_LONGEST_RUN_S = 10.0


def main(argv: list[str]) -> int:
    """Report what becomes of the job; the exit status."""
    job, fd = msgspec.json.decode(argv[0], type=Job), int(argv[1])
    os.dup2(2, 1)  # what a model prints is no part of the report
    logs.configure("check", "error")
    with os.fdopen(fd, "wb") as out:

        def tell(message: Phase | Report) -> None:
            out.write(msgspec.json.encode(message) + b"\n")
            out.flush()

        probe(job, tell)
    return 0


def probe(job: Job, tell: Callable[[Phase | Report], None]) -> None:
    """Tell what is done next and what is found of the job's version: once it is loaded, and again when it has run."""
    before, started = _memory("VmRSS"), time.perf_counter()
    tell(Phase("load"))
    try:
        model = models.load(
            Path(job.folder),
            job.name,
            job.version,
            device=Device.named(job.device, job.threads, job.gpu_memory_mb, tf32=job.gpu_tf32),
            backend=job.backend,
            max_batch_size=job.max_batch_size,
            config=job.config,
            # Whom it calls is not there: nothing is asked of a queue that others use.
            models=QueueModels(MemoryBroker(), "check", Queue(job.name, job.version)) if job.allow_code else None,
            not_run=job.not_run,
            before_runs=lambda: tell(Phase("first runs")),
        )
    except BaseException as error:  # as in a worker, where a broken version must not take the others with it
        if ends_the_program(error):
            raise
        why = str(error) if isinstance(error, LoadError) else f"{type(error).__name__}: {error}"
        tell(Report(model=job.name, version=job.version, folder=job.folder, error=why))
        return
    report = Report(
        model=job.name,
        version=job.version,
        folder=job.folder,
        announcement=model.announcement,
        batching=_batching(model, job),
        load_s=time.perf_counter() - started,
        memory_mb=max(0, _memory("VmRSS") - before) / _MB,
    )
    tell(report)
    tell(Phase("a request"))
    request, untried = _found_request(model, job)
    report = msgspec.structs.replace(
        report,
        untried=untried,
        examples=(*requests.of_files(model.announcement, job.url), *requests.examples(request, job.url, job.grpc)),
        unsaid=tuple(requests.unsaid(request)),
    )
    tell(report)
    tell(Phase("a batch"))
    if not untried:
        tell(msgspec.structs.replace(report, runs=tuple(_measured(model, request, before))))


def _batching(model: Model, job: Job) -> str:
    """Whether rows are batched, and why."""
    announced = model.announcement
    if reasons := [note for note in announced.notes if note.startswith(("Requests are not", "Rows run", "Batches"))]:
        return reasons[0]
    manifest = None if job.config and job.config.is_alone else manifests.read(Path(job.folder))
    if manifest and (manifest.batching or manifest.signatures):
        return f"Rows are batched, up to {announced.max_batch_size}: the manifest says so."
    if job.config and job.config.max_batch_size:
        return f"Rows are batched, up to {announced.max_batch_size}: config.pbtxt says so."
    return (
        f"Rows are batched, up to {announced.max_batch_size}: a trial showed that they do not depend on one another."
        if announced.max_batch_size
        else "Requests are not batched."
    )


# A request that the model answers


def _found_request(model: Model, job: Job) -> tuple[Request, str]:
    """The first likely request that the model answers; else one that it may answer, and why that is not known."""
    signatures = model.announcement.signatures
    name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else next(iter(signatures))
    last: Request | None = None
    failed = job.not_run
    ends = time.monotonic() + _SEARCH_S
    for inputs in itertools.chain(_given(model, job, name), _likely(model, signatures[name])):
        last = _request(model, name, inputs)
        if job.not_run or time.monotonic() > ends:
            break
        try:
            _answered(model, name, inputs)
        except Exception as error:  # whatever the model raises
            failed = failed or f"the model refused it: {reason_of(error)}"
        else:
            return last, ""
    return last or _request(model, name, {}), failed or "none was found that is small enough to try"


def _given(model: Model, job: Job, name: str) -> Iterator[Arrays]:
    """The first row of the example in the manifest, where it is short enough to be written."""
    manifest = None if job.config and job.config.is_alone else manifests.read(Path(job.folder))
    if manifest and manifest.example and model.announcement.max_batch_size:
        try:
            signature, inputs = warmup_requests.example(manifest)
        except (ValueError, KeyError, TypeError):  # the notes say so
            return
        if signature == name and all(array[:1].size <= MOST_WRITTEN for array in inputs.values()):
            yield {input_name: array[:1] for input_name, array in inputs.items()}


def _likely(model: Model, signature: Signature) -> Iterator[Arrays]:
    """Inputs as callers send them, from the likeliest on."""
    subject = Subject(signature=signature, preparation=model.preparation, axes=model.axes)
    batches = model.announcement.max_batch_size > 0
    for guess in subject.guesses(has_rows=batches):
        for inputs in [subject.rows(guess, 1)[0]] if batches else [subject.whole(guess, 1), subject.whole(guess, 3)]:
            yield {name: _writable(array) for name, array in inputs.items()}


def _writable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values as a request can show them: in quarters, or all alike where they are many."""
    if array.size > MOST_WRITTEN:
        value: Any = array.flat[0] if array.dtype.kind == "O" else 0
        return np.full(array.shape, value, array.dtype)
    return (array * 4).round() / 4 + 0 if array.dtype.kind == "f" else array


def _request(model: Model, name: str, inputs: Arrays) -> Request:
    specs = model.announcement.signatures[name].inputs
    return Request(
        model=model.announcement.name,
        signature=name,
        inputs=inputs,
        datatypes={spec.name: spec.datatype for spec in specs},
        is_batched=model.announcement.max_batch_size > 0,
    )


def _answered(model: Model, name: str, inputs: Mapping[str, npt.NDArray[Any]], rows: int = 1) -> Arrays:
    """The answer to the request, or to so many like it in one batch."""
    if not model.announcement.max_batch_size:
        whole = model.preparation.before({name: array[np.newaxis] for name, array in inputs.items()})
        return model.run(name, whole, 1)
    row = model.preparation.before(dict(inputs))
    return model.run(name, model.joined([row] * rows), rows)


# What runs cost


def _measured(model: Model, request: Request, before: int) -> Iterator[Runs]:
    """The cost of batches of one row, of eight, and of the most; no more than take some seconds."""
    largest = model.announcement.max_batch_size
    last_rows, last_s = 1, 0.0
    for rows in sorted({1, min(8, largest or 1), largest or 1}):
        if last_s * rows / last_rows > _LONGEST_RUN_S:
            return
        _forget_peak()
        took: list[float] = []
        while len(took) < _MOST_RUNS and sum(took) < _RUN_S:
            started = time.perf_counter()
            try:
                _answered(model, request.signature, request.inputs, rows)
            except Exception:  # too large a batch, perhaps; the first runs have said so in the notes
                return
            took.append(time.perf_counter() - started)
        last_rows, last_s = rows, min(took)
        memory = max(0, _memory("VmHWM") - before) / _MB
        yield Runs(rows=rows, ms=round(last_s * 1000, 3), memory_mb=round(memory, 1))


def _memory(field: str) -> int:
    """Bytes of this process, as the kernel counts them; 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _forget_peak() -> None:
    """Let the most memory that was had be counted from now on, where that can be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
