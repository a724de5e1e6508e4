"""A `.npz` of parts: an array for each column, written in pieces after a look at how large its rows are.

A row that has no value, because it was refused, is NaN among floats and zero or empty among others; its text in the
array `error` tells. Rows of different shapes make no array: they are refused, and other formats take them.
"""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.formats.parts import batches
from jobs.formats.texts import csv_texts
from millrace.protocol.errors import InvalidRequest

_Array = npt.NDArray[Any]


def join_npz(parts: Sequence[Path], out: Path) -> None:
    """One `.npz`. Raises `InvalidRequest` for rows of different shapes."""
    schema = next(batches(parts)).schema
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in schema.names:
            dtype, shape, rows = _measured(parts, name)
            # A fixed time: the same rows give the same bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, *shape)}
                np.lib.format.write_array_header_2_0(member, header)
                for column in _columns(parts, name):
                    member.write(_filled(column, dtype, shape).tobytes())


def _columns(parts: Sequence[Path], name: str) -> Iterator[pa.Array]:
    return (batch.column(name) for batch in batches(parts))


def _measured(parts: Sequence[Path], name: str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    dtype: np.dtype[Any] | None = None
    shape: tuple[int, ...] | None = None
    rows = 0
    for column in _columns(parts, name):
        rows += len(column)
        flat, found = _flat(column, name)
        is_bare = len(column) == column.null_count
        if shape is not None and not is_bare and found != shape:
            raise _ragged(name)
        if shape is None and not is_bare:
            shape = found
        dtype = flat.dtype if dtype is None else np.promote_types(dtype, flat.dtype)
    return dtype if dtype is not None else np.dtype("<U1"), shape or (), rows


def _flat(column: pa.Array, name: str) -> tuple[_Array, tuple[int, ...]]:
    """The elements of all rows that are there, and the shape of each."""
    shape: list[int] = []
    column = column.drop_null()
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or _is_fixed(column.type):
        sizes = np.unique(pa.compute.list_value_length(column).to_numpy(zero_copy_only=False))
        if len(sizes) > 1:
            raise _ragged(name)
        shape.append(int(sizes[0]) if len(sizes) else 0)
        column = column.flatten()
        if column.null_count:
            raise _ragged(name)
    return _elements(column), tuple(shape)


def _elements(column: pa.Array) -> _Array:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        found: _Array = column.to_numpy(zero_copy_only=False)
        return found
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(column.to_pylist(), np.str_)
    return np.array(csv_texts(column).to_pylist(), np.str_)


def _filled(column: pa.Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> _Array:
    flat, _ = _flat(column, "")
    blank = np.nan if dtype.kind == "f" else dtype.type()
    made = np.full((len(column), *shape), blank, dtype)
    made[column.is_valid().to_numpy(zero_copy_only=False)] = flat.reshape(-1, *shape)
    return made


def _is_fixed(kind: Any) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))


def _ragged(name: str) -> InvalidRequest:
    return InvalidRequest(f"output_format: rows of {name!r} have different shapes: npz cannot have them, others can")
