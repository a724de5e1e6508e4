"""What goes back to a caller, and how an error is written."""

import math

import msgspec
import orjson

from millrace.protocol.errors import MillraceError, QueueFull

_LONGEST_TEXT = 1000


class Answer(msgspec.Struct, frozen=True):
    """A status, a body and headers, for whatever server sends them; for a refused request the error, too."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    error: MillraceError | None = None


class Content(msgspec.Struct, frozen=True):
    """What a protocol answers, without what every answer has."""

    body: bytes
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)


def shortened(text: str) -> str:
    """The text of an error, cut to 1,000 characters, since texts quote what callers sent, and always valid UTF-8."""
    if len(text) > _LONGEST_TEXT:
        text = text[:_LONGEST_TEXT] + "..."
    return text.encode("utf-8", "replace").decode()


def error_body(text: str) -> bytes:
    """`{"error": text}`, the text shortened."""
    return orjson.dumps({"error": shortened(text)})


def error_answer(status: int, text: str) -> Answer:
    """The answer to what is no request that any handler could see."""
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
    return Answer(status, error_body(text), headers + ((("retry-after", "1"),) if status == 503 else ()))


def retry_after(error: MillraceError) -> tuple[tuple[str, str], ...]:
    """The header that says when to come again, in whole seconds, for the statuses that have one: 429 and 503."""
    if error.status not in (429, 503):
        return ()
    seconds = error.retry_after_s if isinstance(error, QueueFull) else 1.0
    return (("retry-after", str(max(1, math.ceil(seconds)))),)
