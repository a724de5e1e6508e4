"""The sizes that formats are written for: those of `--shape`, and for formats without free sizes a default.

A format of fixed sizes is compared on the same rows as the others. It gets them in parts of as many rows as it takes,
and texts filled up as the manifest's steps say, so that it is also seen whether filling up changes answers.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import tensorflow as tf

from millrace.artifacts.manifest import Batching, LookUpWords, Manifest, Tokenize
from millrace.protocol.tensors import DEFAULT_SIGNATURE, TensorSpec
from training import parity
from training.export.keras_model import renamed
from training.export.model import ExportError, Exports, Shapes, Trained, traced

_TOKENS = 512  # where only a tokenizer's file says how long a text may be
_WORDS = 8  # of a row that is looked up: an analogy has three

Filling = Mapping[str, int | str]  # by input, what rows are filled up with; see `numpy.pad`'s modes


def with_shapes(trained: Trained, wanted: Shapes) -> Trained:
    """The model to be written for those sizes of its inputs; -1 leaves a size free. Raises `ExportError`.

    A number of rows holds for every input that is free in it. Data may have any number of rows all the same, and any
    length where the manifest's steps fill up; see `sized`.
    """
    if not wanted:
        return trained
    shapes = _completed(wanted, trained.exports)
    return replace(
        trained,
        shapes=shapes,
        exports=for_data(trained.exports, wanted, trained.description),
        description=_described(trained.description, trained.exports, shapes),
    )


def for_data(exports: Exports, wanted: Shapes, description: Manifest | None = None) -> Exports:
    """The graphs for data of those sizes: for any number of rows, and as long as steps do not fill up. As above."""
    if not wanted:
        return exports
    filled = {} if description is None else filling(description)
    shapes = _completed(wanted, exports)
    for spec in exports.function.input_signature:
        if spec.name in filled:
            shapes[spec.name] = _as_given(spec)
        elif _has_free_rows(spec):
            shapes[spec.name] = (-1, *shapes[spec.name][1:])
    return _narrowed(exports, shapes, fuses=True)


def _completed(wanted: Shapes, exports: Exports) -> dict[str, tuple[int, ...]]:
    """The shape of each input, the sizes that neither the model nor `wanted` fixes as -1. Raises `ExportError`."""
    own = {} if exports.keras_model is None else renamed(exports.keras_model)
    named = {own.get(name, name): shape for name, shape in wanted.items()}
    specs = {spec.name: spec for spec in exports.function.input_signature}
    for name, shape in named.items():
        _check(name, shape, specs)
    rows = {shape[0] for name, shape in named.items() if shape and _has_free_rows(specs[name])} or {-1}
    if len(rows) > 1:
        raise ExportError(f"--shape: every input has the same number of rows, not {' and '.join(map(str, rows))}")
    return {name: _sizes(spec, named.get(name, ()), *rows) for name, spec in specs.items()}


def _check(name: str, shape: tuple[int, ...], specs: Mapping[str, Any]) -> None:
    if name not in specs:
        raise ExportError(f"--shape: there is no input '{name}'; there are {', '.join(specs)}")
    known = specs[name].shape
    if known.rank != len(shape):
        raise ExportError(f"--shape: '{name}' has {known.rank} sizes, {_shown(known)}, not {len(shape)}")
    if any(size == 0 or size < -1 for size in shape) or not known.is_compatible_with(_free(shape)):
        raise ExportError(f"--shape: '{name}' is {_shown(known)}, which cannot be {_shown(_free(shape))}")


def _as_given(spec: Any) -> tuple[int, ...]:
    """The shape of an input as the model has it, free sizes as -1."""
    return tuple(-1 if size is None else size for size in spec.shape) if spec.shape.rank else ()


def _sizes(spec: Any, shape: tuple[int, ...], rows: int) -> tuple[int, ...]:
    known = _as_given(spec)
    wanted = [*shape] or [-1] * len(known)
    if _has_free_rows(spec):
        wanted[0] = rows
    return tuple(max(pair) for pair in zip(known, wanted, strict=True))


def _has_free_rows(spec: Any) -> bool:
    return bool(spec.shape.rank) and spec.shape[0] is None


def _free(shape: tuple[int, ...]) -> Any:
    return tf.TensorShape([None if size == -1 else size for size in shape])


def _shown(shape: Any) -> str:
    return "[" + ", ".join("free" if size is None else str(size) for size in shape) + "]"


def _described(description: Manifest, exports: Exports, shapes: Shapes) -> Manifest:
    """The manifest for those sizes. Rows of a model for one row run one by one; callers may send any number."""
    made = _narrow(exports.function, shapes).get_concrete_function().structured_outputs
    known = {**shapes, **{name: tuple(-1 if n is None else n for n in tensor.shape) for name, tensor in made.items()}}
    rows = {shape[0] for shape in shapes.values() if shape}
    batching = description.batching
    if rows == {1} and all(tensor.shape.rank and tensor.shape[0] == 1 for tensor in made.values()):
        known = {name: (-1, *shape[1:]) for name, shape in known.items()}
        batching = Batching(max_batch_size=1)
    elif rows != {-1}:
        batching = Batching(max_batch_size=0)

    def resized(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(msgspec.structs.replace(spec, shape=known.get(spec.name, spec.shape)) for spec in specs)

    signature = description.signatures[DEFAULT_SIGNATURE]
    signature = msgspec.structs.replace(signature, inputs=resized(signature.inputs), outputs=resized(signature.outputs))
    signatures = {**description.signatures, DEFAULT_SIGNATURE: signature}
    return msgspec.structs.replace(description, signatures=signatures, batching=batching)


# Formats


def all_fixed(trained: Trained) -> Shapes:
    """Every size of every input: those of `--shape`, else one row, and texts as long as the manifest lets them be.

    Raises `ExportError` for another size that is free.
    """
    longest = _longest(trained.description)
    shapes = {}
    for spec in trained.exports.function.input_signature:
        shape = trained.shapes.get(spec.name) or _as_given(spec)
        whole = tuple(_default(size, place, longest.get(spec.name)) for place, size in enumerate(shape))
        if -1 in whole or spec.shape.rank is None:
            example = ",".join("SIZE" if size == -1 else str(size) for size in whole)
            raise ExportError(f"'{spec.name}' has free sizes; none may be free here: --shape {spec.name}={example}")
        shapes[spec.name] = whole
    return shapes


def _default(size: int, place: int, longest: int | None) -> int:
    if size != -1 or (place and longest is None):
        return size
    return longest if place and longest is not None else 1


def sized(trained: Trained, shapes: Shapes, *, fuses: bool) -> Trained:
    """The same for those sizes: its graphs, and the rows that int8 is calibrated on.

    `fuses` keeps the fused LSTMs of TFLite's graph, which are for one row.
    """
    if not shapes and fuses:
        return trained
    filled = filling(trained.description)
    return replace(
        trained,
        exports=_narrowed(trained.exports, shapes, fuses=fuses),
        shapes=shapes,
        representative=[_whole(row, shapes, filled) for row in trained.representative],
    )


def _narrowed(exports: Exports, shapes: Shapes, *, fuses: bool) -> Exports:
    one_row = all(shape[:1] in ((1,), (-1,)) for shape in shapes.values())
    lite = exports.lite_function if fuses and one_row else None
    ones = {name: (1, *shape[1:]) for name, shape in shapes.items()}
    return replace(
        exports,
        function=_narrow(exports.function, shapes),
        lite_function=None if lite is None else _narrow(lite, ones),
    )


def _narrow(function: Any, shapes: Shapes) -> Any:
    """The function traced anew for those sizes: some operators are written only where sizes are known."""
    specs = {spec.name: tf.TensorSpec(_free(shapes[spec.name]), spec.dtype) for spec in function.input_signature}
    return traced(lambda **tensors: function.python_function(*tensors.values()), specs)


# Rows


def most(trained: Trained, name: str) -> int | None:
    """How long the rows of an input may be that steps fill up, None for other inputs."""
    if name not in (longest := _longest(trained.description)):
        return None
    shape = trained.shapes.get(name, (-1,))
    return longest[name] if shape[-1] == -1 else shape[-1]


def filling(description: Manifest) -> Filling:
    """What rows of the inputs that the manifest's steps make are filled up with, so that answers stay the same."""
    found: dict[str, int | str] = {}
    for step in description.preprocessing:
        match step:
            case Tokenize():
                found |= {name: 0 for name in (step.output, step.mask, step.types) if name}
            case LookUpWords():
                found |= {step.output: "edge", step.weights: 0}
    return found


