"""JSON Lines: an object a line. A column has the type that all its values have; values of several types stay JSON."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from jobs.formats.base import MOST_COLUMNS, Options, check_names, clipped, with_refused
from jobs.formats.indexes import Made, indexed
from jobs.formats.lines import build, line_ends
from millrace.protocol.errors import InvalidRequest

_MOST_DEPTH = 64
_EXACT = 2**53  # larger whole numbers are not exact as floats
_BASES = {bool: "bool", int: "int", float: "float", str: "str", type(None): "null"}
_TYPES = {"bool": pa.bool_(), "int": pa.int64(), "large": pa.int64(), "float": pa.float64(), "str": pa.string()}
_Kind = tuple[int, str]  # how many lists are around it, and what is in them
_JSON: _Kind = (0, "json")


class JsonLinesReader:
    """See `jobs.formats.Reader`. Lines that are no JSON objects are refused one by one."""

    format = "jsonl"

    def __init__(self, path: Path, options: Options) -> None:
        self._path = path
        self._index, others = indexed(path, options, lambda: _made(path))
        self.schema = pa.ipc.read_schema(pa.py_buffer(others["schema"].tobytes()))
        self.row_count = self._index.row_count
        self.carried: Sequence[str] = self.schema.names

    def read(self, first: int, count: int) -> Iterator[pa.RecordBatch]:
        """See `jobs.formats.Reader`."""
        with self._path.open("rb") as file:
            for row, _, data in self._index.chunks(file, first, count):
                skip = max(0, first - row)
                yield from clipped([self._parsed(data)], skip, first + count - row - skip)

    def _parsed(self, data: bytes) -> pa.RecordBatch:
        rows: list[dict[str, Any]] = []
        errors: dict[int, str] = {}
        for number, line in enumerate(_lines(data)):
            found = _decoded(line)
            if isinstance(found, str):
                errors[number] = found
            rows.append(found if isinstance(found, dict) else {})
        columns = [_column([row.get(field.name) for row in rows], field.type) for field in self.schema]
        batch = pa.record_batch(columns, schema=self.schema) if columns else _empty(len(rows))
        return with_refused(batch, errors)


def _empty(rows: int) -> pa.RecordBatch:
    return pa.record_batch({"": pa.nulls(rows)}).select([])


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if isinstance(kind, pa.JsonType):
        texts = [None if each is None else str(msgspec.json.encode(each), "utf-8") for each in values]
        return pa.ExtensionArray.from_storage(kind, pa.array(texts, pa.string()))
    return pa.array(values, kind)


def _lines(data: bytes) -> Iterator[bytes]:
    return (line for line in data.split(b"\n") if line not in (b"", b"\r"))


def _decoded(line: bytes) -> dict[str, Any] | str:
    try:
        found = msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"the line is not JSON: {error}"
    if line.count(b"[") + line.count(b"{") > _MOST_DEPTH and _depth(found) > _MOST_DEPTH:
        return f"the line has more than {_MOST_DEPTH} lists and objects in one another"
    return found if isinstance(found, dict) else "the line is no JSON object"


def _depth(value: Any) -> int:
    """How many lists and objects are in one another, as far as that matters."""
    depth, level = 0, [value]
    while level and depth <= _MOST_DEPTH:
        inner = [each for each in level if isinstance(each, list | dict)]
        level = [each for found in inner for each in (found.values() if isinstance(found, dict) else found)]
        depth += bool(inner)
    return depth


def _made(path: Path) -> Made:
    kinds: dict[str, _Kind] = {}

    def see(data: bytes, starts: Any, stops: Any) -> None:
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            found = _decoded(data[start:stop])
            if isinstance(found, dict):
                _note(kinds, found)

    index = build(path, 0, line_ends, see)
    check_names(list(kinds))
    schema = pa.schema([(name, _arrow(kind)) for name, kind in kinds.items()])
    return index, {"schema": np.frombuffer(schema.serialize(), np.uint8)}


def _note(kinds: dict[str, _Kind], row: dict[str, Any]) -> None:
    for name, value in row.items():
        found = _kind(value)
        known = kinds.get(name)
        if known is None and len(kinds) >= MOST_COLUMNS:
            raise InvalidRequest(f"input: the lines have more than {MOST_COLUMNS} different names")
        kinds[name] = found if known is None else _merged(known, found)


def _kind(value: Any) -> _Kind:
    if isinstance(value, list):
        if not value:
            return 1, "null"
        depth, base = _merged_all(_kind(each) for each in value)
        return _JSON if base == "json" else (depth + 1, base)
    if isinstance(value, int) and not isinstance(value, bool) and not -_EXACT <= value <= _EXACT:
        return (0, "large") if -(2**63) <= value < 2**63 else _JSON
    return 0, _BASES.get(type(value), "json")


def _merged_all(kinds: Iterable[_Kind]) -> _Kind:
    found: _Kind = (0, "null")
    for kind in set(kinds):
        found = _merged(found, kind)
    return found


def _merged(one: _Kind, other: _Kind) -> _Kind:
    if one == other:
        return one
    for a, b in ((one, other), (other, one)):
        if a[1] == "null" and a[0] <= b[0] and b[1] != "json":
            return b
    bases = {one[1], other[1]}
    if one[0] != other[0] or not (bases == {"int", "float"} or bases == {"int", "large"}):
        return _JSON
    return one[0], "float" if "float" in bases else "large"


def _arrow(kind: _Kind) -> pa.DataType:
    depth, base = kind
    if base == "json":
        return pa.json_()
    found = _TYPES.get(base, pa.string())
    for _ in range(depth):
        found = pa.list_(found)
    return found
