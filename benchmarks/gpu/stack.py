"""The whole stack on the device: a Redis, API processes, a worker, and load on them whose every answer is checked."""

import asyncio
import contextlib
import http.client
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import load
from benchmarks.forms import Floats, Form, Refused, ask
from benchmarks.gpu import machine
from benchmarks.load import Outcome, Target
from benchmarks.servers import free_port
from ops import embedded_redis
from worker.backends.base import Arrays

_START_S, _PAUSE_S = 240.0, 0.1
_HEAD_LENGTH = "Inference-Header-Content-Length"
_WARM_UP_S = 1.5
# Products of FP32 in TF32, and other ways to compute for other sizes of a batch; rows are further apart than this.
_TOLERANCE = 0.015


class StackError(Exception):
    """The stack did not come up; the text ends with its last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the stack is run: on which device, with so many API processes, instances and rows in a batch."""

    device: str
    apis: int
    instances: int = 2
    max_batch_size: int = 64
    more: Mapping[str, str] = field(default_factory=dict)


class Stack:
    """One start of the stack. Used as a context: it is up inside, and gone afterwards."""

    def __init__(self, models: Path, plan: Plan) -> None:
        self._models = models
        self._plan = plan
        self.ports = [free_port() for _ in range(plan.apis)]
        self._roots: list[psutil.Popen] = []
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> "Stack":
        """Start its processes; they may not answer yet."""
        folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="gpu-")))
        self._log = folder / "log"
        command, url = embedded_redis.command(folder)
        worker = {
            "MODELS": str(self._models),
            "DEVICE": self._plan.device,
            "INSTANCES": str(self._plan.instances),
            "MAX_BATCH_SIZE": str(self._plan.max_batch_size),
            **self._plan.more,
        }
        self._cleanup.callback(self._stop)
        self._start(command, {})
        until(lambda: embedded_redis.answers(url), 20, "Redis")
        for port in self.ports:
            own = {"PORT": str(port), "GRPC_PORT": "0", "MAX_QUEUE_BYTES": str(2**31)}
            serving = {f"MILLRACE_SERVING_{name}": value for name, value in own.items()}
            self._start([sys.executable, "-P", "-m", "serving"], serving | {"MILLRACE_REDIS_URL": url})
        settings = {f"MILLRACE_WORKER_{name}": value for name, value in worker.items()}
        self._start([sys.executable, "-P", "-m", "worker"], settings | {"MILLRACE_REDIS_URL": url})
        return self

    def __exit__(self, *_: object) -> None:
        """Stop them."""
        self._cleanup.close()

    def _start(self, command: list[str], more: Mapping[str, str]) -> None:
        path = os.pathsep.join(part or str(Path.cwd()) for part in sys.path)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
        with self._log.open("ab") as log:
            environment = {**kept, "PYTHONPATH": path, "MILLRACE_LOG_LEVEL": "warning", **more}
            self._roots.append(psutil.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))

    def wait_for(self, model: str, seconds: float = _START_S) -> float:
        """Seconds until every API process says that the model is ready. Raises `StackError`."""
        started = time.monotonic()
        for port in self.ports:
            path = f"/v2/models/{model}/ready"
            until(lambda port=port, path=path: _status(port, path) == 200, seconds, model, self.words)  # type: ignore[misc]
        return time.monotonic() - started

    def words(self) -> str:
        """The last that its processes wrote."""
        return " | ".join(self._log.read_text(errors="replace").strip().splitlines()[-12:])

    def statistics(self, model: str) -> dict[str, float]:
        """Rows, batches and nanoseconds of each stage so far, of all API processes."""
        sums: dict[str, float] = {}
        for port in self.ports:
            found = json.loads(_get(port, f"/v2/models/{model}/stats")[1])["model_stats"][0]
            runs = [(of["batch_size"], of["compute_infer"]["count"]) for of in found["batch_stats"]]
            # A batch with requests of several API processes counts in each of them, with all its rows.
            figures = {"batches": sum(count for _, count in runs), "in_batches": sum(rows * n for rows, n in runs)}
            figures |= {f"{stage}_ns": of["ns"] for stage, of in found["inference_stats"].items()}
            figures["requests"] = found["inference_stats"]["success"]["count"]
            for name, value in figures.items():
                sums[name] = sums.get(name, 0) + value
        return sums

    def cpu_s(self) -> dict[str, float]:
        """User and system time by program."""
        spent: dict[str, float] = {}
        for root, role in zip(self._roots, ["redis", *["api"] * len(self.ports), "worker"], strict=True):
            with contextlib.suppress(psutil.Error):
                for process in (root, *root.children(recursive=True)):
                    times = process.cpu_times()
                    spent[role] = spent.get(role, 0) + times.user + times.system
        return spent

    def model_processes(self) -> list[psutil.Process]:
        """The processes that run models, newest last."""
        worker = self._roots[-1]
        found = [process for child in worker.children() for process in child.children(recursive=True)]
        return sorted(found, key=psutil.Process.create_time)

    def _stop(self) -> None:
        processes = [process for root in self._roots for process in (root, *_children(root))]
        for root in reversed(self._roots):
            with contextlib.suppress(psutil.NoSuchProcess):
                root.terminate()
        _, alive = psutil.wait_procs(processes, timeout=10)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=5)


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(process.children(recursive=True))
    return []


