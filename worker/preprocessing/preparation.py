"""From what a caller sends to what a graph takes, and back, as the manifest declares.

Works row by row, so that a row that cannot be prepared fails its own request and nobody else's.
"""

import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from millrace.artifacts.manifest import DecodeImage, LookUpWords, Manifest, ManifestError, NameWords, Tokenize
from millrace.artifacts.vocabulary import Vocabulary
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import BYTES, Tensor, TensorSpec
from worker.backends.base import Arrays
from worker.preprocessing import pixels, tokenizing

MAX_WORDS = 4_096  # a row, of words that are looked up one by one
_MOST_TOGETHER, _MOST_TOGETHER_BYTES = 4_096, 2**28  # images or texts of a request that runs as a whole
_ID_BYTES = 24  # of a token: its id, its mask and its type
_SHOWN = 60  # characters of a caller's word in an error
_Step = Callable[[Arrays], Arrays]
Padding = int | Literal["edge"]


class Preparation:
    """One model version's steps before and after its graph.

    `raw` names the inputs that steps take as BYTES, `most` how many strings a row of them may have; `ahead` are steps
    that do for many rows at once what takes long, and leave the rest for the step of each row. `padding` says of
    the graph's inputs whose last axis may be filled up with what (a number; "edge", the row's last value), at its
    beginning where it `pads_left`, and `max_length` how long it may get; `together` are the inputs that are always as
    long as one another (those that one step makes), `ids` which ids steps make for them.
    """

    def __init__(
        self,
        steps: Sequence[_Step] = (),
        after: Sequence[_Step] = (),
        *,
        raw: Collection[str] = (),
        most: Mapping[str, int] | None = None,
        ahead: Sequence[_Step] = (),
        padding: Mapping[str, Padding] | None = None,
        pads_left: bool = False,
        together: Sequence[Collection[str]] = (),
        ids: Mapping[str, range] | None = None,
        max_length: int = sys.maxsize,
    ) -> None:
        self._steps, self._after = steps, after
        self._raw = frozenset(raw)
        self._most = dict(most or {})
        self._ahead = ahead
        self._padding = dict(padding or {})
        self._pads_left = pads_left
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

    def ahead(self, rows: Arrays) -> Arrays:
        """The rows of many requests with what can be done for them together; each goes through `before` then."""
        for step in self._ahead:
            rows = step(rows)
        return rows

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
        return self._ids[name].start if name in self._ids else int(self._padding.get(name) == 0)

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
                return _padded(arrays, longest, self._padding[name], at_start=self._pads_left)
        return np.concatenate(arrays)

    def joined(self, parts: Sequence[Arrays]) -> Arrays:
        """The rows of all the parts, input by input; see `join`."""
        return {name: self.join(name, [part[name] for part in parts]) for name in parts[0]}


def _padded(arrays: Sequence[npt.NDArray[Any]], longest: int, padding: Padding, *, at_start: bool) -> npt.NDArray[Any]:
    first = arrays[0]
    value = 0 if padding == "edge" else padding
    padded = np.full((sum(map(len, arrays)), *first.shape[1:-1], longest), value, first.dtype)
    row = 0
    for array in arrays:
        rows, length = padded[row : row + len(array)], array.shape[-1]
        if at_start:
            rows[..., longest - length :] = array
        else:
            rows[..., :length] = array
        if padding == "edge" and length:
            rows[..., length:] = array[..., -1:]
        row += len(array)
    return padded


