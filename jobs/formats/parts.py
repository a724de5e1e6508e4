"""Parts of a result and how they are joined, in pieces: text files end to end, others batch by batch."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet

from jobs.formats.csvfile import header_end
from jobs.formats.texts import csv_texts, joined, json_texts

_COPIED_BYTES = 1024**2
_GROUP_ROWS, _GROUP_BYTES = 65_536, 32 * 1024**2


class ArrowWriter:
    """See `jobs.formats.Writer`: a file of Arrow's IPC."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None

    def write(self, batch: pa.RecordBatch) -> None:
        """See `jobs.formats.Writer`."""
        if self._writer is None:
            self._writer = pa.ipc.new_file(str(self._path), batch.schema)
        self._writer.write_batch(batch)

    def close(self) -> None:
        """See `jobs.formats.Writer`."""
        self._writer.close()


class CsvWriter:
    """See `jobs.formats.Writer`: CSV with the names of the columns in the first row."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._has_names = False

    def write(self, batch: pa.RecordBatch) -> None:
        """See `jobs.formats.Writer`."""
        if not self._has_names:
            names = csv_texts(pa.array(batch.schema.names, pa.string())).to_pylist()
            self._file.write((",".join(names) + "\n").encode())
            self._has_names = True
        self._file.write(joined([csv_texts(column) for column in batch.columns], ",", "\n"))

    def close(self) -> None:
        """See `jobs.formats.Writer`."""
        self._file.close()


class JsonLinesWriter:
    """See `jobs.formats.Writer`: an object a line, with every column in it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, batch: pa.RecordBatch) -> None:
        """See `jobs.formats.Writer`."""
        columns: list[pa.Array] = []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            opening = "," if columns else "{"
            columns += [pa.array([f"{opening}{_json(name)}:"] * len(column), pa.string()), json_texts(column)]
        self._file.write(joined(columns, "", "}\n"))

    def close(self) -> None:
        """See `jobs.formats.Writer`."""
        self._file.close()


def batches(parts: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """The batches of parts that `ArrowWriter` wrote, in order; a part without rows has an empty one."""
    for part in parts:
        with pa.OSFile(str(part)) as source:
            file = pa.ipc.open_file(source)
            for number in range(file.num_record_batches):
                yield file.get_batch(number)


def join_arrow(parts: Sequence[Path], out: Path) -> None:
    """One file of Arrow's IPC."""
    writer = ArrowWriter(out)
    for batch in batches(parts):
        writer.write(batch)
    writer.close()


def join_parquet(parts: Sequence[Path], out: Path) -> None:
    """One Parquet file, in row groups of 65,536 rows or 32 MiB."""
    with pa.OSFile(str(parts[0])) as source:
        schema = pa.ipc.open_file(source).schema
    with pa.parquet.ParquetWriter(str(out), schema) as writer:
        group: list[pa.RecordBatch] = []
        rows = size = 0
        for batch in batches(parts):
            group.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
            if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(group))
                group, rows, size = [], 0, 0
        if group:
            writer.write_table(pa.Table.from_batches(group))


def join_csv(parts: Sequence[Path], out: Path) -> None:
    """One CSV file: the names once, and all rows."""
    _end_to_end(parts, out, lambda part: header_end(part))


def join_json_lines(parts: Sequence[Path], out: Path) -> None:
    """One file of JSON Lines."""
    _end_to_end(parts, out, lambda _: 0)


def _end_to_end(parts: Sequence[Path], out: Path, start: Any) -> None:
    with out.open("wb") as whole:
        for number, part in enumerate(parts):
            with part.open("rb") as file:
                file.seek(start(part) if number else 0)
                shutil.copyfileobj(file, whole, _COPIED_BYTES)


def _json(name: str) -> str:
    return str(msgspec.json.encode(name), "utf-8")
