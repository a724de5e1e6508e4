"""Blocks to bytes and back, in one format with a version number.

    offset  size
    0       2     b"MR"
    2       1     version of this format, 1
    3       1     kind: 1 request block, 2 reply block
    4       4     length of the head in bytes, little-endian
    8       …     head: MessagePack, an array in the order of the classes below
    …       …     one buffer per tensor in the order of the head, each starting at a multiple of 8

Decoding trusts nothing: whatever the bytes, the outcome is a block or a `CodecError`. Tensors are views of the input.
"""

import math
import struct
from collections.abc import Sequence
from typing import TypeVar

import msgspec
import numpy as np

from millrace.protocol.messages import ReplyBlock, ReplyItem, RequestBlock, RequestItem
from millrace.protocol.tensors import BYTES, DTYPES, StringLayout, Tensor

FORMAT_VERSION = 1
_PREFIX = struct.Struct("<2sBBI")
_REQUEST, _REPLY = 1, 2


class CodecError(Exception):
    """The bytes are not a block of a version that this program knows."""


class _TensorHead(msgspec.Struct, array_like=True, frozen=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    payload_bytes: int
    row_ends: bytes = b""  # of BYTES tensors with a layout, which blocks of before it have not


class _RequestHead(msgspec.Struct, array_like=True, frozen=True):
    reply_to: str
    model: str
    version: int
    signature: str
    sent_ms: float
    items: tuple[RequestItem, ...]
    tensors: tuple[_TensorHead, ...]
    has_rows: bool = True  # which blocks of before it have not


class _CalledRequestHead(_RequestHead, array_like=True, frozen=True):
    """What a model asks of another; a head without `via` is read as one with none."""

    via: tuple[str, ...] = ()


class _ReplyHead(msgspec.Struct, array_like=True, frozen=True):
    worker: str
    compute_ms: float
    batch_rows: int
    items: tuple[ReplyItem, ...]
    tensors: tuple[_TensorHead, ...]


_Head = TypeVar("_Head", _CalledRequestHead, _ReplyHead)
_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(_CalledRequestHead)
_reply_decoder = msgspec.msgpack.Decoder(_ReplyHead)


def encode_request(block: RequestBlock) -> bytes:
    """The block's bytes."""
    return b"".join(request_parts(block))


def request_parts(block: RequestBlock) -> list[bytes | memoryview]:
    """The buffers whose bytes, end to end, are the block's; the tensors are not copied."""
    b, heads = block, _tensor_heads(block.tensors)
    head = _RequestHead(b.reply_to, b.model, b.version, b.signature, b.sent_ms, b.items, heads, b.has_rows)
    if b.via:
        head = _CalledRequestHead(
            b.reply_to, b.model, b.version, b.signature, b.sent_ms, b.items, heads, b.has_rows, b.via
        )
    return _parts(_REQUEST, head, b.tensors)


def encode_reply(block: ReplyBlock) -> bytes:
    """The block's bytes."""
    b = block
    head = _ReplyHead(b.worker, b.compute_ms, b.batch_rows, b.items, _tensor_heads(b.tensors))
    return b"".join(_parts(_REPLY, head, b.tensors))


def decode_request(data: bytes) -> RequestBlock:
    """The block that `encode_request` wrote. Raises `CodecError`."""
    head, tensors = _split(_REQUEST, _request_decoder, data)
    return RequestBlock(
        reply_to=head.reply_to,
        model=head.model,
        version=head.version,
        signature=head.signature,
        sent_ms=head.sent_ms,
        items=head.items,
        tensors=tensors,
        has_rows=head.has_rows,
        via=head.via,
    )


def decode_reply(data: bytes) -> ReplyBlock:
    """The block that `encode_reply` wrote. Raises `CodecError`."""
    head, tensors = _split(_REPLY, _reply_decoder, data)
    return ReplyBlock(
        worker=head.worker, compute_ms=head.compute_ms, batch_rows=head.batch_rows, items=head.items, tensors=tensors
    )


def _tensor_heads(tensors: dict[str, Tensor]) -> tuple[_TensorHead, ...]:
    return tuple(
        _TensorHead(name, t.datatype, t.shape, len(t.data), t.layout.row_ends if t.layout else b"")
        for name, t in tensors.items()
    )


def _parts(kind: int, head: _RequestHead | _ReplyHead, tensors: dict[str, Tensor]) -> list[bytes | memoryview]:
    packed = _encoder.encode(head)
    parts: list[bytes | memoryview] = [_PREFIX.pack(b"MR", FORMAT_VERSION, kind, len(packed)), packed]
    last = len(packed)
    for tensor in tensors.values():
        parts += (bytes(-last % 8), tensor.data)
        last = len(tensor.data)
    return parts


def _split(kind: int, decoder: msgspec.msgpack.Decoder[_Head], data: bytes) -> tuple[_Head, dict[str, Tensor]]:
    try:
        magic, version, found, length = _PREFIX.unpack_from(data)
    except struct.error:
        raise CodecError(f"{len(data)} bytes are no block") from None
    if (magic, version, found) != (b"MR", FORMAT_VERSION, kind):
        raise CodecError(f"not a block of version {FORMAT_VERSION} and kind {kind}: {data[:4]!r}")
    view, offset = memoryview(data), _PREFIX.size + length
    try:
        head = decoder.decode(view[_PREFIX.size : offset])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"unreadable head: {error}") from None
    tensors, specs = {}, head.tensors
    for spec in specs:
        offset += -offset % 8
        tensors[spec.name] = _tensor(spec, view[offset : offset + spec.payload_bytes])
        offset += spec.payload_bytes
    if offset != len(data) or len(tensors) != len(specs):
        raise CodecError("the buffers are not those that the head lists")
    counts = [item.rows for item in head.items]
    rows = sum(counts)
    if min(counts, default=0) < 0 or any(tensor.shape[:1] != (rows,) for tensor in tensors.values()):
        raise CodecError("the items do not account for the tensors' rows")
    return head, tensors


def _tensor(head: _TensorHead, data: memoryview) -> Tensor:
    shape: Sequence[int] = head.shape
    if head.datatype not in DTYPES or not shape or min(shape) < 0 or len(data) != head.payload_bytes:
        raise CodecError(f"tensor {head.name!r} is malformed")
    if head.datatype != BYTES and math.prod(shape) * DTYPES[head.datatype].itemsize != len(data):
        raise CodecError(f"tensor {head.name!r} does not fill its shape")
    if not head.row_ends:
        return Tensor(head.datatype, tuple(shape), data)
    return Tensor(head.datatype, tuple(shape), data, _layout(head, shape[0]))


def _layout(head: _TensorHead, rows: int) -> StringLayout:
    ends = np.frombuffer(head.row_ends, "<i8") if len(head.row_ends) == 8 * rows else np.empty(0, "<i8")
    if head.datatype != BYTES or not len(ends) or ends[-1] != head.payload_bytes:
        raise CodecError(f"tensor {head.name!r} has no such rows")
    if ends[0] < 0 or (ends[1:] < ends[:-1]).any():
        raise CodecError(f"tensor {head.name!r} has rows that end before they begin")
    return StringLayout(head.row_ends)
