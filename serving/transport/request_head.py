"""The head of an HTTP/1.1 request: everything before the body. Read by llhttp, the parser of Node.js.

Rules of RFC 9112 that llhttp leaves open are held here: the form of the request line, the Host header, HTTP/1.0.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import httptools

from serving.transport.head_errors import FramingNotSupported, HeadTooLarge, RequestHeadError
from serving.transport.request_target import check_host, read_target

MAX_HEAD_BYTES = 65_536
_MAX_FIELDS = 256
_MAX_REMEMBERED_BYTES = 2048
_EMPTY_LINES = re.compile(rb"(?:\r\n){0,8}")
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}"
_REQUEST_LINE = re.compile(rb"(%b) ([!-\"$-~]+) HTTP/1\.([01])" % _TOKEN)
_LINE_BEGINNING = re.compile(rb"%b(?: [!-\"$-~]*(?: H?T?T?P?/?1?\.?[01]?)?)?" % _TOKEN)


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request's head. Header names are in lower case; headers of one name are joined by commas.

    `path` is decoded but for `%2F`, `query` is not. `length` is the body's in bytes, -1 where it comes in chunks.
    """

    method: str
    path: str
    query: str
    headers: Mapping[bytes, bytes]
    length: int
    keeps_alive: bool
    expects_continue: bool = False


def read_head(raw: bytes) -> RequestHead:
    """The head in these bytes, which end with the empty line. Raises `RequestHeadError` and others of `head_errors`.

    A client sends the same head again and again, so those of usual length are remembered.
    """
    return _remembered(raw) if len(raw) <= _MAX_REMEMBERED_BYTES else _read(raw)


def without_empty_lines(data: bytes) -> bytes:
    """What comes behind the empty lines, at most eight, that some clients send after a body."""
    return data[_EMPTY_LINES.match(data).end() :]  # type: ignore[union-attr]  # it always matches


def check_beginning(data: bytes, known: int = 0) -> None:
    """Raises `RequestHeadError` where these bytes cannot begin a head; the first `known` were checked before."""
    line, separator, _ = data.partition(b"\r\n")
    pattern = _REQUEST_LINE if separator else _LINE_BEGINNING
    if not pattern.fullmatch(line if separator else line.removesuffix(b"\r")):
        raise RequestHeadError(_why_no_request(data))
    new = data[max(0, known - 1) :]
    if new.count(b"\n") != new.count(b"\r\n") + (new[:1] == b"\n" and known > 0):
        raise RequestHeadError("the request is not HTTP/1.1: a line ends without a carriage return")


def _why_no_request(data: bytes) -> str:
    if data.startswith(b"\x16\x03"):
        return "this port answers HTTP, and the request is TLS: use http:// in place of https://"
    if data.startswith(b"PRI * HTTP/2"):
        return "this port answers HTTP/1.1, and the request is HTTP/2"
    return "the request is not HTTP/1.1"


class _Collector:
    """Takes in what the parser finds."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.is_complete = False
        self.keeps_alive = False
        self.parser = httptools.HttpRequestParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in self.headers:
            if name == b"host":
                raise RequestHeadError("the request has more than one Host header")
            value = self.headers[name] + b"," + value
        self.headers[name] = value

    def on_headers_complete(self) -> None:
        self.is_complete = True
        self.keeps_alive = self.parser.should_keep_alive()  # which the parser forgets with the end of the request


def _read(raw: bytes) -> RequestHead:
    method, target, minor = _request_line(raw)
    if raw.count(b"\n") > _MAX_FIELDS + 2:
        raise HeadTooLarge(f"the request has more than {_MAX_FIELDS} headers")
    found = _parsed(raw)
    headers = found.headers
    path, query, authority = read_target(method, target)
    if b"host" in headers:
        check_host(headers[b"host"])
    elif minor:
        raise RequestHeadError("the request has no Host header")
    if authority:
        headers[b"host"] = authority  # which goes before the header (RFC 9112, 3.2.2)
    is_chunked = b"transfer-encoding" in headers
    if is_chunked and headers[b"transfer-encoding"].strip(b" \t").lower() != b"chunked":
        raise FramingNotSupported("bodies can only be sent whole or in chunks")
    return RequestHead(
        method=method,
        path=path,
        query=query,
        headers=headers,
        length=-1 if is_chunked else int(headers.get(b"content-length", 0)),
        keeps_alive=found.keeps_alive and not (is_chunked and not minor),  # in HTTP/1.0 chunks are faulty framing
        expects_continue=bool(minor) and headers.get(b"expect", b"").lower() == b"100-continue",
    )


def _request_line(raw: bytes) -> tuple[str, bytes, int]:
    """The method, the target and the minor version."""
    match = _REQUEST_LINE.match(raw)
    if not match or raw[match.end() : match.end() + 2] != b"\r\n":
        raise RequestHeadError(_why_no_request(raw))
    method, target, minor = match.groups()
    if method == b"CONNECT":
        raise FramingNotSupported("the method CONNECT is not supported: this is no proxy")
    return method.decode(), target, int(minor)


def _parsed(raw: bytes) -> _Collector:
    """What llhttp finds in the head. A wish to upgrade to another protocol is passed over, as RFC 9110 lets us."""
    if b"\t\r\n" in raw:
        raw = re.sub(rb"[ \t]+\r\n", b"\r\n", raw)  # whitespace behind a value, of which llhttp takes only blanks
    found = _Collector()
    try:
        found.parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserInvalidMethodError:
        raise FramingNotSupported("the server does not know the request's method") from None
    except httptools.HttpParserError as error:
        if isinstance(error.__context__, RequestHeadError):
            raise error.__context__ from None
        raise RequestHeadError(f"the request is not HTTP/1.1: {error}") from None
    finally:
        del found.parser  # which refers to its collector: without a cycle both go at once
    if not found.is_complete:
        raise RequestHeadError("the request is not HTTP/1.1")
    return found


_remembered = lru_cache(maxsize=1024)(_read)
