"""Data that users give, in any of the usual forms, as arrays by the inputs' names, with the labels where there are any.

    test.npz            the inputs by their names, and `labels`
    test.npy            the only input
    images/             files below a folder for each label, or without labels; resized to the model's input
    test.csv            a column for each input, or for each number of the only one; `label` or `labels`
    module:function     a `tf.data.Dataset`, or any iterable, of inputs or of (inputs, labels), in batches

Labels are whole numbers, one for each row, or one column for each class or label. Whatever is wrong with the data is
said in one line.
"""

import csv
import importlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.export.keras_model import identifiers, renamed
from training.export.model import ExportError, Trained
from training.export.shapes import most
from training.parity import Arrays

LABELS = ("labels", "label")
_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
_MOST_ROWS = 100_000  # that are read of an iterable, where no limit is given

Array = npt.NDArray[Any]
Found = tuple[dict[str, Any], Any]  # arrays by name, or by nothing ("") for the only input; labels or None


def read(place: str, trained: Trained, limit: int | None) -> tuple[Arrays, Array | None]:
    """The inputs by name, in the types that the graph takes, and the labels; at most `limit` rows.

    Raises `ExportError`.
    """
    found, labels = _reader(place)(place, trained, limit)
    inputs = _inputs(place, _by_name(place, found, trained), trained)
    counts = {name: len(array) for name, array in inputs.items()}
    labels = None if labels is None else _labels(place, np.asarray(labels))
    if labels is not None:
        counts["labels"] = len(labels)
    if len(set(counts.values())) != 1:
        raise ExportError(f"{place}: the arrays have different numbers of rows: {counts}")
    if not next(iter(counts.values())):
        raise ExportError(f"{place} has no rows")
    return {name: array[:limit] for name, array in inputs.items()}, None if labels is None else labels[:limit]


def _reader(place: str) -> Callable[[str, Trained, int | None], Found]:
    path = Path(place)
    if path.is_dir():
        return _images
    if not path.exists() and ":" in place:
        return _function
    readers = {".npz": _npz, ".npy": _npy, ".csv": _csv}
    if path.suffix.lower() not in readers:
        if not path.exists():
            raise ExportError(f"there is no {place}")
        raise ExportError(f"{place} cannot be read: give .npz, .npy, .csv, a folder of images or module:function")
    return readers[path.suffix.lower()]


# Forms


