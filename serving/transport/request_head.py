"""The head of an HTTP/1.1 request: everything before the body. Read by llhttp, the parser of Node.js."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

import httptools

MAX_HEAD_BYTES = 65_536
_MAX_REMEMBERED_BYTES = 2048


class RequestHeadError(Exception):
    """The head is not one of HTTP/1.1 that can be answered; `status` says how to refuse it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request's head. Header names are in lower case; headers of one name are joined by commas.

    `path` is decoded, `query` is not. `length` is the body's in bytes, -1 where it comes in chunks.
    """

    method: str
    path: str
    query: str
    headers: Mapping[bytes, bytes]
    length: int
    keeps_alive: bool

    @property
    def expects_continue(self) -> bool:
        """Whether the caller waits for a word before it sends the body."""
        return self.headers.get(b"expect", b"").lower() == b"100-continue"


def read_head(raw: bytes) -> RequestHead:
    """The head in these bytes, which end with the empty line. Raises `RequestHeadError`.

    A client sends the same head again and again, so those of usual length are remembered.
    """
    return _remembered(raw) if len(raw) <= _MAX_REMEMBERED_BYTES else _read(raw)


class _Collector:
    """Takes in what the parser finds."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.is_complete = False
        self.keeps_alive = False
        self.parser = httptools.HttpRequestParser(self)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in self.headers:
            value = self.headers[name] + b"," + value
        self.headers[name] = value

    def on_headers_complete(self) -> None:
        self.is_complete = True
        self.keeps_alive = self.parser.should_keep_alive()  # which the parser forgets with the end of the request


def _read(raw: bytes) -> RequestHead:
    found = _Collector()
    parser = found.parser
    try:
        parser.feed_data(raw)
        url = httptools.parse_url(found.url)
    except httptools.HttpParserUpgrade:
        raise RequestHeadError(501, "the connection cannot be upgraded to another protocol") from None
    except (httptools.HttpParserError, httptools.HttpParserInvalidURLError) as error:
        raise RequestHeadError(400, f"the request is not HTTP/1.1: {error}") from None
    finally:
        del found.parser  # which refers to its collector: without a cycle both go at once
    version = parser.get_http_version()
    if not found.is_complete or version not in ("1.0", "1.1"):
        raise RequestHeadError(400, "the request is not HTTP/1.1")
    headers = found.headers
    is_chunked = b"transfer-encoding" in headers
    if is_chunked and headers[b"transfer-encoding"].lower() != b"chunked":
        raise RequestHeadError(501, "bodies can only be sent whole or in chunks")
    return RequestHead(
        method=parser.get_method().decode(),
        path=unquote((url.path or b"/").decode("latin-1")),
        query=(url.query or b"").decode("latin-1"),
        headers=headers,
        length=-1 if is_chunked else int(headers.get(b"content-length", 0)),
        keeps_alive=found.keeps_alive,
    )


_remembered = lru_cache(maxsize=1024)(_read)


class Chunks:
    """Decodes a body that comes in chunks. `parts` has what came since it was last emptied."""

    def __init__(self, head: bytes) -> None:
        self.parts: list[bytes] = []
        self.is_complete = False
        self.has_more = False
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(head)

    def feed(self, data: bytes) -> None:
        """Take in the next bytes. Raises `RequestHeadError` for what is no chunk.

        Bytes of another request behind the last chunk are dropped and set `has_more`: the connection must end then.
        """
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.is_complete:
                raise RequestHeadError(400, f"the request's chunks cannot be read: {error}") from None
            self.has_more = True

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        if not self.is_complete:
            self.parts.append(body)

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self.has_more = self.is_complete

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.is_complete = True
