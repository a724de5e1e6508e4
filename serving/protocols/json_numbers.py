"""Numbers of a JSON document read in bulk, without a Python object for each list: by simdjson, or else by orjson.

simdjson has no wheels for the newest Python for some months after it appears. Where it is missing, orjson reads the
same documents to the same numbers (a property test), an image of them in at most 2.5 times the time (benchmarks/micro).
A reader may decline a document: it raises one of `UNREADABLE`, and the document is read the slow way, which words the
errors.
"""

import contextlib
import re
from array import array
from typing import Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt
import orjson

from serving.protocols.limits import MAX_VALUES

try:
    import simdjson
except ImportError:
    simdjson = None  # type: ignore[assignment]

Kind = Literal["d", "i", "u", ""]  # what numbers are read as: FP64, INT64 or UINT64; "" for what neither reads
UNREADABLE = (ValueError, KeyError, TypeError, RuntimeError)  # numbers above 64 bits included

_TYPES = {"d": "<f8", "i": "<i8", "u": "<u8"}
_CODES = {"d": "d", "i": "q", "u": "Q"}  # the same for `array`
_BLANKS = b" \t\r\n"
# Bits, so that a mark shifted by one meets the next where a number is before a "[", or behind a "]".
_COMMA, _OPENS, _NUMBER, _CLOSES, _OTHER = (bytes([mark]) for mark in (0, 1, 2, 4, 8))
_MARK_OF = {**dict.fromkeys(b"0123456789.eE+-", _NUMBER), **dict(zip(b",[]", (_COMMA, _OPENS, _CLOSES), strict=True))}
_MARKS = b"".join([_MARK_OF.get(byte, _OTHER) for byte in range(256)])
_STEPS = bytes.maketrans(_CLOSES, b"\xff")  # +1 and -1 as signed bytes
_BEFORE_A_LIST = re.compile(rb"[ \t\r\n]*+:[ \t\r\n]*+(?=\[)")
_ROUNDED = re.compile(rb"\d{20}|\d[eE]")
_NO_BRACKETS = bytes.maketrans(b"[]", b"  ")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PIECE_BYTES = 1 << 20
_MAX_LISTS = 2048  # beside the numbers; with fewer objects a document is read in less than a millisecond


class NumberReader(Protocol):
    """Reads documents; `parse` gives mappings, sequences and scalars that `numbers` and `text` know."""

    def __hash__(self) -> int:
        """Of the object itself: what a reader has read may be remembered."""

    def parse(self, body: bytes, key: str) -> Any:
        """The document, of whose lists under this key only the `numbers` are asked for. Raises `UNREADABLE`."""

    def numbers(self, value: Any, kind: Kind) -> npt.NDArray[Any]:
        """The numbers of a list nested in any way, flat and in order. Raises `UNREADABLE` for anything else in it."""

    def text(self, value: Any) -> bytes | None:
        """A list or an object as JSON again; None for a scalar."""

    def rows(self, body: bytes, key: str, kind: Kind) -> npt.NDArray[Any]:
        """The numbers of a document {key: […]}, flat and in order. Raises `UNREADABLE`.

        Whether its lists are regular, and whether anything else is in it, is for the caller to compare.
        """

    def listed(self, text: bytes, kind: Kind) -> npt.NDArray[Any]:
        """The numbers of a text that is one list, nested in any way, flat and in order. Raises `UNREADABLE`."""


class Simdjson:
    """Nothing of a document becomes a Python object before it is asked for."""

    def parse(self, body: bytes, key: str) -> Any:  # noqa: ARG002 - it finds numbers in lists of any depth by itself
        """A parser serves one document at a time, and an error on its way up may hold one: so each has its own."""
        return simdjson.Parser().parse(body)

    def numbers(self, value: Any, kind: Kind) -> npt.NDArray[Any]:
        """See `NumberReader`."""
        if not isinstance(value, simdjson.Array) or not kind:
            raise TypeError
        return np.frombuffer(value.as_buffer(of_type=kind), _TYPES[kind])

    def text(self, value: Any) -> bytes | None:
        """See `NumberReader`."""
        if not isinstance(value, simdjson.Object | simdjson.Array):
            return None
        return cast(bytes, value.mini)  # it is annotated as text

    def rows(self, body: bytes, key: str, kind: Kind) -> npt.NDArray[Any]:
        """See `NumberReader`."""
        return self.numbers(self.parse(body, key)[key], kind)

    def listed(self, text: bytes, kind: Kind) -> npt.NDArray[Any]:
        """See `NumberReader`."""
        return self.numbers(simdjson.Parser().parse(text), kind)


