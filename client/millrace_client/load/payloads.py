"""The tensors that are sent: made from what the model says of its inputs, or given as files."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from millrace_client.errors import InvalidRequest
from millrace_client.inputs import Array, Tensor, tensors_for
from millrace_client.models import BYTES, DTYPES, ModelMetadata, TensorSpec

Fill = Literal["random", "zeros"]
# Words that any vocabulary of English has.
_WORDS = ["the", "king", "woman", "man", "water", "film", "good", "bad", "of", "three", "house", "paris", "music"]
_TEXT_WORDS = (1, 3, 8, 20, 60)  # lengths of texts: mixed, as real ones are
_LENGTH = 2  # of rows that may have any length: the same for all inputs, because they often go together
_IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadOptions:
    """How payloads are made: `count` different ones of `batch` rows each.

    `shapes` are an input's dimensions without the first one, for those that the model leaves open. `data` is a .npz
    file, a .jsonl file or a folder of images; then nothing is made up.
    """

    fill: Fill = "random"
    batch: int = 1
    count: int = 16
    seed: int = 7
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    data: Path | None = None


def payloads(metadata: ModelMetadata, options: PayloadOptions) -> list[list[Tensor]]:
    """The tensors of each request. Raises `InvalidRequest` where there are none, `OSError` for unreadable files."""
    if options.data is not None:
        return [tensors_for(inputs, metadata) for inputs in _given(options.data, metadata, options.batch)]
    if not metadata.required_inputs:
        raise InvalidRequest(f"model {metadata.name!r} declares no inputs: give its requests with --data")
    rng = np.random.default_rng(options.seed)
    return [
        [_made(spec, options, number, rng) for spec in metadata.required_inputs]
        for number in range(1 if options.fill == "zeros" else options.count)
    ]


def _made(spec: TensorSpec, options: PayloadOptions, number: int, rng: np.random.Generator) -> Tensor:
    shape = _shape(spec, options)
    if spec.datatype == BYTES:
        return Tensor(name=spec.name, datatype=BYTES, array=_texts(shape, options.fill, number, rng))
    if (dtype := DTYPES.get(spec.datatype)) is None:
        raise InvalidRequest(f"input {spec} has a type that cannot be made: give the requests with --data")
    array = np.zeros(shape) if options.fill == "zeros" else _random(shape, dtype, spec.media == "image", rng)
    return Tensor(name=spec.name, datatype=spec.datatype, array=array.astype(dtype))


def _shape(spec: TensorSpec, options: PayloadOptions) -> tuple[int, ...]:
    given = options.shapes.get(spec.name)
    first, rest = spec.shape[:1], spec.shape[1:] if given is None else given
    if rest == (-1,):
        rest = (_LENGTH,)
    if -1 in rest:
        raise InvalidRequest(
            f"input {spec} has open dimensions: say which, without the first one, as in --shape {spec.name}:3,224,224"
        )
    return tuple(options.batch if size == -1 else size for size in first) + rest


def _random(shape: tuple[int, ...], dtype: np.dtype[Any], is_image: bool, rng: np.random.Generator) -> Array:
    """Pixels for images and bytes, else numbers that are small: an integer may be an index."""
    if is_image or dtype == np.uint8:
        return rng.integers(0, 256, shape)
    return rng.uniform(size=shape) if dtype.kind == "f" else rng.integers(0, 2, shape)


def _texts(shape: tuple[int, ...], fill: Fill, number: int, rng: np.random.Generator) -> Array:
    """One word each in matrices, texts of mixed lengths else."""
    array = np.empty(int(np.prod(shape)), object)
    length = 1 if len(shape) > 1 else _TEXT_WORDS[number % len(_TEXT_WORDS)]
    array[:] = ["" if fill == "zeros" else " ".join(rng.choice(_WORDS, length)) for _ in array]
    return array.reshape(shape)


def _given(data: Path, metadata: ModelMetadata, batch: int) -> Iterator[object]:
    if data.is_dir():
        files = sorted(file for file in data.iterdir() if file.suffix.lower() in _IMAGES)
        if not files:
            raise InvalidRequest(f"{data} has no images ({', '.join(sorted(_IMAGES))})")
        yield from (files[start : start + batch] for start in range(0, len(files), batch))
    elif data.suffix == ".npz":
        yield from _rows(data, batch)
    elif data.suffix in (".jsonl", ".ndjson"):
        yield from _lines(data, metadata)
    else:
        raise InvalidRequest(f"{data}: --data takes a .npz file, a .jsonl file or a folder of images")


def _rows(data: Path, batch: int) -> Iterator[object]:
    with np.load(data, allow_pickle=False) as arrays:
        named = {name: arrays[name] for name in arrays.files}
    rows = min((len(array) for array in named.values()), default=0)
    if rows < batch:
        raise InvalidRequest(f"{data} has {rows} rows, and a request needs {batch}")
    for start in range(0, rows - batch + 1, batch):
        yield {name: array[start : start + batch] for name, array in named.items()}


def _lines(data: Path, metadata: ModelMetadata) -> Iterator[object]:
    lines = [line for line in data.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise InvalidRequest(f"{data} is empty")
    names = {spec.name for spec in metadata.inputs}
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise InvalidRequest(f"{data}, line {number} is not JSON: {error}") from None
        is_named = isinstance(value, dict) and (not names or value.keys() <= names)
        if isinstance(value, dict) and not is_named:
            raise InvalidRequest(f"{data}, line {number}: an object has one value for each input ({', '.join(names)})")
        yield value
