"""A connection of HTTP/2 and its clocks, by a time that a test sets: no socket, and nothing runs by itself."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from serving.settings import ServingSettings
from serving.transport.budget import Budget
from serving.transport.connection_table import ConnectionTable
from serving.transport.handler import Handler
from serving.transport.http2 import frames
from serving.transport.http2.connection import Http2Connection
from serving.transport.http2.frames import ErrorCode
from serving.transport.pacer import Pacer
from serving.transport.responses import HttpResponse
from serving.transport.server_parts import ServerParts
from tests.support.http2frames import HELLO, Frame, data, headers, parsed

GET = ((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "127.0.0.1"))


class Clock:
    """An event loop, as far as a connection asks it; what is to be called soon is called by `turn`."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon: list[Any] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Any, *arguments: Any) -> None:
        self.soon.append((callback, arguments))

    def turn(self) -> None:
        """The next turn of the loop."""
        soon, self.soon = self.soon, []
        for callback, arguments in soon:
            callback(*arguments)


class Socket:
    """What the connection writes to; `sent` is what it has written."""

    def __init__(self) -> None:
        self.sent = b""
        self.reads = True
        self.is_closed = False

    def write(self, content: bytes) -> None:
        self.sent += content

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def write_eof(self) -> None:
        self.is_closed = True

    def set_protocol(self, protocol: Any) -> None:
        """There is one."""

    def get_write_buffer_size(self) -> int:
        return 100

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return True

    def abort(self) -> None:
        self.is_closed = True


class Held(Handler):
    """Answers a request when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def check(self, head: Any, peer: str) -> None:
        """All may go on."""

    def body_limit(self, head: Any) -> int:
        return 1000

    def handle(self, head: Any, body: Any, peer: str, reservation: Any, done: Any) -> None:
        self.waiting.append(done)

    def refused(self, head: Any, error: Any) -> HttpResponse:
        return HttpResponse(error.status, b"")


class Peer:
    """A connection, and a client that sends it bytes."""

    def __init__(self, **settings: Any) -> None:
        self.clock, self.socket, self.handler = Clock(), Socket(), Held()
        given = ServingSettings(**{"keep_alive_timeout_s": 9999.0, **settings})
        loop = cast(asyncio.AbstractEventLoop, self.clock)
        self.table = ConnectionTable(10, given.keep_alive_timeout_s, loop)
        unpackers = ThreadPoolExecutor(1)
        parts = ServerParts(given, self.handler, Budget(2**20), self.table, Pacer(loop), unpackers, loop)
        self.connection = Http2Connection(parts)
        transport = cast(asyncio.Transport, self.socket)
        self.connection.take_over(transport, "client", self.connection, HELLO)
        self.frames()

    def send(self, *content: bytes) -> None:
        self.connection.data_received(b"".join(content))

    def frames(self) -> list[Frame]:
        """What the connection has sent since this was asked."""
        sent, self.socket.sent = self.socket.sent, b""
        return parsed(sent)

    def wait(self, seconds: float) -> None:
        """Time passes; the table looks after its connections four times a second."""
        ends = self.clock.now + seconds
        while self.clock.now < ends:
            self.clock.now = min(ends, self.clock.now + 0.25)
            self.table.tick()
            self.clock.turn()

    def goaways(self) -> list[tuple[int, int]]:
        """The last stream and the code of each GOAWAY that was sent since."""
        return [
            (frames.number(f.payload), frames.number(f.payload[4:])) for f in self.frames() if f.kind == frames.GOAWAY
        ]


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
