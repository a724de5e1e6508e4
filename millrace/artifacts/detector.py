"""Whether pixels in MNIST's form show a digit at all: a small convolutional network, computed with NumPy.

A model of ten digits has to answer with one of them, and is often sure of it, whatever it is shown. The detector was
trained on letters, scribbles and noise beside digits (see `training.detector`), and has one answer more: none of them.
It is a file beside the manifest, `detector.npz`, so that it needs no runtime and is the same for all models of digits.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.artifacts.manifest import ManifestError

FILE_NAME = "detector.npz"
# By name: the kernels [height, width, from, to], how far apart they are applied, and the zeros before and after.
_CONVOLUTIONS = (("first", 2, (1, 2)), ("second", 2, (0, 1)), ("third", 1, (0, 0)))
_DENSE = ("dense", "answers")

Floats = npt.NDArray[np.float32]


class Detector:
    """The network; `threshold` is the evidence for a digit below which pixels are taken for something else."""

    def __init__(self, weights: dict[str, Floats], threshold: float) -> None:
        self._weights, self.threshold = weights, threshold

    @classmethod
    def read(cls, path: Path) -> "Detector":
        """The detector in a file. Raises `OSError`, and `ManifestError` for a file that is none."""
        try:
            with np.load(path, allow_pickle=False) as file:
                held = {name: file[name].astype(np.float32) for name in file.files}
            found = cls({name: held[name] for name in names()}, float(held["threshold"]))
            found.evidence(np.zeros((28, 28, 1), np.float32))
        except (EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise ManifestError(f"{path} is no detector: {error}") from error
        return found

    def write(self, path: Path) -> None:
        """Write the file that `read` reads, with weights of 16 bits."""
        half: dict[str, Any] = {name: weights.astype(np.float16) for name, weights in self._weights.items()}
        np.savez(path, threshold=np.float32(self.threshold), **half)

    def sees_digit(self, pixels: Floats) -> bool:
        """Whether the pixels [28, 28, 1], 0 to 255, show a digit."""
        return self.evidence(pixels) >= self.threshold

    def evidence(self, pixels: Floats) -> float:
        """The logarithm of how much likelier some digit is than none."""
        held, values = self._weights, pixels / np.float32(255)
        for name, step, zeros in _CONVOLUTIONS:
            values = _convolved(values, held[f"{name}_kernel"], step, zeros) + held[f"{name}_bias"]
            values = np.maximum(values, 0)
        values = values.ravel()
        for name in _DENSE:
            values = values @ held[f"{name}_kernel"] + held[f"{name}_bias"]
            values = values if name == _DENSE[-1] else np.maximum(values, 0)
        return float(np.logaddexp.reduce(values[:-1]) - values[-1])


def names() -> list[str]:
    """The arrays that a detector is made of, in the order in which they are used."""
    layers = [*(name for name, _, _ in _CONVOLUTIONS), *_DENSE]
    return [f"{layer}_{part}" for layer in layers for part in ("kernel", "bias")]


def _convolved(values: Floats, kernel: Floats, step: int, zeros: tuple[int, int]) -> Floats:
    padded = np.pad(values, (zeros, zeros, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(0, 1))[::step, ::step]
    height, width = windows.shape[:2]
    flat = windows.transpose(0, 1, 3, 4, 2).reshape(height * width, -1)
    found: Floats = (flat @ kernel.reshape(-1, kernel.shape[-1])).reshape(height, width, -1)
    return found
