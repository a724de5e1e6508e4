"""What happens at the limits: of the GPU's memory, of the process's memory, and of how many GPUs there are."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu import machine
from benchmarks.gpu.stack import Plan, Stack, StackError
from worker import backends
from worker.backends.base import Arrays, Device, LoadError

_LIMIT_MB = 400


def checks(path: Path, device: Device, rows: Arrays, folder: Path) -> Iterator[dict[str, Any]]:
    """Each with what is tried, and what came of it in words."""
    if device.kind == "cuda":
        yield _missing_gpu(path, device)
        yield _limited(path, device, rows)
        yield _process_limit(folder, device)


def _missing_gpu(path: Path, device: Device) -> dict[str, Any]:
    try:
        backends.load(path.parent, dataclasses.replace(device, gpu=99), "onnx").close()
    except LoadError as error:
        return {"tried": "a GPU that is not there", "outcome": str(error), "is_right": True}
    return {"tried": "a GPU that is not there", "outcome": "it was loaded", "is_right": False}


def _limited(path: Path, device: Device, rows: Arrays) -> dict[str, Any]:
    """A batch that needs more memory than the model may take is refused, and a smaller one is answered after it."""
    before = machine.memory_mb(device.gpu or 0)
    limited = backends.load(path.parent, dataclasses.replace(device, memory_mb=_LIMIT_MB), "onnx")
    signature = next(iter(limited.signatures))
    one = {name: array[:1] for name, array in rows.items()}
    try:
        expected = limited.run(signature, one)
        try:
            limited.run(signature, rows)
            outcome, is_refused = f"{len(rows['image'])} rows ran", False
        except Exception as error:
            outcome, is_refused = f"{type(error).__name__}: {str(error)[:300]}", True
        again = limited.run(signature, one)
        is_alive = all(np.allclose(expected[name], again[name], atol=1e-3) for name in expected)
    except Exception as error:
        return {"tried": f"{_LIMIT_MB} MB", "outcome": f"{type(error).__name__}: {error}", "is_right": False}
    finally:
        used = machine.memory_mb(device.gpu or 0) - before
        limited.close()
    return {
        "tried": f"{len(rows['image'])} images where a model may take {_LIMIT_MB} MB, then one again",
        "outcome": f"{outcome}; one again: {'answered' if is_alive else 'wrong'}; {used} MB taken",
        "is_right": is_refused and is_alive,
    }


def _process_limit(folder: Path, device: Device) -> dict[str, Any]:
    """CUDA reserves far more addresses than it uses: whether a limit on the process's memory still lets it load."""
    tried = "a worker with model_memory_mb 8000"
    plan = Plan(device=device.name, apis=1, more={"MODEL_MEMORY_MB": "8000"})
    try:
        with Stack(folder, plan) as running:
            ready_s = running.wait_for("images", 60)
            status = Path(f"/proc/{running.model_processes()[-1].pid}/status").read_text()
    except StackError as error:
        return {"tried": tried, "outcome": str(error), "is_right": False}
    kept = ("VmSize", "VmData", "RssAnon", "RssShmem", "Threads")
    memory = ", ".join(" ".join(line.split()) for line in status.splitlines() if line.startswith(kept))
    return {"tried": tried, "outcome": f"ready after {ready_s:.1f} s; {memory}", "is_right": True}
