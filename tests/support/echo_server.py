"""An HTTP server on a port of this machine, with a handler that echoes, and callers that a test scripts."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from millrace.protocol.errors import MillraceError, NotAllowed
from serving.settings import ServingSettings
from serving.transport.budget import Budget, Reservation
from serving.transport.certificates import certificates
from serving.transport.handler import Done, Withdraw
from serving.transport.http_server import HttpServer
from serving.transport.intake import LARGE_BYTES, Body
from serving.transport.request_head import RequestHead
from serving.transport.responses import HttpResponse, error_body, error_headers
from tests.support.running import free_port

HUGE = 16_000_000  # more than the system holds for a caller that does not read
LARGE_RESPONSE, HUGE_RESPONSE = b"x" * 2_000_000, b"x" * HUGE
CHUNKED = (
    b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\ntrailer: t\r\n\r\n"
)
GET = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"


def post(body: bytes, *headers: str, path: str = "/a") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Echo:
    """Answers with the method, the path and the body; a path of /held is answered when the test says so."""

    def __init__(self, limit: int) -> None:
        self.seen: list[tuple[RequestHead, bytes]] = []
        self.held: list[Done] = []
        self.withdrawn = 0
        self.keeps_nothing = False
        self.peers: list[str] = []
        self.limit = limit

    def check(self, head: RequestHead, peer: str) -> MillraceError | None:
        self.peers.append(peer)
        return NotAllowed("not you") if head.path == "/forbidden" else None

    def body_limit(self, head: RequestHead) -> int:
        return min(self.limit, 65_536) if head.path == "/small" else self.limit

    def handle(self, head: RequestHead, body: Body, peer: str, reservation: Reservation, done: Done) -> Withdraw | None:
        assert peer == "127.0.0.1"
        if refusal := self.check(head, peer):
            reservation.release()
            done(self.refused(head, refusal))
            return None
        assert reservation.bytes == (len(body) if isinstance(body, bytes) else body.size)
        if not isinstance(body, bytes):
            assert body.size > LARGE_BYTES
            body = b"" if self.keeps_nothing else body.read()
        self.seen.append((head, b"" if self.keeps_nothing else body))
        reservation.release()
        if head.path == "/held":
            self.held.append(done)
        elif head.path == "/large":
            done(HttpResponse(200, LARGE_RESPONSE))
        elif head.path == "/huge":
            done(HttpResponse(200, HUGE_RESPONSE))
        else:
            done(HttpResponse(200, f"{head.method} {head.path} ".encode() + body))
        return self._withdraw

    def answer(self, body: bytes) -> None:
        """Answer the request that is held."""
        self.held.pop()(HttpResponse(200, body))

    def _withdraw(self) -> None:
        self.withdrawn += 1

    def refused(self, head: RequestHead | None, error: MillraceError) -> HttpResponse:
        return HttpResponse(error.status, error_body(str(error)), error_headers(error))


class Caller:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().splitlines()[:-1]
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        body = await self.reader.readexactly(int(headers.get("content-length", 0))) if has_body else b""
        return int(lines[0].split()[1]), headers, body

    async def is_closed(self) -> bool:
        """Whether the server ends the connection without another byte."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True


class Running:
    """A server, its handler, and connections to it."""

    def __init__(
        self, server: HttpServer, echo: Echo, budget: Budget, client_context: ssl.SSLContext | None = None
    ) -> None:
        self.server, self.echo, self.budget = server, echo, budget
        self.client_context = client_context
        self._callers: list[Caller] = []

    async def connect(self) -> Caller:
        caller = Caller(*await asyncio.open_connection("127.0.0.1", self.server.settings.port, ssl=self.client_context))
        self._callers.append(caller)
        return caller

    async def asked(self, data: bytes) -> Caller:
        caller = await self.connect()
        caller.send(data)
        return caller

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    def close(self) -> None:
        for caller in self._callers:
            caller.writer.close()


@asynccontextmanager
async def running(client_context: ssl.SSLContext | None = None, **settings: Any) -> AsyncIterator[Running]:
    """A server that speaks TLS where the settings say so; its callers speak it with their context."""
    chosen = ServingSettings(port=free_port(), **settings)
    echo, budget = Echo(chosen.max_body_bytes), Budget(chosen.max_buffered_bytes or 2**29)
    server = HttpServer(chosen, echo, budget, certificates=certificates(chosen))
    await server.start()
    run = Running(server, echo, budget, client_context)
    try:
        yield run
    finally:
        run.close()
        for done in echo.held:
            done(HttpResponse(200, b""))
        await server.stop()
        await run.until(lambda: budget.used == 0)


def served(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        uvloop.run(asyncio.wait_for(test(), 8))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def slow_reader(r: Running, data: bytes) -> socket.socket:
    """A caller that asked and takes in no more than the system holds for it until it reads."""
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.connect(("127.0.0.1", r.server.settings.port))
    caller.sendall(data)
    caller.setblocking(False)
    return caller


async def the_rest(caller: socket.socket) -> int:
    """How many bytes come until the connection ends."""
    count, loop = 0, asyncio.get_running_loop()
    while data := await loop.sock_recv(caller, 65_536):
        count += len(data)
    return count
