"""Parquet and Arrow files: their own types, row groups and record batches."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from jobs.formats.base import BATCH_BYTES, BATCH_ROWS, Options, clipped, plain_batch, plain_schema
from jobs.formats.indexes import Made, indexed
from jobs.formats.lines import Index

_FILE_MAGIC = b"ARROW1"


class ParquetReader:
    """See `jobs.formats.Reader`. Rows of a row group before the first one are decoded and dropped."""

    format = "parquet"

    def __init__(self, path: Path, options: Options) -> None:
        self._path = path
        with pa.parquet.ParquetFile(path) as file:
            self.schema = plain_schema(file.schema_arrow)
            groups = [file.metadata.row_group(n) for n in range(file.num_row_groups)]
            rows = [group.num_rows for group in groups]
            self._row_bytes = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=1)
        self._starts = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)]).astype(np.int64)
        stat = path.stat()
        index = Index(self._starts, self._starts, stat.st_size, stat.st_mtime_ns)
        indexed(path, options, lambda: (index, {}))
        self.row_count = int(self._starts[-1])
        self.carried: Sequence[str] = self.schema.names

    def read(self, first: int, count: int) -> Iterator[pa.RecordBatch]:
        """See `jobs.formats.Reader`."""
        touched = [
            n for n, start in enumerate(self._starts[:-1]) if start < first + count and self._starts[n + 1] > first
        ]
        if not touched or count <= 0:
            return
        size = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, self._row_bytes)))
        with pa.parquet.ParquetFile(self._path, buffer_size=BATCH_BYTES, pre_buffer=False) as file:
            batches = file.iter_batches(size, row_groups=touched, use_threads=False)
            for batch in clipped(batches, first - int(self._starts[touched[0]]), count):
                yield plain_batch(batch, self.schema)


class ArrowReader:
    """See `jobs.formats.Reader`: the file form of Arrow's IPC, and the stream form, whose batches are passed over."""

    format = "arrow"

    def __init__(self, path: Path, options: Options) -> None:
        self._path = path
        with path.open("rb") as file:
            self._is_file = file.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        with pa.memory_map(str(path)) as source:
            opened = pa.ipc.open_file(source) if self._is_file else pa.ipc.open_stream(source)
            self.schema = plain_schema(opened.schema)
        self._index, _ = indexed(path, options, self._made)
        self.row_count = self._index.row_count
        self.carried: Sequence[str] = self.schema.names

    def read(self, first: int, count: int) -> Iterator[pa.RecordBatch]:
        """See `jobs.formats.Reader`."""
        if count <= 0:
            return
        starts = self._index.rows
        at = max(0, int(np.searchsorted(starts, first, "right")) - 1)
        batches = self._batches(at, int(np.searchsorted(starts, first + count, "left")))
        for batch in clipped(batches, first - int(starts[at]), count):
            batch.validate(full=True)
            yield plain_batch(batch, self.schema)

    def _batches(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(self._path)) as source:
            if self._is_file:
                file = pa.ipc.open_file(source)
                for number in range(start, min(stop, file.num_record_batches)):
                    yield file.get_batch(number)
                return
            for number, batch in enumerate(pa.ipc.open_stream(source)):
                if start <= number < stop:
                    yield batch
                elif number >= stop:
                    return

    def _made(self) -> Made:
        stat = self._path.stat()
        rows = [batch.num_rows for batch in self._batches(0, 2**62)]
        starts = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)]).astype(np.int64)
        return Index(starts, starts, stat.st_size, stat.st_mtime_ns), {}
