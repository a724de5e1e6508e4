"""The chunked transfer coding of RFC 9112, section 7.1: bodies that come in pieces, each with its size before it."""

import re
from collections.abc import Callable

from serving.transport.head_errors import RequestHeadError

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_EXTENSION = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?" % (_TOKEN, _TOKEN, _QUOTED)
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:%b)*\r\n" % _EXTENSION)
_SIZE_BEGINNING = re.compile(rb"(?:[0-9A-Fa-f]{1,16}[ \t]*(?:;[\t -~\x80-\xff]*)?\r?)?")
_TRAILER_LINE = re.compile(rb"%b:[\t -~\x80-\xff]*\r\n" % _TOKEN)
_TRAILER_BEGINNING = re.compile(rb"(?:%b(?::[\t -~\x80-\xff]*)?)?\r?" % _TOKEN)
_MAX_LINE_BYTES = 4096
_MAX_SPARE_BYTES = 16_384
_FREE_LINE_BYTES = 16
_CHUNKS_AT_ONCE = 64


class ChunkedDecoder:
    """Decodes one body. `announced` is the sum of the chunk sizes so far, `pending` what is not decoded yet.

    `rest` has what came behind the body once it `is_complete`. Trailers are read and dropped.
    """

    def __init__(self) -> None:
        self.announced = 0
        self.is_complete = False
        self.rest = b""
        self._data = b""
        self._position = 0
        self._left = 0  # of the chunk whose size was read
        self._step: _Step = ChunkedDecoder._take_size  # unbound, so that the decoder does not refer to itself
        self._spare = 0  # bytes of extensions and trailers

    @property
    def pending(self) -> int:
        """How many bytes wait to be decoded."""
        return len(self._data) - self._position

    def feed(self, data: bytes) -> None:
        """Add bytes that came."""
        self._data = self._data[self._position :] + data
        self._position = 0

    def decode(self) -> tuple[list[bytes], bool]:
        """Decode at most 64 chunks: the pieces of the body, and whether there is more to decode right now.

        A caller who sends tiny chunks thus holds the event loop no longer than one who does not. Raises
        `RequestHeadError` for what is no chunk.
        """
        parts: list[bytes] = []
        for _ in range(4 * _CHUNKS_AT_ONCE):
            if self.is_complete or not self._step(self, parts):
                return parts, False
        return parts, True

    # The steps: each says whether the next can be taken.

    def _take_size(self, _parts: list[bytes]) -> bool:
        match = _SIZE_LINE.match(self._data, self._position)
        if not match:
            return self._await_line(_SIZE_BEGINNING, "a chunk's size cannot be read")
        self._left = int(match[1], 16)
        self.announced += self._left
        self._spend(match.end() - match.start() - _FREE_LINE_BYTES)
        self._position = match.end()
        self._step = ChunkedDecoder._take_data if self._left else ChunkedDecoder._take_trailer
        return True

    def _take_data(self, parts: list[bytes]) -> bool:
        part = self._data[self._position : self._position + self._left]
        if not part:
            return False
        parts.append(part)
        self._position += len(part)
        self._left -= len(part)
        if not self._left:
            self._step = ChunkedDecoder._take_end_of_chunk
        return True

    def _take_end_of_chunk(self, _parts: list[bytes]) -> bool:
        end = self._data[self._position : self._position + 2]
        if end == b"\r\n":
            self._position += 2
            self._step = ChunkedDecoder._take_size
            return True
        if not b"\r\n".startswith(end):
            raise RequestHeadError("the request's chunks cannot be read: a chunk does not end where it should")
        return False

    def _take_trailer(self, _parts: list[bytes]) -> bool:
        if self._data.startswith(b"\r\n", self._position):
            self.rest = self._data[self._position + 2 :]
            self.is_complete = True
            self._data, self._position = b"", 0
            return False
        match = _TRAILER_LINE.match(self._data, self._position)
        if not match:
            return self._await_line(_TRAILER_BEGINNING, "a trailer cannot be read")
        self._spend(match.end() - match.start())
        self._position = match.end()
        return True

    def _await_line(self, beginning: re.Pattern[bytes], fault: str) -> bool:
        """False where the line is not all there yet. Raises `RequestHeadError` where it never will be."""
        begun = self._data[self._position : self._position + _MAX_LINE_BYTES + 1]
        if len(begun) > _MAX_LINE_BYTES or not beginning.fullmatch(begun):
            raise RequestHeadError(f"the request's chunks cannot be read: {fault}")
        return False

    def _spend(self, spare: int) -> None:
        self._spare += max(0, spare)
        if self._spare > _MAX_SPARE_BYTES:
            raise RequestHeadError("the request's chunks cannot be read: extensions and trailers are too long")


_Step = Callable[[ChunkedDecoder, list[bytes]], bool]