def _longest(description: Manifest) -> dict[str, int]:
    found: dict[str, int] = {}
    for step in description.preprocessing:
        match step:
            case Tokenize():
                length = step.max_length or _TOKENS
                found |= {name: length for name in (step.output, step.mask, step.types) if name}
            case LookUpWords():
                found |= {step.output: _WORDS, step.weights: _WORDS}
    return found


def fitted(run: parity.Run, shapes: Shapes, filled: Filling) -> parity.Run:
    """A format's run for batches of any number of rows, which are given to it in the sizes that it takes."""
    rows = _rows(shapes)

    def fitting(batch: parity.Arrays) -> dict[str, Any]:
        count = len(next(iter(batch.values()))) if rows is not None else None
        if count is None or count == rows:
            return run(_whole(batch, shapes, filled))
        parts = [run(_whole(batch, shapes, filled, start)) for start in range(0, count, rows or 1)]
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}

    return fitting if shapes else run


def _rows(shapes: Shapes) -> int | None:
    """The one number of rows that is taken, None where it is free."""
    found = {shape[0] for shape in shapes.values() if shape} - {-1}
    return found.pop() if len(found) == 1 else None


def _whole(batch: parity.Arrays, shapes: Shapes, filled: Filling, start: int = 0) -> dict[str, Any]:
    """As many rows from `start` on as are taken at once, the last one again where there are fewer, filled up."""
    rows = _rows(shapes)
    found: dict[str, Any] = {}
    for name, array in batch.items():
        part = array if rows is None else array[np.minimum(np.arange(start, start + rows), len(array) - 1)]
        found[name] = _filled(part, shapes.get(name, ()), filled.get(name))
    return found


def _filled(array: Any, shape: tuple[int, ...], value: int | str | None) -> Any:
    if value is None or not shape or shape[-1] in (-1, array.shape[-1]):
        return array
    if array.shape[-1] > shape[-1]:
        raise ValueError(f"a row is {array.shape[-1]} long; {shape[-1]} are taken: --shape fixes another length")
    missing = [(0, 0)] * (array.ndim - 1) + [(0, shape[-1] - array.shape[-1])]
    if isinstance(value, str):
        return np.pad(array, missing, mode="edge")
    return np.pad(array, missing, constant_values=value)
