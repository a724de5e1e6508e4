"""Texts to the ids that a graph takes, by a Hugging Face `tokenizer.json`, as a manifest's `tokenize` says.

The ids are those of the library `tokenizers` called directly. It releases the interpreter's lock where it is given
several texts, so all texts of a block are given to it together.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.artifacts.manifest import ManifestError, Tokenize
from millrace.protocol.errors import InvalidRequest, MillraceError
from millrace.protocol.tensors import DTYPES, TensorSpec
from worker.backends.base import Arrays, ends_the_program

_LENGTH = 512  # of texts, where neither the manifest nor the tokenizer's file says it
_TOGETHER_BYTES = 2**20  # of texts that are encoded at once: about a second
_PADDING = ("[PAD]", "<pad>", "<PAD>", "<|pad|>", "<|padding|>")
_NONE: npt.NDArray[Any] = np.empty(0, object)
_EXTRA = "worker-tokenizers"


class Tokenizing:
    """One model's tokenizer, and where the graph takes what of it.

    `inputs` are what callers call the texts. `outputs` are the graph's inputs that it makes, each with the value that
    fills up shorter texts; `ids` the values that it may make for them. `length` is how long every text is to be, None
    where the longest of a batch says it; `pads_left` whether texts are filled up at their beginning.
    """

    def __init__(self, step: Tokenize, tokenizer: Any, graph: Mapping[str, TensorSpec]) -> None:
        self._step, self._tokenizer = step, tokenizer
        axis = graph[step.output].shape[-1]
        self.length = axis if axis > 0 else None
        padding = tokenizer.padding or {}
        self.pads_left = padding.get("direction") == "left"
        pad_id, vocabulary = _pad_id(tokenizer, padding), tokenizer.get_vocab_size()
        values = {step.output: pad_id, step.mask: 0, step.types: padding.get("pad_type_id", 0)}
        others = range(pad_id + 1, vocabulary) if 2 * pad_id < vocabulary else range(pad_id)
        ranges = {step.output: others or range(1), step.mask: range(1, 2), step.types: range(2 if step.pair else 1)}
        self.inputs = [name for name in (step.input, step.pair) if name]
        self.outputs = {name: value for name, value in values.items() if name}
        self.ids = {name: ranges[name] for name in self.outputs}
        self._dtypes = {name: DTYPES[graph[name].datatype] for name in self.outputs}
        self.max_length = self._bound_length()
        tokenizer.no_padding()

    def _bound_length(self) -> int:
        step, given = self._step, self._tokenizer.truncation or {}
        length = step.max_length or given.get("max_length") or self.length or _LENGTH
        if self.length and step.max_length > self.length:
            raise ManifestError(f"a max_length of {length} is more than the {self.length} that the model's file takes")
        length = min(length, self.length or length)
        direction = "left" if step.keep == "end" else given.get("direction", "right")
        self._tokenizer.enable_truncation(
            length, strategy=given.get("strategy", "longest_first"), direction=direction, stride=0
        )
        return int(length)

    def ahead(self, rows: Arrays) -> Arrays:
        """The texts of many rows replaced by what they become, or by their errors: unless they are very long."""
        texts = rows.get(self._step.input, _NONE)
        if texts.size < 2 or sum(map(len, texts.flat)) > _TOGETHER_BYTES:
            return rows
        encoded = np.empty(texts.size, object)
        try:
            encoded[:] = self._encoded(rows)
        except BaseException as error:  # of one text, which then fails alone; the library panics with no `Exception`
            if ends_the_program(error):
                raise
            return rows
        return rows | {self._step.input: encoded.reshape(texts.shape)}

    def __call__(self, row: Arrays) -> Arrays:
        """The graph's inputs for texts of any shape, or what `ahead` made of them. Raises `InvalidRequest`."""
        step = self._step
        if step.input not in row:  # of another signature
            return row
        texts = row[step.input]
        found = self._encoded(row) if not texts.size or isinstance(texts.flat[0], bytes) else texts.ravel().tolist()
        for each in found:
            if isinstance(each, MillraceError):
                raise each.with_traceback(None)
        kept = {name: array for name, array in row.items() if name not in (step.input, step.pair)}
        return kept | self._arrays(found, texts.shape)

    def _encoded(self, rows: Arrays) -> list[Any]:
        """An encoding, or the error, for each text."""
        firsts = [self._text(raw) for raw in rows[self._step.input].flat]
        asked: list[Any] = firsts
        if pair := self._step.pair:
            seconds = [self._text(raw) for raw in rows[pair].flat]
            if len(firsts) != len(seconds):
                raise InvalidRequest(f"inputs '{self._step.input}' and '{pair}' must have the same shape")
            asked = [_pair(*both) for both in zip(firsts, seconds, strict=True)]
        # `encode_batch_fast` would lose the types where the tokenizer has no post-processor.
        encodings = iter(self._tokenizer.encode_batch([text for text in asked if not _is_error(text)]))
        return [text if _is_error(text) else next(encodings) for text in asked]

    def _text(self, raw: bytes) -> str | InvalidRequest:
        if len(raw) > self._step.max_bytes:
            return InvalidRequest(f"a text of {len(raw)} bytes is too long: at most {self._step.max_bytes} are taken")
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            return InvalidRequest(f"the text is not UTF-8: {error}")

    def _arrays(self, encodings: Sequence[Any], shape: tuple[int, ...]) -> Arrays:
        columns: dict[str, list[list[int]]] = {self._step.output: [encoding.ids for encoding in encodings]}
        if self._step.mask:
            columns[self._step.mask] = [encoding.attention_mask for encoding in encodings]
        if self._step.types:
            columns[self._step.types] = [encoding.type_ids for encoding in encodings]
        longest = self.length or max(1, *map(len, columns[self._step.output]))
        return {name: self._filled(name, values, longest).reshape(*shape, longest) for name, values in columns.items()}

    def _filled(self, name: str, rows: Sequence[Sequence[int]], length: int) -> npt.NDArray[Any]:
        filled = np.full((len(rows), length), self.outputs[name], self._dtypes[name])
        for line, row in zip(filled, rows, strict=True):
            if self.pads_left:
                line[length - len(row) :] = row
            else:
                line[: len(row)] = row
        return filled


