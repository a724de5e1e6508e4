"""From what a caller sends to what a graph takes, and back, as the manifest declares.

Works row by row, so that a row that cannot be prepared fails its own request and nobody else's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.artifacts.images import read_digit
from millrace.artifacts.manifest import DecodeImage, LookUpWords, Manifest, ManifestError, NameWords, Tokenize
from millrace.artifacts.vocabulary import Vocabulary
from millrace.protocol.errors import InvalidRequest
from worker.backends.base import Arrays

_Step = Callable[[Arrays], Arrays]


class Preparation:
    """One model version's steps before and after its graph."""

    def __init__(self, steps: Sequence[_Step], after: Sequence[_Step], padding: dict[str, str]) -> None:
        self._steps, self._after = steps, after
        self._padding = padding

    def before(self, row: Arrays) -> Arrays:
        """The graph's inputs for one row. Raises `InvalidRequest` in the caller's words."""
        for step in self._steps:
            row = step(row)
        return row

    @property
    def is_needed(self) -> bool:
        """Whether `before` does anything; where not, whole blocks may skip it."""
        return bool(self._steps)

    def after(self, outputs: Arrays) -> Arrays:
        """The caller's outputs, for the rows of a whole batch."""
        for step in self._after:
            outputs = step(outputs)
        return outputs

    def may_pad(self, name: str) -> bool:
        """Whether the last axis of that input may be filled up to the longest of a batch."""
        return name in self._padding

    def join(self, name: str, arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """The rows of all the arrays, end to end, the last axis filled up where they differ in it."""
        if len(arrays) == 1:
            return arrays[0]
        if name in self._padding:
            longest = max(array.shape[-1] for array in arrays)
            arrays = [_filled(array, longest, self._padding[name]) for array in arrays]
        return np.concatenate(arrays)


def _filled(array: npt.NDArray[Any], length: int, how: str) -> npt.NDArray[Any]:
    missing = length - array.shape[-1]
    if not missing:
        return array
    widths = [(0, 0)] * (array.ndim - 1) + [(0, missing)]
    return np.pad(array, widths, mode="edge") if how == "edge" else np.pad(array, widths)


def load(folder: Path, manifest: Manifest | None) -> Preparation:
    """The steps that a manifest declares; none without. Raises `OSError` or `ManifestError` for a vocabulary."""
    if manifest is None:
        return Preparation((), (), {})
    steps: list[_Step] = []
    padding: dict[str, str] = {}
    for step in manifest.preprocessing:
        match step:
            case DecodeImage():
                steps.append(_decoding(step))
            case Tokenize():
                steps.append(_tokenizing(step, _vocabulary(folder, step.vocabulary)))
                padding[step.output] = "zero"
            case LookUpWords():
                steps.append(_looking_up(step, _vocabulary(folder, step.vocabulary), manifest.name))
                padding |= {step.output: "edge", step.weights: "zero"}
    after = [_naming(step, _vocabulary(folder, step.vocabulary)) for step in manifest.postprocessing]
    return Preparation(steps, after, padding)


def _vocabulary(folder: Path, name: str) -> Vocabulary:
    if Path(name).name != name:
        raise ManifestError(f"the vocabulary {name!r} must be a file beside the manifest")
    try:
        return Vocabulary.read(folder / name)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{folder / name} is not UTF-8: {error}") from error


def _decoding(step: DecodeImage) -> _Step:
    def decode(row: Arrays) -> Arrays:
        file = row[step.input]
        return row | {step.input: np.stack([read_digit(f) for f in file])} if file.dtype.kind == "O" else row

    return decode


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the text is not UTF-8: {error}") from None


def _tokenizing(step: Tokenize, vocabulary: Vocabulary) -> _Step:
    def tokenize(row: Arrays) -> Arrays:
        ids = vocabulary.encode(_text(row[step.input][0]), step.max_length, step.keep)
        return {name: array for name, array in row.items() if name != step.input} | {
            step.output: np.array([ids], np.int32)
        }

    return tokenize


def _looking_up(step: LookUpWords, vocabulary: Vocabulary, model: str) -> _Step:
    def look_up(row: Arrays) -> Arrays:
        words = [_text(raw) for raw in row[step.input][0]]
        ids = [vocabulary.find(word.lower()) for word in words]
        unknown = [word for word, number in zip(words, ids, strict=True) if number is None]
        if unknown:
            raise InvalidRequest(
                f"unknown word {unknown[0]!r}: it is not among the {len(vocabulary)} words of model '{model}'"
            )
        found = np.array([ids], np.int32)
        weights = row.get(step.weights, np.ones(found.shape, np.float32))
        if weights.shape != found.shape:
            raise InvalidRequest(
                f"inputs '{step.input}' and '{step.weights}' of model '{model}' must have the same shape, "
                f"got {len(words)} and {weights.shape[-1]} a row"
            )
        return {name: a for name, a in row.items() if name != step.input} | {step.output: found, step.weights: weights}

    return look_up


def _naming(step: NameWords, vocabulary: Vocabulary) -> _Step:
    entries = np.array([word.encode() for word in vocabulary.entries], object)
    return lambda outputs: outputs | {step.output: entries[outputs[step.output]]}
