"""The head of a response as bytes."""

from http import HTTPStatus

from serving.transport.request_head import RequestHead
from serving.transport.responses import HttpResponse

STATUS_LINE_BEGINNING = b"HTTP/1.1 "
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_STATUS_LINES[499] = "HTTP/1.1 499 Client Closed Request\r\n"
_WITHOUT_BODY = (204, 304)


def write_head(response: HttpResponse, length: int, request: RequestHead | None, date: str, *, closes: bool) -> bytes:
    """The head of the response to that request. `date` is the whole Date header.

    A body of `length` bytes follows, none where that is -1.
    """
    text = _STATUS_LINES[response.status] + "".join([f"{name}: {value}\r\n" for name, value in response.headers])
    if length >= 0:
        text += f"content-length: {length}\r\n"
    if closes:
        text += "connection: close\r\n"
    elif request and b"connection" in request.headers:
        text += "connection: keep-alive\r\n"
    return f"{text}{date}\r\n".encode("latin-1")


def body_bytes(response: HttpResponse, request: RequestHead | None) -> int:
    """The length of the body that follows the response's head; -1 where none does."""
    if response.status in _WITHOUT_BODY or (request and request.method == "HEAD"):
        return -1
    return len(response.body) if response.spooled is None else response.spooled.size
