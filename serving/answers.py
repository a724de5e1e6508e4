"""What goes back to a caller, and how an error is written."""

from dataclasses import dataclass

import orjson

_LONGEST_TEXT = 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body and headers, for whatever server sends them."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def error_body(text: str) -> bytes:
    """`{"error": text}`: cut to 1,000 characters, since texts quote what callers sent, and always valid UTF-8."""
    if len(text) > _LONGEST_TEXT:
        text = text[:_LONGEST_TEXT] + "..."
    return orjson.dumps({"error": text.encode("utf-8", "replace").decode()})
