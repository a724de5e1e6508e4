"""Where the rows of a text file begin: found once, so that rows can be read without what is before them."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from jobs.formats.base import BATCH_BYTES, BATCH_ROWS, MOST_ROW_BYTES
from millrace.protocol.errors import InvalidRequest

Ends = Callable[[bytes, bool], npt.NDArray[np.int64]]
_NEWLINE, _RETURN, _QUOTE, _COMMA = b'\n\r",'
_FIELD = rb'(?:"(?:[^"]++|"")*+"[^,\r\n]*+|(?!")[^,\r\n]*+)'
_ROW = re.compile(rb"%b(?:,%b)*+(?:\r\n|\n|\r(?!\Z))" % (_FIELD, _FIELD))
_LAST_ROW = re.compile(rb"%b(?:,%b)*+(?:\r\n|\n|\r|\Z)" % (_FIELD, _FIELD))


@dataclass(frozen=True, slots=True)
class Index:
    """Chunks of rows: chunk i has the rows `rows[i]` to `rows[i + 1]`, and the bytes `offsets[i]` to `offsets[i + 1]`.

    `size` and `changed_ns` are those of the file that it was made of.
    """

    rows: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    size: int
    changed_ns: int

    @property
    def row_count(self) -> int:
        """All rows."""
        return int(self.rows[-1])

    def chunks(self, file: BinaryIO, first: int, count: int) -> Iterator[tuple[int, int, bytes]]:
        """The chunks that have these rows: each one's first row, its number of rows, and its bytes."""
        if count <= 0:
            return
        at = int(np.searchsorted(self.rows, first, "right")) - 1
        while at < len(self.rows) - 1 and self.rows[at] < first + count:
            start, size = int(self.offsets[at]), int(self.offsets[at + 1] - self.offsets[at])
            file.seek(start)
            yield int(self.rows[at]), int(self.rows[at + 1] - self.rows[at]), file.read(size)
            at += 1


def build(path: Path, start: int, ends: Ends, see: Callable[[bytes, Any, Any], None] | None = None) -> Index:
    """The index of a file whose rows begin at byte `start`. `see` is given each block, with its rows' starts and ends.

    Raises `InvalidRequest` for a row that is larger than `MOST_ROW_BYTES`, or that does not end.
    """
    rows, offsets, count, at, pending = [0], [start], 0, start, b""
    stat = path.stat()
    with path.open("rb") as file:
        file.seek(start)
        while True:
            block = file.read(BATCH_BYTES)
            data = pending + block
            stops = ends(data, not block)
            if not block and len(data) > (int(stops[-1]) if len(stops) else 0):
                raise InvalidRequest(f"input: row {count + len(stops)} begins a text in quotes that does not end")
            starts = np.concatenate([np.zeros(1, np.int64), stops])[:-1]
            is_row = ~_is_blank(data, starts, stops)
            starts, stops_of_rows = starts[is_row], stops[is_row]
            if see and len(starts):
                see(data, starts, stops_of_rows)
            for first in range(0, len(starts), BATCH_ROWS):
                if count + first > rows[-1]:
                    rows.append(count + first)
                    offsets.append(at + int(starts[first]))
            count += len(starts)
            used = int(stops[-1]) if len(stops) else 0
            at, pending = at + used, data[used:]
            if len(pending) > MOST_ROW_BYTES:
                raise InvalidRequest(f"input: row {count} is larger than {MOST_ROW_BYTES} bytes, or does not end")
            if not block:
                break
    all_rows, all_offsets = np.array([*rows, count], np.int64), np.array([*offsets, at], np.int64)
    return Index(all_rows, all_offsets, stat.st_size, stat.st_mtime_ns)


def line_ends(data: bytes, is_last: bool) -> npt.NDArray[np.int64]:
    """The end of each line, and of what follows the last line break where nothing comes after it."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE) + 1
    if is_last and data and not data.endswith(b"\n"):
        ends = np.append(ends, len(data))
    return ends


def csv_ends(data: bytes, is_last: bool) -> npt.NDArray[np.int64]:
    """The end of each row of CSV; line breaks in quotes end none. As Arrow reads it: quotes count at a field's start.

    The fast way counts quotes; it is right where each one that opens is at the start of a field.
    """
    codes = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(codes == _QUOTE)
    if _has_lone_returns(data, codes) or not _open_at_fields(codes, quotes[::2]):
        return scanned(data, is_last)
    newlines = np.flatnonzero(codes == _NEWLINE)
    if len(quotes):
        newlines = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    ends = newlines + 1
    is_open = len(quotes) % 2 == 1
    if is_last and data and not is_open and (not len(ends) or ends[-1] < len(data)):
        ends = np.append(ends, len(data))
    return ends


def fields(row: bytes) -> list[bytes]:
    """The fields of one row, without quotes."""
    row = row.rstrip(b"\r\n") if not row.rstrip(b"\r\n").count(b'"') % 2 else row
    found, at = [], 0
    while True:
        match = _ONE_FIELD.match(row, at)
        text = match[0] if match else row[at:]
        found.append(_unquoted(text))
        at += len(text) + 1
        if at > len(row):
            return found


_ONE_FIELD = re.compile(_FIELD)
_IN_QUOTES = re.compile(rb'"((?:[^"]++|"")*+)"')


def _unquoted(text: bytes) -> bytes:
    match = _IN_QUOTES.match(text)
    return match[1].replace(b'""', b'"') + text[match.end() :] if match else text


def scanned(data: bytes, is_last: bool) -> npt.NDArray[np.int64]:
    """What `csv_ends` finds, field by field: slow, and right for quotes anywhere."""
    ends, at, row = [], 0, _LAST_ROW if is_last else _ROW
    while at < len(data) and (match := row.match(data, at)):
        at = match.end()
        ends.append(at)
    return np.array(ends, np.int64)


def _is_blank(data: bytes, starts: Any, stops: Any) -> Any:
    codes, sizes = np.frombuffer(data, np.uint8), stops - starts
    if not len(sizes):
        return np.zeros(0, bool)
    first = codes[starts]
    is_break = (first == _NEWLINE) | (first == _RETURN)
    return ((sizes == 1) & is_break) | ((sizes == 2) & (first == _RETURN))


def _has_lone_returns(data: bytes, codes: Any) -> bool:
    if b"\r" not in data:
        return False
    returns = np.flatnonzero(codes[:-1] == _RETURN)
    return bool((codes[returns + 1] != _NEWLINE).any())


def _open_at_fields(codes: Any, openers: Any) -> bool:
    before = codes[openers[openers > 0] - 1]
    return bool(np.isin(before, (_COMMA, _NEWLINE, _QUOTE)).all())
