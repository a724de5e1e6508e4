"""A zip or a folder of images: a row a file, its bytes in the column `image` and its path in the column `name`.

Rows are in the order of a zip's table, and of a folder's paths. What file managers leave there is no row. Files are
not looked into here: whoever decodes them says what is no image.
"""

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from jobs.formats.base import BATCH_BYTES, BATCH_ROWS, MOST_ROW_BYTES, Options, with_refused
from jobs.formats.indexes import Made, indexed
from jobs.formats.lines import Index
from millrace.protocol.errors import InvalidRequest

IMAGE, NAME = "image", "name"
_SCHEMA = pa.schema([(IMAGE, pa.binary()), (NAME, pa.string())])
_LEFT = {"__MACOSX", "Thumbs.db", "desktop.ini"}  # by file managers; hidden files are too
_LOCAL_HEADER = 30  # bytes, before the name
_ENCRYPTED = 1
_RAW_DEFLATE = -15


class ImagesReader:
    """See `jobs.formats.Reader`. Files that cannot be unpacked, or are larger than 64 MiB, are refused one by one."""

    format = "images"
    schema = _SCHEMA
    carried: Sequence[str] = (NAME,)

    def __init__(self, path: Path, options: Options) -> None:
        self._path = path
        index, self._table = indexed(path, options, lambda: _of_folder(path) if path.is_dir() else _of_zip(path))
        self.row_count = index.row_count

    def read(self, first: int, count: int) -> Iterator[pa.RecordBatch]:
        """See `jobs.formats.Reader`."""
        names = self._table["names"].tobytes().split(b"\0")[first : first + count]
        files, kept, errors, size = list[bytes | None](), list[str](), dict[int, str](), 0
        for row, found in enumerate(self._files(names, first)):
            if isinstance(found, str):
                errors[len(files)] = found
            files.append(found if isinstance(found, bytes) else None)
            kept.append(str(names[row], "utf-8"))
            size += len(found)
            if len(files) == BATCH_ROWS or size >= BATCH_BYTES:
                yield _batch(files, kept, errors)
                files, kept, errors, size = [], [], {}, 0
        if files:
            yield _batch(files, kept, errors)

    def _files(self, names: Sequence[bytes], first: int) -> Iterator[bytes | str]:
        """The bytes of each file, or why there are none."""
        if self._path.is_dir():
            for name in names:
                yield _read(self._path, str(name, "utf-8"))
            return
        with self._path.open("rb") as archive:
            for member in self._table["members"][first : first + len(names)].tolist():
                yield _unpacked(archive, *member)


def _batch(files: Sequence[bytes | None], names: Sequence[str], errors: dict[int, str]) -> pa.RecordBatch:
    return with_refused(pa.record_batch([pa.array(files, pa.binary()), pa.array(names)], schema=_SCHEMA), errors)


def _is_left(name: str) -> bool:
    return any(part in _LEFT or part.startswith(".") for part in PurePosixPath(name).parts)


def _of_zip(path: Path) -> Made:
    with zipfile.ZipFile(path) as archive:
        found = [member for member in archive.infolist() if not member.is_dir() and not _is_left(member.filename)]
    members = [[m.header_offset, m.compress_size, m.CRC, m.compress_type, m.flag_bits] for m in found]
    table = {"members": np.array(members, np.int64).reshape(-1, 5)}
    return _made(path, [member.filename for member in found], table)


def _of_folder(path: Path) -> Made:
    names = []
    for at, folders, files in os.walk(path):
        for name in (*folders, *files):
            if (Path(at) / name).is_symlink():
                raise InvalidRequest(f"input: {name!r} in the folder is a link, and links are not followed")
        names += [(Path(at) / name).relative_to(path).as_posix() for name in files]
    return _made(path, sorted(name for name in names if not _is_left(name)), {})


def _made(path: Path, names: Sequence[str], table: dict[str, Any]) -> Made:
    stamp, rows = path.stat(), np.array([0, len(names)], np.int64)
    table["names"] = np.frombuffer("\0".join(names).encode("utf-8", "backslashreplace"), np.uint8)
    return Index(rows, rows, stamp.st_size, stamp.st_mtime_ns), table


def _read(folder: Path, name: str) -> bytes | str:
    """A file of the folder, wherever links that came later may lead."""
    path = folder / name
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        return "the file is not in the folder any more"
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return "this is no file"
            return _bounded(file.read(MOST_ROW_BYTES + 1))
    except OSError as error:
        return f"the file cannot be read: {error.strerror}"


def _unpacked(archive: BinaryIO, offset: int, size: int, checksum: int, method: int, flags: int) -> bytes | str:
    if flags & _ENCRYPTED:
        return "the file is encrypted"
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "the file is packed in a way that is not read: use deflate"
    archive.seek(offset)
    header = archive.read(_LOCAL_HEADER)
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    archive.seek(offset + _LOCAL_HEADER + lengths)
    data = archive.read(min(size, MOST_ROW_BYTES + 1))
    if method == zipfile.ZIP_DEFLATED:
        try:
            data = zlib.decompressobj(_RAW_DEFLATE).decompress(data, MOST_ROW_BYTES + 1)
        except zlib.error as error:
            return f"the file is damaged: {error}"
    found = _bounded(data)
    return "the file is damaged" if isinstance(found, bytes) and zlib.crc32(found) != checksum else found


def _bounded(data: bytes) -> bytes | str:
    return data if len(data) <= MOST_ROW_BYTES else f"the file is larger than {MOST_ROW_BYTES} bytes"
