"""HTTP/2's frames by hand, behind the seam (`seam.py`): the server's side of RFC 9113.

    preface ──► SETTINGS ──► frames …            a fault of the connection: GOAWAY, and `fault` says why
                              │
                              └─ a fault of a stream: RST_STREAM, and the connection goes on

What waits is bounded: a frame of at most 16 KiB, a block of headers of at most 64 KiB, and on each stream what its
window allows, which the owner opens as it has room. Frames that bring nothing are counted (`allowance.py`).
"""

from collections.abc import Callable
from functools import lru_cache

from serving.transport.http2 import frames
from serving.transport.http2.allowance import Allowance
from serving.transport.http2.frames import ConnectionFault, ErrorCode
from serving.transport.http2.header_blocks import (
    MAX_BLOCK_BYTES,
    MAX_LIST_BYTES,
    Fields,
    HeaderReader,
    HeadTooLarge,
    MalformedHead,
    RememberedBlocks,
)
from serving.transport.http2.seam import Event, Opened, Pong, Received, Reset, Room

CONNECTION_WINDOW = 16 * 2**20  # what was received is given back at once: streams' windows are what is kept small
_MOST_FRAMES = 128  # of one call of `events`
_MOST_CONTINUATIONS = 64
_MOST_RESET = 1024  # streams that we reset, whose late frames are no fault
_RESETS, _RESETS_PER_S = 1000, 200
_IDLE_FRAMES, _IDLE_FRAMES_PER_S = 2000, 500
_SMALL_UPDATE = 1024
_BYTES_A_TOKEN = 1024
_STREAMS_A_TOKEN = 50  # where a frame is about all open streams
_CHEAP_BLOCK_BYTES, _BLOCK_BYTES_A_TOKEN = 8192, 512  # a block that is longer costs tokens, since reading it takes long
_MESSAGE_TOKENS = 2  # for a new stream, and for each message on it


class _Stream:
    """What is known of an open stream. Its send window is the client's initial one and `credit`."""

    __slots__ = ("credit", "is_received", "window")

    def __init__(self, is_received: bool) -> None:
        self.credit = 0
        self.window = frames.DEFAULT_WINDOW
        self.is_received = is_received


