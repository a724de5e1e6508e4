"""Trial inputs: what formats are compared on where nobody gives data. They look like what the model was made for.

Ids are drawn from the whole of the tables that they look up, bytes from 0 to 255; numbers are as the model's first
layer says (`Rescaling`, `Normalization`), else normal, and positive where the model answers NaN to others. Free
dimensions have several sizes, from 1 up, that the model itself survives.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from millrace.protocol.tensors import DEFAULT_SIGNATURE
from training import parity
from training.export import lookups
from training.export.keras_model import named_inputs
from training.export.model import ExportError, Trained
from training.export.shapes import most

_ROWS = (1, 3, 32, 164)  # of the batches that formats are compared on
_MOST_VALUES = 4_000_000  # of all inputs of a batch; fewer rows are taken of large ones
_REPRESENTATIVE, _OF_SMALL = 100, 400  # rows to calibrate on; of small inputs more, since each shows little
_SMALL = 1000  # values in a row
_FURTHEST = 2.5
_LENGTHS = (12, 1, 33, 5)  # of a sequence, batch by batch
_SIDES = (32, 64, 48, 40)  # of images, likewise
_LARGER = (16, 32, 64, 96, 128, 224, 256, 512)  # where the model does not survive those
_WORDS = ("a", "good", "film", "the", "bad", "one", "not", "is", "2", "Ünïcode")

Array = npt.NDArray[Any]
Draw = Callable[[np.random.Generator, Sequence[int]], Array]


@dataclass(frozen=True, slots=True)
class _Values:
    """How the values of an input are drawn, and what they are in words; `is_free` where nothing says what they are."""

    draw: Draw
    words: str
    is_free: bool = False


def with_trials(trained: Trained, *, calibrates: bool = True) -> Trained:
    """The same with batches drawn at random to compare on where it has none, and, if it `calibrates`, rows for that.

    Raises `ExportError` where the model itself answers none of them.
    """
    if trained.batches:
        return _calibrated_on_batches(trained) if calibrates and not trained.representative else trained
    random = np.random.default_rng(0)
    values = _values(trained)
    words = "; ".join(dict.fromkeys(found.words for found in values.values()))
    shapes = list(_surviving(trained, values))
    alone = [_with_rows(shape, 1) for shape in shapes] if _is_batched(trained) else shapes
    signs = _answered(trained, values, shapes[-1])
    batches = [_drawn(random, values, shape, signs) for shape in shapes]
    if signs is not None:
        words = words.replace("normal", "positive")
    drawn = f"numbers drawn at random ({words}){_nan_said(trained, batches)}"
    trained = replace(trained, batches=batches, compared_on=drawn)
    if calibrates and not trained.representative:
        count = _OF_SMALL if _each(shapes[0]) < _SMALL else _REPRESENTATIVE
        rows = [_drawn(random, values, alone[place % len(alone)], signs) for place in range(count)]
        said = f"{drawn}; real data (`--representative`) say the ranges better"
        trained = replace(trained, representative=rows, representative_from=said)
    return trained


def images(trained: Trained) -> list[str]:
    """The inputs of pixels from 0 to 255, grey or in colours: by the manifest, or by the `Rescaling` layer behind."""
    model, signature = trained.exports.keras_model, trained.description.signatures.get(DEFAULT_SIGNATURE)
    said = {spec.name for spec in signature.inputs if spec.media == "image"} if signature else set()
    first = _first_layers(model) if model is not None else {}
    said |= {name for name, layer in first.items() if isinstance(layer, keras.layers.Rescaling)}
    specs = trained.exports.function.input_signature
    return [spec.name for spec in specs if spec.name in said and spec.shape.rank == 4 and spec.shape[-1] in (1, 3)]


def _calibrated_on_batches(trained: Trained) -> Trained:
    """Real data say the ranges better than drawn ones, also those that formats are compared on."""
    rows = [*trained.batches]
    if _is_batched(trained):
        rows = [
            {name: array[place : place + 1] for name, array in batch.items()}
            for batch in trained.batches
            for place in range(len(next(iter(batch.values()))))
        ]
    said = f"{trained.compared_on}, which formats are compared on too; others (`--representative`) would be fairer"
    return replace(trained, representative=rows, representative_from=said)


# Values


def _values(trained: Trained) -> dict[str, _Values]:
    model, sizes = trained.exports.keras_model, lookups.sizes(trained.exports.function)
    first = _first_layers(model) if model is not None else {}
    entries = [entry for layer in _layers(model) for entry in _vocabulary(layer)]
    words = None if trained.vocabulary is None else len(trained.vocabulary)
    return {
        spec.name: _of_spec(spec, sizes.get(spec.name, words if spec.dtype.is_integer else None), first, entries)
        for spec in trained.exports.function.input_signature
    }


def _of_spec(spec: Any, size: int | None, first: Mapping[str, Any], entries: Sequence[Any]) -> _Values:
    kind = spec.dtype.as_numpy_dtype
    if size is not None:
        return _Values(lambda random, shape: random.integers(0, size, shape).astype(kind), f"ids from 0 to {size - 1}")
    if spec.dtype == tf.string:
        words = [str(entry) for entry in entries if isinstance(entry, str)] or _WORDS
        is_text = not entries or any(isinstance(entry, str) and " " in entry for entry in entries)
        return _Values(lambda random, shape: _texts(random, shape, words, 4 if is_text else 1), "texts")
    if spec.dtype == tf.bool:
        return _Values(lambda random, shape: random.integers(0, 2, shape).astype(bool), "true and false")
    if spec.dtype.is_integer:
        return _of_integers(kind, [entry for entry in entries if not isinstance(entry, str)])
    return _of_first_layer(first.get(spec.name), kind) or _Values(
        lambda random, shape: _normal(random, shape).astype(kind), "normal", is_free=True
    )


def _normal(random: np.random.Generator, shape: Sequence[int]) -> Array:
    """Normal numbers without the rarest, which some rows to calibrate on would lack and others would be judged on."""
    return np.clip(random.normal(size=shape), -_FURTHEST, _FURTHEST)


def _of_integers(kind: Any, entries: Sequence[Any]) -> _Values:
    known = np.array(entries, dtype=kind) if entries else None
    if known is not None:
        return _Values(lambda random, shape: random.choice(known, shape), "known whole numbers")
    low, high = (np.iinfo(kind).min, np.iinfo(kind).max) if np.iinfo(kind).bits == 8 else (0, 99)
    return _Values(
        lambda random, shape: random.integers(low, high, shape, endpoint=True).astype(kind),
        f"whole numbers from {low} to {high}",
    )


def _of_first_layer(layer: Any, kind: Any) -> _Values | None:
    """The values that a layer brings to a usual range."""
    if isinstance(layer, keras.layers.Rescaling) and np.ndim(layer.scale) == 0 and 0 < layer.scale < 0.1:
        largest = round(1 / float(layer.scale)) if layer.scale > 1 / 200 else 255
        return _Values(lambda random, shape: (random.random(shape) * largest).astype(kind), f"0 to {largest}")
    if isinstance(layer, keras.layers.Normalization) and getattr(layer, "mean", None) is not None:
        mean, deviation = np.asarray(layer.mean), np.sqrt(np.asarray(layer.variance))
        return _Values(
            lambda random, shape: (mean + deviation * _normal(random, shape)).astype(kind),
            "normal about the mean that a Normalization layer was adapted to",
        )
    return None


def _first_layers(model: keras.Model) -> dict[str, Any]:
    """The layer that each input goes to, by the input's name, where it goes to one alone."""
    inputs = named_inputs(model)
    found: dict[str, list[Any]] = {name: [] for name in inputs}
    for layer in _layers(model):
        for node in layer._inbound_nodes:
            for name, tensor in inputs.items():
                if any(given is tensor for given in node.input_tensors):
                    found[name].append(layer)
    return {name: layers[0] for name, layers in found.items() if layers and len(set(layers)) == 1}


