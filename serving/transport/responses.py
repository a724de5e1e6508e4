"""What goes back to a caller, and how an error is written."""

import math

import msgspec
import orjson

from millrace.protocol.errors import MillraceError, QueueFull
from serving.transport.budget import Reservation
from serving.transport.event_stream import Pieces
from serving.transport.spooled_body import SpooledBody

_LONGEST_TEXT = 1000
_READABLE = "Inference-Header-Content-Length, X-Request-Id"


class HttpResponse(msgspec.Struct, frozen=True):
    """A status, a body and headers, for whatever server sends them; for a refused request the error, too.

    A large body may be `spooled` in the place of `body`. A `reservation` counts the body and goes to the server, which
    releases it when the caller has read the body; without one, the server makes its own. With `pieces` there is no
    body: they are written as they come.
    """

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    error: MillraceError | None = None
    spooled: SpooledBody | None = None
    reservation: Reservation | None = None
    pieces: Pieces | None = None


def cors_headers(origin: str) -> tuple[tuple[str, str], ...]:
    """What tells browsers that pages of that origin may call the API; nothing where it is ""."""
    if not origin:
        return ()
    return (
        ("access-control-allow-origin", origin),
        ("access-control-allow-methods", "POST, GET"),
        (
            "access-control-allow-headers",
            f"Authorization, Content-Type, Content-Encoding, X-API-Key, X-Request-Timeout-Ms, {_READABLE}",
        ),
        ("access-control-expose-headers", f"Retry-After, Server-Timing, {_READABLE}"),
    )


def shortened(text: str) -> str:
    """The text of an error, cut to 1,000 characters, since texts quote what callers sent, and always valid UTF-8."""
    if len(text) > _LONGEST_TEXT:
        text = text[:_LONGEST_TEXT] + "..."
    return text.encode("utf-8", "replace").decode()


def error_body(text: str) -> bytes:
    """`{"error": text}`, the text shortened."""
    return orjson.dumps({"error": shortened(text)})


def error_response(status: int, text: str) -> HttpResponse:
    """The answer to what is no request that any handler could see."""
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
    return HttpResponse(status, error_body(text), headers + ((("retry-after", "1"),) if status == 503 else ()))


def error_headers(error: MillraceError) -> tuple[tuple[str, str], ...]:
    """What helps a caller after an error: when to come again, in whole seconds (429, 503), what is taken (401, 415)."""
    if error.status == 401:
        return (("www-authenticate", 'Bearer realm="millrace"'),)
    if error.status == 415:
        return (("accept-encoding", "gzip, deflate"),)
    if error.status not in (429, 503):
        return ()
    seconds = error.retry_after_s if isinstance(error, QueueFull) else 1.0
    return (("retry-after", str(max(1, math.ceil(seconds)))),)
