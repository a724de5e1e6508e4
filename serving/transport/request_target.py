"""What a request line asks for: the target's path, decoded once for all routes, its query and its authority."""

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import httptools

from serving.transport.head_errors import RequestHeadError

_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+)(?::([0-9]{0,5}))?")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPED_SLASH = re.compile(rb"%2[Ff]")


class RequestTarget(NamedTuple):
    """`path` is decoded, `query` is not. `authority` is the target's own host and port, b"" where it has none."""

    path: str
    query: str
    authority: bytes


def read_target(method: str, raw: bytes) -> RequestTarget:
    """The target in these bytes. Raises `RequestHeadError`.

    It is a path, the whole URL that a client sends to a proxy, or for OPTIONS the asterisk.
    """
    if raw == b"*" and method == "OPTIONS":
        return RequestTarget("*", "", b"")
    try:
        url = httptools.parse_url(raw)
    except httptools.HttpParserInvalidURLError:
        raise RequestHeadError("the request target is neither a path nor a URL") from None
    if url.schema is None and not raw.startswith(b"/"):
        raise RequestHeadError("the request target is neither a path nor a URL")
    query = (url.query or b"").decode("ascii")
    return RequestTarget(_decoded(url.path or b"/"), query, b"" if url.schema is None else _authority(raw))


def check_host(host: bytes) -> None:
    """Raises `RequestHeadError` where that is no host with or without a port."""
    match = _HOST.fullmatch(host)
    if not match or int(match[1] or 0) > 65_535:
        raise RequestHeadError("the Host header is not a host name with or without a port")


def _authority(raw: bytes) -> bytes:
    scheme, _, rest = raw.partition(b"://")
    authority = re.split(rb"[/?]", rest, maxsplit=1)[0]
    if scheme.lower() not in (b"http", b"https"):
        raise RequestHeadError("the request target is a URL of another scheme than http")
    check_host(authority)
    return authority


def _decoded(path: bytes) -> str:
    """The path with its escapes decoded, but for an escaped slash: it separates nothing, so it must not become one."""
    if b"%" not in path:
        return path.decode("ascii")
    if _BAD_ESCAPE.search(path):
        raise RequestHeadError("the path has a '%' that is not followed by two hexadecimal digits")
    try:
        return unquote_to_bytes(_ESCAPED_SLASH.sub(b"%252F", path)).decode()
    except UnicodeDecodeError:
        raise RequestHeadError("the path is not UTF-8") from None
