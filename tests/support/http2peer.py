"""A connection of HTTP/2 without a socket, by a time that a test sets: nothing in it runs by itself."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from serving.settings import ServingSettings
from serving.transport.budget import Budget
from serving.transport.connection_table import ConnectionTable
from serving.transport.handler import Handler
from serving.transport.http2 import frames
from serving.transport.http2.connection import Http2Connection
from serving.transport.pacer import Pacer
from serving.transport.responses import HttpResponse
from serving.transport.server_parts import ServerParts
from tests.support.http2frames import HELLO, Frame, parsed

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

    def get_extra_info(self, name: str) -> Any:
        return self

    def getsockopt(self, *which: int) -> int:
        return 0

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
        reservation.release()
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