class FrameSession:
    """One connection; see `seam.Session`. A client may have `most_streams` open."""

    __slots__ = (
        "_at", "_block", "_buffer", "_has_paused", "_headers", "_idle", "_initial_window", "_is_greeted",
        "_is_leaving", "_is_set", "_most_streams", "_output", "_output_bytes", "_peer_frame", "_received", "_reset",
        "_resets", "_send_window", "_streams", "_window", "fault", "has_more", "has_progressed", "last_stream",
    )  # fmt: skip

    def __init__(self, most_streams: int, remembered: RememberedBlocks) -> None:
        self.fault: str | None = None
        self.last_stream = 0
        self.has_more = self.has_progressed = False
        self._most_streams = most_streams
        self._headers = HeaderReader(remembered)
        self._buffer = b""
        self._at = 0
        self._is_greeted = self._is_set = self._is_leaving = self._has_paused = False
        self._streams: dict[int, _Stream] = {}
        self._reset: dict[int, None] = {}
        self._block: tuple[int, int, list[bytes]] | None = None  # stream, flags and parts of a block on its way
        self._initial_window = self._send_window = frames.DEFAULT_WINDOW
        self._peer_frame = frames.MAX_FRAME_BYTES
        self._window = CONNECTION_WINDOW
        self._received = 0  # and not yet given back
        self._resets = Allowance(_RESETS, _RESETS_PER_S)
        self._idle = Allowance(_IDLE_FRAMES, _IDLE_FRAMES_PER_S)
        self._output: list[bytes | memoryview] = []
        self._output_bytes = 0
        ours = {
            frames.HEADER_TABLE_SIZE: 0,
            frames.MAX_CONCURRENT_STREAMS: most_streams,
            frames.MAX_HEADER_LIST_SIZE: MAX_LIST_BYTES,
        }
        self._put(frames.settings(ours) + frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW))

    # Bytes in

    def feed(self, data: bytes) -> None:
        """See `Session.feed`."""
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at = 0

    def events(self, now: float) -> list[Event]:
        """See `Session.events`."""
        found: list[Event] = []
        self.has_more = self._has_paused = False
        if self.fault is not None:
            self._buffer, self._at = b"", 0
            return found
        self._idle.refill(now)
        self._resets.refill(now)
        start, block = self._at, self._block
        try:
            if self._is_greeted or self._greet():
                self._read_frames(found)
            self.has_progressed = self._block is not block if self._block else self._at > start
        except ConnectionFault as error:
            self.go_away(error.code, str(error))
            self.fault = str(error)
            self._buffer, self._at, self._block = b"", 0, None
            self._streams.clear()  # nothing is sent behind a GOAWAY that says why
            return found
        if self._received >= CONNECTION_WINDOW // 2:
            self._put(frames.window_update(0, self._received))
            self._window += self._received
            self._received = 0
        return found

    @property
    def pending_bytes(self) -> int:
        """See `Session.pending_bytes`."""
        block = sum(map(len, self._block[2])) if self._block else 0
        return len(self._buffer) - self._at + block

    def _greet(self) -> bool:
        start = self._buffer[: len(frames.PREFACE)]
        if not frames.PREFACE.startswith(start):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the connection does not begin with HTTP/2's preface")
        self._is_greeted = len(start) == len(frames.PREFACE)
        self._at = len(frames.PREFACE) if self._is_greeted else 0
        return self._is_greeted

    def _read_frames(self, found: list[Event]) -> None:
        buffer, at, end = self._buffer, self._at, len(self._buffer)
        unpack = frames.FRAME_HEAD.unpack_from
        try:
            for _ in range(_MOST_FRAMES):
                if end - at < frames.HEAD_BYTES:
                    return
                high, low, kind, flags, stream = unpack(buffer, at)
                size = high << 8 | low
                if size > frames.MAX_FRAME_BYTES:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame has {size} bytes")
                start = at + frames.HEAD_BYTES
                if end - start < size:
                    return
                at = start + size
                stream &= frames.MAX_WINDOW
                if not self._is_set or self._block is not None:
                    self._check_turn(kind, stream)
                if kind < len(_READERS):
                    _READERS[kind](self, flags, stream, buffer[start:at], found)
                else:
                    self._count_idle()
                if self._has_paused:
                    break
            self.has_more = end - at >= frames.HEAD_BYTES
        finally:
            self._at = at

    def _check_turn(self, kind: int, stream: int) -> None:
        """Raises `ConnectionFault` for a frame before the client's settings, or between those of a block of headers."""
        if not self._is_set and kind != frames.SETTINGS:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._block is not None and (kind != frames.CONTINUATION or stream != self._block[0]):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a block of headers is interrupted")

    # Frames, one by one

    def _on_data(self, flags: int, stream: int, payload: bytes, found: list[Event]) -> None:
        size = len(payload)
        self._window -= size
        self._received += size
        if self._window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more was sent than the connection's window allows")
        open_stream = self._streams.get(stream)
        if open_stream is None or open_stream.is_received:
            self._on_late(stream, "DATA", found)
            return
        open_stream.window -= size
        if open_stream.window < 0:
            self._fail(stream, ErrorCode.FLOW_CONTROL_ERROR, found)
            return
        data = payload
        if flags & frames.PADDED:
            data = _without_padding(payload)
            self.open_window(stream, size - len(data))
        ends = bool(flags & frames.END_STREAM)
        if not ends and len(data) < _SMALL_UPDATE:
            self._count_idle()  # who sends a body in crumbs
        else:
            self._idle.earn(1 + size / _BYTES_A_TOKEN)
        open_stream.is_received = ends
        found.append(Received(stream, data, ends))

    def _on_headers(self, flags: int, stream: int, payload: bytes, found: list[Event]) -> None:
        if not stream & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a client cannot open stream {stream}")
        if flags & frames.PADDED:
            payload = _without_padding(payload)
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a stream's priority cannot be read")
            if frames.number(payload) == stream:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
            payload = payload[5:]
        if flags & frames.END_HEADERS:
            self._on_block(stream, flags, payload, found)
        else:
            self._block = (stream, flags, [payload])

    def _on_continuation(self, flags: int, stream: int, payload: bytes, found: list[Event]) -> None:
        if self._block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a CONTINUATION continues nothing")
        _, first_flags, parts = self._block
        parts.append(payload)
        if len(parts) > _MOST_CONTINUATIONS or sum(map(len, parts)) > MAX_BLOCK_BYTES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the block of headers is too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self._on_block(stream, first_flags, b"".join(parts), found)

    def _on_block(self, stream: int, flags: int, block: bytes, found: list[Event]) -> None:
        """A whole block: a new stream's, or trailers."""
        ends = bool(flags & frames.END_STREAM)
        if len(block) > _CHEAP_BLOCK_BYTES:
            self._count_idle(len(block) / _BLOCK_BYTES_A_TOKEN)
            self._has_paused = True
        if stream <= self.last_stream:
            self._on_trailers(stream, ends, found, is_good=self._headers.are_trailers(block))
            return
        try:
            fields: Fields | None = self._headers.read(block)
        except MalformedHead:
            self.last_stream = stream
            self._count_idle()
            self._put(frames.rst_stream(stream, ErrorCode.PROTOCOL_ERROR))
            self._remember_reset(stream)
            return
        except HeadTooLarge:
            fields = None
        if self._is_leaving:
            self._remember_reset(stream)  # the client was told that it is not looked at
            self._count_idle()
            return
        self.last_stream = stream
        if len(self._streams) >= self._most_streams:
            self._count_idle()
            self._put(frames.rst_stream(stream, ErrorCode.REFUSED_STREAM))
            self._remember_reset(stream)
            return
        self._idle.earn(_MESSAGE_TOKENS)
        self._streams[stream] = _Stream(ends)
        found.append(Opened(stream, fields, ends))

    def _on_trailers(self, stream: int, ends: bool, found: list[Event], *, is_good: bool) -> None:
        open_stream = self._streams.get(stream)
        if open_stream is None or open_stream.is_received:
            if open_stream is None and stream not in self._reset:
                raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"stream {stream} is closed")
            self._on_late(stream, "HEADERS", found)
        elif not (ends and is_good):
            self._fail(stream, ErrorCode.PROTOCOL_ERROR, found)
        else:
            open_stream.is_received = True
            found.append(Received(stream, b"", ends=True))

    def _on_priority(self, flags: int, stream: int, payload: bytes, found: list[Event]) -> None:  # noqa: ARG002
        self._count_idle()
        if not stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a priority is for stream 0")
        if len(payload) == 5 and frames.number(payload) != stream:
            return
        code = ErrorCode.PROTOCOL_ERROR if len(payload) == 5 else ErrorCode.FRAME_SIZE_ERROR
        if stream > self.last_stream:  # which cannot be reset before it is opened
            raise ConnectionFault(code, "a stream's priority cannot be read")
        self._fail(stream, code, found)

    def _on_reset(self, flags: int, stream: int, payload: bytes, found: list[Event]) -> None:  # noqa: ARG002
        _check_size(payload, 4, "RST_STREAM")
        if not stream or stream > self.last_stream:
            self._check_ignored(stream, "RST_STREAM")
        if not self._resets.spend():
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many streams were reset")
        if self._streams.pop(stream, None):
            found.append(Reset(stream))

    def _on_settings(self, flags: int, stream: int, payload: bytes, found: list[Event]) -> None:
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS are for the connection")
        if flags & frames.ACK:
            _check_size(payload, 0, "SETTINGS with ACK")
            self._count_idle()
            return
        if len(payload) % 6:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a SETTINGS frame cannot be read")
        if self._is_set:
            self._count_idle()
        self._is_set = True
        before = self._initial_window
        for key, value in frames.read_settings(payload):
            self._set(key, value)
        if self._initial_window > before:
            self._count_idle(len(self._streams) / _STREAMS_A_TOKEN)
            if any(self._initial_window + each.credit > frames.MAX_WINDOW for each in self._streams.values()):
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window grows beyond its bounds")
            found.append(Room(0))
        self._put(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _set(self, key: int, value: int) -> None:
        """Take in one of the client's settings; those that we do not know are ignored."""
        if key == frames.ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        if key == frames.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large")
            self._initial_window = value
        if key == frames.MAX_FRAME_SIZE:
            if not frames.MAX_FRAME_BYTES <= value < 2**24:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE is not what it may be")
            self._peer_frame = value

    def _on_push(self, flags: int, stream: int, payload: bytes, found: list[Event]) -> None:  # noqa: ARG002
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client cannot push")

    def _on_ping(self, flags: int, stream: int, payload: bytes, found: list[Event]) -> None:
        _check_size(payload, 8, "PING")
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a PING is for the connection")
        self._count_idle()
        if flags & frames.ACK:
            found.append(Pong(payload))
        else:
            self._put(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _on_goaway(self, flags: int, stream: int, payload: bytes, found: list[Event]) -> None:  # noqa: ARG002
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a GOAWAY is for the connection")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a GOAWAY cannot be read")
        self._count_idle()  # what is open is answered all the same; the client closes the connection

    def _on_window(self, flags: int, stream: int, payload: bytes, found: list[Event]) -> None:  # noqa: ARG002
        _check_size(payload, 4, "WINDOW_UPDATE")
        more = frames.number(payload)
        if more < _SMALL_UPDATE:
            self._count_idle()  # who takes an answer in crumbs
        if not stream:
            was_shut = self._send_window <= 0
            self._send_window += more
            if not more or self._send_window > frames.MAX_WINDOW:
                code = ErrorCode.FLOW_CONTROL_ERROR if more else ErrorCode.PROTOCOL_ERROR
                raise ConnectionFault(code, "the connection's window grows by nothing, or beyond its bounds")
            if was_shut:  # else nobody waits for it, and looking for who waits costs much where streams are many
                found.append(Room(0))
            return
        if stream > self.last_stream:
            self._check_ignored(stream, "WINDOW_UPDATE")
        if (open_stream := self._streams.get(stream)) is None:
            self._count_idle()
            return
        open_stream.credit += more
        if not more:
            self._fail(stream, ErrorCode.PROTOCOL_ERROR, found)
        elif self._initial_window + open_stream.credit > frames.MAX_WINDOW:
            self._fail(stream, ErrorCode.FLOW_CONTROL_ERROR, found)
        else:
            found.append(Room(stream))

    # Faults

    def _count_idle(self, tokens: float = 1.0) -> None:
        if not self._idle.spend(tokens):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that bring nothing")

    def _on_late(self, stream: int, kind: str, found: list[Event]) -> None:
        """A frame for a stream on which the client may send nothing more."""
        if not stream or stream > self.last_stream:
            self._check_ignored(stream, kind)
        self._count_idle()
        if stream in self._streams:
            self._fail(stream, ErrorCode.STREAM_CLOSED, found)
        elif stream not in self._reset:
            self._put(frames.rst_stream(stream, ErrorCode.STREAM_CLOSED))

    def _check_ignored(self, stream: int, kind: str) -> None:
        """A frame for a stream that was never opened, or that came after we had said that no more is taken."""
        if stream not in self._reset:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{kind} for stream {stream}, which is not open")

    def _fail(self, stream: int, code: ErrorCode, found: list[Event]) -> None:
        """End a stream whose client broke the rules."""
        if not self._resets.spend():
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many streams were reset")
        is_known = stream in self._streams
        self.reset(stream, code)
        if is_known:
            found.append(Reset(stream))

    def _remember_reset(self, stream: int) -> None:
        self._reset[stream] = None
        if len(self._reset) > _MOST_RESET:
            del self._reset[next(iter(self._reset))]

    # Bytes out

    def take_output(self) -> bytes:
        """See `Session.take_output`."""
        output = b"".join(self._output)
        self._output.clear()
        self._output_bytes = 0
        return output

    @property
    def output_bytes(self) -> int:
        """See `Session.output_bytes`."""
        return self._output_bytes

    def room(self, stream: int) -> int:
        """See `Session.room`."""
        open_stream = self._streams.get(stream)
        return max(0, min(self._send_window, self._initial_window + open_stream.credit)) if open_stream else 0

    def is_open(self, stream: int) -> bool:
        """See `Session.is_open`."""
        return stream in self._streams

    def send_headers(self, stream: int, block: bytes, *, ends: bool) -> None:
        """See `Session.send_headers`."""
        if stream not in self._streams:
            return
        largest = self._peer_frame
        parts = [block[at : at + largest] for at in range(0, len(block), largest)]
        for i, part in enumerate(parts):
            flags = frames.END_HEADERS if i == len(parts) - 1 else 0
            if i:
                self._put(frames.frame(frames.CONTINUATION, flags, stream, part))
            else:
                self._put(frames.frame(frames.HEADERS, flags | (frames.END_STREAM if ends else 0), stream, part))
        if ends:
            self._sent_all(stream)

    def send_data(self, stream: int, data: bytes | memoryview, *, ends: bool) -> None:
        """See `Session.send_data`."""
        open_stream = self._streams.get(stream)
        if open_stream is None:
            return
        size, largest, at = len(data), self._peer_frame, 0
        self._send_window -= size
        open_stream.credit -= size
        self._idle.earn(size / _BYTES_A_TOKEN)
        while True:
            part = data[at : at + largest]
            at += len(part)
            flags = frames.END_STREAM if ends and at >= size else 0
            self._put(frames.frame_head(len(part), frames.DATA, flags, stream))
            self._put(part)
            if at >= size:
                break
        if ends:
            self._sent_all(stream)

    def send_small(self, stream: int, block: bytes, data: bytes, trailers: bytes) -> None:
        """See `Session.send_small`."""
        if stream not in self._streams:
            return
        self._send_window -= len(data)
        number = stream.to_bytes(4, "big")
        head, body_head, end_head = _heads_of_small(len(block), len(data), len(trailers))
        self._put(b"".join((head, number, block, body_head, number, data, end_head, number, trailers)))
        self._sent_all(stream)

    def open_window(self, stream: int, bytes_: int) -> None:
        """See `Session.open_window`."""
        open_stream = self._streams.get(stream)
        if open_stream and not open_stream.is_received and bytes_ > 0:
            open_stream.window += bytes_
            self._put(frames.window_update(stream, bytes_))

    def moved_message(self) -> None:
        """See `Session.moved_message`."""
        self._idle.earn(_MESSAGE_TOKENS)

    def reset(self, stream: int, code: ErrorCode) -> None:
        """See `Session.reset`."""
        self._streams.pop(stream, None)
        self._remember_reset(stream)
        if self.fault is None:
            self._put(frames.rst_stream(stream, code))

    def ping(self, data: bytes) -> None:
        """See `Session.ping`."""
        self._put(frames.frame(frames.PING, 0, 0, data))

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, text: str = "", *, is_last: bool = True) -> None:
        """See `Session.go_away`."""
        self._is_leaving = self._is_leaving or is_last
        self._put(frames.goaway(self.last_stream if is_last else frames.MAX_WINDOW, code, text))

    def _sent_all(self, stream: int) -> None:
        """The answer is out; a client that still sends is told that nobody reads it."""
        if not self._streams.pop(stream).is_received:
            self._put(frames.rst_stream(stream, ErrorCode.NO_ERROR))
            self._remember_reset(stream)

    def _put(self, part: bytes | memoryview) -> None:
        self._output.append(part)
        self._output_bytes += len(part)


