"""Columns of a file as the inputs of a model: checked, row by row where need be. A row that does not fit has an error.

A column of numbers or texts feeds an input of one element a row; a column of lists, or of JSON lists in a text column,
an input of more. Rows of different shapes go to the model in different blocks.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from jobs.formats import parsed_json
from jobs.rows import Block
from millrace.jobs.documents import RowsDocument
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import BYTES, DTYPES, Signature, Tensor, TensorSpec

Array = npt.NDArray[Any]
_BLOCK_BYTES, _MOST_BATCHES = 1_000_000, 4  # that make a block: what is sent at once costs less


def mapping_of(
    document: RowsDocument, signature: Signature, columns: Sequence[str], main: str | None = None
) -> dict[str, str]:
    """Which column feeds each input; `main` feeds the one input of a model where nothing says which.

    Raises `InvalidRequest`, naming what there is.
    """
    inputs = {spec.name: spec for spec in signature.inputs}
    needed = [spec.name for spec in signature.inputs if not spec.optional]
    if document.column is not None:
        only = needed if len(needed) == 1 else list(inputs)
        if len(only) != 1:
            raise InvalidRequest(f"column: the model has several inputs ({', '.join(inputs)}): use columns")
        found = {only[0]: document.column}
    elif document.columns:
        found = dict(document.columns)
    else:
        found = {name: name for name in inputs if name in columns}
        alone = main or (columns[0] if len(columns) == 1 else None)
        if not found and len(needed) == 1 and alone:
            found = {needed[0]: alone}
    field = "column" if document.column is not None else "columns"
    for name, column in found.items():
        if name not in inputs:
            raise InvalidRequest(f"{field}: the model has no input {name!r}; it has {', '.join(inputs)}")
        if column not in columns:
            raise InvalidRequest(f"{field}: the file has no column {column!r}; it has {', '.join(columns)}")
    if missing := [name for name in needed if name not in found]:
        have = ", ".join(columns)
        raise InvalidRequest(f"{field}: the model's input {missing[0]!r} has no column; the file has {have}")
    return found


def check_files(signature: Signature, mapping: Mapping[str, str], schema: pa.Schema) -> None:
    """Raises `InvalidRequest` where a column of files would feed an input of numbers that takes none."""
    for spec in signature.inputs:
        column = mapping.get(spec.name)
        if column and _is_binary(schema.field(column).type) and _as_fed(spec, pa.binary()).datatype != BYTES:
            shape = list(spec.shape)
            raise InvalidRequest(
                f"columns: {column!r} has files, and {spec.name!r} takes {spec.datatype} {shape} alone"
            )


class Inputs:
    """Makes blocks out of batches of a file: at most `most` rows each, 0 for a model that takes one row alone.

    Where a block `is_cut` later, into batches of `most` rows, it may have a few of them, up to about a megabyte.
    """

    def __init__(self, signature: Signature, mapping: Mapping[str, str], most: int, *, is_cut: bool = False) -> None:
        specs = {spec.name: spec for spec in signature.inputs}
        self._columns = [(specs[name], column) for name, column in mapping.items()]
        self._most = most or 1
        self._batches = _MOST_BATCHES if is_cut and most else 1

    def blocks(self, batch: pa.RecordBatch, errors: dict[int, str]) -> Iterator[Block]:
        """The batch's rows in order, but for those that get an error here."""
        arrays = {}
        for spec, name in self._columns:
            column = batch.column(name)
            arrays[spec.name] = _values(column, _as_fed(spec, column.type), name, errors)
        most = self._most * max(
            1, min(self._batches, _BLOCK_BYTES * batch.num_rows // max(1, batch.nbytes * self._most))
        )
        good = [row for row in range(batch.num_rows) if row not in errors]
        for run in _alike(arrays, good):
            for first in range(0, len(run), most):
                rows = run[first : first + most]
                yield Block(rows, {name: _tensor(column, rows) for name, column in arrays.items()})


def _as_fed(spec: TensorSpec, kind: pa.DataType) -> TensorSpec:
    """What the input takes from a column of that type: files, if it takes those too."""
    if spec.media and _is_binary(kind):
        return msgspec.structs.replace(spec, datatype=BYTES, shape=(-1,))
    return spec


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _tensor(column: "Array | list[Array | None]", rows: Sequence[int]) -> Tensor:
    if isinstance(column, list):
        return Tensor.from_numpy(np.stack([array for row in rows if (array := column[row]) is not None]))
    is_run = rows[-1] - rows[0] + 1 == len(rows)
    return Tensor.from_numpy(column[rows[0] : rows[-1] + 1] if is_run else column[np.asarray(rows)])


def _alike(arrays: "Mapping[str, Array | list[Array | None]]", rows: Sequence[int]) -> Iterator[Sequence[int]]:
    """Runs of rows that have one shape in each input."""
    by_row = [column for column in arrays.values() if isinstance(column, list)]
    if not by_row:
        if rows:
            yield rows
        return
    run: list[int] = []
    last: list[Any] = []
    for row in rows:
        shapes = [getattr(column[row], "shape", ()) for column in by_row]
        if run and shapes != last:
            yield run
            run = []
        run.append(row)
        last = shapes
    if run:
        yield run


def _values(column: pa.Array, spec: TensorSpec, name: str, errors: dict[int, str]) -> "Array | list[Array | None]":
    """The column as one array of the input's type, or as one array for each row, None where a row has an error."""
    fast = _at_once(column, spec)
    if fast is not None:
        return fast
    found: list[Array | None] = []
    values = parsed_json(column)
    for row, value in enumerate(column.to_pylist() if values is None else values):
        try:
            found.append(_one(value, spec))
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            errors.setdefault(row, f"column {name!r}: {error}")
            found.append(None)
    return found


def _at_once(column: pa.Array, spec: TensorSpec) -> Array | None:
    """The whole column without a look at each row; None where rows have to be looked at."""
    row_shape = tuple(spec.shape[1:])
    if column.null_count:
        return None
    if spec.datatype == BYTES:
        is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        if not (is_text or pa.types.is_binary(column.type)) or not _is_one(row_shape):
            return None
        array = np.empty(len(column), object)
        array[:] = column.to_pylist()
        return array.reshape(len(column), *_filled(row_shape, 1))
    if pa.types.is_string(column.type) and _is_one(row_shape):
        return _numbers_in_texts(column, spec)
    size, flat = 1, column
    while pa.types.is_fixed_size_list(flat.type):
        size, flat = size * flat.type.list_size, flat.flatten()
    if not (pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type) or pa.types.is_boolean(flat.type)):
        return None
    if flat.null_count or (shape := _fitting(row_shape, size)) is None:
        return None
    numbers = flat.to_numpy(zero_copy_only=False)
    return (
        converted.reshape(-1, *shape) if (converted := _converted(numbers, DTYPES[spec.datatype])) is not None else None
    )