def load(step: Tokenize, folder: Path, graph: Mapping[str, TensorSpec]) -> Tokenizing:
    """The tokenizer in the folder, for a graph with these inputs.

    Raises `ManifestError` where it cannot be read, does not fit the graph, or its library is not installed.
    """
    if not find_spec("tokenizers"):
        raise ManifestError(
            f"{step.tokenizer} needs the library tokenizers, which is not installed; install it from Millrace's "
            f"checkout with: pip install -e '.[{_EXTRA}]'"
        )
    from tokenizers import Tokenizer

    if Path(step.tokenizer).name != step.tokenizer:
        raise ManifestError(f"the tokenizer {step.tokenizer!r} must be a file beside the manifest")
    path = folder / step.tokenizer
    for name in (step.output, step.mask, step.types):
        if name and (name not in graph or len(graph[name].shape) != 2 or DTYPES[graph[name].datatype].kind not in "iu"):
            raise ManifestError(f"tokenize makes whole numbers [-1, n] for {name!r}, which the model's file lacks")
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
    except ValueError as error:
        raise ManifestError(f"{path} is not JSON: {error}") from error
    try:
        found = Tokenizing(step, Tokenizer.from_str(text), graph)
        found({step.input: np.array([b"a"], object), step.pair: np.array([b"a"], object)})
    except ManifestError:
        raise
    except BaseException as error:  # the library raises nothing more special, and panics with what is no `Exception`
        if ends_the_program(error):
            raise
        raise ManifestError(f"{path}: {error}") from error
    return found


def _pad_id(tokenizer: Any, padding: Mapping[str, Any]) -> int:
    if "pad_id" in padding:
        return int(padding["pad_id"])
    return next((number for token in _PADDING if (number := tokenizer.token_to_id(token)) is not None), 0)


def _pair(first: str | InvalidRequest, second: str | InvalidRequest) -> tuple[str, str] | InvalidRequest:
    if isinstance(first, InvalidRequest):
        return first
    return second if isinstance(second, InvalidRequest) else (first, second)


def _is_error(text: object) -> bool:
    return isinstance(text, InvalidRequest)
