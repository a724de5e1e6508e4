"""From what a caller sends to what a graph takes, and back, as the manifest declares.

Works row by row, so that a row that cannot be prepared fails its own request and nobody else's.
"""

import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.artifacts.images import read_digit
from millrace.artifacts.manifest import DecodeImage, LookUpWords, Manifest, ManifestError, NameWords, Tokenize
from millrace.artifacts.vocabulary import Vocabulary
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import BYTES, Tensor
from worker.backends.base import Arrays

MAX_WORDS = 4_096  # a row, of words that are looked up one by one
_SHOWN = 60  # characters of a caller's word in an error
_Step = Callable[[Arrays], Arrays]


class Preparation:
    """One model version's steps before and after its graph.

    `raw` names the inputs that steps take as BYTES, `most` how many strings a row of them may have. `padding` says of
    the graph's inputs whose last axis may be filled up with what ("zero", "edge"), and `max_length` how long it may
    get; `together` are the inputs that are always as long as one another (those that one step makes), `ids` which ids
    steps make for them.
    """

    def __init__(
        self,
        steps: Sequence[_Step] = (),
        after: Sequence[_Step] = (),
        *,
        raw: Collection[str] = (),
        most: Mapping[str, int] | None = None,
        padding: Mapping[str, str] | None = None,
        together: Sequence[Collection[str]] = (),
        ids: Mapping[str, range] | None = None,
        max_length: int = sys.maxsize,
    ) -> None:
        self._steps, self._after = steps, after
        self._raw = frozenset(raw)
        self._most = dict(most or {})
        self._padding = dict(padding or {})
        self._ids = dict(ids or {})
        self._group = {name: number for number, names in enumerate(together) for name in names}
        self.max_length = max_length

    def is_needed(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether `before` would change these tensors; where not, whole blocks may skip it."""
        return any(name in self._raw and tensor.datatype == BYTES for name, tensor in tensors.items())

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises `InvalidRequest` for rows that are larger than a step takes, before anything walks through them."""
        for name, most in self._most.items():
            if name in tensors and (count := math.prod(tensors[name].shape[1:])) > most:
                raise InvalidRequest(f"input '{name}' has {count} strings a row: at most {most} are taken")

    def before(self, row: Arrays) -> Arrays:
        """The graph's inputs for one row. Raises `InvalidRequest` in the caller's words."""
        for step in self._steps:
            row = step(row)
        return row

    def after(self, outputs: Arrays) -> Arrays:
        """The caller's outputs, for the rows of a whole batch."""
        for step in self._after:
            outputs = step(outputs)
        return outputs

    @property
    def has_steps(self) -> bool:
        """Whether anything is done to a row before the graph sees it."""
        return bool(self._steps)

    @property
    def pads(self) -> bool:
        """Whether rows may differ in length."""
        return bool(self._padding)

    def may_pad(self, name: str) -> bool:
        """Whether the last axis of that input may be filled up to the longest of a batch."""
        return name in self._padding

    def length_group(self, name: str) -> int:
        """The number of the padded inputs that are always as long as this one, from 0."""
        return self._group.get(name, 0)

    def ids(self, name: str) -> range | None:
        """The ids that a step may make for that input, without its padding; None where no step makes ids for it."""
        return self._ids.get(name)

    def filler(self, name: str) -> int:
        """A value of that input that is not its padding: of ids, one that every vocabulary has."""
        return 1 if self._padding.get(name) == "zero" else 0

    def length(self, inputs: Arrays) -> int:
        """The size of the axis that may be filled up; 0 where there is none."""
        return max((array.shape[-1] for name, array in inputs.items() if name in self._padding), default=0)

    def join(self, name: str, arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """The rows of all the arrays, end to end, the last axis filled up where they differ in it."""
        if len(arrays) == 1:
            return arrays[0]
        if name in self._padding:
            longest = max(array.shape[-1] for array in arrays)
            if any(array.shape[-1] != longest for array in arrays):
                return _padded(arrays, longest, self._padding[name])
        return np.concatenate(arrays)

    def joined(self, parts: Sequence[Arrays]) -> Arrays:
        """The rows of all the parts, input by input; see `join`."""
        return {name: self.join(name, [part[name] for part in parts]) for name in parts[0]}


def _padded(arrays: Sequence[npt.NDArray[Any]], longest: int, how: str) -> npt.NDArray[Any]:
    first = arrays[0]
    padded = np.zeros((sum(map(len, arrays)), *first.shape[1:-1], longest), first.dtype)
    row = 0
    for array in arrays:
        rows, length = padded[row : row + len(array)], array.shape[-1]
        rows[..., :length] = array
        if how == "edge" and length:
            rows[..., length:] = array[..., -1:]
        row += len(array)
    return padded


def load(folder: Path, manifest: Manifest | None) -> Preparation:
    """The steps that a manifest declares; none without. Raises `OSError` or `ManifestError` for a vocabulary."""
    if manifest is None:
        return Preparation()
    steps: list[_Step] = []
    padding: dict[str, str] = {}
    together: list[tuple[str, ...]] = []
    ids: dict[str, range] = {}
    max_length = sys.maxsize
    for step in manifest.preprocessing:
        match step:
            case DecodeImage():
                steps.append(_decoding(step))
            case Tokenize():
                vocabulary = _vocabulary(folder, step.vocabulary)
                steps.append(_tokenizing(step, vocabulary))
                padding[step.output] = "zero"
                together.append((step.output,))
                ids[step.output] = range(1, max(2, len(vocabulary)))
                max_length = min(max_length, step.max_length)
            case LookUpWords():
                vocabulary = _vocabulary(folder, step.vocabulary)
                steps.append(_looking_up(step, vocabulary, manifest.name))
                padding |= {step.output: "edge", step.weights: "zero"}
                together.append((step.output, step.weights))
                ids[step.output] = range(max(1, len(vocabulary)))
    return Preparation(
        steps,
        [_naming(step, _vocabulary(folder, step.vocabulary)) for step in manifest.postprocessing],
        raw=[step.input for step in manifest.preprocessing],
        most={step.input: MAX_WORDS for step in manifest.preprocessing if isinstance(step, LookUpWords)},
        padding=padding,
        together=together,
        ids=ids,
        max_length=max_length,
    )


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
    def find(raw: bytes) -> int:
        word = _text(raw)
        number = vocabulary.find(word.lower())
        if number is None:
            shown = word if len(word) <= _SHOWN else f"{word[:_SHOWN]}…"
            raise InvalidRequest(
                f"unknown word {shown!r}: it is not among the {len(vocabulary)} words of model '{model}'"
            )
        return number

    def look_up(row: Arrays) -> Arrays:
        ids = [find(raw) for raw in row[step.input][0]]
        found = np.array([ids], np.int32)
        weights = row.get(step.weights, np.ones(found.shape, np.float32))
        if weights.shape != found.shape:
            raise InvalidRequest(
                f"inputs '{step.input}' and '{step.weights}' of model '{model}' must have the same shape, "
                f"got {len(ids)} and {weights.shape[-1]} a row"
            )
        return {name: a for name, a in row.items() if name != step.input} | {step.output: found, step.weights: weights}

    return look_up


def _naming(step: NameWords, vocabulary: Vocabulary) -> _Step:
    entries = np.array([word.encode() for word in vocabulary.entries], object)
    return lambda outputs: outputs | {step.output: entries[outputs[step.output]]}
