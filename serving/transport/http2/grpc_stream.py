"""A gRPC call with any number of messages each way, on a stream of HTTP/2.

Its method runs as a task. It takes one message after the other; what it has not taken stays within the stream's window,
which is opened again as messages are taken. Each message that it writes waits until the client's windows take it.
"""

import asyncio
import logging
from collections import deque
from typing import Any

from millrace.protocol.errors import Internal, InvalidRequest, MillraceError, QueueFull
from serving.transport.budget import Reservation
from serving.transport.grpc_method import NO_ROOM, Answer, CallerLeft, CallHead, Message, StreamMethod
from serving.transport.http2 import grpc_framing as framing
from serving.transport.http2.exchange import Arrival, Link
from serving.transport.http2.frames import DEFAULT_WINDOW
from serving.transport.http2.grpc_framing import PREFIX_BYTES, Framed, MessageReader
from serving.transport.http2.grpc_unary import as_full, close, unpack
from serving.transport.http2.outflow import Outflow
from serving.transport.intake import Body

_log = logging.getLogger(__name__)
_OVERHEAD_BYTES = 1024  # what a waiting message takes beside its bytes
_LEAST_UPDATE_BYTES = 16_384


class StreamCall:
    """One call; see `exchange.Exchange`. It is the iterator of its own messages, too."""

    __slots__ = (
        "_error", "_has_all", "_has_head", "_head", "_is_over", "_link", "_method", "_reader", "_stream", "_task",
        "_waiter", "_waiting", "_waiting_bytes", "_window", "arrival",
    )  # fmt: skip

    def __init__(self, link: Link, stream: int, method: StreamMethod, head: CallHead) -> None:
        server = link.server
        self._link = link
        self._stream = stream
        self._method = method
        self._head = head
        self._reader = MessageReader(server.budget, method.most_bytes, _OVERHEAD_BYTES)
        self._waiting: deque[Framed] = deque()
        self._waiting_bytes = 0
        self._window = DEFAULT_WINDOW
        self._waiter: asyncio.Future[None] | None = None
        self._error: MillraceError | None = None
        self._has_all = self._has_head = self._is_over = False
        self.arrival: Arrival | None = None
        server.open_streams[head.path] += 1
        self._task: asyncio.Task[None] = server.loop.create_task(self._run())

    def received(self, data: bytes, *, ends: bool) -> None:
        """See `Exchange.received`."""
        if self._is_over:
            return
        self._window -= len(data)
        self._has_all = ends
        try:
            for framed in self._reader.read(data):
                self._waiting.append(framed)
                self._waiting_bytes += _size(framed.body) + PREFIX_BYTES
                self._link.session.moved_message()
            if ends and self._reader.held_bytes:
                raise InvalidRequest("the message ends too early")
        except MillraceError as error:
            self.refuse(error)
            return
        self._follow(len(data))
        self._wake()

    def await_body(self) -> None:
        """See `Exchange.await_body`: a stream may be silent as long as it likes."""

    def left(self) -> None:
        """See `Exchange.left`."""
        self._end()
        self._task.cancel()

    def refuse(self, error: MillraceError) -> None:
        """See `Exchange.refuse`."""
        calls = self._link.server.calls
        if not self._is_over and calls:
            self._finish(calls.refused(self._head, as_full(error)))
            self._task.cancel()

    def linger(self) -> None:
        """See `Exchange.linger`: its method knows."""

    # What the method takes

    def __aiter__(self) -> "StreamCall":
        return self

    async def __anext__(self) -> Message:
        while not self._waiting:
            if self._has_all or self._is_over:
                raise StopAsyncIteration
            self._waiter = self._link.server.loop.create_future()
            await self._waiter
        framed = self._waiting.popleft()
        self._waiting_bytes -= _size(framed.body) + PREFIX_BYTES
        self._open_window()
        if not framed.is_packed:
            return Message(framed.body, framed.reservation)
        return await self._unpacked(framed)

    async def _unpacked(self, framed: Framed) -> Message:
        loop = self._link.server.loop
        future: asyncio.Future[Body | MillraceError] = loop.create_future()

        def done(result: Body | MillraceError, reservation: Reservation) -> None:
            if future.done():
                Message(b"" if isinstance(result, MillraceError) else result, reservation).close()
            else:
                future.set_result(result)

        unpack(self._link, self._head, framed, self._method.most_bytes, done)
        result = await future
        if isinstance(result, MillraceError):
            framed.reservation.release()
            raise result
        return Message(result, framed.reservation)

    def _follow(self, came: int) -> None:
        """Keep the clocks of a message that has come in part, and let the rest of it come."""
        if not self._reader.held_bytes:
            self.arrival = None
            return
        server = self._link.server
        if self.arrival is None:
            self.arrival = Arrival(server.loop, server.timeout_s)
        self.arrival.came(came)
        self._link.await_until(self.arrival.ends)
        if (missing := self._reader.missing_bytes - self._window) > 0:
            self._window += missing
            self._link.session.open_window(self._stream, missing)

    def _open_window(self) -> None:
        """Let as much come as was taken."""
        more = DEFAULT_WINDOW - self._waiting_bytes - self._reader.held_bytes - self._window
        if more >= _LEAST_UPDATE_BYTES:
            self._window += more
            self._link.session.open_window(self._stream, more)
            self._link.flush_soon()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter and not waiter.done():
            waiter.set_result(None)

    # What the method gives

    async def _write(self, body: Body) -> None:
        link = self._link
        if self._is_over:
            Answer(body).close()
            raise CallerLeft
        self._open()
        size = _size(body)
        reservation = link.server.budget.reserve(size)
        if reservation is None:
            Answer(body).close()
            raise QueueFull(NO_ROOM)
        sent = link.server.loop.create_future()
        outflow = Outflow(body, reservation, link.server.loop.time(), prefix=framing.prefix(size), ends=False)
        link.send(self._stream, outflow, lambda: _settle(sent))
        await sent
        link.session.moved_message()

    def _open(self) -> None:
        if not self._has_head:
            self._has_head = True
            self._link.session.send_headers(self._stream, framing.OPENING, ends=False)

    async def _run(self) -> None:
        calls = self._link.server.calls
        if calls is None:
            raise AssertionError("a server without calls opens none")
        try:
            answer = await self._method.run(self, self._head, self._write)
        except MillraceError as error:
            answer = calls.refused(self._head, error)
        except CallerLeft:
            return
        except Exception:
            _log.exception("a call failed")
            answer = calls.refused(self._head, Internal("internal error; the server's log has it"))
        self._finish(answer)

    def _finish(self, answer: Answer) -> None:
        if self._is_over:
            return
        self._end()
        link = self._link
        link.stop_sending(self._stream)  # a message that the client has not taken, where the call is refused meanwhile
        block = framing.trailers(answer)
        link.session.send_headers(self._stream, block if self._has_head else framing.OPENING + block, ends=True)
        link.forget(self._stream)
        link.flush_soon()

    def _end(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._link.server.open_streams[self._head.path] -= 1
        self.arrival = None
        self._wake()
        for framed in self._waiting:
            close(framed)
        self._waiting.clear()
        self._reader.close()


def _size(body: Body) -> int:
    return len(body) if isinstance(body, bytes) else body.size


def _settle(future: "asyncio.Future[Any]") -> None:
    if not future.done():
        future.set_result(None)
