"""One connection of HTTP/2: its session's events go to the streams, and what these send goes to the socket.

    preface ──► streams come and go ──► idle ──► closed           the server stops, or the connection is old: GOAWAY,
                  │                                               the rest is answered, closed
                  │
                  └─ a fault, or no sign of life: GOAWAY, closed

The frames of one read are handled together, and answers of one turn of the event loop are written together. While the
socket takes no more, nothing is read, and answers wait, counted. For small calls there is no task and no timer.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from random import uniform
from typing import cast

from millrace.protocol.errors import MillraceError, QueueFull
from serving.transport.budget import Reservation
from serving.transport.connection_table import OpenConnection
from serving.transport.grpc_method import CallHead, Method, StreamMethod
from serving.transport.head_errors import HeadTooLarge
from serving.transport.http2 import grpc_framing as framing
from serving.transport.http2.exchange import GRACE_S, NEVER, Exchange
from serving.transport.http2.frames import ErrorCode
from serving.transport.http2.grpc_stream import StreamCall
from serving.transport.http2.grpc_unary import UnaryCall, respond
from serving.transport.http2.header_blocks import Fields
from serving.transport.http2.outflow import Outflow
from serving.transport.http2.rest_exchange import RestExchange, refuse_head
from serving.transport.http2.seam import Event, Opened, Pong, Received, Reset, Room, Session
from serving.transport.http2.session import FrameSession
from serving.transport.intake import no_room
from serving.transport.server_parts import ServerParts

_log = logging.getLogger(__name__)
_STALL_S = 10.0  # without a byte of the rest of a frame, or of a block of headers
_LINGER_S = 0.5
_DISCARD_S = 3.0
_LIFE_S, _LIFE_ANSWER_S = 60.0, 20.0  # of silence, after which a caller is asked whether it is there
_SMALL_HEAD_BYTES = 2048  # which are not counted: there are no more than there may be calls
_OUTPUT_BYTES = 65_536  # more is written at once
_DRAIN, _LIFE = b"drained?", b"alive???"


class Http2Connection(asyncio.Protocol):
    """One connection; see `connection_table.OpenConnection` and `exchange.Link`."""

    __slots__ = (
        "_age_ends", "_buffered", "_busy", "_drain_ends", "_frame_ends", "_frame_since", "_full_ends", "_has_pinged",
        "_heard", "_is_draining", "_is_flushing", "_is_last", "_is_over", "_is_paused", "_large_heads", "_opened",
        "_outflows", "_since", "_slowest", "_streams", "_table", "_transport", "_unsent", "ends", "is_full", "peer",
        "server", "session",
    )  # fmt: skip

    def __init__(self, server: ServerParts) -> None:
        self.server = server
        self.session: Session = FrameSession(2 * server.settings.max_connections, server.remembered)
        self.peer = ""
        self.is_full = False
        self._table = server.table
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._streams: dict[int, Exchange] = {}
        self._outflows: dict[int, tuple[Outflow, Callable[[], None] | None]] = {}
        self._large_heads: dict[int, Reservation] = {}  # count the heads of open requests
        self._buffered: Reservation | None = None  # counts what the session holds of unfinished frames
        self._unsent: Reservation | None = None  # counts what the socket has not taken
        self._busy = 0  # the stream that is being handled
        self._slowest = 0
        self._opened: list[Exchange] = []  # by the frames that are being handled
        self._is_paused = self._is_flushing = self._is_over = False
        self._is_draining = self._is_last = self._has_pinged = False
        self._since = self._heard = self._frame_since = server.loop.time()
        self._frame_ends = self._full_ends = self._drain_ends = self._age_ends = NEVER
        if age_s := server.settings.max_connection_age_s:
            self._age_ends = self._since + age_s * uniform(0.9, 1.1)  # noqa: S311 - not all at once
        self.ends = min(self._since + _STALL_S, self._age_ends)

    # The socket

    def take_over(self, transport: asyncio.Transport, peer: str, other: OpenConnection, data: bytes) -> None:
        """Go on with a connection that has begun as another, and on which these bytes came."""
        self._transport = transport
        self.peer = peer
        server = self.server
        server.http2_connections += 1
        self._table.replace(other, self)
        transport.set_protocol(self)
        if server.http2_connections > server.most_http2_connections:
            self._fault(ErrorCode.ENHANCE_YOUR_CALM, "too many connections are open; try again")
            return
        if server.is_stopping:
            self.linger()
        self.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason changes nothing
        """Part of `asyncio.Protocol`."""
        self.server.http2_connections -= 1
        self._table.remove(self)
        self._leave_streams()
        self._is_over = True
        for reservation in (self._buffered, self._unsent):
            if reservation:
                reservation.release()

    def data_received(self, data: bytes) -> None:
        """Part of `asyncio.Protocol`."""
        if self._is_over:
            return
        self._heard = self.server.loop.time()
        self.session.feed(data)
        self._go_on()

    def eof_received(self) -> bool:
        """Part of `asyncio.Protocol`: the caller sends no more. What it asked is answered."""
        if self._is_over or not (self._streams or self._outflows):
            return False
        self._is_draining = self._is_last = True
        self.session.ping(_LIFE)  # a caller who has closed its socket, not only its side, resets the connection
        self.flush()
        self._table.half_closed(self)
        return True

    def pause_writing(self) -> None:
        """Part of `asyncio.Protocol`: the socket takes no more."""
        self.is_full = True
        self._full_ends = self.server.loop.time() + self.server.timeout_s
        self.await_until(self._full_ends)
        self._read(False)
        if self._unsent is None:
            self._unsent = self.server.budget.reserve(self._transport.get_write_buffer_size())
            if self._unsent is None:
                self._transport.abort()

    def resume_writing(self) -> None:
        """Part of `asyncio.Protocol`."""
        self.is_full = False
        self._full_ends = NEVER
        if self._unsent:
            self._unsent.release()
            self._unsent = None
        self._read(not self.session.has_more)
        for stream in tuple(self._outflows):
            self._pace_outflow(stream)
        self._close_if_done()

    # What the table asks

    @property
    def waits_since(self) -> float | None:
        """See `OpenConnection`."""
        return None if self._streams or self._outflows else self._since

    def pace(self, now: float) -> float | None:
        """See `OpenConnection`: of the slowest stream, which `give_up` ends then."""
        slowest, self._slowest = None, 0
        for stream, exchange in self._streams.items():
            pace = exchange.arrival.pace(now) if exchange.arrival and stream != self._busy else None
            if pace is not None and (slowest is None or pace < slowest):
                slowest, self._slowest = pace, stream
        for stream, (outflow, _) in self._outflows.items():
            pace = outflow.pace(now) if outflow.age_s(now) > GRACE_S and stream != self._busy else None
            if pace is not None and (slowest is None or pace < slowest):
                slowest, self._slowest = pace, stream
        holds = self._unsent or (self._buffered and not self._is_paused)  # else it is we who are slow
        if slowest is None and holds and now - self._heard > GRACE_S:
            return 0.0
        return slowest

    def give_up(self) -> int:
        """See `OpenConnection`."""
        used, stream = self.server.budget.used, self._slowest
        if exchange := self._streams.get(stream):
            exchange.refuse(QueueFull("the request came slowly, and others need its room; try again"))
        elif stream in self._outflows:
            self._cut_off(stream)
        else:
            self.abort()
        self.flush_soon()
        return used - self.server.budget.used

    def linger(self) -> None:
        """See `OpenConnection`: no new streams, and what came is answered."""
        if self._is_over:
            return
        for exchange in tuple(self._streams.values()):
            exchange.linger()
        self._drain()
        self.flush()

    def _drain(self) -> None:
        """Tell the caller to open no more streams here, and leave once it knows."""
        self._age_ends = NEVER
        if self._is_draining:
            return
        self._is_draining = True
        self.session.go_away(is_last=False)
        self.session.ping(_DRAIN)  # what the caller sent before it knew comes before the answer
        self._drain_ends = self.server.loop.time() + _LINGER_S
        self.await_until(self._drain_ends)

    def count_unsent(self) -> None:
        """See `OpenConnection`: `pause_writing` counts."""

    def look_for_caller(self) -> None:
        """See `OpenConnection`."""
        handle = self._transport.get_extra_info("socket")
        if not self._transport.is_closing() and handle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.abort()

    def abort(self) -> None:
        """See `OpenConnection`."""
        self._transport.abort()

    def expire(self) -> None:
        """See `OpenConnection`. The connection's clock may be early: the next is found here."""
        now = self.server.loop.time()
        if self._is_over or now >= self._full_ends:
            self.abort()
            return
        if now >= self._frame_ends:
            self._fault(ErrorCode.PROTOCOL_ERROR, "the rest of a frame did not come in time")
            return
        if now >= self._age_ends:
            self._drain()
        if now >= self._drain_ends:
            self._leave()
        self._expire_streams(now)
        self._expire_silence(now)
        self._find_next_end(now)
        self.flush()

    def _expire_streams(self, now: float) -> None:
        timeout_s = self.server.timeout_s
        for exchange in tuple(self._streams.values()):
            if exchange.arrival and exchange.arrival.ends <= now:
                exchange.refuse(exchange.arrival.error(timeout_s))
        for stream, (outflow, _) in tuple(self._outflows.items()):
            if outflow.ends(now, timeout_s) <= now:
                self._cut_off(stream)

    def _expire_silence(self, now: float) -> None:
        if not self._streams and not self._outflows:
            if now >= self._since + self.server.settings.keep_alive_timeout_s:
                self._leave()
        elif self._has_pinged and now >= self._heard + _LIFE_S + _LIFE_ANSWER_S:
            self.abort()
        elif not self._has_pinged and now >= self._heard + _LIFE_S:
            self._has_pinged = True
            self.session.ping(_LIFE)

    def _find_next_end(self, now: float) -> None:
        if self._is_over:
            return
        timeout_s = self.server.timeout_s
        ends = [self._frame_ends, self._full_ends, self._drain_ends, self._age_ends]
        ends += [self._heard + _LIFE_S + _LIFE_ANSWER_S] if self._has_pinged else [self._heard + _LIFE_S, now + _LIFE_S]
        ends += [each.arrival.ends for each in self._streams.values() if each.arrival]
        ends += [outflow.ends(now, timeout_s) for outflow, _ in self._outflows.values()]
        if not self._streams and not self._outflows:
            ends.append(self._since + self.server.settings.keep_alive_timeout_s)
        self.ends = max(now, min(ends))

    # Events

    def _go_on(self) -> None:
        """Handle the next frames, and leave the rest to a later turn of the event loop."""
        if self._is_over:
            return
        session = self.session
        try:
            self._handle(session.events(self.server.loop.time()))
        except Exception:
            _log.exception("a connection failed")
            self._fault(ErrorCode.INTERNAL_ERROR, "internal error; the server's log has it")
            return
        if session.fault is not None:
            self._close()
            return
        if session.has_more:
            self._read(False)
            self.server.pacer.add(self._go_on)
        elif self._is_paused and not self.is_full:
            self._read(True)
        if session.pending_bytes or self._buffered:
            self._hold(session.pending_bytes)
        self.flush()

    def _handle(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Received):
                stream, data, ends = event
                self._busy = stream
                if exchange := self._streams.get(stream):
                    exchange.received(data, ends=ends)
            elif isinstance(event, Opened):
                self._busy = event.stream
                self._open(*event)
            elif isinstance(event, Reset):
                self._lost(event.stream)
            elif isinstance(event, Room):
                self._made_room(event.stream)
            else:
                self._answered(event)
        self._busy = 0
        for exchange in self._opened:
            exchange.await_body()
        self._opened.clear()

    def _open(self, stream: int, fields: Fields | None, ends: bool) -> None:
        if fields is None:
            refuse_head(self, stream, HeadTooLarge("the request's headers are too large, or too many"))
            return
        if fields.size > _SMALL_HEAD_BYTES:
            reservation = self.server.budget.reserve(fields.size)
            if reservation is None:
                refuse_head(self, stream, no_room())
                return
            self._large_heads[stream] = reservation
        if self.server.calls and fields.method == b"POST" and framing.is_grpc(fields.headers.get(b"content-type")):
            self._open_call(stream, fields)
        else:
            RestExchange.open(self, stream, fields, ends=ends)
        if ends and (exchange := self._streams.get(stream)):
            exchange.received(b"", ends=True)

    def _open_call(self, stream: int, fields: Fields) -> None:
        """A call of gRPC. This is the place where its caller is checked, before any of its message is taken."""
        server = self.server
        calls = server.calls
        if calls is None:
            return
        path = fields.path_text
        head = CallHead(path, fields.headers, self.peer, None)
        method = calls.methods.get(path)
        if method is None:
            respond(self, stream, head, calls.unknown(path))
            return
        try:
            if timeout := fields.headers.get(b"grpc-timeout"):
                head.timeout_s = framing.timeout_s(timeout)
            if refusal := calls.check(head) or self._no_place(path, method):
                raise refusal
        except MillraceError as error:
            respond(self, stream, head, calls.refused(head, error))
            return
        if isinstance(method, StreamMethod):
            self.add(stream, StreamCall(self, stream, method, head))
        else:
            self.add(stream, UnaryCall(self, stream, method, head))

    def _no_place(self, path: str, method: Method) -> MillraceError | None:
        server = self.server
        is_full = isinstance(method, StreamMethod) and server.open_streams[path] >= method.most_open
        if is_full or server.open_calls >= server.settings.max_connections:
            return QueueFull("too many calls are open; try again")
        return None

    def _lost(self, stream: int) -> None:
        if exchange := self._streams.get(stream):
            exchange.left()
            self.forget(stream)
        self.stop_sending(stream)

    def _made_room(self, stream: int) -> None:
        if stream:
            if stream in self._outflows:
                self._send_on(stream)
        else:
            for waiting in self._outflows:
                if self.session.room(waiting):
                    self._pace_outflow(waiting)

    def _answered(self, pong: Pong) -> None:
        self._has_pinged = False
        if pong.data == _DRAIN and self._is_draining:
            self._leave()

    # What streams ask

    def add(self, stream: int, exchange: Exchange) -> None:
        """See `Link.add`."""
        self._streams[stream] = exchange
        self._opened.append(exchange)
        self.server.open_calls += 1

    def forget(self, stream: int) -> None:
        """See `Link.forget`."""
        if stream in self._large_heads:
            self._large_heads.pop(stream).release()
        if self._streams.pop(stream, None):
            self.server.open_calls -= 1
            self._close_if_done()

    def await_until(self, ends: float) -> None:
        """See `Link.await_until`."""
        self.ends = min(self.ends, ends)

    def send(self, stream: int, outflow: Outflow, sent: Callable[[], None] | None = None) -> None:
        """See `Link.send`."""
        self._outflows[stream] = (outflow, sent)
        self.await_until(outflow.ends(self.server.loop.time(), self.server.timeout_s))
        self._send_on(stream)

    def stop_sending(self, stream: int) -> None:
        """See `Link.stop_sending`."""
        if stream in self._outflows:
            self._end_outflow(stream)

    def _send_on(self, stream: int) -> None:
        found = self._outflows.get(stream)
        if found is None or self.is_full or self._is_over:
            return
        outflow, _ = found
        if outflow.send(self.session, stream):
            self._end_outflow(stream)
        elif self.session.room(stream):
            self._pace_outflow(stream)
        if self.session.output_bytes > _OUTPUT_BYTES:
            self.flush()
        else:
            self.flush_soon()

    def _pace_outflow(self, stream: int) -> None:
        """Go on with the body in a later turn of the event loop."""
        outflow, _ = self._outflows[stream]
        if not outflow.is_paced:
            outflow.is_paced = True
            self.server.pacer.add(partial(self._paced, stream, outflow))

    def _paced(self, stream: int, outflow: Outflow) -> None:
        outflow.is_paced = False
        found = self._outflows.get(stream)
        if found and found[0] is outflow:
            self._send_on(stream)

    def _end_outflow(self, stream: int) -> None:
        outflow, sent = self._outflows.pop(stream)
        outflow.close()
        if sent:
            sent()
        self._close_if_done()

    def _cut_off(self, stream: int) -> None:
        """End a stream whose caller does not read."""
        self.session.reset(stream, ErrorCode.CANCEL)
        self._lost(stream)

    def flush_soon(self) -> None:
        """See `Link.flush_soon`."""
        if self.session.output_bytes > _OUTPUT_BYTES:
            self.flush()
        elif not self._is_flushing and not self._busy:  # else it comes when the frames of this read are handled
            self._is_flushing = True
            self.server.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what the session has."""
        self._is_flushing = False
        if self.session.output_bytes and not self._is_over and not self._transport.is_closing():
            self._transport.write(self.session.take_output())

    # What waits, and the end

    def _hold(self, bytes_: int) -> None:
        """Count what the session holds of frames that are not complete or not looked at."""
        if self._buffered:
            self._buffered.release()
        self._buffered = None
        self._frame_ends = NEVER
        if bytes_:
            self._buffered = self.server.budget.reserve(bytes_)
            if self._buffered is None:
                self._fault(ErrorCode.ENHANCE_YOUR_CALM, "the server holds all the bytes that it may; try again")
                return
            if self.session.has_progressed:
                self._frame_since = self._heard
            if not self._is_paused:
                self._await_frame()

    def _await_frame(self) -> None:
        self._frame_ends = min(self._heard + _STALL_S, self._frame_since + max(_STALL_S, self.server.timeout_s))
        self.await_until(self._frame_ends)

    def _read(self, reads: bool) -> None:
        if reads == self._is_paused and not self._transport.is_closing():
            self._is_paused = not reads
            if reads:
                self._heard = self._frame_since = self.server.loop.time()  # what came before then was not read
                if self._buffered:
                    self._await_frame()
                self._transport.resume_reading()
            else:
                self._frame_ends = NEVER
                self._transport.pause_reading()

    def _fault(self, code: ErrorCode, text: str) -> None:
        self.session.go_away(code, text)
        self._close()

    def _leave(self) -> None:
        """Take no more streams, and close once what is open is answered."""
        self._drain_ends = NEVER
        if not self._is_last:
            self._is_draining = self._is_last = True
            self.session.go_away()
            self.flush()
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._streams or self._outflows:
            return
        self._since = self.server.loop.time()
        self.await_until(self._table.idle_ends)
        if self._is_last and not self._is_over:
            self._close()

    def _close(self) -> None:
        """Close once what was sent is read: the system would throw it away if more came from the caller meanwhile."""
        self._leave_streams()
        self.flush()
        self._is_over = True
        self.ends = self.server.loop.time() + (_DISCARD_S if self.is_full else _LINGER_S)
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._read(True)
            self._transport.write_eof()
        else:
            self._transport.close()

    def _leave_streams(self) -> None:
        for stream, exchange in tuple(self._streams.items()):
            exchange.left()
            self.server.open_calls -= 1
            self._streams.pop(stream, None)
        for stream in tuple(self._outflows):
            outflow, _ = self._outflows.pop(stream)
            outflow.close()
        for reservation in self._large_heads.values():
            reservation.release()
        self._large_heads.clear()