@lru_cache(maxsize=4096)
def _heads_of_small(block: int, data: int, trailers: int) -> tuple[bytes, bytes, bytes]:
    """The heads of a response's three frames by the sizes of their payloads, without the number of the stream."""
    head = frames.frame_head
    return (
        head(block, frames.HEADERS, frames.END_HEADERS, 0)[:5],
        head(data, frames.DATA, 0, 0)[:5],
        head(trailers, frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 0)[:5],
    )


def _check_size(payload: bytes, size: int, kind: str) -> None:
    if len(payload) != size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a {kind} frame has {len(payload)} bytes")


def _without_padding(payload: bytes) -> bytes:
    if not payload:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame does not say how much padding it has")
    padding = payload[0]
    if padding >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame has more padding than bytes")
    return payload[1 : len(payload) - padding]


_Reader = Callable[[FrameSession, int, int, bytes, list[Event]], None]
# By the type of a frame.
_READERS: tuple[_Reader, ...] = (
    FrameSession._on_data,
    FrameSession._on_headers,
    FrameSession._on_priority,
    FrameSession._on_reset,
    FrameSession._on_settings,
    FrameSession._on_push,
    FrameSession._on_ping,
    FrameSession._on_goaway,
    FrameSession._on_window,
    FrameSession._on_continuation,
)
