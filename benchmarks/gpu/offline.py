"""ONNX Runtime by itself, in this process: rows per second by batch, and what moving the data costs."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.gpu import machine, pinned
from worker.backends.base import Arrays, Device
from worker.backends.onnx.providers import cuda_options, providers

_LEAST_RUNS = 3


def sweep(path: Path, device: Device, rows: Arrays, batches: Sequence[int], seconds: float) -> Iterator[dict[str, Any]]:
    """Rows per second of each size of a batch, in one thread and in two, and how long its first run took.

    `rows` are the inputs of the largest batch.
    """
    opened = session(path, device)
    for size in batches:
        given = {name: array[:size] for name, array in rows.items()}
        started = time.perf_counter()
        opened.run(None, given)
        first_ms = (time.perf_counter() - started) * 1000
        run_ms = _median_ms(lambda given=given: opened.run(None, given), seconds)  # type: ignore[misc]
        together = _rate(lambda given=given: lambda: opened.run(None, given), size, seconds, threads=2)  # type: ignore[misc]
        yield {
            "batch": size,
            "first_ms": first_ms,
            "run_ms": run_ms,
            "rows_per_s": size / run_ms * 1000,
            "rows_per_s_two_threads": together,
        }


_VARIANTS: dict[str, dict[str, str]] = {
    "as a worker has them": {},
    "all convolutions are tried": {"cudnn_conv_algo_search": "EXHAUSTIVE"},
    "the default convolution": {"cudnn_conv_algo_search": "DEFAULT"},
    "memory doubles": {"arena_extend_strategy": "kNextPowerOfTwo"},
    "channels last": {"prefer_nhwc": "1"},
}


def variants(path: Path, device: Device, rows: Arrays, batches: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Other options of a session: how long the first run of each size of a batch takes, and the others; and memory."""
    expected: Any = None
    for name, more in _VARIANTS.items():
        before = machine.memory_mb(device.gpu or 0)
        opened = session(path, device, **more)
        found = opened.run(None, rows)[0]
        expected = found if expected is None else expected
        for size in batches:
            given = {name: array[:size] for name, array in rows.items()}
            started = time.perf_counter()
            opened.run(None, given)
            first_ms = (time.perf_counter() - started) * 1000
            run_ms = _median_ms(lambda given=given, opened=opened: opened.run(None, given), 0.15)  # type: ignore[misc]
            yield {"options": name, "batch": size, "first_ms": first_ms, "run_ms": run_ms}
        difference = float(np.abs(found - expected).max() / np.abs(expected).max())
        memory_mb = machine.memory_mb(device.gpu or 0) - before
        yield {"options": name, "memory_mb": memory_mb, "difference": difference}
        del opened


def precisions(path: Path, device: Device, rows: Arrays, expected: Any, seconds: float) -> Iterator[dict[str, Any]]:
    """With products of FP32 numbers by TF32, as is the default, and without: speed, and distance from the CPU."""
    for is_tf32 in (True, False):
        opened = session(path, device, use_tf32=str(int(is_tf32)))
        (found,) = opened.run(None, rows)
        run_ms = _median_ms(lambda opened=opened: opened.run(None, rows), seconds)  # type: ignore[misc]
        yield {
            "tf32": is_tf32,
            "run_ms": run_ms,
            "difference": float(np.abs(found - expected).max() / np.abs(expected).max()),
        }


