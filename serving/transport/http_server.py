"""The HTTP/1.1 server: bytes on a connection to a head and a body, and an answer to bytes.

A request of usual size is one `data_received`: its head is found in a table, its body is handed to the handler at once,
and the answer is written in whatever turn of the event loop it comes. No task, no thread and no timer is made for it
(docs/decisions/0005-own-http-server.md has what that saves).

A connection's life:

    idle ──► head arrives ──► body arrives ──► handled ──► answered ──► idle …
     │            │                │              └─ the caller goes away: the request is withdrawn
     └─ closed    └─ 400, 408, 431 └─ 413, 503, 504

Requests are handled one at a time; those behind wait in the connection's buffer, and no more is read than that holds.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol, cast

from millrace.protocol.errors import DeadlineExceeded, MillraceError
from serving.settings import ServingSettings
from serving.transport.intake import IncomingBody, Intake, too_large
from serving.transport.request_head import MAX_HEAD_BYTES, RequestHead, RequestHeadError, read_head
from serving.transport.responses import HttpResponse, error_response

_log = logging.getLogger(__name__)
_SWEEP_S = 0.25
_HEAD_S = 10.0
_LINGER_S = 0.5
_BACKLOG = 2048
_BUFFERED_BYTES = 262_144
_JOINED_BYTES = 65_536
_NEVER = float("inf")
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_STATUS_LINES[499] = "HTTP/1.1 499 Client Closed Request\r\n"

Done = Callable[[HttpResponse], None]
Withdraw = Callable[[], None]


class Handler(Protocol):
    """What the server serves; both methods are called on its event loop."""

    def handle(self, head: RequestHead, body: bytes, done: Done) -> Withdraw | None:
        """Answer the request by calling `done` once, now or later, on the event loop.

        What is returned is called when the caller goes away before that.
        """

    def refused(self, head: RequestHead, error: MillraceError) -> HttpResponse:
        """The answer to a request whose body was not taken."""


class HttpServer:
    """Listens on one address. `start` first, `stop` last."""

    def __init__(self, settings: ServingSettings, handler: Handler) -> None:
        self.settings = settings
        self.handler = handler
        self.intake = Intake(settings)
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.is_stopping = False
        self.date = ""
        self.idle_ends = _NEVER
        self._listening: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()

    async def start(self) -> None:
        """Listen. Raises `OSError` where the address cannot be had."""
        host, port = self.settings.host, self.settings.port
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        self._listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._server = await self.loop.create_server(lambda: Connection(self), sock=self._listening, backlog=_BACKLOG)
        self._sweep()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listening.getsockname()[1]) if self._listening else self.settings.port

    async def stop(self) -> None:
        """Take no more connections, answer what came on those that are open, and close them.

        A connection without a request is given a moment, for one that is on its way. Requests still open after
        `drain_timeout_s` are cut off.
        """
        self.is_stopping = True
        await self._take_backlog()
        if self._server:
            self._server.close()
        self._server = self._listening = None
        for connection in self.connections:
            connection.linger()
        if self.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), self.settings.drain_timeout_s)
        if self.connections:
            _log.warning("connections were cut off", extra={"connections": len(self.connections)})
        for connection in list(self.connections):
            connection.abort()
        if self._sweeping:
            self._sweeping.cancel()

    async def _take_backlog(self) -> None:
        """Accept the connections that the system has already accepted for us: closing the socket would reset them."""
        with contextlib.suppress(OSError):  # BlockingIOError: there are no more
            while self._listening:
                accepted, _ = self._listening.accept()
                await self.loop.connect_accepted_socket(lambda: Connection(self), accepted)

    def left(self, connection: "Connection") -> None:
        """A connection is closed."""
        self.connections.discard(connection)
        if self.is_stopping and not self.connections:
            self._emptied.set()

    def _sweep(self) -> None:
        """Look after all that is late, and set the clocks by which the connections go."""
        now = self.loop.time()
        self.date = f"date: {formatdate(usegmt=True)}\r\n"
        self.idle_ends = now + self.settings.keep_alive_timeout_s
        for connection in [c for c in self.connections if c.ends < now]:
            connection.expire()
        self._sweeping = self.loop.call_later(_SWEEP_S, self._sweep)


class Connection(asyncio.Protocol):
    """One connection. `ends` is when the server is to call `expire`, by the event loop's clock."""

    __slots__ = (
        "_arrival", "_buffer", "_head", "_is_discarding", "_is_full", "_is_paused", "_server", "_transport",
        "_withdraw", "ends",
    )  # fmt: skip

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._buffer = b""
        self._head: RequestHead | None = None
        self._arrival: IncomingBody | None = None
        self._withdraw: Withdraw | None = None
        self._is_paused = False
        self._is_full = False
        self._is_discarding = False
        self.ends = server.idle_ends

    @property
    def is_taking_a_body(self) -> bool:
        """Whether a part of a body has come."""
        return self._arrival is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of `asyncio.Protocol`."""
        server = self._server
        self._transport = cast(asyncio.Transport, transport)
        server.connections.add(self)
        if server.is_stopping:
            self.linger()
        elif len(server.connections) > server.settings.max_connections:
            self._refuse(error_response(503, "too many connections are open; try again"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason changes nothing
        """Part of `asyncio.Protocol`."""
        self._server.left(self)
        if self._arrival:
            self._arrival.end()
        if self._withdraw:
            self._withdraw()
        self._arrival = self._withdraw = self._head = None
        self._is_discarding = True

    def data_received(self, data: bytes) -> None:
        """Part of `asyncio.Protocol`."""
        if self._is_discarding:
            return
        if self._arrival:
            self._take_body(self._arrival, data)
            return
        if self._buffer:
            data = self._buffer + data
        if self._head or self._is_full:
            self._buffer = data
            if len(data) > _BUFFERED_BYTES and not self._is_paused:
                self._is_paused = True
                self._transport.pause_reading()
            return
        self._take_head(data)

    def pause_writing(self) -> None:
        """Part of `asyncio.Protocol`: the caller does not read its answers."""
        self._is_full = True
        self.ends = self._server.loop.time() + self._server.settings.request_timeout_ms / 1000

    def resume_writing(self) -> None:
        """Part of `asyncio.Protocol`."""
        self._is_full = False
        self.ends = _NEVER if self._head else self._server.idle_ends
        if self._is_discarding or (self._server.is_stopping and not self._head):
            self.ends = self._server.loop.time() + _LINGER_S
        self._resume()

    def expire(self) -> None:
        """Whatever the connection waited for has not come in time."""
        if self._is_full or self._is_discarding:
            self.abort()
        elif self._arrival:
            head = self._arrival.head
            self._arrival.end()
            timeout_ms = self._server.settings.request_timeout_ms
            error = DeadlineExceeded(f"the body did not arrive within {timeout_ms} ms")
            self._refuse(self._server.handler.refused(head, error))
        elif self._buffer:
            self._refuse(error_response(408, "the request's head did not arrive in time"))
        else:
            self._transport.close()

    def linger(self) -> None:
        """The server stops: close once what came is answered, and soon if nothing comes."""
        if not self._head and not self._arrival and not self._is_full:
            self.ends = self._server.loop.time() + _LINGER_S

    def abort(self) -> None:
        """Close at once, whatever was not written."""
        self._transport.abort()

    # The way in

    def _take_head(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n") + 4
        if end > MAX_HEAD_BYTES or (end < 4 and len(data) > MAX_HEAD_BYTES):
            self._refuse(error_response(431, f"the request's head is larger than {MAX_HEAD_BYTES} bytes"))
            return
        if end < 4:
            self.ends = min(self.ends, self._server.loop.time() + _HEAD_S)
            self._buffer = data
            return
        try:
            head = read_head(data[:end])
        except RequestHeadError as error:
            self._refuse(error_response(error.status, str(error)))
            return
        self._buffer = b""
        body_ends = end + head.length
        if head.length < 0 or body_ends > len(data):
            self._await_body(head, data[:end], data[end:])
        elif head.length > self._server.settings.max_body_bytes:
            self._refuse(self._server.handler.refused(head, too_large(self._server.settings)))
        else:
            self._buffer = data[body_ends:]
            self._handle(head, data[end:body_ends])

    def _await_body(self, head: RequestHead, raw_head: bytes, data: bytes) -> None:
        self._arrival = arrival = IncomingBody(self._server.intake, head, raw_head)
        self.ends = self._server.loop.time() + self._server.settings.request_timeout_ms / 1000
        if head.expects_continue:
            if arrival.refusal:
                self._refuse(self._server.handler.refused(head, arrival.refusal))
                return
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if data:
            self._take_body(arrival, data)

    def _take_body(self, arrival: IncomingBody, data: bytes) -> None:
        try:
            rest = arrival.feed(data)
        except RequestHeadError as error:
            arrival.end()
            self._refuse(error_response(error.status, str(error)))
            return
        if rest is None:
            return
        self._arrival, self._buffer = None, rest
        body = arrival.end()
        if arrival.refusal:
            self._refuse(self._server.handler.refused(arrival.head, arrival.refusal))
        else:
            self._handle(arrival.head, body, is_last=arrival.lost_its_place)

    def _handle(self, head: RequestHead, body: bytes, *, is_last: bool = False) -> None:
        self._head = head
        self.ends = _NEVER
        if is_last:
            self._is_discarding = True
        withdraw = self._server.handler.handle(head, body, self._answer)
        if self._head:  # not answered yet
            self._withdraw = withdraw

    def _resume(self) -> None:
        """Go on with what came while a request was being answered."""
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        if self._buffer and not (self._head or self._arrival or self._is_full or self._is_discarding):
            self._take_head(self._buffer)

    # The way out

    def _answer(self, answer: HttpResponse) -> None:
        head, self._head, self._withdraw = self._head, None, None
        if head is None or self._transport.is_closing():
            return
        closes = not head.keeps_alive or self._server.is_stopping or self._is_discarding
        self._write(answer, head, closes=closes)
        if closes:
            self._close()
            return
        if not self._is_full:
            self.ends = self._server.idle_ends
        if self._buffer or self._is_paused:
            self._server.loop.call_soon(self._resume)

    def _refuse(self, answer: HttpResponse) -> None:
        """Answer what cannot be read to its end, so that nothing behind it can be read either."""
        self._write(answer, None, closes=True)
        self._close()

    def _close(self) -> None:
        """Close once the answer is read: the system would throw it away if more came from the caller meanwhile."""
        self._is_discarding = True
        self._arrival, self._buffer = None, b""
        if self._is_paused:
            self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
            if not self._is_full:
                self.ends = self._server.loop.time() + _LINGER_S
        else:
            self._transport.close()

    def _write(self, answer: HttpResponse, head: RequestHead | None, *, closes: bool) -> None:
        text = _STATUS_LINES[answer.status] + "".join([f"{name}: {value}\r\n" for name, value in answer.headers])
        body = answer.body
        if head and head.method == "HEAD":
            body = b""
        else:
            text += f"content-length: {len(body)}\r\n"
        if closes:
            text += "connection: close\r\n"
        elif head and b"connection" in head.headers:
            text += "connection: keep-alive\r\n"
        start = f"{text}{self._server.date}\r\n".encode("latin-1")
        if len(body) <= _JOINED_BYTES:
            self._transport.write(start + body)
        else:
            self._transport.writelines((start, body))
