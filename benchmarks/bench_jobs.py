"""What a background job does alone, beside callers, and to them: on one stack, in one run, in turns.

    make bench-jobs                                              # about four minutes; results in .runs/bench-jobs/
    make bench-jobs ARGS="--rounds 1 --seconds 4 --rows 30000"   # a quick look

`millrace up` serves the small CNN of `make bench`, as shipped, with one jobs program. In each round, in turn:

- a job scores a file of images, alone: rows per second from its start to its end, planning and joining included, and
  between the first rows and the last that it reported;
- full batches are put on the queue as fast as the workers take them, by a loop that only counts: what workers can do;
- a loop over the client sends the same images, a batch in each request;
- ONNX Runtime runs the same batches in this process, on all cores;
- callers ask as fast as they get answers: their capacity; then at 70 % of it in an open loop, without a job and beside
  one, twice in turns. A request's latency counts from when it was due.

What is left beside callers is the processors' idle time while they ask without a job: that share of what the workers do
on full batches. It is less than 30 %, for at less than their capacity callers' batches are smaller, and each request
costs more. Exits with 1 where a job failed, or a caller got a wrong answer or an error; a missed target does not matter
to it.
"""

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from millrace_client import Client
from millrace_client.jobs import Job

from benchmarks import cnn, load
from benchmarks.feeder import full_batches
from benchmarks.forms import FORMS
from benchmarks.load import Outcome, Target
from benchmarks.servers import Entry, Server
from millrace import provenance

HERE = Path(__file__).parent
_BATCH, _CONNECTIONS, _LOAD = 32, 32, 0.7
_DISTINCT = 64
_START = (
    "{redis_server} --port {redis} --bind 127.0.0.1 --save ''",
    "sh -c 'mkdir -p $RUN/models/cnn/1 $RUN/jobs && cp $MODEL $RUN/models/cnn/1/model.onnx && "
    "MILLRACE_JOBS_FOLDER=$RUN/jobs exec millrace up --port {port} --grpc-port {port2} --models $RUN/models --jobs 1'",
)
TARGETS = {
    "alone": ("a job alone, of what the workers do on full batches", 0.9),
    "share": (f"a job beside callers at {_LOAD:.0%}, of what is left", 0.8),
    "p99": ("callers' p99 beside a job, to that without one", 1.2),
}
Figures = dict[str, float]


def main(argv: list[str] | None = None) -> int:
    """Measure, write, print."""
    options = _arguments(argv)
    stamp = provenance.stamp()
    rounds: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="bench-jobs-") as folder:
        model, file = Path(folder) / "cnn.onnx", Path(folder) / "images.npy"
        cnn.write(model)
        images, expected = cnn.distinct_images(model, _DISTINCT)
        _write(file, images, options.rows)
        with Server(_entry(folder), model) as server:
            server.wait_ready(images[:1])
            bench = Bench(server, model, file, images, expected, options.seconds)
            bench.warm_up()
            for number in range(options.rounds):
                rounds.append(bench.round())
                _say(f"round {number + 1}: " + ", ".join(f"{name} {value:,.2f}" for name, value in rounds[-1].items()))
    data = {"machine": stamp, "rows": options.rows, "seconds": options.seconds, "rounds": rounds}
    data |= {"medians": _medians(rounds), "first_rows_s": bench.first_rows_s, "faults": bench.faults}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "jobs.json").write_text(json.dumps(data, indent=2) + "\n")
    (options.out / "jobs.md").write_text(_markdown(data))
    print(_markdown(data))
    return 1 if bench.faults else 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_jobs", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often all is measured (%(default)s)")
    parser.add_argument("--seconds", type=float, default=8, help="for one figure of one round (%(default)s)")
    parser.add_argument("--rows", type=int, default=250_000, help="of the file that a job scores (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path(".runs/bench-jobs"), help="the folder for the results (%(default)s)"
    )
    return parser.parse_args(argv)


