"""A closed file of the payload log as Parquet, with the same columns as its lines have fields."""

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson


def to_parquet(path: Path) -> Path:
    """Put a Parquet file in the place of a file of JSON Lines, as old as that. Returns its path.

    `time` becomes a timestamp, `inputs` and `outputs` structures. Raises `OSError`, and `pyarrow.ArrowException` where
    one tensor has values of different kinds, texts and bytes say; then the file stays.
    """
    import pyarrow as pa
    import pyarrow.parquet as files

    rows = [_row(line) for line in path.read_bytes().splitlines()]
    made, part = path.with_suffix(".parquet"), path.with_suffix(".part")
    status = path.stat()
    try:
        part.touch(mode=0o600)
        files.write_table(pa.Table.from_pylist(rows), part, compression="zstd")
        os.utime(part, (status.st_atime, status.st_mtime))
        part.rename(made)
    finally:
        part.unlink(missing_ok=True)
    path.unlink()
    return made


def _row(line: bytes) -> dict[str, Any]:
    row: dict[str, Any] = orjson.loads(line)
    return row | {"time": datetime.fromisoformat(row["time"])}
