"""A connection of HTTP/2 and its clocks, and what becomes of it whatever a client sends."""

import random
from collections.abc import Mapping
from typing import Any

import pytest

from millrace.protocol.errors import MillraceError
from serving.transport.grpc_method import Answer, CallHead, Done, Message, Method, Status, UnaryMethod
from serving.transport.http2 import frames
from serving.transport.http2.frames import ErrorCode
from serving.transport.responses import HttpResponse
from tests.support.http2frames import GRPC, block, data, headers, message, parsed
from tests.support.http2peer import GET, Peer


def test_the_rest_of_a_frame_is_awaited_for_ten_seconds() -> None:
    peer = Peer()
    peer.send(headers(1, GET, ends=True), data(3, b"abc")[:-1])
    peer.wait(9.5)
    assert peer.goaways() == []
    peer.wait(1.0)
    assert peer.goaways() == [(1, ErrorCode.PROTOCOL_ERROR)]


DROPS = {
    "bytes of a frame": (data(1, bytes(100))[:9], b"x"),
    "frames of a block": (
        frames.frame(frames.HEADERS, 0, 3, b"\x82"),
        frames.frame(frames.CONTINUATION, 0, 3, b"\x86"),
    ),
}


@pytest.mark.parametrize("case", DROPS)
def test_what_comes_in_drops_is_awaited_no_longer_than_a_request(case: str) -> None:
    begun, drop = DROPS[case]
    peer = Peer(request_timeout_ms=30_000)
    peer.send(headers(1, GET, ends=True), begun)
    for _ in range(5):
        peer.wait(5.0)
        peer.send(drop)
        assert peer.goaways() == []
    peer.wait(6.0)
    assert peer.goaways() == [(1, ErrorCode.PROTOCOL_ERROR)]


def test_a_body_of_many_frames_may_take_its_time() -> None:
    peer = Peer(request_timeout_ms=30_000)
    peer.send(headers(1, (*GET, ("content-length", "1000"))))
    whole = b"".join(data(1, bytes(20), ends=False) for _ in range(50))
    for at in range(0, len(whole), 150):  # a frame and a part of another, again and again
        peer.send(whole[at : at + 150])
        peer.wait(3.0)
        assert [code for _, code in peer.goaways()] == []


def test_who_stops_in_a_frame_is_slow_and_gives_up_its_room() -> None:
    peer = Peer()
    budget = peer.connection.server.budget
    peer.send(headers(1, GET, ends=True), data(3, bytes(5000))[:-1])
    assert budget.used == 5008
    peer.clock.now += 0.9
    assert peer.connection.pace(peer.clock.now) is None
    peer.clock.now += 0.2
    assert peer.connection.pace(peer.clock.now) == 0
    peer.connection.give_up()
    assert peer.socket.is_closed
    peer.connection.connection_lost(None)
    assert budget.used == 0


def test_no_frame_is_late_while_we_do_not_read() -> None:
    peer = Peer()
    peer.send(headers(1, GET, ends=True), headers(3, GET, ends=True)[:-1])
    peer.connection.pause_writing()
    assert not peer.socket.reads
    peer.wait(25.0)
    peer.connection.resume_writing()
    assert peer.socket.reads
    peer.wait(9.5)
    assert peer.goaways() == []
    peer.send(headers(3, GET, ends=True)[-1:])
    peer.wait(20.0)
    assert peer.goaways() == []


def test_frames_that_wait_for_their_turn_are_not_late() -> None:
    peer = Peer()
    peer.send(frames.frame(frames.PING, 0, 0, bytes(8)) * 300, headers(1, GET, ends=True)[:-1])
    peer.clock.now += 60.0  # in which others had all the turns
    peer.table.tick()
    assert peer.goaways() == []
    for _ in range(3):
        peer.clock.turn()
    assert peer.socket.reads
    peer.wait(9.0)
    assert peer.goaways() == []
    peer.wait(2.0)
    assert peer.goaways() == [(0, ErrorCode.PROTOCOL_ERROR)]