def _entry(root: str) -> Entry:
    code = {"PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE.parent / 'client'}"}  # this checkout's, installed or not
    return Entry(
        name="jobs",
        folder=HERE.parent,
        programs=Path(sys.prefix) / "bin",
        start=list(_START),
        env=code | {"MILLRACE_REDIS_URL": "redis://127.0.0.1:{redis}/0", "MILLRACE_JOBS_ROOT": root},
        requests=[{"kind": "v2 binary", "url": "http://127.0.0.1:{port}/v2/models/cnn/infer"}],
    )


class Bench:
    """Everything that is measured on one stack. `faults` are what went wrong, in words."""

    def __init__(self, server: Server, model: Path, file: Path, images: Any, expected: Any, seconds: float) -> None:
        self.faults: list[str] = []
        self.first_rows_s = 0.0
        self._url = server.url({"url": "http://127.0.0.1:{port}"})
        self._redis = server.url({"url": "redis://127.0.0.1:{redis}/0"})
        self._client = Client(self._url)
        self._model = model
        self._file = file
        self._images = images
        self._seconds = seconds
        form = FORMS["v2 binary"]
        self._target = Target(
            url=f"{self._url}/v2/models/cnn/infer", form=form, items=list(images[:, None]), expected=expected
        )

    def warm_up(self) -> None:
        """Everything once, shortly. The first job has the worker load the model a second time."""
        self._callers(1.0)
        began = time.perf_counter()
        first = self._running()
        self.first_rows_s = time.perf_counter() - began
        first.delete()
        asyncio.run(full_batches(self._redis, self._batch(), 1.0))

    def round(self) -> Figures:
        """All figures once."""
        job = self._submit()
        steady = _steady(job)
        job_rows = self._rate_of(job.wait())
        job.delete()
        full = asyncio.run(full_batches(self._redis, self._batch(), self._seconds))
        figures = {
            "job": job_rows,
            "steady": steady,
            "full": full,
            "client": self._client_loop(),
            "onnxruntime": self._onnxruntime(),
        }
        capacity = self._callers(self._seconds)
        figures["capacity"] = capacity.requests / capacity.seconds
        figures |= self._beside(_LOAD * figures["capacity"])
        return figures | {
            "alone_ratio": job_rows / full,
            "steady_ratio": steady / full,
            "p99_ratio": figures["p99_beside_ms"] / figures["p99_ms"],
            "share": figures["job_beside"] / (figures["left"] * full),
        }

    def _beside(self, per_s: float) -> Figures:
        without, beside, rates, left = [], [], [], []
        for _ in range(2):
            busy, idle = _processor_times()
            without.append(self._callers(self._seconds, per_s))
            busy, idle = (now - then for now, then in zip(_processor_times(), (busy, idle), strict=True))
            left.append(idle / (busy + idle))
            job = self._running()
            before, began = job.refresh().rows_done, time.perf_counter()
            beside.append(self._callers(self._seconds, per_s))
            rates.append((job.refresh().rows_done - before) / (time.perf_counter() - began))
            job.delete()
        return {
            "p50_ms": statistics.mean(each.p50_ms for each in without),
            "p99_ms": statistics.mean(each.p99_ms for each in without),
            "p50_beside_ms": statistics.mean(each.p50_ms for each in beside),
            "p99_beside_ms": statistics.mean(each.p99_ms for each in beside),
            "job_beside": statistics.mean(rates),
            "left": statistics.mean(left),
        }

    def _callers(self, seconds: float, per_s: float | None = None) -> Outcome:
        outcome = asyncio.run(load.generate(self._target, connections=_CONNECTIONS, seconds=seconds, per_s=per_s))
        if outcome.errors or outcome.wrong:
            self.faults.append(f"callers: {outcome.errors} errors, {outcome.wrong} wrong: {outcome.faults[:1]}")
        return outcome

    def _submit(self) -> Job:
        return self._client.jobs.score("cnn", input=self._file.name, output_format="npz")

    def _running(self) -> Job:
        """A job whose rows are on their way; it has more of them than the callers' time allows."""
        job = self._submit()
        for status in job.progress():
            if status.rows_done:
                return job
        self.faults.append(f"a job ended too soon: {job.status.state} {job.status.error}")
        return job

    def _rate_of(self, status: Any) -> float:
        if status.errors or status.rows_done != status.rows:
            self.faults.append(f"a job: {status}")
        took = datetime.fromisoformat(status.ended) - datetime.fromisoformat(status.started)
        return float(status.rows / took.total_seconds())

    def _batch(self) -> Any:
        return self._images[:_BATCH]

    def _client_loop(self) -> float:
        done, ends = 0, time.perf_counter() + self._seconds
        began = time.perf_counter()
        while time.perf_counter() < ends:
            self._client.predict("cnn", {"image": self._batch()})
            done += _BATCH
        return done / (time.perf_counter() - began)

    def _onnxruntime(self) -> float:
        session, batch, done = cnn.session(self._model, threads=0), self._batch(), 0
        began = time.perf_counter()
        while time.perf_counter() - began < self._seconds:
            session.run(None, {"image": batch})
            done += _BATCH
        return done / (time.perf_counter() - began)


