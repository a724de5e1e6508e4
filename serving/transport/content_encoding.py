"""The codings that HTTP bodies travel in: gzip and deflate, which is zlib's format there."""

import zlib
from functools import lru_cache

from millrace.protocol.errors import CodingNotSupported, InvalidRequest
from serving.transport.responses import Content

_WINDOWS = {"gzip": 31, "deflate": 15}  # the `wbits` that zlib knows each by
_LEVEL = 1  # what answers are made of, numbers, hardly gets smaller at a higher one
_SMALLEST_BYTES = 1024  # packing less costs more than sending it
_MAX_REMEMBERED_BYTES = 256


def unpack(body: bytes, coding: bytes, most_bytes: int) -> bytes | None:
    """The body as it was before it was packed; None where that is more than `most_bytes`.

    Never takes up more than that, whatever the body claims. Raises `CodingNotSupported`, or `InvalidRequest` for a body
    that is not of that coding, incomplete, or has something behind it.
    """
    name = coding.strip().lower().decode("latin-1")
    if name == "identity":
        return body if len(body) <= most_bytes else None
    if name not in _WINDOWS:
        raise CodingNotSupported(f"the content coding '{name[:64]}' is not supported; use {' or '.join(_WINDOWS)}")
    unpacking = zlib.decompressobj(_WINDOWS[name])
    try:
        plain = unpacking.decompress(body, most_bytes + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the request body is not {name}: {error}") from None
    if len(plain) > most_bytes:
        return None
    if not unpacking.eof or unpacking.unused_data:
        raise InvalidRequest(f"the request body is not {name}: it ends too early, or has more behind its end")
    return plain


def coding_for(accepted: bytes | None, body_bytes: int) -> str:
    """The coding in which an answer of that size is to go to a caller with that Accept-Encoding; "" for none."""
    if not accepted or body_bytes < _SMALLEST_BYTES or len(accepted) > _MAX_REMEMBERED_BYTES:
        return ""
    return _preferred(accepted)


@lru_cache(maxsize=256)
def _preferred(accepted: bytes) -> str:
    """Of what the caller accepts and we have, the first of those with the highest weight."""
    best, highest = "", 0.0
    for item in accepted.decode("latin-1").lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weight = _weight(parameters)
        if name in (*_WINDOWS, "identity") and weight > highest:
            best, highest = name, weight
    return best if best in _WINDOWS else ""


def _weight(parameters: list[str]) -> float:
    """The `q` among the parameters, 1 where there is none, 0 where it cannot be read."""
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def packed(content: Content, coding: str) -> Content:
    """The content in that coding, with the header that says so."""
    packing = zlib.compressobj(_LEVEL, wbits=_WINDOWS[coding])
    body = packing.compress(content.body) + packing.flush()
    return Content(body, (*content.headers, ("content-encoding", coding)))
