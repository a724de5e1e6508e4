"""Files on their way to a server and back, piece by piece: no file is in memory as a whole."""

import json
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from millrace_client.errors import InvalidRequest

_PIECE_BYTES = 1 << 18


class FileForm:
    """The body of a form with a job and a file; it can be sent again after an attempt that failed.

    Raises `InvalidRequest` where the file cannot be read.
    """

    def __init__(self, document: Mapping[str, Any], path: Path) -> None:
        boundary = secrets.token_hex(16)
        name = path.name.encode("ascii", "replace").decode().translate({34: "_", 92: "_", 13: "_", 10: "_"})
        head = 'Content-Disposition: form-data; name="'
        self._path = path
        self._start = (
            f'--{boundary}\r\n{head}job"\r\nContent-Type: application/json\r\n\r\n{json.dumps(document)}\r\n'
            f'--{boundary}\r\n{head}input"; filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        ).encode()
        self._end = f"\r\n--{boundary}--\r\n".encode()
        try:
            if path.is_dir():
                raise InvalidRequest(f"{path} is a folder: pack it into a zip")
            self._size = path.stat().st_size
        except OSError as error:
            raise InvalidRequest(f"cannot read {path}: {error.strerror}") from None
        length = len(self._start) + self._size + len(self._end)
        kind = f"multipart/form-data; boundary={boundary}"
        self.headers = {"Content-Type": kind, "Content-Length": str(length)}

    def __iter__(self) -> Iterator[bytes]:
        """The pieces. Raises `InvalidRequest` where the file has changed meanwhile."""
        yield self._start
        left = self._size
        with self._path.open("rb") as file:
            while left and (piece := file.read(min(left, _PIECE_BYTES))):
                left -= len(piece)
                yield piece
        if left:
            raise InvalidRequest(f"{self._path} has become shorter while it was sent")
        yield self._end

    async def pieces(self) -> AsyncIterator[bytes]:
        """The same for asyncio."""
        for piece in self:
            yield piece


class Download:
    """Writes what comes to a file, beside its place; `finish` puts it there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")

    def begin(self) -> None:
        """An attempt begins: what an earlier one has written is dropped. Raises `InvalidRequest`."""
        self._close()
        try:
            self._file = self._beside.open("wb")
        except OSError as error:
            raise InvalidRequest(f"cannot write {self._path}: {error.strerror}") from None

    def write(self, piece: bytes) -> None:
        """Append."""
        if self._file:
            self._file.write(piece)

    def finish(self) -> Path:
        """All has come; the file's path."""
        self._close()
        return self._beside.replace(self._path)

    def drop(self) -> None:
        """It did not come; nothing happens after `finish`."""
        self._close()
        self._beside.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None
