"""HTTP/2's frames without a socket: what each means, and what a client that breaks the rules gets."""

from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from serving.transport.http2 import frames
from serving.transport.http2.field_encoding import fields as encoded
from serving.transport.http2.frames import ErrorCode
from serving.transport.http2.header_blocks import MAX_BLOCK_BYTES, RememberedBlocks
from serving.transport.http2.seam import Event, Opened, Received, Reset, Room
from serving.transport.http2.session import CONNECTION_WINDOW, FrameSession
from tests.support.http2frames import GRPC, HELLO, Frame, block, data, fields_in, headers, message, parsed

MOST_STREAMS = 100
ACK = frames.frame(frames.SETTINGS, frames.ACK, 0)


def opened() -> FrameSession:
    """A session whose first frames are sent."""
    session = FrameSession(MOST_STREAMS, RememberedBlocks())
    session.take_output()
    return session


def fed(session: FrameSession, content: bytes, now: float = 1.0) -> list[Event]:
    """What the bytes mean, all of them."""
    session.feed(content)
    found = session.events(now)
    while session.has_more:
        found += session.events(now)
    return found


def after_hello(content: bytes, session: FrameSession | None = None) -> tuple[FrameSession, list[Event], list[Frame]]:
    """The session after a client's first frames and these bytes, the events, and the frames that it answers with."""
    session = session or opened()
    fed(session, HELLO)
    session.take_output()
    events = fed(session, content)
    return session, events, parsed(session.take_output())


def goaway_code(answers: list[Frame]) -> int | None:
    if not answers or answers[-1].kind != frames.GOAWAY:
        return None
    return frames.number(answers[-1].payload[4:])


def test_a_call_is_two_events_and_its_answer_three_frames() -> None:
    session, events, _ = after_hello(headers(1) + data(1, message(b"abc")))
    assert isinstance(events[0], Opened)
    assert events[0].fields
    assert events[0].fields.path == dict(GRPC)[":path"].encode()
    assert events[0].fields.headers == {b"te": b"trailers", b"content-type": b"application/grpc"}
    assert events[1] == Received(1, message(b"abc"), ends=True)
    session.send_small(1, encoded([("a", "b")]), message(b"d"), encoded([("grpc-status", "0")]))
    head, body, trailers = parsed(session.take_output())
    assert [(f.kind, f.flags, f.stream) for f in (head, body, trailers)] == [(1, 4, 1), (0, 0, 1), (1, 5, 1)]
    assert fields_in(trailers.payload) == [("grpc-status", "0")]
    assert not session.is_open(1)


def test_bytes_mean_the_same_in_whatever_pieces_they_come() -> None:
    content = HELLO + ACK + headers(1) + data(1, message(b"x" * 300)) + headers(3, ends=True)
    whole = fed(opened(), content)
    session, pieces = opened(), list[Event]()
    for i in range(len(content)):
        pieces += fed(session, content[i : i + 1])
    assert pieces == whole
    assert session.pending_bytes == 0


def test_a_client_without_a_table_and_one_with_a_table_are_read_alike() -> None:
    from hpack import Encoder

    encoder = Encoder()
    with_table = [encoder.encode(GRPC) for _ in range(3)]  # the second is mostly indexes into the table
    encoder.header_table_size = 0
    without = [encoder.encode(GRPC) for _ in range(3)]  # the first says that the table is gone
    session, events, _ = after_hello(
        b"".join(frames.frame(frames.HEADERS, 5, 1 + 2 * i, each) for i, each in enumerate([*with_table, *without]))
    )
    assert len({repr(event.fields) for event in events if isinstance(event, Opened)}) == 1
    assert len(events) == 6
    assert session.fault is None