def load(folder: Path, manifest: Manifest | None, graph: Mapping[str, TensorSpec] | None = None) -> Preparation:
    """The steps that a manifest declares; none without. `graph` are the inputs that the model's file has.

    The manifest's steps name their inputs (see `presented.completed`). Raises `OSError` or `ManifestError` for a
    vocabulary or a tokenizer, and for a step that does not fit the graph.
    """
    if manifest is None:
        return Preparation()
    parts = _Parts()
    for step in manifest.preprocessing:
        match step:
            case DecodeImage():
                spec = (graph or {}).get(step.input)
                reader = pixels.reader(step, spec) if spec else pixels.MNIST
                parts.steps.append(_decoding(step, reader))
                parts.most[step.input] = max(1, min(_MOST_TOGETHER, _MOST_TOGETHER_BYTES // reader.row_bytes))
            case Tokenize() if step.tokenizer:
                _add_tokenizer(parts, tokenizing.load(step, folder, graph or {}))
            case Tokenize():
                vocabulary = _vocabulary(folder, step.vocabulary)
                length = _fixed_length(graph, step.output)
                ids = {step.output: range(1, max(2, len(vocabulary)))}
                parts.steps.append(_tokenizing(step, vocabulary, length))
                parts.make({step.output: 0}, ids, min(step.max_length, length or step.max_length), length)
            case LookUpWords():
                vocabulary = _vocabulary(folder, step.vocabulary)
                length = _fixed_length(graph, step.output)
                parts.most[step.input] = length or MAX_WORDS
                parts.steps.append(_looking_up(step, vocabulary, manifest.name or folder.parent.name, length))
                ids = {step.output: range(max(1, len(vocabulary)))}
                parts.make({step.output: "edge", step.weights: 0}, ids, length or sys.maxsize, length)
    return Preparation(
        parts.steps,
        [_naming(step, _vocabulary(folder, step.vocabulary)) for step in manifest.postprocessing],
        raw=[step.input for step in manifest.preprocessing],
        most=parts.most,
        ahead=parts.ahead,
        padding=parts.padding,
        pads_left=parts.pads_left,
        together=parts.together,
        ids=parts.ids,
        max_length=parts.max_length,
    )


@dataclass(slots=True)
class _Parts:
    """What a `Preparation` is made of, gathered step by step."""

    steps: list[_Step] = field(default_factory=list)
    most: dict[str, int] = field(default_factory=dict)
    ahead: list[_Step] = field(default_factory=list)
    padding: dict[str, Padding] = field(default_factory=dict)
    together: list[tuple[str, ...]] = field(default_factory=list)
    ids: dict[str, range] = field(default_factory=dict)
    max_length: int = sys.maxsize
    pads_left: bool = False

    def make(
        self, padding: Mapping[str, Padding], ids: Mapping[str, range], max_length: int, length: int | None
    ) -> None:
        """Inputs that one step makes: of the `length` that the graph takes, or padded to the longest of a batch."""
        if length is None:
            self.pad(padding, ids, max_length)
        else:
            self.ids |= ids

    def pad(self, padding: Mapping[str, Padding], ids: Mapping[str, range], max_length: int = sys.maxsize) -> None:
        """Inputs that one step makes, which are as long as one another."""
        self.padding |= padding
        self.together.append(tuple(padding))
        self.ids |= ids
        self.max_length = min(self.max_length, max_length)


def _fixed_length(graph: Mapping[str, TensorSpec] | None, name: str) -> int | None:
    """How long every row of that input is, where the model's file says so."""
    spec = (graph or {}).get(name)
    return spec.shape[-1] if spec is not None and spec.shape and spec.shape[-1] > 0 else None


def _of_length(row: npt.NDArray[Any], length: int | None, padding: Padding) -> npt.NDArray[Any]:
    return row if length is None else _padded([row], length, padding, at_start=False)


def _add_tokenizer(parts: _Parts, found: tokenizing.Tokenizing) -> None:
    parts.steps.append(found)
    parts.ahead.append(found.ahead)
    for name in found.inputs:
        parts.most[name] = max(1, min(_MOST_TOGETHER, _MOST_TOGETHER_BYTES // (found.max_length * _ID_BYTES)))
    if found.length is None:
        parts.pad(found.outputs, found.ids, found.max_length)
        parts.pads_left |= found.pads_left
    else:
        parts.ids |= found.ids


def _vocabulary(folder: Path, name: str) -> Vocabulary:
    if Path(name).name != name:
        raise ManifestError(f"the vocabulary {name!r} must be a file beside the manifest")
    try:
        return Vocabulary.read(folder / name)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{folder / name} is not UTF-8: {error}") from error


def _decoding(step: DecodeImage, reader: pixels.Reader) -> _Step:
    def decode(row: Arrays) -> Arrays:
        files = row.get(step.input)
        if files is None or files.dtype.kind != "O":  # of another signature, or pixels already
            return row
        decoded = np.stack([reader.read(file) for file in files.flat])
        return row | {step.input: decoded.reshape(*files.shape, *decoded.shape[1:])}

    return decode


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the text is not UTF-8: {error}") from None


def _tokenizing(step: Tokenize, vocabulary: Vocabulary, length: int | None) -> _Step:
    longest = min(step.max_length, length or step.max_length)

    def tokenize(row: Arrays) -> Arrays:
        ids = vocabulary.encode(_text(row[step.input][0]), longest, step.keep)
        return {name: array for name, array in row.items() if name != step.input} | {
            step.output: _of_length(np.array([ids], np.int32), length, 0)
        }

    return tokenize


def _looking_up(step: LookUpWords, vocabulary: Vocabulary, model: str, length: int | None) -> _Step:
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
        made = {step.output: _of_length(found, length, "edge"), step.weights: _of_length(weights, length, 0)}
        return {name: array for name, array in row.items() if name != step.input} | made

    return look_up


def _naming(step: NameWords, vocabulary: Vocabulary) -> _Step:
    entries = np.array([word.encode() for word in vocabulary.entries], object)
    return lambda outputs: outputs | {step.output: entries[outputs[step.output]]}
