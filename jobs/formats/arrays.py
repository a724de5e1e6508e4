"""`.npy` and `.npz`: a row is an element of the first axis. Packed arrays are unpacked once; all are read in place."""

import os
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.formats.base import BATCH_BYTES, BATCH_ROWS, Options
from jobs.formats.indexes import Made, indexed
from jobs.formats.lines import Index
from millrace.protocol.errors import InvalidRequest

_Array = npt.NDArray[Any]
_KINDS = "biufUSM"
_WHOLE = 256  # rows of which a batch has a multiple, so that it is cut into full batches of most models
_LOCAL_HEADER = 30  # bytes of a member's header in a zip file, before its name


class ArraysReader:
    """See `jobs.formats.Reader`: a column for each array, called `values` in a `.npy` file. None is carried through."""

    carried: Sequence[str] = ()

    def __init__(self, path: Path, options: Options, format: str) -> None:  # noqa: A002
        self.format = format
        folder = options.folder
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="millrace-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._arrays = _of_npy(path) if format == "npy" else _of_npz(path, folder, options)
        for name, array in self._arrays.items():
            _check(name, array)
        sizes = {name: len(array) for name, array in self._arrays.items()}
        if len({*sizes.values()}) != 1:
            all_sizes = ", ".join(f"{name}: {size}" for name, size in sizes.items())
            raise InvalidRequest(f"input: the arrays must have one number of rows, and have {all_sizes or 'none'}")
        self.row_count = next(iter(sizes.values()))
        indexed(path, options, lambda: _stamp(path))
        self.schema = pa.schema([(name, _column(array[:0]).type) for name, array in self._arrays.items()])
        row_bytes = sum(array.itemsize * int(np.prod(array.shape[1:])) for array in self._arrays.values())
        most = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, row_bytes)))
        self._batch_rows = most - most % _WHOLE if most > _WHOLE else most

    def read(self, first: int, count: int) -> Iterator[pa.RecordBatch]:
        """See `jobs.formats.Reader`."""
        stop = min(first + count, self.row_count)
        for start in range(first, stop, self._batch_rows):
            rows = slice(start, min(start + self._batch_rows, stop))
            yield pa.record_batch([_column(array[rows]) for array in self._arrays.values()], schema=self.schema)


def _stamp(path: Path) -> Made:
    stat = path.stat()
    return Index(np.zeros(1, np.int64), np.zeros(1, np.int64), stat.st_size, stat.st_mtime_ns), {}


def _of_npy(path: Path) -> Mapping[str, _Array]:
    return {"values": np.load(path, mmap_mode="r", allow_pickle=False)}


def _of_npz(path: Path, folder: Path, options: Options) -> Mapping[str, _Array]:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        names = [member.filename.removesuffix(".npy") for member in members]
        if len(set(names)) != len(names):
            raise InvalidRequest("input: two arrays have one name")
        return {
            name: _in_place(path, member)
            if member.compress_type == zipfile.ZIP_STORED
            else _unpacked(archive, member, folder / f"{number}.npy", options)
            for number, (name, member) in enumerate(zip(names, members, strict=True))
        }


def _in_place(path: Path, member: zipfile.ZipInfo) -> _Array:
    """An array that lies in the file as it is."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER)
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        file.seek(member.header_offset + _LOCAL_HEADER + lengths)
        shape, is_fortran, dtype = _read_header(file, member.filename)
        start = file.tell()
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, "F" if is_fortran else "C")


def _read_header(file: Any, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise InvalidRequest(f"input: {name} has the unknown version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if dtype.hasobject:
        raise InvalidRequest(f"input: {name} holds Python objects, which are not read")
    return shape, is_fortran, dtype


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo, kept: Path, options: Options) -> _Array:
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        writing = kept.with_name(f".{os.getpid()}.{kept.name}")
        options.check_room(member.file_size)
        with archive.open(member) as packed, writing.open("wb") as plain:
            shutil.copyfileobj(packed, plain, BATCH_BYTES)
        writing.replace(kept)
    array: _Array = np.load(kept, mmap_mode="r", allow_pickle=False)
    return array


def _check(name: str, array: _Array) -> None:
    if array.dtype.kind not in _KINDS:
        raise InvalidRequest(f"input: the array {name!r} is of the type {array.dtype}, which is not read")
    if not array.dtype.itemsize:
        raise InvalidRequest(f"input: the array {name!r} has elements of no bytes")
    if not array.ndim:
        raise InvalidRequest(f"input: the array {name!r} is a single value, and has no rows")
    if 0 in array.shape[1:]:
        raise InvalidRequest(f"input: the rows of the array {name!r} have no elements")


def _column(array: _Array) -> pa.Array:
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind in "US":
        made = pa.array(flat.tolist(), pa.string() if flat.dtype.kind == "U" else pa.binary())
    else:
        made = pa.array(flat.astype(flat.dtype.newbyteorder("="), copy=False))
    for size in reversed(array.shape[1:]):
        made = pa.FixedSizeListArray.from_arrays(made, size)
    return made