def _npz(place: str, trained: Trained, limit: int | None) -> Found:
    try:
        with np.load(place) as file:
            found = {name: file[name][:limit] if file[name].ndim else file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ExportError(f"{place} cannot be read as an .npz file: {_line(error)}") from error
    names = {spec.name for spec in trained.exports.function.input_signature}
    labels = next((name for name in LABELS if name in found and name not in names), "")
    return {name: array for name, array in found.items() if name != labels}, found.get(labels)


def _npy(place: str, _trained: Trained, limit: int | None) -> Found:
    try:
        array = np.load(place)
    except (OSError, ValueError) as error:
        raise ExportError(f"{place} cannot be read as an .npy file: {_line(error)}") from error
    return {"": array[:limit] if array.ndim else array}, None


def _csv(place: str, trained: Trained, limit: int | None) -> Found:
    with Path(place).open(newline="", encoding="utf-8-sig") as file:
        try:
            head, *rows = itertools.islice(csv.reader(file), None if limit is None else limit + 1)
        except (ValueError, csv.Error) as error:
            raise ExportError(f"{place} is empty or no CSV: {_line(error)}") from error
    rows = [row for row in rows if row]
    for number, row in enumerate(rows, 2):
        if len(row) != len(head):
            raise ExportError(f"{place}, line {number}: {len(row)} fields; the head has {len(head)}")
    columns = {name.strip(): [row[place] for row in rows] for place, name in enumerate(head)}
    specs = trained.exports.function.input_signature
    label = next((name for name in LABELS if name in columns and name not in {spec.name for spec in specs}), "")
    labels = columns.pop(label, None)
    given = None if labels is None else _numbers(place, label, labels)
    if len(specs) == 1 and specs[0].name not in identifiers(list(columns)) and specs[0].dtype.name != "string":
        width = specs[0].shape[-1] if specs[0].shape.rank == 2 else None
        if width not in (None, len(columns)):
            raise ExportError(f"{place} has {len(columns)} columns beside the labels; the model takes {width}")
        table = [_numbers(place, name, column) for name, column in columns.items()]
        return {"": np.stack(table, axis=1) if table else np.zeros((len(rows), 0))}, given
    return {name: _column(place, name, column, trained) for name, column in columns.items()}, given


def _column(place: str, name: str, column: Sequence[str], trained: Trained) -> Array:
    """One column as an input of one number, or text, for each row."""
    specs = {spec.name: spec for spec in trained.exports.function.input_signature}
    spec = specs.get(name) or specs.get(identifiers([name])[0])
    if spec is None:
        return np.zeros(len(column))  # which no input is made from
    array = np.array(column, object) if spec.dtype.name == "string" else _numbers(place, name, column)
    return array[:, None] if spec.shape.rank == 2 else array


def _numbers(place: str, name: str, column: Sequence[str]) -> Array:
    numbers = np.empty(len(column))
    for row, text in enumerate(column):
        try:
            numbers[row] = float(text)
        except ValueError:
            raise ExportError(f"{place}, line {row + 2}, column '{name}': {text!r} is no number") from None
    return numbers


def _images(place: str, trained: Trained, limit: int | None) -> Found:
    from PIL import Image

    (height, width, channels) = _image_shape(place, trained)
    paths = sorted(path for path in Path(place).rglob("*") if path.suffix.lower() in _IMAGES)
    if not paths:
        raise ExportError(f"{place} holds no images ({', '.join(sorted(_IMAGES))})")
    known = sorted({path.parent for path in paths})
    names = trained.description.labels
    classes = {folder: names.index(folder.name) if folder.name in names else n for n, folder in enumerate(known)}
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, min(len(paths), limit or len(paths))).astype(int)]
    pixels = []
    for path in chosen:
        try:
            with Image.open(path) as image:
                mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
                pixels.append(np.asarray(image.convert(mode).resize((width, height)), np.float32))
        except OSError as error:
            raise ExportError(f"{path} cannot be read as an image: {_line(error)}") from error
    stacked = np.stack(pixels).reshape(len(pixels), height, width, channels)
    labels = np.array([classes[path.parent] for path in chosen]) if known != [Path(place)] else None
    return {"": stacked}, labels


def _image_shape(place: str, trained: Trained) -> tuple[int, int, int]:
    specs = trained.exports.function.input_signature
    if len(specs) != 1 or specs[0].shape.rank != 4 or specs[0].shape[-1] not in (1, 3, 4):
        shapes = ", ".join(f"'{spec.name}' {spec.shape}" for spec in specs)
        raise ExportError(f"{place}: a folder of images is for models of one image; this one takes {shapes}")
    _, height, width, channels = specs[0].shape
    return height or 224, width or 224, channels