class Orjson:
    """Reads nested numbers as one long list: their brackets are taken away before the document is read."""

    def parse(self, body: bytes, key: str) -> Any:
        """See `NumberReader`. Declines what would become very many objects, and lists that hold more than numbers."""
        if b"\\" in body and b"\\u00" in body:  # the key may be escaped
            raise ValueError
        return orjson.loads(_with_flat_lists(body.removeprefix(_BYTE_ORDER_MARK), b'"%s"' % key.encode()))

    def numbers(self, value: Any, kind: Kind) -> npt.NDArray[Any]:
        """See `NumberReader`."""
        if not isinstance(value, list):
            raise TypeError
        return _array(value, kind)

    def text(self, value: Any) -> bytes | None:
        """See `NumberReader`. Declines what orjson may have rounded: whole numbers above 64 bits, as floats to it."""
        if not isinstance(value, list | dict):
            return None
        if _ROUNDED.search(text := orjson.dumps(value)):
            raise ValueError
        return text

    def rows(self, body: bytes, key: str, kind: Kind) -> npt.NDArray[Any]:
        """See `NumberReader`. The caller has to find the lists regular, or what is read here means nothing."""
        start, end = body.find(b"["), body.rfind(b"]") + 1
        quoted, head = b'"%s"' % key.encode(), body[: max(0, start)]
        is_alone = quoted in head and head.translate(None, _BLANKS) == b"{%s:" % quoted
        if not is_alone or body[end:].translate(None, _BLANKS) != b"}":
            raise ValueError
        nested = body[start:end]
        _check_neighbours(nested.translate(_MARKS, _BLANKS))
        return _numbers_of(nested.translate(_NO_BRACKETS), kind)

    def listed(self, text: bytes, kind: Kind) -> npt.NDArray[Any]:
        """See `NumberReader`."""
        return _array(orjson.loads(_flat(text)), kind)


def around_numbers(body: bytes, quoted: bytes) -> tuple[bytes, bytes, bytes] | None:
    """The text before the list under the quoted key, the list, and the text behind it; None where there is none.

    None, too, where the key comes again. Only as the text of a JSON document the three together mean what they seem to.
    """
    at = body.find(quoted) + len(quoted)
    if at < len(quoted) or not (found := _BEFORE_A_LIST.match(body, at)):
        return None
    start = found.end()
    numbers = _list_of_numbers(body, start)
    end = start + len(numbers)
    return None if body.find(quoted, end) >= 0 else (body[:start], numbers, body[end:])


def _with_flat_lists(body: bytes, quoted: bytes) -> bytes:
    """The document with each list of numbers under a key as one flat list. Raises `ValueError` for other lists."""
    parts, lists, done, at = [], 0, 0, body.find(quoted)
    while at >= 0:
        at += len(quoted)
        if found := _BEFORE_A_LIST.match(body, at):
            start = found.end()
            nested = _list_of_numbers(body, start)
            lists += _objects(before := body[done:start])
            parts += [before, _flat(nested)]
            done = at = start + len(nested)
            if lists > _MAX_LISTS or len(parts) > _MAX_LISTS:
                raise ValueError
        at = body.find(quoted, at)
    if lists + _objects(rest := body[done:]) > _MAX_LISTS:
        raise ValueError
    return b"".join([*parts, rest])


def _objects(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")


def _list_of_numbers(body: bytes, start: int) -> bytes:
    """The list that begins there, if it is one of numbers: a quote or a brace is the first thing behind it."""
    quote = body.find(b'"', start)
    next_string = quote if quote >= 0 else len(body)
    brace = body.find(b"}", start, next_string)
    return body[start : body.rfind(b"]", start, brace if brace >= 0 else next_string) + 1]


def _flat(nested: bytes) -> bytes:
    """A list nested in any way, as one list of its numbers. Raises `ValueError` for anything else in it."""
    marks = nested.translate(_MARKS, _BLANKS)
    if not marks or _OTHER in marks or (len(marks) > MAX_VALUES and marks.count(_COMMA) > MAX_VALUES):
        raise ValueError
    if not marks.rfind(_OPENS) and marks.find(_CLOSES) == len(marks) - 1:
        return nested
    steps = marks.translate(_STEPS, _COMMA + _NUMBER)
    depths = np.cumsum(np.frombuffer(steps, np.int8), dtype=np.int8).tobytes()  # 256 is as good as 0: both are refused
    if depths.find(b"\0") != len(steps) - 1:
        raise ValueError
    _check_neighbours(marks)
    return b"[%s]" % nested.translate(_NO_BRACKETS)


def _check_neighbours(marks: bytes) -> None:
    """Raises `ValueError` for a number right before a "[", or behind a "]".

    Anything else that is no JSON is none without its brackets either. Here an empty list would have left no trace.
    """
    beside = np.frombuffer(marks, np.uint8)
    if ((beside[:-1] >> 1) & beside[1:]).any():
        raise ValueError


def _numbers_of(text: bytes, kind: Kind) -> npt.NDArray[Any]:
    """The numbers of a text of numbers and commas, piece by piece, so that few are objects at the same time."""
    if len(text) <= _PIECE_BYTES:
        return _array(orjson.loads(b"[%s]" % text), kind)
    pieces, start = [], 0
    while start < len(text):
        end = text.find(b",", start + _PIECE_BYTES)
        end = len(text) if end < 0 else end
        pieces.append(_array(orjson.loads(b"[%s]" % text[start:end]), kind))
        start = end + 1
    return np.concatenate(pieces)


def _array(values: list[Any], kind: Kind) -> npt.NDArray[Any]:
    """Raises `TypeError` for what is no number, `ValueError` for one out of range. A Boolean is a number to it."""
    with contextlib.suppress(TypeError, ValueError):  # 0 to 255, as pixels are, takes a third of the time
        return np.frombuffer(bytes(values), np.uint8).astype(_TYPES[kind])
    if kind == "d":  # whole numbers are read faster as such
        with contextlib.suppress(TypeError, OverflowError):
            return np.frombuffer(array("q", values), "<i8").astype("<f8")
    try:
        return np.frombuffer(array(_CODES[kind], values), _TYPES[kind])
    except OverflowError:
        raise ValueError from None


READER: NumberReader = Simdjson() if simdjson else Orjson()
