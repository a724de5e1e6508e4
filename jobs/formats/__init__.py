"""Files as batches of rows, and back: what a job reads, and what its parts and its result are written as."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from millrace.protocol.errors import InvalidRequest

_BATCH_ROWS = 4096
_BY_SUFFIX = {
    **{".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"},
    **{".arrow": "arrow", ".feather": "arrow", ".npy": "npy", ".npz": "npz", ".zip": "images"},
}
SUFFIXES = {"csv": ".csv", "jsonl": ".jsonl", "parquet": ".parquet", "arrow": ".arrow", "npz": ".npz"}


class Reader(Protocol):
    """Rows of a file. `carried` are the columns that a result repeats unless the job says otherwise."""

    schema: pa.Schema
    row_count: int
    carried: Sequence[str]

    def read(self, first: int, count: int) -> Iterator[pa.RecordBatch]:
        """`count` rows from row `first` on."""


class Writer(Protocol):
    """Writes one part. `write` must be called once at least, if with an empty batch: it gives the columns."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""

    def close(self) -> None:
        """The file is complete."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to read: the format, "auto" for what the name says. `index` is a file that speeds reading up, if any."""

    format: str = "auto"
    index: Path | None = None


def format_of(name: str, format: str) -> str:  # noqa: A002
    """The format that is meant. Raises `InvalidRequest`."""
    found = format if format != "auto" else _BY_SUFFIX.get(Path(name).suffix.lower(), "")
    if not found:
        raise InvalidRequest(f"input_format: the name {Path(name).name!r} does not say which; name one")
    return found


def reader(place: Path, options: Options) -> Reader:
    """A reader of the file. Raises `InvalidRequest` for what cannot be read."""
    found = format_of(place.name, options.format)
    try:
        if found in ("npy", "npz"):
            return _Arrays(place, found)
        return _Table(_table(place, found))
    except (pa.ArrowException, ValueError, OSError, KeyError) as error:
        raise InvalidRequest(f"input: the file cannot be read as {found}: {error}") from None


def writer(path: Path, format: str) -> Writer:  # noqa: A002
    """A writer of one part in that format."""
    if format not in SUFFIXES:
        raise InvalidRequest(f"output_format: a result cannot be written as {format}")
    return _PartWriter(path)


def join(parts: Sequence[Path], out: Path, format: str) -> None:  # noqa: A002
    """The rows of all parts, in order, as one file."""
    tables = [pa.ipc.open_file(part).read_all() for part in parts]
    table = pa.concat_tables(tables)
    if format == "arrow":
        with pa.ipc.new_file(out, table.schema) as file:
            file.write_table(table)
    elif format == "parquet":
        pa.parquet.write_table(table, out)
    elif format == "jsonl":
        with out.open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row, default=str) + "\n" for row in table.to_pylist())
    elif format == "npz":
        arrays: dict[str, Any] = {name: np.asarray(table.column(name).to_pylist()) for name in table.column_names}
        np.savez(out, **arrays)
        shutil.move(f"{out}.npz", out)
    else:
        pa.csv.write_csv(pa.table({name: _flat(table.column(name)) for name in table.column_names}), out)


def _flat(column: Any) -> Any:
    if pa.types.is_list(column.type):
        return pa.array([None if each is None else json.dumps(each) for each in column.to_pylist()], pa.string())
    return column


def _table(place: Path, found: str) -> pa.Table:
    if found == "csv":
        with place.open("rb") as file:
            names = pa.csv.open_csv(file).schema.names
        convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        return pa.csv.read_csv(place, convert_options=convert)
    if found == "jsonl":
        return pa.json.read_json(place)
    if found == "parquet":
        return pa.parquet.read_table(place)
    if found == "arrow":
        return pa.ipc.open_file(place).read_all()
    raise InvalidRequest(f"input_format: {found} cannot be read yet")


class _Table:
    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.schema = table.schema
        self.row_count = table.num_rows
        self.carried: Sequence[str] = table.column_names

    def read(self, first: int, count: int) -> Iterator[pa.RecordBatch]:
        yield from self._table.slice(first, count).combine_chunks().to_batches(_BATCH_ROWS)


class _Arrays:
    def __init__(self, place: Path, found: str) -> None:
        loaded = np.load(place, mmap_mode="r", allow_pickle=False)
        self._arrays = {"values": loaded} if found == "npy" else {name: loaded[name] for name in loaded.files}
        counts = {len(array) for array in self._arrays.values()}
        if len(counts) != 1:
            raise InvalidRequest("input: the arrays have different numbers of rows")
        self.row_count = counts.pop()
        self.carried: Sequence[str] = ()
        self.schema = pa.schema([(name, _column(array[:0]).type) for name, array in self._arrays.items()])

    def read(self, first: int, count: int) -> Iterator[pa.RecordBatch]:
        for start in range(first, first + count, _BATCH_ROWS):
            stop = min(start + _BATCH_ROWS, first + count)
            yield pa.record_batch({name: _column(array[start:stop]) for name, array in self._arrays.items()})


def _column(array: Any) -> Any:
    made = pa.array(np.ascontiguousarray(array).reshape(-1))
    for size in reversed(array.shape[1:]):
        made = pa.FixedSizeListArray.from_arrays(made, size)
    return made


class _PartWriter:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None

    def write(self, batch: pa.RecordBatch) -> None:
        if self._writer is None:
            self._writer = pa.ipc.new_file(self._path, batch.schema)
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()