def transfers(path: Path, device: Device, rows: Arrays, seconds: float) -> dict[str, dict[str, float]]:
    """By the way that the data take: milliseconds of a run, and rows per second of two threads that run at once.

    arrays      inputs and outputs are ordinary arrays, as `InferenceSession.run` has them
    bound       the same, by an IO binding that is made for each run; its outputs are there before
    staged      inputs are copied into pinned memory first
    pinned      inputs lie in pinned memory already
    on the GPU  inputs lie on the GPU and outputs stay there: the computation alone
    """
    opened = session(path, device)
    size = len(next(iter(rows.values())))
    ways: dict[str, Callable[[], Callable[[], object]]] = {
        "arrays": lambda: lambda: opened.run(None, rows),
        "bound": partial(_bound, opened, rows),
    }
    if device.kind == "cuda":
        ways["staged"] = partial(_staged, opened, rows)
        ways["pinned"] = partial(_pinned, opened, rows)
        ways["on the GPU"] = partial(_on_gpu, opened, rows, device.gpu or 0)
    return {
        name: {"run_ms": _median_ms(make(), seconds), "rows_per_s": _rate(make, size, seconds, threads=2)}
        for name, make in ways.items()
    }


def copies(path: Path, device: Device, rows: Arrays, seconds: float) -> dict[str, float]:
    """Milliseconds of nothing but copies of ordinary arrays: a run's inputs to the GPU, and its outputs from there."""
    number = device.gpu or 0
    outputs = session(path, device).run(None, rows)
    there = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", number) for name, array in rows.items()}
    results = [onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", number) for array in outputs]
    return {
        "to_gpu_ms": _median_ms(lambda: [there[name].update_inplace(rows[name]) for name in rows], seconds),
        "from_gpu_ms": _median_ms(lambda: [value.numpy() for value in results], seconds),
    }


def _bound(opened: Any, rows: Arrays) -> Callable[[], object]:
    names = [spec.name for spec in opened.get_outputs()]
    outputs = dict(zip(names, opened.run(None, rows), strict=True))
    binding = opened.io_binding()
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run() -> None:
        for name, array in rows.items():
            binding.bind_cpu_input(name, array)
        opened.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def _staged(opened: Any, rows: Arrays) -> Callable[[], object]:
    kept = {name: pinned.array(array.shape, array.dtype) for name, array in rows.items()}

    def run() -> None:
        for name, array in rows.items():
            np.copyto(kept[name], array)
        opened.run(None, kept)

    return run


def _pinned(opened: Any, rows: Arrays) -> Callable[[], object]:
    kept = {name: pinned.array(array.shape, array.dtype) for name, array in rows.items()}
    for name, array in rows.items():
        np.copyto(kept[name], array)
    return lambda: opened.run(None, kept)


def _on_gpu(opened: Any, rows: Arrays, number: int) -> Callable[[], object]:
    binding = opened.io_binding()
    for name, array in rows.items():
        value = onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", number)
        binding.bind_ortvalue_input(name, value)
    for spec in opened.get_outputs():
        binding.bind_output(spec.name, "cuda", number)

    def run() -> None:
        opened.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def session(path: Path, device: Device, **more: str) -> Any:
    """ONNX Runtime on the model, with the options that a worker gives it and these."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = device.threads
    chosen: list[Any] = providers(device)
    if device.kind == "cuda":
        chosen = [(chosen[0][0], cuda_options(device) | more), *chosen[1:]]
    return onnxruntime.InferenceSession(path, options, chosen)


def _median_ms(run: Callable[[], object], seconds: float) -> float:
    run()
    taken: list[float] = []
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends or len(taken) < _LEAST_RUNS:
        started = time.perf_counter()
        run()
        taken.append((time.perf_counter() - started) * 1000)
    return float(np.median(taken))


def _rate(make: Callable[[], Callable[[], object]], rows: int, seconds: float, threads: int) -> float:
    """Rows per second of so many threads, each of which runs what `make` makes for it."""
    counts = [0] * threads
    barrier = threading.Barrier(threads + 1)
    ends = [float("inf")]

    def work(number: int) -> None:
        run = make()
        run()
        barrier.wait()
        while time.perf_counter() < ends[0]:
            run()
            counts[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    started = time.perf_counter()
    ends[0] = started + seconds
    for worker in workers:
        worker.join()
    return sum(counts) * rows / (time.perf_counter() - started)
