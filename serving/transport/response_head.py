"""The head of a response as bytes."""

from http import HTTPStatus

from serving.transport.request_head import RequestHead
from serving.transport.responses import HttpResponse

STATUS_LINE_BEGINNING = b"HTTP/1.1 "
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_STATUS_LINES[499] = "HTTP/1.1 499 Client Closed Request\r\n"
_WITHOUT_BODY = (204, 304)


def write_head(response: HttpResponse, length: int, request: RequestHead | None, date: str, *, closes: bool) -> bytes:
    """The head of the response to that request, of a body of `length` bytes. `date` is the whole Date header."""
    text = _STATUS_LINES[response.status] + "".join([f"{name}: {value}\r\n" for name, value in response.headers])
    if has_body(response, request):
        text += f"content-length: {length}\r\n"
    if closes:
        text += "connection: close\r\n"
    elif request and b"connection" in request.headers:
        text += "connection: keep-alive\r\n"
    return f"{text}{date}\r\n".encode("latin-1")


def has_body(response: HttpResponse, request: RequestHead | None) -> bool:
    """Whether a body follows that head."""
    return not (request and request.method == "HEAD") and response.status not in _WITHOUT_BODY