def _function(place: str, _trained: Trained, limit: int | None) -> Found:
    module, _, name = place.rpartition(":")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as Python does for a script
    try:
        batches = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ExportError(f"{place}: {_line(error)}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(batches, Iterable):
        raise ExportError(f"{place} returned {type(batches).__name__}; a tf.data.Dataset or an iterable is wanted")
    parts: dict[str, list[Array]] = {}
    labels: list[Array] = []
    rows = 0
    for batch in batches:
        inputs, *more = batch if isinstance(batch, tuple) else (batch,)
        named = {name: np.asarray(array) for name, array in _items(inputs)}
        if not named or any(array.ndim == 0 for array in named.values()):
            raise ExportError(f"{place} gives single values; batches of rows are wanted (`dataset.batch(32)`)")
        for key, array in named.items():
            parts.setdefault(key, []).append(array)
        labels += [np.asarray(more[0])] if more else []
        rows += len(next(iter(named.values())))
        if rows >= (limit or _MOST_ROWS):
            break
    try:
        joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
        return joined, np.concatenate(labels) if labels else None
    except ValueError as error:
        raise ExportError(f"{place}: its batches do not fit together: {_line(error)}") from error


def _items(inputs: Any) -> Iterable[tuple[str, Any]]:
    return inputs.items() if isinstance(inputs, Mapping) else [("", inputs)]


# Checks


def _by_name(place: str, found: Mapping[str, Any], trained: Trained) -> dict[str, Array]:
    """The arrays by the names of the graph's inputs, which may be called as the Keras model calls them."""
    names = [spec.name for spec in trained.exports.function.input_signature]
    if set(found) == {""}:
        if len(names) != 1:
            raise ExportError(f"{place} holds one array; the model takes {', '.join(names)}: give them by name (.npz)")
        return {names[0]: found[""]}
    model = trained.exports.keras_model
    own = {} if model is None else renamed(model)
    named = {own.get(name, name): array for name, array in found.items()}
    if missing := [name for name in names if name not in named]:
        raise ExportError(f"{place} lacks {', '.join(missing)}; it has {', '.join(sorted(found)) or 'nothing'}")
    return {name: named[name] for name in names}


def _inputs(place: str, found: Mapping[str, Array], trained: Trained) -> dict[str, Array]:
    inputs = {
        spec.name: _as_input(place, np.asarray(found[spec.name]), spec)
        for spec in trained.exports.function.input_signature
    }
    for name, array in inputs.items():
        longest = most(trained, name) if name in trained.shapes else None
        if longest is not None and array.shape[-1] > longest:
            raise ExportError(f"{place}: rows of '{name}' are up to {array.shape[-1]} long; {longest} are taken")
    return inputs


def _as_input(place: str, array: Array, spec: Any) -> Array:
    """The array in the input's type. Raises `ExportError` for another kind of values, and another shape."""
    wanted = spec.dtype.as_numpy_dtype
    is_text = spec.dtype.name == "string"
    if (array.dtype.kind in "OSU") != is_text or array.dtype.kind not in "OSUbiuf":
        raise ExportError(f"{place}: '{spec.name}' holds {array.dtype}; the model takes {spec.dtype.name}")
    if not is_text and not spec.dtype.is_floating and array.dtype.kind == "f" and (array != np.floor(array)).any():
        raise ExportError(f"{place}: '{spec.name}' holds fractions; the model takes {spec.dtype.name}")
    if spec.dtype.is_integer and array.size:
        bounds = np.iinfo(wanted)
        if array.min() < bounds.min or array.max() > bounds.max:
            raise ExportError(f"{place}: '{spec.name}' holds numbers that {spec.dtype.name} cannot")
    if array.ndim != spec.shape.rank or not spec.shape[1:].is_compatible_with(array.shape[1:]):
        raise ExportError(f"{place}: '{spec.name}' has shape {list(array.shape)}; the model takes {spec.shape}")
    return array.astype(object if is_text else wanted)


def _labels(place: str, labels: Array) -> Array:
    """Whole numbers [rows]; or 0 and 1 [rows, labels], where a row may have several."""
    if labels.dtype.kind not in "biuf" or (labels.dtype.kind == "f" and (labels != np.floor(labels)).any()):
        raise ExportError(f"{place}: the labels are no whole numbers but {labels.dtype}")
    labels = labels.astype(np.int64)
    if labels.ndim == 2 and labels.shape[1] == 1:
        return labels[:, 0]
    if labels.ndim == 2 and np.isin(labels, (0, 1)).all():
        return labels.argmax(axis=1) if (labels.sum(axis=1) == 1).all() else labels
    if labels.ndim != 1:
        raise ExportError(
            f"{place}: the labels have shape {list(labels.shape)}; one for each row is wanted, or one-hot"
        )
    return labels


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