def _steady(job: Job) -> float:
    """Rows per second between the first and the last report of a job that has rows done, and has not ended."""
    seen = []
    for status in job.progress():
        if 0 < status.rows_done < (status.rows or 0):
            seen.append((time.perf_counter(), status.rows_done))
    (began, first), (ended, last) = seen[0], seen[-1]
    return (last - first) / (ended - began)


def _processor_times() -> tuple[float, float]:
    """The seconds that all processors of the machine were busy, and those that they were idle."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    return sum(times) - idle, idle


def _write(file: Path, images: Any, rows: int) -> None:
    """The images again and again, so many in all."""
    array = np.lib.format.open_memmap(file, "w+", images.dtype, (rows, *images.shape[1:]))
    for first in range(0, rows, len(images)):
        array[first : first + len(images)] = images[: rows - first]
    array.flush()


def _medians(rounds: list[Figures]) -> Figures:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def _markdown(data: dict[str, Any]) -> str:
    of, stamp = data["medians"], data["machine"]
    measured = {"alone": of["alone_ratio"], "share": of["share"], "p99": of["p99_ratio"]}
    rows = [
        ("the first job, until its first rows: the model is loaded once more", f"{data['first_rows_s']:.1f} s"),
        ("a job alone, from start to end", f"{of['job']:,.0f} rows/s"),
        ("between its first and last report", f"{of['steady']:,.0f} rows/s, {of['steady_ratio']:.2f} of full batches"),
        ("the workers on full batches", f"{of['full']:,.0f} rows/s"),
        (f"a loop over the client, {_BATCH} rows a request", f"{of['client']:,.0f} rows/s"),
        ("ONNX Runtime in one process, all cores", f"{of['onnxruntime']:,.0f} rows/s"),
        (f"callers' capacity, {_CONNECTIONS} connections", f"{of['capacity']:,.0f} requests/s"),
        (f"callers at {_LOAD:.0%}: p50, p99", f"{of['p50_ms']:.1f}, {of['p99_ms']:.1f} ms"),
        ("processor time that they leave idle", f"{of['left']:.0%}"),
        ("callers beside a job: p50, p99", f"{of['p50_beside_ms']:.1f}, {of['p99_beside_ms']:.1f} ms"),
        ("the job beside them", f"{of['job_beside']:,.0f} rows/s"),
    ]
    lines = [
        "# Background jobs beside callers",
        "",
        f"`{stamp['command']}`, commit {stamp['commit']}, {stamp['date']}, {stamp['cpu']}, {stamp['cores']} cores, "
        f"{stamp['kernel']}, Python {stamp['python']}. Medians of {len(data['rounds'])} rounds.",
        "",
        *("| target | | measured |", "| --- | --- | ---: |"),
        *(
            f"| {text} | {'≤' if name == 'p99' else '≥'} {limit} | {measured[name]:.2f} |"
            for name, (text, limit) in TARGETS.items()
        ),
        "",
        *("| | |", "| --- | ---: |"),
        *(f"| {text} | {figure} |" for text, figure in rows),
        *itertools.chain.from_iterable(("", f"Fault: {fault}") for fault in data["faults"]),
    ]
    return "\n".join(lines) + "\n"


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