def _layers(model: Any) -> list[Any]:
    return list(model._flatten_layers(include_self=False)) if model is not None else []


def _vocabulary(layer: Any) -> Sequence[Any]:
    """The entries of a layer of words or numbers; [] for other layers."""
    kinds = (keras.layers.TextVectorization, keras.layers.StringLookup, keras.layers.IntegerLookup)
    return [*layer.get_vocabulary()] if isinstance(layer, kinds) else []


def _texts(random: np.random.Generator, shape: Sequence[int], words: Sequence[str], longest: int) -> Array:
    texts = np.empty(shape, object)
    for place in np.ndindex(*shape):
        texts[place] = " ".join(random.choice(words, random.integers(1, longest, endpoint=True))).encode()
    return texts


# Shapes


def _surviving(trained: Trained, values: dict[str, _Values]) -> Iterator[dict[str, list[int]]]:
    """The shapes of the inputs of each batch. Raises `ExportError` where the model answers to none."""
    specs = trained.exports.function.input_signature
    is_batched = _is_batched(trained)
    free = max((sum(size is None for size in spec.shape[1:]) for spec in specs if spec.shape.rank), default=0)
    found = 0
    for rows, *wanted in zip(_ROWS, _LENGTHS, _SIDES, strict=True):
        sizes = (wanted[free > 1], *_LARGER) if free else (1,)
        for size in sizes:
            shape = {spec.name: _sizes(spec, size, most(trained, spec.name)) for spec in specs}
            shape = _with_rows(shape, rows) if is_batched else shape
            error = _error(trained, values, _with_rows(shape, 1) if is_batched else shape)
            if not error:
                found += 1
                yield _bounded(shape) if is_batched else shape
                break
        if not found:
            raise ExportError(f"the model fails on inputs drawn at random; give real ones with --data: {error}")