def until(condition: Callable[[], bool], seconds: float, what: str, words: Callable[[], str] = str) -> None:
    """Wait until the condition holds. Raises `StackError`."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            raise StackError(f"{what} was not ready within {seconds:g} s: {words()}")
        time.sleep(_PAUSE_S)


def _get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _status(port: int, path: str) -> int:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return _get(port, path)[0]
    return 0


# Load


def form(datatype: str) -> Form:
    """Requests of one input as V2 binary, and answers of one output of floats."""
    return Form(partial(_encode, datatype), _decode, "")


def _encode(datatype: str, inputs: Arrays) -> tuple[dict[str, str], bytes]:
    ((name, array),) = inputs.items()
    parameters = {"binary_data_size": array.nbytes}
    tensor = {"name": name, "shape": list(array.shape), "datatype": datatype, "parameters": parameters}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return {"Content-Type": "application/octet-stream", _HEAD_LENGTH: str(len(head))}, head + array.tobytes()


def _decode(headers: Mapping[str, str], body: bytes) -> Floats:
    return np.frombuffer(body[int(headers.get(_HEAD_LENGTH.lower(), 0)) :], "f4")


def _generate(
    url: str, datatype: str, items: list[Arrays], expected: Floats, connections: int, seconds: float
) -> Outcome:
    target = Target(url=url, form=form(datatype), items=items, expected=expected, tolerance=_TOLERANCE)
    return asyncio.run(load.generate(target, connections=connections, seconds=seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of a model: requests of one input, whose right answers are known, on so many connections."""

    model: str
    datatype: str
    items: list[Arrays]
    expected: Floats
    connections: int
    processes: int


def measure(stack: Stack, asked: Load, seconds: float) -> dict[str, Any]:
    """The load's figures: rows per second, what a request's time went into, and CPU time by program."""
    rows = len(next(iter(asked.items[0].values())))
    for port in stack.ports:
        ask(_url(port, asked.model), form(asked.datatype), asked.items[0])
    with multiprocessing.get_context("spawn").Pool(asked.processes) as pool:
        _run(pool, stack, asked, min(seconds, _WARM_UP_S))
        before, cpu_before = stack.statistics(asked.model), stack.cpu_s()
        outcomes, used = _run(pool, stack, asked, seconds)
        after, cpu_after = stack.statistics(asked.model), stack.cpu_s()
    spent = {name: after[name] - before.get(name, 0) for name in after}
    requests = max(1, spent["requests"])
    total = max(1.0, spent["success_ns"])
    count = sum(outcome.requests for outcome in outcomes)
    lasted = max(outcome.seconds for outcome in outcomes)
    return {
        "model": asked.model,
        "connections": asked.connections,
        "rows_a_request": rows,
        "rows_per_s": count * rows / lasted,
        "p50_ms": float(np.median([outcome.p50_ms for outcome in outcomes])),
        "p99_ms": max(outcome.p99_ms for outcome in outcomes),
        "rows_a_batch": spent["in_batches"] / max(1, spent["batches"]),
        "shares": {
            stage: spent[f"{stage}_ns"] / total
            for stage in ("queue", "compute_input", "compute_infer", "compute_output")
        },
        "in_server_ms": total / requests / 1e6,
        "utilization": used["utilization"],
        "gpu_memory_mb": used["memory_mb"],
        "cpu_ms_a_row": {
            role: (cpu_after[role] - cpu_before.get(role, 0)) / max(1, count * rows) * 1000 for role in cpu_after
        },
        "errors": sum(outcome.errors for outcome in outcomes),
        "wrong": sum(outcome.wrong for outcome in outcomes),
        "checked": sum(outcome.checked for outcome in outcomes),
        "faults": [fault for outcome in outcomes for fault in outcome.faults][:3],
    }


def _url(port: int, model: str) -> str:
    return f"http://127.0.0.1:{port}/v2/models/{model}/infer"


def _run(pool: Any, stack: Stack, asked: Load, seconds: float) -> tuple[list[Outcome], dict[str, int]]:
    running = [
        pool.apply_async(
            _generate,
            (
                _url(stack.ports[number % len(stack.ports)], asked.model),
                asked.datatype,
                asked.items,
                asked.expected,
                max(1, asked.connections // asked.processes),
                seconds,
            ),
        )
        for number in range(asked.processes)
    ]
    time.sleep(seconds / 2)
    used = {"utilization": machine.utilization(), "memory_mb": machine.memory_mb()}
    return [outcome.get(timeout=seconds + 60) for outcome in running], used


def restart(stack: Stack, asked: Load) -> dict[str, Any]:
    """How long it takes until requests are answered again, after the process that runs the model is killed."""
    killed = time.monotonic()
    for process in stack.model_processes():
        process.kill()

    def is_answered() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException, Refused):
            return bool(len(ask(_url(stack.ports[0], asked.model), form(asked.datatype), asked.items[0])))
        return False

    until(is_answered, 120, "an answer", stack.words)
    return {"answered_again_s": time.monotonic() - killed}


def distinct(rows: Arrays, count: int) -> Iterator[Arrays]:
    """Requests of one row each."""
    for number in range(count):
        yield {name: array[number : number + 1] for name, array in rows.items()}
