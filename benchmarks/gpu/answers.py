"""The same inputs to the same model on the CPU and on the device: how far the answers are apart."""

import dataclasses
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from worker import backends
from worker.backends.base import Arrays, Device, LoadError

# Of the largest number of an answer. Of outputs that are no floats, the share that may differ: where two words are
# about equally near, say, either may be named first.
_FP32, _TF32 = 1e-4, 2e-2
_ROWS = 8
_FORMATS = ("onnx", "savedmodel")
_THREADS = 8


def bundled(folder: Path) -> dict[str, tuple[Path, Arrays]]:
    """The models of this project, with inputs for some rows."""
    rng = np.random.default_rng(7)
    images = {"image": rng.choice([0, 0, 0, 128, 255], (_ROWS, 28, 28, 1)).astype("f4")}
    ids = rng.integers(2, 5000, (_ROWS, 60), "i4")
    words = {"ids": rng.integers(2, 5000, (_ROWS, 3), "i4"), "weights": np.tile(np.array([1, -1, 1], "f4"), (_ROWS, 1))}
    inputs = {"digits": images, "digits-student": images, "sentiment": {"ids": ids}, "word2vec": words}
    return {name: (folder / name / "1", given) for name, given in inputs.items()}


def compare(models: dict[str, tuple[Path, Arrays]], device: Device) -> Iterator[dict[str, Any]]:
    """For each model and each format that runs on GPUs: the largest difference, or why there is none."""
    for name, (folder, inputs) in models.items():
        for file_format in _FORMATS:
            if not (folder / backends.FORMATS[file_format][0]).exists():
                continue
            about = {"model": name, "format": file_format}
            if not find_spec(backends.FORMATS[file_format][2]):
                yield about | {"skipped": f"{backends.FORMATS[file_format][2]} is not installed"}
                continue
            try:
                yield about | _compared(folder, file_format, device, inputs)
            except LoadError as error:
                yield about | {"skipped": str(error)}


def _compared(folder: Path, file_format: str, device: Device, given: Arrays) -> dict[str, Any]:
    expected = _answer(folder, file_format, Device("cpu", _THREADS), given)
    exact = _answer(folder, file_format, dataclasses.replace(device, tf32=False), given)
    loaded = backends.load(folder, device, file_format)
    try:
        found, again = (loaded.run(next(iter(loaded.signatures)), given) for _ in range(2))
    finally:
        loaded.close()
    apart, exactly_apart = _differences(expected, found), _differences(expected, exact)
    return {
        "rows": len(next(iter(given.values()))),
        "differences": apart,
        "differences_fp32": exactly_apart,
        "repeats_exactly": all(np.array_equal(found[name], again[name]) for name in found),
        "is_right": max(apart.values()) <= _TF32 and max(exactly_apart.values()) <= _FP32,
    }


def _answer(folder: Path, file_format: str, device: Device, given: Arrays) -> Arrays:
    loaded = backends.load(folder, device, file_format)
    try:
        return loaded.run(next(iter(loaded.signatures)), given)
    finally:
        loaded.close()


def _differences(expected: Arrays, found: Arrays) -> dict[str, float]:
    return {name: _difference(expected[name], found[name]) for name in expected}


def _difference(expected: Any, found: Any) -> float:
    """The largest distance of two numbers, of the largest number; for other values, the share that differs."""
    if expected.shape != found.shape:
        return 1.0
    if expected.dtype.kind != "f":
        return float(np.mean(expected != found)) if expected.size else 0.0
    if not np.isfinite(found).all():
        return 1.0
    return float(np.abs(expected - found).max() / max(1e-9, float(np.abs(expected).max())))