def _sizes(spec: Any, size: int, longest: int | None) -> list[int]:
    free = size if longest is None else min(size, longest)
    return [free if side is None else side for side in spec.shape]


def _is_batched(trained: Trained) -> bool:
    return all(spec.shape.rank and spec.shape[0] is None for spec in trained.exports.function.input_signature)


def _error(trained: Trained, values: dict[str, _Values], shape: dict[str, list[int]]) -> str:
    """Why the model does not answer; empty where it does."""
    try:
        trained.answer(_drawn(np.random.default_rng(1), values, shape, None))
    except Exception as error:  # whatever a layer raises for a size that it cannot have
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return ""


def _with_rows(shape: dict[str, list[int]], rows: int) -> dict[str, list[int]]:
    return {name: [rows, *sizes[1:]] for name, sizes in shape.items()}


def _bounded(shape: dict[str, list[int]]) -> dict[str, list[int]]:
    """As many rows as wanted, or as are not too large."""
    rows = next(iter(shape.values()))[0]
    return _with_rows(shape, max(1, min(rows, _MOST_VALUES // max(_each(shape), 1))))


def _each(shape: dict[str, list[int]]) -> int:
    """How many values a row has."""
    return sum(int(np.prod(sizes[1:])) for sizes in shape.values())


# Signs


def _answered(
    trained: Trained, values: dict[str, _Values], shape: dict[str, list[int]]
) -> Callable[[Array], Array] | None:
    """What is done to free numbers so that the model does not answer NaN; None where nothing is."""
    for change in (None, np.abs, _within_unit):
        answers = trained.answer(_drawn(np.random.default_rng(2), values, shape, change))
        if all(np.isfinite(answer).all() for answer in answers.values() if answer.dtype.kind == "f"):
            return change
    return None


def _within_unit(numbers: Array) -> Array:
    changed: Array = 0.01 + 0.98 * (np.abs(numbers) % 1)
    return changed


def _nan_said(trained: Trained, batches: Sequence[parity.Arrays]) -> str:
    """A remark where the model answers NaN all the same."""
    names = [
        name
        for name, answer in trained.answer(batches[-1]).items()
        if answer.dtype.kind == "f" and not np.isfinite(answer).all()
    ]
    return f"; to some of them the model answers NaN or infinity in {', '.join(names)}" if names else ""


def _drawn(
    random: np.random.Generator,
    values: dict[str, _Values],
    shape: dict[str, list[int]],
    change: Callable[[Array], Array] | None,
) -> dict[str, Array]:
    drawn = {name: found.draw(random, shape[name]) for name, found in values.items()}
    if change is None:
        return drawn
    return {name: change(array).astype(array.dtype) if values[name].is_free else array for name, array in drawn.items()}