@pytest.mark.parametrize("answers", [True, False])
def test_an_old_connection_takes_no_new_streams_and_ends_with_its_last_answer(answers: bool) -> None:
    peer = Peer(max_connection_age_s=100.0)
    peer.wait(80.0)
    peer.send(headers(1, GET, ends=True))
    assert peer.goaways() == []
    while not (sent := peer.frames()):
        peer.wait(0.25)
        peer.send(frames.frame(frames.GOAWAY, 0, 0, bytes(8)))  # so that it is heard of
        assert peer.clock.now <= 100.0 + 111.0
    goaway, ping = sent
    assert (goaway.kind, frames.number(goaway.payload)) == (frames.GOAWAY, 2**31 - 1)
    peer.send(headers(3, GET, ends=True))  # before the client knew
    if answers:
        peer.send(frames.frame(frames.PING, frames.ACK, 0, ping.payload))
    else:
        peer.wait(1.0)
    assert peer.goaways() == [(3, ErrorCode.NO_ERROR)]
    peer.send(headers(5, GET, ends=True))  # too late
    first, second = peer.handler.waiting
    second(HttpResponse(200, b""))
    peer.wait(5.0)
    assert not peer.socket.is_closed
    first(HttpResponse(200, b""))
    peer.clock.turn()
    assert peer.socket.is_closed


def test_an_old_connection_without_streams_is_closed_soon() -> None:
    peer = Peer(max_connection_age_s=100.0)
    peer.wait(89.0)
    assert peer.goaways() == []
    peer.wait(22.0)
    assert peer.goaways() == [(2**31 - 1, ErrorCode.NO_ERROR), (0, ErrorCode.NO_ERROR)]
    assert peer.socket.is_closed


def test_a_mistake_of_ours_ends_its_connection_and_tells_the_caller() -> None:
    peer = Peer()

    def fails(*_: Any) -> None:
        raise ValueError("a mistake")

    peer.handler.handle = fails  # type: ignore[method-assign, assignment]
    peer.send(headers(1, GET, ends=True))
    assert peer.goaways() == [(1, ErrorCode.INTERNAL_ERROR)]
    assert peer.socket.is_closed
    assert peer.connection.server.open_calls == 0


def test_connections_that_began_together_do_not_end_together() -> None:
    peers = [Peer(max_connection_age_s=1000.0) for _ in range(20)]
    for peer in peers:
        peer.clock.now += 1000.0
        peer.table.tick()
    assert 0 < sum(bool(peer.goaways()) for peer in peers) < 20


# Whatever a client sends


