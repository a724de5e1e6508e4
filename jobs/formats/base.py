"""What readers and writers are, and what every format agrees on."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from millrace.protocol.errors import InvalidRequest

BATCH_ROWS = 4096
BATCH_BYTES = 4 * 1024**2
MOST_ROW_BYTES = 64 * 1024**2
MOST_COLUMNS = 10_000
_REFUSED = "\0refused"


class Reader(Protocol):
    """Rows of a file. `carried` are the columns that a result repeats unless the job says otherwise."""

    format: str
    schema: pa.Schema
    row_count: int
    carried: Sequence[str]

    def read(self, first: int, count: int) -> Iterator[pa.RecordBatch]:
        """`count` rows from row `first` on; what is before them is not read.

        A batch may have rows that are no rows of this format: `refused` tells them. Raises `InvalidRequest`.
        """


class Writer(Protocol):
    """Writes one part. `write` must be called once at least, if with an empty batch: it gives the columns."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""

    def close(self) -> None:
        """The file is complete."""


def _no_bound(size: int) -> None:
    """For a reader whose caller counts no bytes."""
    del size


@dataclass(frozen=True, slots=True)
class Options:
    """How to read: the format, "auto" for what the name says.

    `folder` keeps what makes the next reader of the file fast: an index, or arrays that were packed. Without it each
    reader makes its own. `check_room` is told how many bytes are about to be written there, and may raise.
    """

    format: str = "auto"
    folder: Path | None = None
    check_room: Callable[[int], None] = _no_bound


def with_refused(batch: pa.RecordBatch, errors: Mapping[int, str]) -> pa.RecordBatch:
    """The batch, in which these rows have an error."""
    if not errors:
        return batch
    column = pa.array([errors.get(row) for row in range(batch.num_rows)], pa.string())
    return batch.append_column(_REFUSED, column)


def refused(batch: pa.RecordBatch) -> dict[int, str]:
    """Why rows of a batch are no rows of their format, by their number in the batch."""
    if _REFUSED not in batch.schema.names:
        return {}
    column = batch.column(_REFUSED).to_pylist()
    return {row: error for row, error in enumerate(column) if error is not None}


def clipped(batches: Iterable[pa.RecordBatch], skip: int, count: int) -> Iterator[pa.RecordBatch]:
    """`count` rows after the first `skip` ones, in batches of at most `BATCH_ROWS`."""
    for batch in batches:
        if count <= 0:
            return
        taken = batch.slice(skip, count)
        skip = max(0, skip - batch.num_rows)
        count -= taken.num_rows
        for first in range(0, taken.num_rows, BATCH_ROWS):
            yield taken.slice(first, BATCH_ROWS)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema without dictionaries and metadata. Raises `InvalidRequest` as `check_names` does."""
    check_names(schema.names)
    return pa.schema([(field.name, _plain(field.type)) for field in schema])


def plain_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with the types of `plain_schema`."""
    return pa.record_batch([batch.column(n).cast(field.type) for n, field in enumerate(schema)], schema=schema)


def check_names(names: Sequence[str]) -> Sequence[str]:
    """The names of columns. Raises `InvalidRequest` for too many, for two that are the same, and for a NUL in one."""
    if len(names) > MOST_COLUMNS:
        raise InvalidRequest(f"input: the file has {len(names)} columns, and a job reads at most {MOST_COLUMNS}")
    known: set[str] = set()
    for name in names:
        if name in known or "\0" in name:
            what = "two columns" if name in known else "a column with a NUL in its name,"
            raise InvalidRequest(f"input: the file has {what} {name[:100]!r}")
        known.add(name)
    return names


def _plain(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def parsed_json(column: pa.Array) -> list[Any] | None:
    """The values of a column of JSON texts; None for a column of another type."""
    if not isinstance(column.type, pa.JsonType):
        return None
    return [None if each is None else json.loads(each) for each in column.to_pylist()]
