"""Numbers of a JSON document read in bulk, without a Python object for each list: by simdjson, or else by orjson.

simdjson has no wheels for the newest Python for some months after it appears. Where it is missing, orjson reads the
same documents to the same numbers (a property test), an image of them in at most 2.5 times the time (benchmarks/micro).
Either may decline a document: what it raises is in `UNREADABLE`, and the document goes the slow way, which words the
errors.
"""

import contextlib
import itertools
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
_MARKS = bytes({91: 1, 93: 4}.get(byte, 2 if byte in b"0123456789.eE+-" else 0) for byte in range(256))
_ROUNDED = re.compile(rb"\d{20}|\d[eE]")
_NO_BRACKETS = bytes.maketrans(b"[]", b"  ")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PIECE_BYTES = 1 << 20
_MAX_BOOLEANS, _MAX_BLANKS = 16, 64
_MAX_LISTS = 2048  # with fewer objects a document is read in less than a millisecond


class NumberReader(Protocol):
    """Reads documents; `parse` gives mappings, sequences and scalars that `numbers` and `text` know."""

    def parse(self, body: bytes) -> Any:
        """The document. Raises `UNREADABLE`."""

    def numbers(self, value: Any, kind: Kind) -> npt.NDArray[Any]:
        """The numbers of a list nested in any way, flat and in order. Raises `UNREADABLE` for anything else in it."""

    def text(self, value: Any) -> bytes | None:
        """A list or an object as JSON again; None for a scalar."""

    def rows(self, body: bytes, key: str, kind: Kind) -> npt.NDArray[Any]:
        """The numbers of a document {key: […]}, flat and in order. Raises `UNREADABLE`.

        Whether its lists are regular, and whether anything else is in it, is for the caller to compare.
        """


class Simdjson:
    """Nothing of a document becomes a Python object before it is asked for."""

    def parse(self, body: bytes) -> Any:
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
        return self.numbers(self.parse(body)[key], kind)


class Orjson:
    """A document of few lists as Python's; rows as one long list, their brackets taken away first."""

    def parse(self, body: bytes) -> Any:
        """Declines what would become very many objects, and lists of Booleans."""
        if body.count(b"[") + body.count(b"{") > _MAX_LISTS or body.count(b",") > MAX_VALUES:
            raise ValueError
        if _lists_booleans(body):
            raise ValueError
        return orjson.loads(body.removeprefix(_BYTE_ORDER_MARK))

    def numbers(self, value: Any, kind: Kind) -> npt.NDArray[Any]:
        """See `NumberReader`."""
        if not isinstance(value, list):
            raise TypeError
        try:
            return _array(value, kind)
        except TypeError:
            if list not in {*map(type, value)}:
                raise
        return _array(_leaves(value), kind)

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
        # In regular lists, a number that is neither before a "[" nor behind a "]" is where an innermost list has one.
        marks = np.frombuffer(body.translate(_MARKS, _BLANKS), np.uint8)
        if np.any((marks[:-1] >> 1) & marks[1:]):
            raise ValueError
        return _spaced_numbers(body[start:end].translate(_NO_BRACKETS), kind)


def _spaced_numbers(text: bytes, kind: Kind) -> npt.NDArray[Any]:
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
    if kind == "d":  # whole numbers are read faster as such
        with contextlib.suppress(TypeError, OverflowError):
            return np.frombuffer(array("q", values), "<i8").astype("<f8")
    try:
        return np.frombuffer(array(_CODES[kind], values), _TYPES[kind])
    except OverflowError:
        raise ValueError from None


def _leaves(value: list[Any]) -> list[Any]:
    """The leaves of a list nested in any way, in order."""
    while {*map(type, value)} == {list}:
        value = [*itertools.chain.from_iterable(value)]
    leaves, stack = [], [iter(value)]
    while stack:
        for item in stack[-1]:
            if isinstance(item, list):
                stack.append(iter(item))
                break
            leaves.append(item)
        else:
            stack.pop()
    return leaves


def _lists_booleans(body: bytes) -> bool:
    """Whether a Boolean may stand in a list: in an object, there is a colon before it."""
    for word in (b"true", b"false"):
        at = body.find(word)
        for _ in range(_MAX_BOOLEANS):
            if at < 0:
                break
            if body[max(0, at - _MAX_BLANKS) : at].rstrip(_BLANKS)[-1:] != b":":
                return True
            at = body.find(word, at + 1)
        else:
            return True
    return False


READER: NumberReader = Simdjson() if simdjson else Orjson()