class Calls:
    """One method of gRPC, whose calls are answered when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Message, Done]] = []
        self.methods: Mapping[str, Method] = {dict(GRPC)[":path"]: UnaryMethod(self._begin, 100_000)}

    def _begin(self, asked: Message, head: CallHead, done: Done) -> Any:
        self.waiting.append((asked, done))
        return lambda: self._close((asked, done))

    def _close(self, call: tuple[Message, Done]) -> None:
        self.waiting.remove(call)
        call[0].close()

    def answer(self, size: int) -> None:
        """Answer one of them."""
        if self.waiting:
            asked, done = self.waiting.pop(0)
            asked.close()
            done(Answer(bytes(size)))

    def check(self, head: CallHead) -> None:
        """All may go on."""

    def refused(self, head: CallHead, error: MillraceError) -> Answer:
        return Answer(status=Status.INTERNAL, text=str(error))

    def unknown(self, path: str) -> Answer:
        return Answer(status=Status.UNIMPLEMENTED, text=path)


def some_frame(by: random.Random, newest: int) -> bytes:
    """A frame of any kind, mostly of one that may come. The streams up to the `newest` are opened."""
    old = by.choice([newest, newest, by.randrange(1, newest + 1, 2), 0])
    body = message(bytes(by.choice([0, 3, 100, 9000])))
    usual = [
        data(old or 1, body[: by.choice([4, 50, 20_000])], ends=by.random() < 0.5),
        frames.window_update(old, by.choice([1000, 70_000, 70_000, 2**31 - 1])),
        frames.settings({frames.INITIAL_WINDOW_SIZE: by.choice([0, 10, 65_535, 2**20])}),
        frames.frame(frames.PING, by.randrange(2), 0, by.choice([b"drained?", bytes(8)])),
        frames.rst_stream(old or 1, ErrorCode.CANCEL),
    ]
    odd = [
        frames.frame(frames.HEADERS, by.choice([0, 1, 4, 8, 32]), old, by.choice([block(), b"\x82", b""])),
        frames.frame(frames.CONTINUATION, by.choice([0, 4]), old, b"\x86"),
        frames.frame(by.randrange(13), by.randrange(256), old, bytes(by.randrange(12))),
        bytes(by.randrange(20)),
    ]
    return by.choice(odd if by.random() < 0.04 else usual)


def live(peer: Peer, calls: Calls, by: random.Random) -> None:
    """Let something of what may happen to a connection happen."""
    what = by.randrange(20)
    if what < 3:
        peer.wait(by.choice([0.25, 1.0, 3.0]))
    elif what < 5:
        peer.clock.turn()
    elif what == 5 and not peer.connection.is_full:
        peer.connection.pause_writing()
    elif what == 6 and peer.connection.is_full:
        peer.connection.resume_writing()
    elif what < 12:
        calls.answer(by.choice([0, 10, 5000, 40_000]))
    elif what < 14 and peer.handler.waiting:
        peer.handler.waiting.pop()(HttpResponse(200, bytes(by.choice([0, 10, 70_000]))))
    elif what == 14 and by.random() < 0.1:
        by.choice([peer.connection.linger, peer.connection.eof_received, peer.connection.give_up])()


def check_order(sent: bytes) -> None:
    """Nothing is sent on a stream behind its end, nor behind a fault."""
    ended, is_over = set[int](), False
    for frame in parsed(sent):
        assert not is_over
        if frame.kind in (frames.DATA, frames.HEADERS):
            assert frame.stream not in ended
        if frame.kind == frames.RST_STREAM or (frame.kind in (frames.DATA, frames.HEADERS) and frame.flags & 1):
            ended.add(frame.stream)
        is_over = frame.kind == frames.GOAWAY and frames.number(frame.payload[4:]) != ErrorCode.NO_ERROR


@pytest.mark.parametrize("seed", range(8))
def test_whatever_a_client_sends_nothing_hangs_or_stays(seed: int) -> None:
    by = random.Random(seed)
    for _ in range(50):
        calls = Calls()
        peer = Peer(max_connection_age_s=by.choice([0, 0, 5]), request_timeout_ms=5000)
        parts = peer.connection.server
        parts.calls = calls
        newest = -1
        for _ in range(by.randrange(5, 80)):
            if newest < 0 or by.random() < 0.3:
                newest += 2
                post = ((":method", "POST"), *GET[1:], ("content-length", by.choice(["0", "5", "70000"])))
                peer.send(headers(newest, by.choice([GRPC, GRPC, GET, post]), ends=by.random() < 0.2))
            content = some_frame(by, newest)
            cut = by.randrange(len(content) + 1)
            peer.send(content[:cut])
            peer.send(content[cut:])
            live(peer, calls, by)
        if peer.connection.is_full:
            peer.connection.resume_writing()
        while calls.waiting:
            calls.answer(10)
        for done in peer.handler.waiting:
            done(HttpResponse(200, b"late"))
        peer.wait(30.0)
        assert parts.open_calls == 0
        check_order(peer.socket.sent)
        peer.connection.connection_lost(None)
        peer.clock.turn()
        assert (parts.budget.used, parts.http2_connections, len(calls.waiting)) == (0, 0, 0)