def _numbers_in_texts(column: pa.Array, spec: TensorSpec) -> Array | None:
    """A column of texts that are all numbers; None where one is none."""
    wanted = pa.float64() if DTYPES[spec.datatype].kind == "f" else pa.int64()
    if DTYPES[spec.datatype].kind not in "iuf":
        return None
    try:
        numbers = pa.compute.cast(pa.compute.utf8_trim_whitespace(column), wanted)
    except pa.ArrowInvalid:
        return None
    made = _converted(numbers.to_numpy(zero_copy_only=False), DTYPES[spec.datatype])
    return None if made is None else made.reshape(len(column), *_filled(tuple(spec.shape[1:]), 1))


def _one(value: Any, spec: TensorSpec) -> Array:
    """One row's value. Raises `ValueError` and others, whose texts say what does not fit."""
    if value is None:
        raise ValueError("is empty")
    if isinstance(value, str) and (spec.datatype != BYTES or not _is_one(tuple(spec.shape[1:]))):
        value = _parsed(value)
    if spec.datatype == BYTES:
        array = np.asarray(value, object)
        if any(not isinstance(each, str | bytes) for each in array.ravel()):
            raise ValueError("is not a text")
    else:
        found = _converted(np.asarray(value), DTYPES[spec.datatype])
        if found is None:
            raise ValueError(f"does not fit {spec.datatype}")
        array = found
    row_shape = tuple(spec.shape[1:])
    if len(array.shape) == len(row_shape) and all(w in (-1, n) for w, n in zip(row_shape, array.shape, strict=True)):
        return array
    shape = _fitting(row_shape, array.size)
    if shape is None:
        raise ValueError(f"has the shape {list(array.shape)} in place of {list(row_shape)}")
    return array.reshape(shape)


def _parsed(text: str) -> Any:
    """What a text says: JSON, or a number. Raises `ValueError`."""
    if not text.strip():
        raise ValueError("is empty")
    try:
        return json.loads(text)
    except ValueError:
        if text.lstrip().startswith("["):
            raise ValueError(f"{text[:50]!r} is not JSON") from None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text[:50]!r} is no number") from None


def _converted(array: Array, wanted: np.dtype[Any]) -> Array | None:
    """The numbers in the input's type; None where one would become another number, but for rounding."""
    if array.dtype.kind not in "biuf":
        return None
    if array.dtype == wanted:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        made = array.astype(wanted, copy=False)
    if wanted.kind == "f" and array.dtype.kind == "f":
        return made if (np.isinf(made) == np.isinf(array)).all() else None
    if wanted.kind == "f":
        return made
    return made if (made == array).all() and not ((made < 0) != (array < 0)).any() else None


def _is_one(row_shape: Sequence[int]) -> bool:
    return all(size in (-1, 1) for size in row_shape)


def _filled(row_shape: Sequence[int], size: int) -> tuple[int, ...]:
    return tuple(size if each == -1 else each for each in row_shape)


def _fitting(row_shape: Sequence[int], size: int) -> tuple[int, ...] | None:
    """The shape of a row of `size` elements; None where they do not make one."""
    known = math.prod(each for each in row_shape if each != -1)
    unknown = row_shape.count(-1)
    if not unknown:
        return tuple(row_shape) if size == known else None
    if not known or size % known:
        return None
    if unknown > 1 and size != known:
        return None
    return _filled(row_shape, size // known)
