"""Files as batches of rows, and back: what a job reads, and what its parts and its result are written as."""

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from jobs.formats.arrays import ArraysReader
from jobs.formats.base import Options, Reader, Writer, parsed_json, refused
from jobs.formats.csvfile import CsvReader
from jobs.formats.images import ImagesReader
from jobs.formats.jsonlines import JsonLinesReader
from jobs.formats.packing import join_npz
from jobs.formats.parts import (
    ArrowWriter,
    CsvWriter,
    JsonLinesWriter,
    join_arrow,
    join_csv,
    join_json_lines,
    join_parquet,
)
from jobs.formats.tables import ArrowReader, ParquetReader
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.paths import without_paths

__all__ = [
    "SUFFIXES",
    "Options",
    "Reader",
    "Writer",
    "format_of",
    "join",
    "parsed_json",
    "reader",
    "refused",
    "writer",
]

_BY_SUFFIX = {
    **{".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"},
    **{".arrow": "arrow", ".feather": "arrow", ".npy": "npy", ".npz": "npz", ".zip": "images"},
}
_READERS: Mapping[str, Callable[[Path, Options], Reader]] = {
    "csv": CsvReader,
    "jsonl": JsonLinesReader,
    "parquet": ParquetReader,
    "arrow": ArrowReader,
    "npy": lambda place, options: ArraysReader(place, options, "npy"),
    "npz": lambda place, options: ArraysReader(place, options, "npz"),
    "images": ImagesReader,
}
_WRITERS: Mapping[str, Callable[[Path], Writer]] = {"csv": CsvWriter, "jsonl": JsonLinesWriter}
_JOINS: Mapping[str, Callable[[Sequence[Path], Path], None]] = {
    "csv": join_csv,
    "jsonl": join_json_lines,
    "parquet": join_parquet,
    "arrow": join_arrow,
    "npz": join_npz,
}
SUFFIXES = {"csv": ".csv", "jsonl": ".jsonl", "parquet": ".parquet", "arrow": ".arrow", "npz": ".npz"}
_UNREADABLE = (pa.ArrowException, ValueError, OSError, KeyError, EOFError, OverflowError, zipfile.BadZipFile)


def format_of(name: str, format: str) -> str:  # noqa: A002
    """The format that is meant. Raises `InvalidRequest`."""
    found = format if format != "auto" else _BY_SUFFIX.get(Path(name).suffix.lower(), "")
    if not found:
        raise InvalidRequest(f"input_format: the name {Path(name).name!r} does not say which; name one")
    return found


def reader(place: Path, options: Options) -> Reader:
    """A reader of the file. Raises `InvalidRequest` for what cannot be read."""
    found = "images" if options.format == "auto" and place.is_dir() else format_of(place.name, options.format)
    if found != "images" and place.is_dir():
        raise InvalidRequest(f"input: {place.name!r} is a folder, and no file of the format {found}")
    try:
        return _Guarded(_READERS[found](place, options))
    except _UNREADABLE as error:
        raise _unreadable(found, error) from None


def writer(path: Path, format: str) -> Writer:  # noqa: A002
    """A writer of one part in that format."""
    if format not in SUFFIXES:
        raise InvalidRequest(f"output_format: a result cannot be written as {format}")
    return _WRITERS.get(format, ArrowWriter)(path)


def join(parts: Sequence[Path], out: Path, format: str) -> None:  # noqa: A002
    """The rows of all parts, in order, as one file; only pieces of it are in memory. Raises `InvalidRequest`."""
    _JOINS[format](parts, out)


class _Guarded:
    """A reader whose errors are the caller's, and which gives an empty batch where it is asked for no rows."""

    def __init__(self, inner: Reader) -> None:
        self._inner = inner
        self.format = inner.format
        self.schema = inner.schema
        self.row_count = inner.row_count
        self.carried = inner.carried

    def read(self, first: int, count: int) -> Iterator[pa.RecordBatch]:
        """See `Reader`."""
        if count <= 0:
            yield pa.RecordBatch.from_pylist([], self.schema)
            return
        given = 0
        try:
            for batch in self._inner.read(first, count):
                given += batch.num_rows
                yield batch
        except _UNREADABLE as error:
            raise _unreadable(self.format, error) from None
        if given != count:
            raise InvalidRequest(f"input: the file has other rows than when the job began: {given} of {count}")


def _unreadable(format: str, error: Exception) -> InvalidRequest:  # noqa: A002
    return InvalidRequest(f"input: the file cannot be read as {format}: {without_paths(str(error))}")
