"""Protobuf messages from bytes: counted on the wire first where they are large."""

from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from millrace.protocol.errors import InvalidRequest
from millrace.rpc.counting import Malformed, TooManyFields, count_fields, top_fields
from serving.protocols.limits import MAX_NAMED, QUICK_BYTES, NotQuick, ReadLimits, too_many

SMALL_BYTES = 16_384  # in which there is no room for more objects than can be built at once
_MAX_TOP_FIELDS = 4 * MAX_NAMED
_FIELDS = "fields in its message"
_MAX_FIELDS = 2_000_000
_QUICK_FIELDS = 1024


def read(message_class: Any, data: bytes | memoryview) -> Any:
    """The message in the bytes. Raises `InvalidRequest`."""
    try:
        return message_class.FromString(data if isinstance(data, bytes) else bytes(data))
    except DecodeError:
        raise unreadable(message_class) from None


def unreadable(message_class: Any) -> InvalidRequest:
    """The error for bytes that are not that message."""
    return InvalidRequest(f"the message cannot be read as {message_class.DESCRIPTOR.full_name}")


def counted(message_class: Any, data: bytes | memoryview, most: Mapping[str, int], limits: ReadLimits) -> Any:
    """The message in the bytes; if they are many, its fields are counted first.

    `most` bounds repeated fields by their names. Raises `InvalidRequest`; `PayloadTooLarge` with the limit that is
    exceeded; `NotQuick` where it takes longer than the limits allow.
    """
    if len(data) > SMALL_BYTES:
        if limits.max_quick and len(data) > QUICK_BYTES:
            raise NotQuick
        check_fields(message_class, data, most, _QUICK_FIELDS if limits.max_quick else _MAX_FIELDS)
    return read(message_class, data)


def check_fields(message_class: Any, data: bytes | memoryview, most: Mapping[str, int], fields: int) -> None:
    """Count the fields on the wire. Raises as `counted` does, `NotQuick` for more than `_QUICK_FIELDS` if so few."""
    try:
        count_fields(message_class, data, most, fields)
    except Malformed:
        raise unreadable(message_class) from None
    except TooManyFields as error:
        if not error.field and fields == _QUICK_FIELDS:
            raise NotQuick from None
        raise too_many(f"'{error.field}' in its message" if error.field else _FIELDS, error.limit) from None


class Spans(NamedTuple):
    """A message without its heavy fields, and where the contents of these are in its bytes."""

    message: Any
    heavy: list[memoryview]


def without(message_class: Any, data: bytes | memoryview, heavy: Container[int]) -> Spans:
    """The message without the fields of those numbers, which are not looked into: it says who is asked for what.

    Raises `InvalidRequest` for bytes that are no message, `PayloadTooLarge` where what is left is large.
    """
    fields = top_fields(data, _MAX_TOP_FIELDS)
    if fields is None:
        if len(data) <= _MAX_TOP_FIELDS:
            raise unreadable(message_class)
        raise too_many(_FIELDS, _MAX_TOP_FIELDS)
    view = memoryview(data)
    light = [view[start:end] for number, start, _, end in fields if number not in heavy]
    if sum(map(len, light)) > SMALL_BYTES:
        raise too_many("bytes beside its tensors", SMALL_BYTES)
    spans = [view[content:end] for number, _, content, end in fields if number in heavy]
    return Spans(read(message_class, b"".join(light)), spans)
