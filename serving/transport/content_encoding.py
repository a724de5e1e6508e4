"""The codings that HTTP bodies travel in: gzip and deflate, which is zlib's format there."""

import zlib
from collections.abc import Callable
from functools import lru_cache

from millrace.protocol.errors import CodingNotSupported, InvalidRequest

_WINDOWS = {"gzip": 31, "deflate": 15}  # the `wbits` that zlib knows each by
_LEVEL = 1  # what answers are made of, numbers, hardly gets smaller at a higher one
_SMALLEST_BYTES = 1024  # packing less costs more than sending it
_MAX_REMEMBERED_BYTES = 256
_SLICE_BYTES = 262_144


def coding_error(coding: bytes | None) -> CodingNotSupported | None:
    """Why a body of that Content-Encoding is not taken; None where it is."""
    name = "identity" if coding is None else _name(coding)
    if name in _WINDOWS or name == "identity":
        return None
    return CodingNotSupported(f"the content coding '{name[:64]}' is not supported; use {' or '.join(_WINDOWS)}")


def is_identity(coding: bytes) -> bool:
    """Whether a body of that Content-Encoding is not packed at all."""
    return _name(coding) == "identity"


def unpack(body: bytes, coding: bytes, most_bytes: int) -> bytes | None:
    """The body as it was before it was packed; None where that is more than `most_bytes`.

    Never takes up more than that, whatever the body claims. Raises `CodingNotSupported`, or `InvalidRequest` for a body
    that is not of that coding, incomplete, or has something behind it.
    """
    if is_identity(coding):
        return body if len(body) <= most_bytes else None
    unpacker = Unpacker(coding)
    plain = unpacker.feed(lambda: body, most_bytes + 1)
    if len(plain) > most_bytes:
        return None
    if error := unpacker.check_end():
        raise error
    return plain


class Unpacker:
    """Unpacks one body piece by piece. Raises `CodingNotSupported`."""

    def __init__(self, coding: bytes) -> None:
        if error := coding_error(coding):
            raise error
        self._name = _name(coding)
        self._unpacking = zlib.decompressobj(_WINDOWS[self._name])

    @property
    def is_complete(self) -> bool:
        """Whether the end of the packed data was seen."""
        return self._unpacking.eof

    def feed(self, next_piece: Callable[[], bytes], most_bytes: int) -> bytes:
        """The next at most `most_bytes` bytes; asks for a piece of packed data where it has none.

        Raises `InvalidRequest` where the data is not of that coding, or where there is no more of it.
        """
        data = self._unpacking.unconsumed_tail or next_piece()
        fault = "it ends too early"
        if data:
            try:
                return self._unpacking.decompress(data, most_bytes)
            except zlib.error as error:
                fault = str(error)
        raise self._invalid(fault)

    def check_end(self, *, is_all: bool = True) -> InvalidRequest | None:
        """The error of a body that does not end where its packed data does; `is_all` says that no piece is left."""
        if not self._unpacking.eof or self._unpacking.unused_data or not is_all:
            return self._invalid("it ends too early, or has more behind its end")
        return None

    def _invalid(self, fault: str) -> InvalidRequest:
        return InvalidRequest(f"the request body is not {self._name}: {fault}")


def _name(coding: bytes) -> str:
    name = coding.strip().lower().decode("latin-1")
    return "gzip" if name == "x-gzip" else name  # its old name (RFC 9110, 8.4.1.3)


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


def pack(body: bytes | memoryview, coding: str) -> bytes:
    """The body in that coding. Call it in a thread or a process of its own where the body is large."""
    packing = zlib.compressobj(_LEVEL, wbits=_WINDOWS[coding])
    view = memoryview(body)
    slices = [packing.compress(view[start : start + _SLICE_BYTES]) for start in range(0, len(view), _SLICE_BYTES)]
    return b"".join([*slices, packing.flush()])
