"""CSV: UTF-8, commas, names in the first row. Every column is a column of texts, which a result repeats as they are."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from jobs.formats.base import BATCH_BYTES, MOST_ROW_BYTES, Options, check_names, clipped, with_refused
from jobs.formats.indexes import indexed
from jobs.formats.lines import build, csv_ends, fields
from millrace.protocol.errors import InvalidRequest

_MARK = b"\xef\xbb\xbf"  # of UTF-8, as some programs write it


class CsvReader:
    """See `jobs.formats.Reader`. Rows of too few or too many fields, or not in UTF-8, are refused one by one."""

    format = "csv"

    def __init__(self, path: Path, options: Options) -> None:
        self._path = path
        names, start = _head(path)
        self.carried: Sequence[str] = check_names(names)
        self.schema = pa.schema([(name, pa.string()) for name in names])
        self._index, _ = indexed(path, options, lambda: (build(path, start, csv_ends), {}))
        self.row_count = self._index.row_count

    def read(self, first: int, count: int) -> Iterator[pa.RecordBatch]:
        """See `jobs.formats.Reader`."""
        with self._path.open("rb") as file:
            for row, rows, data in self._index.chunks(file, first, count):
                skip = max(0, first - row)
                yield from clipped([self._parsed(data, rows)], skip, first + count - row - skip)

    def _parsed(self, data: bytes, rows: int) -> pa.RecordBatch:
        names = self.schema.names
        convert = pa.csv.ConvertOptions(column_types=self.schema, strings_can_be_null=False)
        parse = pa.csv.ParseOptions(newlines_in_values=True)
        read = pa.csv.ReadOptions(column_names=names, block_size=len(data) + 1, use_threads=False)
        try:
            table = pa.csv.read_csv(pa.BufferReader(data), read, parse, convert)
        except pa.ArrowInvalid:
            return self._row_by_row(data)
        if table.num_rows != rows:
            return self._row_by_row(data)
        batches = table.combine_chunks().to_batches()
        return batches[0]

    def _row_by_row(self, data: bytes) -> pa.RecordBatch:
        columns: list[list[str]] = [[] for _ in self.schema]
        errors: dict[int, str] = {}
        at = row = 0
        for end in csv_ends(data, True).tolist():
            line, at = data[at:end], end
            if not line.strip(b"\r\n"):
                continue
            found = fields(line)
            if len(found) != len(columns):
                errors[row] = f"the row has {len(found)} fields in place of {len(columns)}"
            for column, text in zip(columns, [*found, *[b""] * len(columns)], strict=False):
                try:
                    column.append(str(text, "utf-8"))
                except UnicodeDecodeError:
                    errors.setdefault(row, "the row is not UTF-8")
                    column.append(str(text, "utf-8", "backslashreplace"))
            row += 1
        batch = pa.record_batch([pa.array(each, pa.string()) for each in columns], schema=self.schema)
        return with_refused(batch, errors)


def header_end(path: Path) -> int:
    """Where the first row begins."""
    return _head(path)[1]


def _head(path: Path) -> tuple[Sequence[str], int]:
    """The names of the columns, and where the first row begins. Raises `InvalidRequest`."""
    data = b""
    with path.open("rb") as file:
        while True:
            block = file.read(BATCH_BYTES)
            data += block
            mark = len(_MARK) if data.startswith(_MARK) else 0
            ends = csv_ends(data[mark:], not block)
            starts = [0, *ends.tolist()]
            for start, end in pairwise(starts):
                if line := data[mark + start : mark + end].strip(b"\r\n"):
                    return _names(line), mark + end
            if not block or len(data) > MOST_ROW_BYTES:
                raise InvalidRequest("input: the file has no row of column names")


def _names(line: bytes) -> Sequence[str]:
    try:
        return [str(each, "utf-8") for each in fields(line)]
    except UnicodeDecodeError:
        raise InvalidRequest("input: the file is not in UTF-8") from None
