"""Frames of HTTP/2 as a client sends them, and what a server's bytes are as frames."""

from collections.abc import Iterable
from typing import NamedTuple

from hpack import Decoder, Encoder

from serving.transport.http2 import frames

HELLO = frames.PREFACE + frames.settings({})
GRPC = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/inference.GRPCInferenceService/ServerLive"),
    (":authority", "127.0.0.1"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


class Frame(NamedTuple):
    """One frame of the server's."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def block(fields: Iterable[tuple[str, str]] = GRPC) -> bytes:
    """The fields for a table of no size: equal fields are equal bytes."""
    encoder = Encoder()
    encoder.header_table_size = 0
    return encoder.encode(fields)


def headers(stream: int, fields: Iterable[tuple[str, str]] = GRPC, *, ends: bool = False) -> bytes:
    flags = frames.END_HEADERS | (frames.END_STREAM if ends else 0)
    return frames.frame(frames.HEADERS, flags, stream, block(fields))


def data(stream: int, content: bytes, *, ends: bool = True) -> bytes:
    return frames.frame(frames.DATA, frames.END_STREAM if ends else 0, stream, content)


def message(content: bytes) -> bytes:
    """A message of gRPC."""
    return b"\0" + len(content).to_bytes(4, "big") + content


def parsed(output: bytes) -> list[Frame]:
    """The frames in these bytes, of which the last is whole."""
    found, at = [], 0
    while at < len(output):
        high, low, kind, flags, stream = frames.FRAME_HEAD.unpack_from(output, at)
        at += frames.HEAD_BYTES + (high << 8 | low)
        found.append(Frame(kind, flags, stream, output[at - (high << 8 | low) : at]))
    assert at == len(output)
    return found


def fields_in(block: bytes) -> list[tuple[str, str]]:
    """The fields in a block of the server's, which needs no table."""
    return [(str(name), str(value)) for name, value in Decoder(1_000_000).decode(block)]