@pytest.mark.parametrize("huffman", [False, True])
def test_fields_that_differ_in_each_call_are_read_one_by_one(huffman: bool) -> None:
    from hpack import Encoder

    encoder, content = Encoder(), b""
    encoder.header_table_size = 0
    for i in range(20):
        fields = [*GRPC, ("grpc-timeout", f"{i + 100}m"), ("long", "v" * 200 * i)]
        content += frames.frame(frames.HEADERS, 5, 1 + 2 * i, encoder.encode(fields, huffman=huffman))
    _, events, _ = after_hello(content)
    found = [event.fields.headers for event in events if isinstance(event, Opened) and event.fields]
    assert [(f[b"grpc-timeout"], len(f[b"long"])) for f in found] == [(b"%dm" % (i + 100), 200 * i) for i in range(20)]


# What breaks the rules of the connection, and the code of the GOAWAY

BEGUN = frames.frame(frames.HEADERS, 0, 1, block())  # a block of headers that goes on
BAD_FRAMES = {
    "window update of nothing": (frames.window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "window beyond its bounds": (frames.window_update(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "window update of three bytes": (frames.frame(frames.WINDOW_UPDATE, 0, 0, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
    "window update of an idle stream": (frames.window_update(9, 5), ErrorCode.PROTOCOL_ERROR),
    "even stream": (headers(2), ErrorCode.PROTOCOL_ERROR),
    "stream 0": (headers(0), ErrorCode.PROTOCOL_ERROR),
    "stream below the last": (headers(5, ends=True) + headers(3, ends=True), ErrorCode.STREAM_CLOSED),
    "data on an idle stream": (data(5, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data on stream 0": (data(0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "continuation of nothing": (frames.frame(frames.CONTINUATION, 4, 1, block()), ErrorCode.PROTOCOL_ERROR),
    "interrupted headers": (frames.frame(frames.HEADERS, 0, 1, block()) + ACK, ErrorCode.PROTOCOL_ERROR),
    "bad HPACK": (frames.frame(frames.HEADERS, 4, 1, b"\xff" * 6), ErrorCode.COMPRESSION_ERROR),
    "cut HPACK": (frames.frame(frames.HEADERS, 4, 1, block()[:-3]), ErrorCode.COMPRESSION_ERROR),
    "many sizes of the table": (
        frames.frame(frames.HEADERS, 4, 1, b"\x20" * 60 + block()),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "a size of the table behind a field": (
        headers(1) + frames.frame(frames.HEADERS, 4, 3, encoded(GRPC) + b"\x20"),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "sizes of the table without one": (
        headers(1) + frames.frame(frames.HEADERS, 4, 3, b"\x20" * 60 + block()),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "ping of seven bytes": (frames.frame(frames.PING, 0, 0, b"x" * 7), ErrorCode.FRAME_SIZE_ERROR),
    "ping of a stream": (frames.frame(frames.PING, 0, 1, b"x" * 8), ErrorCode.PROTOCOL_ERROR),
    "settings of five bytes": (frames.frame(frames.SETTINGS, 0, 0, b"x" * 5), ErrorCode.FRAME_SIZE_ERROR),
    "settings of a stream": (frames.frame(frames.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "acknowledged settings": (frames.frame(frames.SETTINGS, 1, 0, b"x" * 6), ErrorCode.FRAME_SIZE_ERROR),
    "window setting": (frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31}), ErrorCode.FLOW_CONTROL_ERROR),
    "frame size setting": (frames.settings({frames.MAX_FRAME_SIZE: 100}), ErrorCode.PROTOCOL_ERROR),
    "push setting": (frames.settings({frames.ENABLE_PUSH: 2}), ErrorCode.PROTOCOL_ERROR),
    "frame of 16 MB": (b"\xff\xff\xff\0\1\0\0\0\1", ErrorCode.FRAME_SIZE_ERROR),
    "padding beyond the frame": (frames.frame(frames.DATA, 8, 1, b"\xffx"), ErrorCode.PROTOCOL_ERROR),
    "pushed by a client": (frames.frame(frames.PUSH_PROMISE, 4, 1, block()), ErrorCode.PROTOCOL_ERROR),
    "reset of an idle stream": (frames.rst_stream(9, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
    "reset of three bytes": (frames.frame(frames.RST_STREAM, 0, 1, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
    "goaway of a stream": (frames.frame(frames.GOAWAY, 0, 1, b"x" * 8), ErrorCode.PROTOCOL_ERROR),
    "short goaway": (frames.frame(frames.GOAWAY, 0, 0, b"x"), ErrorCode.FRAME_SIZE_ERROR),
    "priority of stream 0": (frames.frame(frames.PRIORITY, 0, 0, b"x" * 5), ErrorCode.PROTOCOL_ERROR),
    "short priority of an idle stream": (frames.frame(frames.PRIORITY, 0, 9, b"x" * 4), ErrorCode.FRAME_SIZE_ERROR),
    "idle stream that depends on itself": (
        frames.frame(frames.PRIORITY, 0, 9, b"\0\0\0\x09x"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "headers that depend on their stream": (
        frames.frame(frames.HEADERS, 0x24, 1, b"\0\0\0\1x" + block()),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "headers too short for their priority": (frames.frame(frames.HEADERS, 0x24, 1, b"x"), ErrorCode.FRAME_SIZE_ERROR),
    "headers too short for their padding": (frames.frame(frames.HEADERS, 0xC, 1), ErrorCode.FRAME_SIZE_ERROR),
    "headers with more padding than bytes": (frames.frame(frames.HEADERS, 0xC, 1, b"\x09x"), ErrorCode.PROTOCOL_ERROR),
    "priority in a block of headers": (
        BEGUN + frames.frame(frames.PRIORITY, 0, 1, b"\0\0\0\0x"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "an unknown frame in a block of headers": (BEGUN + frames.frame(77, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "another stream in a block of headers": (BEGUN + headers(3), ErrorCode.PROTOCOL_ERROR),
    "continuation of another stream": (BEGUN + frames.frame(frames.CONTINUATION, 4, 3), ErrorCode.PROTOCOL_ERROR),
    "continuation of stream 0": (BEGUN + frames.frame(frames.CONTINUATION, 4, 0), ErrorCode.PROTOCOL_ERROR),
    "continuation behind the end of a block": (
        headers(1) + frames.frame(frames.CONTINUATION, 4, 1, block()),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "headers on a stream that the client has reset": (
        headers(1) + frames.rst_stream(1, ErrorCode.CANCEL) + headers(1, ends=True),
        ErrorCode.STREAM_CLOSED,
    ),
    "reset of stream 0": (frames.rst_stream(0, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
    "headers of 16 MB": (b"\xff\xff\xff\1\4\0\0\0\1", ErrorCode.FRAME_SIZE_ERROR),
    "an unknown frame of 16 MB": (b"\xff\xff\xff\x4d\0\0\0\0\0", ErrorCode.FRAME_SIZE_ERROR),
    "a bad setting before a good one": (
        frames.frame(frames.SETTINGS, 0, 0, b"\0\5\0\0\0\x64" + b"\0\5\0\0\x40\0"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a frame size beyond its bounds": (frames.settings({frames.MAX_FRAME_SIZE: 2**24}), ErrorCode.PROTOCOL_ERROR),
    "a setting that moves a stream's window beyond its bounds": (
        headers(1) + frames.window_update(1, 2**31 - 70_000) + frames.settings({frames.INITIAL_WINDOW_SIZE: 80_000}),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "index 0 of the table": (frames.frame(frames.HEADERS, 4, 1, b"\x80"), ErrorCode.COMPRESSION_ERROR),
    "an index behind the table": (frames.frame(frames.HEADERS, 4, 1, b"\xff\x7f"), ErrorCode.COMPRESSION_ERROR),
    "a table that is too large": (
        frames.frame(frames.HEADERS, 4, 1, b"\x3f\xe2\x1f" + block()),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "a table behind one of no size": (
        headers(1) + frames.frame(frames.HEADERS, 4, 3, b"\x3f\x01" + block()),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "a string of Huffman with EOS": (
        frames.frame(frames.HEADERS, 4, 1, b"\0\x84\xff\xff\xff\xff\1x"),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "a string of Huffman with a byte of padding": (
        frames.frame(frames.HEADERS, 4, 1, b"\0\x82\x1f\xff\1x"),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "a string of Huffman that is padded with zeros": (
        headers(1) + frames.frame(frames.HEADERS, 4, 3, b"\0\x81\x18\1x"),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "trailers that cannot be decoded": (
        headers(1) + frames.frame(frames.HEADERS, 5, 1, b"\xff" * 6),
        ErrorCode.COMPRESSION_ERROR,
    ),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_a_broken_rule_of_the_connection_ends_it_with_its_code(case: str) -> None:
    content, code = BAD_FRAMES[case]
    if case.startswith("padding"):
        content = headers(1) + content
    session, _, answers = after_hello(content)
    assert goaway_code(answers) == code
    assert session.fault
    assert fed(session, headers(7)) == []


@pytest.mark.parametrize("content", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"])
def test_what_does_not_begin_with_the_preface_ends_at_once(content: bytes) -> None:
    session = opened()
    fed(session, content)
    assert goaway_code(parsed(session.take_output())) == ErrorCode.PROTOCOL_ERROR


def test_the_first_frame_is_settings() -> None:
    session = opened()
    fed(session, frames.PREFACE + headers(1))
    assert goaway_code(parsed(session.take_output())) == ErrorCode.PROTOCOL_ERROR


# What looks odd, and is allowed

ODD = {
    "an unknown frame": frames.frame(77, 0xFF, 0, b"x" * 100) + frames.frame(77, 0, 9),
    "unknown flags": frames.frame(frames.PING, 0xFE, 0, bytes(8)),
    "the reserved bit of a stream": frames.frame(frames.PING, 0, 1 << 31, bytes(8)),
    "an unknown setting": frames.settings({0xFFFF: 7}),
    "an unknown reason of a reset": headers(1) + frames.frame(frames.RST_STREAM, 0, 1, b"\0\0\xff\0"),
    "an unknown reason of a goaway": frames.frame(frames.GOAWAY, 0, 0, b"\0\0\0\0\0\0\xff\0why"),
    "the priority of an idle stream": frames.frame(frames.PRIORITY, 0, 9, b"\0\0\0\0x"),
    "a window of no size": frames.settings({frames.INITIAL_WINDOW_SIZE: 0}),
    "padded headers with a priority": frames.frame(frames.HEADERS, 0x2D, 1, b"\3\0\0\0\0x" + block() + bytes(3)),
    "a window update for a stream that is closed": (
        headers(1) + frames.rst_stream(1, ErrorCode.CANCEL) + frames.window_update(1, 5000)
    ),
    "a block of headers in many frames": (
        frames.frame(frames.HEADERS, 1, 1)
        + b"".join(frames.frame(frames.CONTINUATION, 0, 1, block()[i : i + 1]) for i in range(20))
        + frames.frame(frames.CONTINUATION, 4, 1, block()[20:])
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_what_looks_odd_and_is_allowed_disturbs_no_call(case: str) -> None:
    session, _, answers = after_hello(ODD[case])
    assert session.fault is None
    assert not [frame for frame in answers if frame.kind in (frames.GOAWAY, frames.RST_STREAM)]
    assert fed(session, headers(3) + data(3, b"x"))[-1] == Received(3, b"x", ends=True)


# What breaks the rules of a stream alone

BAD_HEADS: dict[str, list[tuple[str, str]]] = {
    "no path": [field for field in GRPC if field[0] != ":path"],
    "two paths": [GRPC[2], *GRPC],
    "a pseudo-header behind a header": [*GRPC, (":late", "x")],
    "an unknown pseudo-header": [(":status", "200"), *GRPC],
    "upper case": [*GRPC, ("Big", "x")],
    "a header of connections": [*GRPC, ("connection", "close")],
    "another te": [*GRPC, ("te", "gzip")],
    "no method": [field for field in GRPC if field[0] != ":method"],
    "no scheme": [field for field in GRPC if field[0] != ":scheme"],
    "an empty path": [(name, "" if name == ":path" else value) for name, value in GRPC],
    "two methods": [GRPC[0], *GRPC],
    "two schemes": [GRPC[1], *GRPC],
    "a name that is empty": [*GRPC, ("", "x")],
    "a value that begins with a space": [*GRPC, ("x", " y")],
    "an upgrade": [*GRPC, ("upgrade", "h2c")],
    "a coding of the transfer": [*GRPC, ("transfer-encoding", "chunked")],
    "a method with a line break": [(":method", "GET\r\n"), *GRPC[1:]],
    "a line break": [*GRPC, ("x", "a\r\nb: c")],
    "connect": [(":method", "CONNECT"), *GRPC[1:]],
}


@pytest.mark.parametrize("case", BAD_HEADS)
def test_a_head_that_is_no_request_resets_its_stream_and_no_other(case: str) -> None:
    raw = b"".join(encoded([field]) if field[0] != "Big" else b"\0\3Big\1x" for field in BAD_HEADS[case])
    session, events, answers = after_hello(frames.frame(frames.HEADERS, 4, 1, raw) + headers(3, ends=True))
    assert [event.stream for event in events if isinstance(event, Opened)] == [3]
    assert len(events) == 1
    assert answers == [Frame(frames.RST_STREAM, 0, 1, int(ErrorCode.PROTOCOL_ERROR).to_bytes(4, "big"))]
    assert session.fault is None


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (frames.window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
        (frames.window_update(1, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (b"".join(data(1, bytes(16_384), ends=False) for _ in range(5)), ErrorCode.FLOW_CONTROL_ERROR),
        (headers(1, [("a", "b")]), ErrorCode.PROTOCOL_ERROR),  # trailers that do not end the request
        (headers(1, [(":path", "/")], ends=True), ErrorCode.PROTOCOL_ERROR),  # trailers with a pseudo-header
        (frames.frame(frames.PRIORITY, 0, 1, b"\0\0\0\1x"), ErrorCode.PROTOCOL_ERROR),  # depends on itself
        (frames.frame(frames.PRIORITY, 0, 1, b"x" * 4), ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_a_broken_rule_of_a_stream_resets_it(content: bytes, code: ErrorCode) -> None:
    session, events, answers = after_hello(headers(1) + content)
    assert Reset(1) in events
    assert Frame(frames.RST_STREAM, 0, 1, int(code).to_bytes(4, "big")) in answers
    assert session.fault is None


def test_data_behind_the_end_of_a_request_is_refused() -> None:
    for late in (data(1, b"y"), headers(1, [("a", "b")], ends=True)):
        session, events, answers = after_hello(headers(1) + data(1, b"x") + late)
        assert events[1:] == [Received(1, b"x", ends=True), Reset(1)]
        assert answers == [Frame(frames.RST_STREAM, 0, 1, int(ErrorCode.STREAM_CLOSED).to_bytes(4, "big"))]
        session.send_small(1, b"", b"an answer", b"")  # which nobody may send any more
        assert session.take_output() == b""


def test_trailers_end_a_request() -> None:
    session, events, _ = after_hello(
        headers(1) + data(1, b"x", ends=False) + headers(1, [("a", "b")], ends=True) + headers(3, ends=True)
    )
    assert events[1:3] == [Received(1, b"x", ends=False), Received(1, b"", ends=True)]
    assert session.fault is None


def test_what_comes_for_a_stream_that_we_have_reset_is_dropped_in_silence() -> None:
    session, _, _ = after_hello(headers(1))
    session.reset(1, ErrorCode.CANCEL)
    session.take_output()
    late = headers(1, [("a", "b")], ends=True)
    assert fed(session, data(1, b"late", ends=False) + frames.window_update(1, 9) + late) == []
    assert session.take_output() == b""
    assert session.fault is None


def test_more_streams_than_allowed_are_refused() -> None:
    _, events, answers = after_hello(b"".join(headers(1 + 2 * i) for i in range(MOST_STREAMS + 1)))
    assert len(events) == MOST_STREAMS
    assert answers[-1].payload == int(ErrorCode.REFUSED_STREAM).to_bytes(4, "big")


def test_after_the_last_goaway_new_streams_are_ignored_and_open_ones_go_on() -> None:
    session, _, _ = after_hello(headers(1))
    session.go_away()
    assert [f.kind for f in parsed(session.take_output())] == [frames.GOAWAY]
    assert fed(session, headers(3, ends=True) + data(1, b"x")) == [Received(1, b"x", ends=True)]


# Floods: each ends with ENHANCE_YOUR_CALM, within a bounded number of frames

PING = frames.frame(frames.PING, 0, 0, bytes(8))
ONE_FIELD = b"\x00\x01a\x01b"
LARGE_HEAD = encoded([*GRPC, ("a", "b" * 60_000)])


def _resets(count: int) -> bytes:
    return b"".join(headers(1 + 2 * i) + frames.rst_stream(1 + 2 * i, ErrorCode.CANCEL) for i in range(count))


def _in_parts(stream: int, raw: bytes) -> bytes:
    """A block that is too large for one frame, of a request without a body."""
    parts = [raw[at : at + frames.MAX_FRAME_BYTES] for at in range(0, len(raw), frames.MAX_FRAME_BYTES)]
    content = frames.frame(frames.HEADERS, frames.END_STREAM, stream, parts[0])
    for part in parts[1:]:
        content += frames.frame(frames.CONTINUATION, frames.END_HEADERS if part is parts[-1] else 0, stream, part)
    return content


FLOODS: dict[str, Callable[[], bytes]] = {
    "rapid reset": lambda: _resets(2000),
    "ping": lambda: PING * 5000,
    "settings": lambda: frames.settings({frames.INITIAL_WINDOW_SIZE: 9}) * 5000,
    "priority": lambda: frames.frame(frames.PRIORITY, 0, 1, b"\0\0\0\2x") * 5000,
    "unknown frames": lambda: frames.frame(77, 0, 0, b"x") * 5000,
    "empty data": lambda: headers(1) + data(1, b"", ends=False) * 5000,
    "window updates of a byte": lambda: headers(1) + frames.window_update(1, 1) * 5000,
    "continuations without an end": lambda: (
        frames.frame(frames.HEADERS, 0, 1, block()) + frames.frame(frames.CONTINUATION, 0, 1, ONE_FIELD * 200) * 200
    ),
    "empty continuations": lambda: (
        frames.frame(frames.HEADERS, 0, 1, b"") + frames.frame(frames.CONTINUATION, 0, 1) * 5000
    ),
    "malformed heads": lambda: b"".join(headers(1 + 2 * i, GRPC[:1]) for i in range(5000)),
    "large blocks": lambda: b"".join(
        _in_parts(1 + 2 * i, LARGE_HEAD) + frames.rst_stream(1 + 2 * i, ErrorCode.CANCEL) for i in range(100)
    ),
    "data for closed streams": lambda: (
        headers(1, ends=True) + frames.rst_stream(1, ErrorCode.CANCEL) + data(1, b"") * 5000
    ),
}


@pytest.mark.parametrize("case", FLOODS)
def test_a_flood_ends_the_connection(case: str) -> None:
    session, _, answers = after_hello(FLOODS[case]())
    assert goaway_code(answers) == ErrorCode.ENHANCE_YOUR_CALM
    assert session.pending_bytes == 0 or session.fault


def test_what_a_client_may_do_at_times_it_may_do_for_ever() -> None:
    session, _, _ = after_hello(b"")
    for second in range(100):
        fed(session, PING * 400 + frames.settings({}) * 50, now=2.0 + second)
        first = 400 * second + 1
        resets = [headers(i) + frames.rst_stream(i, ErrorCode.CANCEL) for i in range(first, first + 300, 2)]
        fed(session, b"".join(resets), now=2.0 + second)
        session.take_output()
    assert session.fault is None


def test_small_messages_may_come_and_be_answered_at_any_rate() -> None:
    session, _, _ = after_hello(headers(1))
    for round_ in range(100):  # 10,000 messages in half a second, as a client on this machine sends them
        content = (data(1, message(b"small"), ends=False) + frames.window_update(1, 30)) * 100
        for event in fed(session, content, now=1.0 + round_ / 200):
            if isinstance(event, Received):
                session.moved_message()
        session.open_window(1, 100 * len(message(b"small")))
    assert session.fault is None


def test_large_heads_are_looked_at_one_in_a_turn() -> None:
    session = opened()
    fed(session, HELLO)
    session.feed(b"".join(_in_parts(stream, LARGE_HEAD) for stream in (1, 3, 5)))
    turns = [[event.stream for event in session.events(1.0) if isinstance(event, Opened)] for _ in range(3)]
    assert turns == [[1], [3], [5]]


def test_nothing_is_sent_behind_the_goaway_of_a_fault() -> None:
    session, events, answers = after_hello(headers(1, ends=True) + data(0, b"x"))
    assert [type(event) for event in events] == [Opened]
    session.send_headers(1, encoded([("grpc-status", "0")]), ends=True)
    session.reset(1, ErrorCode.CANCEL)
    assert not session.is_open(1)
    assert answers[-1].kind == frames.GOAWAY
    assert session.take_output() == b""


def test_a_bomb_of_headers_is_not_unpacked() -> None:
    big = b"\x40\x01a" + b"\x7f\xa1\x1e" + b"b" * 4000  # 4,000 bytes that go into the table
    session, _, answers = after_hello(frames.frame(frames.HEADERS, 4, 1, block() + big + b"\xbe" * 8000))
    assert goaway_code(answers) == ErrorCode.COMPRESSION_ERROR
    session, events, answers = after_hello(frames.frame(frames.HEADERS, 5, 1, block() + b"\x82" * 200))
    assert [a.payload[3] for a in answers] == [ErrorCode.PROTOCOL_ERROR]  # 200 methods
    many = b"".join(encoded([(f"n{i}", "v")]) for i in range(1000))
    session, events, _ = after_hello(frames.frame(frames.HEADERS, 5, 1, block() + many))
    assert events == [Opened(1, None, ends=True)]
    assert session.fault is None


def test_what_is_remembered_is_bounded() -> None:
    remembered = RememberedBlocks()
    session = FrameSession(10**6, remembered)
    fed(session, HELLO + ACK)
    for i in range(6000):
        fed(session, headers(1 + 2 * i, [*GRPC, ("x", f"{i}-" + "y" * 100)], ends=True), now=float(i))
        session.reset(1 + 2 * i, ErrorCode.CANCEL)
        session.take_output()
    assert session.fault is None
    assert remembered.bytes_ < 2_000_000


# Flow control


def test_the_clients_windows_bound_what_is_sent_and_may_become_negative() -> None:
    session, _, _ = after_hello(headers(1))
    assert session.room(1) == frames.DEFAULT_WINDOW
    session.send_data(1, bytes(60_000), ends=False)
    assert [len(f.payload) for f in parsed(session.take_output())] == [16_384, 16_384, 16_384, 10_848]
    assert fed(session, frames.settings({frames.INITIAL_WINDOW_SIZE: 100})) == []
    assert session.room(1) == 0
    assert fed(session, frames.window_update(1, 60_000)) == [Room(1)]
    assert session.room(1) == 100
    more = frames.settings({frames.INITIAL_WINDOW_SIZE: 200_000}) + frames.window_update(0, 9)
    assert fed(session, more) == [Room(0)]
    assert session.room(1) == frames.DEFAULT_WINDOW - 60_000 + 9


def test_room_that_nobody_waits_for_is_no_event() -> None:
    session, events, _ = after_hello(headers(1, ends=True) + frames.window_update(0, 1024) * 1000)
    assert events[1:] == []
    session, events, _ = after_hello(headers(1, ends=True) + frames.window_update(1, 10**9))
    session.send_data(1, bytes(65_535), ends=False)
    assert fed(session, frames.window_update(0, 1024) * 3) == [Room(0)]


def test_settings_about_many_streams_cost_more() -> None:
    many = b"".join(headers(1 + 2 * i) for i in range(5000))
    session = FrameSession(5000, RememberedBlocks())
    changes = [frames.settings({frames.INITIAL_WINDOW_SIZE: size}) for size in (0, 9) * 50]
    _, _, answers = after_hello(many + b"".join(changes), session)
    assert goaway_code(answers) == ErrorCode.ENHANCE_YOUR_CALM


def test_the_connections_window_is_given_back_and_streams_windows_are_opened_on_demand() -> None:
    session, _, _ = after_hello(headers(1))
    total = 0
    while total < 3 * CONNECTION_WINDOW:
        session.open_window(1, 65_536)
        assert len(fed(session, b"".join(data(1, bytes(16_384), ends=False) for _ in range(4)))) == 4
        total += 65_536
    answers = parsed(session.take_output())
    given = sum(frames.number(f.payload) for f in answers if f.kind == frames.WINDOW_UPDATE and f.stream == 0)
    assert total - given <= CONNECTION_WINDOW // 2
    assert session.fault is None


def test_a_large_block_of_headers_comes_and_goes_in_continuations() -> None:
    fields = [*GRPC, ("a", "b" * 40_000)]
    raw = block(fields)
    parts = [raw[at : at + 16_000] for at in range(0, len(raw), 16_000)]
    content = frames.frame(frames.HEADERS, frames.END_STREAM, 1, parts[0])
    for i, part in enumerate(parts[1:]):
        content += frames.frame(frames.CONTINUATION, 4 if i == len(parts) - 2 else 0, 1, part)
    session, events, _ = after_hello(content)
    assert isinstance(events[0], Opened)
    assert events[0].fields
    assert len(events[0].fields.headers[b"a"]) == 40_000
    session.send_headers(1, encoded([("c", "d" * 40_000)]), ends=True)
    answers = parsed(session.take_output())
    assert [(f.kind, f.flags) for f in answers] == [(1, 1), (9, 0), (9, 4)]
    assert fields_in(b"".join(f.payload for f in answers)) == [("c", "d" * 40_000)]


# Whatever comes: no hang, no growth, no other exception, and a GOAWAY where the connection ends

KINDS = st.integers(0, 12)
STREAMS = st.sampled_from([0, 1, 1, 3, 5, 7, 2, 2**31 - 1])
NAMED = {
    "block": block(),
    "message": message(b"abc"),
    "eight": bytes(8),
    "largest": bytes(frames.MAX_FRAME_BYTES),
    "fields": ONE_FIELD * 1000,
    "setting": b"\0\4\0\0\0\1",
}
PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([*NAMED]),
    st.integers(0, 2**31 - 1).map(lambda number: number.to_bytes(4, "big")),
)
RANDOM_FRAMES = st.lists(st.tuples(KINDS, st.integers(0, 255), STREAMS, PAYLOADS), max_size=40)


def _survives(sequence: list[tuple[int, int, int, bytes | str]], cut: int) -> None:
    payloads = [NAMED[payload] if isinstance(payload, str) else payload for *_, payload in sequence]
    heads = [each[:3] for each in sequence]
    content = HELLO + b"".join(frames.frame(*head, payload) for head, payload in zip(heads, payloads, strict=True))
    session = opened()
    for piece in (content[:cut], content[cut:]):
        for event in fed(session, piece):
            if isinstance(event, Received) and event.ends:
                session.send_headers(event.stream, encoded([("grpc-status", "0")]), ends=True)
        assert session.pending_bytes <= MAX_BLOCK_BYTES + frames.MAX_FRAME_BYTES + frames.HEAD_BYTES
    assert session.output_bytes <= 64 * (len(sequence) + 4)
    answers = parsed(session.take_output())
    assert (session.fault is not None) == (goaway_code(answers) is not None)


@given(RANDOM_FRAMES, st.integers(0, 500))
@settings(max_examples=100)
def test_random_frames_end_in_order(sequence: list[tuple[int, int, int, bytes | str]], cut: int) -> None:
    _survives(sequence, cut)


@pytest.mark.slow
@given(RANDOM_FRAMES, st.integers(0, 500))
@settings(max_examples=10_000)
def test_ten_thousand_random_sequences_end_in_order(
    sequence: list[tuple[int, int, int, bytes | str]], cut: int
) -> None:
    _survives(sequence, cut)
