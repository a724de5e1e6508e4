"""One HTTP/1.1 connection: bytes to a head and a body, and a response to bytes.

It is what every connection begins as. One that begins with HTTP/2's preface is handed on (`http2/connection.py`).

A request of usual size is one `data_received`: its head is found in a table, its body is handed to the handler at once,
and the response is written in whatever turn of the event loop it comes. No task, no thread and no timer is made for it
(docs/decisions/0005-own-http-server.md has what that saves).

A connection's life:

    idle ──► head arrives ──► checked ──► body arrives ──► unpacked ──► handled ──► response is written ──► idle …
     │            │              │             │              │             └─ the caller leaves: withdrawn
     └─ closed    └─ 400 … 431   └─ 403, 413   └─ 408 … 504   └─ 400, 413

Requests are handled one at a time. Those behind wait in the connection's buffer, which the budget counts, and no more
is read than that holds. A large response is written as fast as the caller reads it.
"""

import asyncio
import socket
from dataclasses import replace
from typing import cast

from millrace.protocol.errors import DeadlineExceeded, MillraceError, Unavailable
from serving.transport.budget import SMALL_BYTES, Reservation
from serving.transport.content_encoding import coding_error
from serving.transport.event_stream import Pieces
from serving.transport.handler import Uploads, Withdraw
from serving.transport.head_errors import HeadTooLarge, RequestTimeout
from serving.transport.http2.connection import Http2Connection
from serving.transport.http2.frames import PREFACE
from serving.transport.intake import LARGE_BYTES, Body, IncomingBody, body_error, no_room, reserve
from serving.transport.peer import peer_of
from serving.transport.request_head import (
    MAX_HEAD_BYTES,
    RequestHead,
    check_beginning,
    read_head,
    without_empty_lines,
)
from serving.transport.response_head import STATUS_LINE_BEGINNING, body_bytes, write_head
from serving.transport.responses import HttpResponse
from serving.transport.sending import Sending
from serving.transport.server_parts import ServerParts
from serving.transport.streamed_body import LEAST_BYTES_PER_S, WINDOW_BYTES, Receiver, StreamedBody
from serving.transport.unpacking import Unpacking

_HEAD_S = 10.0
_STALL_S = 10.0
_LINGER_S = 0.5
_DISCARD_S = 10.0
_DISCARD_PAUSE_S = 3.0
_LOOK_S = 0.01
_GRACE_S = 1.0
_BUFFERED_BYTES = _UNSENT_BYTES = 65_536
_NEVER = float("inf")


class Connection(asyncio.Protocol):
    """One connection. `ends` is when the server is to call `expire`, by the event loop's clock."""

    __slots__ = (
        "_arrival", "_body_ends", "_buffer", "_closes", "_discard_ends", "_handler", "_has_begun", "_has_ended",
        "_head", "_held", "_is_discarding", "_is_full", "_is_new", "_is_paused", "_is_secure", "_is_taking",
        "_is_unread", "_peer", "_pieces", "_sending", "_server", "_since", "_small_limit", "_table", "_transport",
        "_unsent", "_withdraw", "ends",
    )  # fmt: skip

    def __init__(self, server: ServerParts) -> None:
        self._server = server
        self._table = server.table
        self._handler = server.handler
        self._small_limit = min(SMALL_BYTES, server.settings.max_body_bytes)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._peer = ""
        self._buffer = b""
        self._held: Reservation | None = None  # counts the buffer
        self._unsent: Reservation | None = None  # counts what the socket has not taken of a small response
        self._head: RequestHead | None = None  # of the request that is handled
        self._arrival: IncomingBody | StreamedBody | None = None
        self._sending: Sending | None = None
        self._pieces: Pieces | None = None  # of the response that is written as they come
        self._withdraw: Withdraw | None = None
        self._is_paused = False
        self._is_full = False
        self._is_secure = False  # TLS
        self._is_unread = False  # the rest of the request that is refused is on its way
        self._is_discarding = False
        self._is_new = True
        self._has_ended = False
        self._has_begun = False
        self._is_taking = False
        self._closes = False
        self._since = server.loop.time()
        self._body_ends = self._discard_ends = _NEVER
        self.ends = self._since + _HEAD_S

    @property
    def waits_since(self) -> float | None:
        """Since when it waits for a request, by the event loop's clock; None while it has one."""
        return None if self._head or self._arrival or self._sending or self._is_full else self._since

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        self._peer = peer_of(transport)
        self._is_secure = transport.get_extra_info("sslcontext") is not None
        if self._server.is_stopping:
            self._table.add(self)
            self.linger()
        elif not self._table.add(self):
            self._refuse(None, Unavailable("too many connections are open; try again"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason changes nothing
        """Part of `asyncio.Protocol`."""
        self._table.remove(self)
        if self._withdraw:
            self._withdraw()
        self._withdraw = self._head = self._pieces = None
        self._release()

    def data_received(self, data: bytes) -> None:
        """Part of `asyncio.Protocol`."""
        if self._arrival:
            self._take_body(self._arrival, data)
        elif self._is_discarding:
            if self._discard_ends < _NEVER and not self._is_full:
                self.ends = min(self._server.loop.time() + _DISCARD_PAUSE_S, self._discard_ends)
        elif self._head or self._sending or self._is_full:
            self._hold_for_later(self._buffer + data if self._buffer else data)
        elif self._buffer:
            self._take_head(self._buffer + data, known=len(self._buffer))
        else:
            self._take_head(data)

    def eof_received(self) -> bool:
        """Part of `asyncio.Protocol`: the caller sends no more, or has left. It is still answered if it can be."""
        self._has_ended = True
        if self._pieces or self._is_secure:  # with TLS a caller who ends its side has left
            return False
        if isinstance(self._arrival, StreamedBody) and self._arrival.has_all:
            return True
        if self._head and not self._is_discarding:
            self._find_out_whether_the_caller_left()
            return True
        return bool(self._head or self._sending or self._is_full or b"\r\n\r\n" in self._buffer)

    def pause_writing(self) -> None:
        """Part of `asyncio.Protocol`: the socket takes no more."""
        self._is_full = True
        if self._sending:
            return
        self.ends = self._server.loop.time() + self._server.timeout_s
        self._unsent = self._server.budget.reserve(self._transport.get_write_buffer_size())
        if self._unsent is None:
            self._transport.abort()

    def count_unsent(self) -> None:
        """Count what the socket has not taken of a small response, and wait until it has: `pause_writing` is called.

        Usually it takes all of it at the end of the turn in which it was written.
        """
        if self._transport.get_write_buffer_size() and not self._is_full:
            self._tell_of_unsent(True)

    def resume_writing(self) -> None:
        """Part of `asyncio.Protocol`."""
        self._is_full = False
        if not self._sending:
            self._tell_of_unsent(False)
        if self._unsent:
            self._unsent.release()
            self._unsent = None
        if self._sending:
            self._send_on()
        elif self._is_discarding or (self._server.is_stopping and not self._head):
            self.ends = self._server.loop.time() + _LINGER_S
        else:
            self.ends = _NEVER if self._head else self._table.idle_ends
            self._resume()

    def expire(self) -> None:
        """Whatever the connection waited for has not come in time."""
        if self._is_full or self._is_discarding:
            self.abort()
        elif self._arrival:
            timeout_ms = self._server.settings.request_timeout_ms
            error: MillraceError = DeadlineExceeded(f"the body did not arrive within {timeout_ms} ms")
            if self.ends < self._body_ends:
                error = RequestTimeout(f"no byte of the body came for {_STALL_S:.0f} s")
            self._refuse(self._arrival.head, error)
        elif self._buffer:
            self._refuse(None, RequestTimeout("the request's head did not arrive in time"))
        else:
            self._transport.close()

    def linger(self) -> None:
        """The server stops: close once what came is answered, and soon if nothing comes."""
        if self._pieces:
            self._end_pieces()
        elif self.waits_since is not None:
            self.ends = self._server.loop.time() + _LINGER_S

    def abort(self) -> None:
        """Close at once, whatever was not written."""
        self._transport.abort()

    def pace(self, now: float) -> float | None:
        """Bytes a second at which the caller sends or reads; None where none are held, or in the first second."""
        if self._is_taking or self._head or not (self._arrival or self._sending or self._unsent or self._held):
            return None
        age_s = now - self._since
        moved = self._arrival.size if self._arrival else self._sending.position if self._sending else 0
        return moved / age_s if age_s > _GRACE_S else None

    def give_up(self) -> int:
        """Close at once, and give back what is held; how many bytes that were."""
        used = self._server.budget.used
        self._release()
        self.abort()
        return used - self._server.budget.used

    def look_for_caller(self) -> None:
        """Close the connection where a reset has come: the caller, who has ended its side, has left for good."""
        if not self._transport.is_closing():
            handle = self._transport.get_extra_info("socket")
            if handle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.abort()

    # The way in

    def _is_full_now(self) -> bool:
        self.count_unsent()
        return self._is_full

    def _take_head(self, data: bytes, known: int = 0) -> None:
        """Go on with what came; the first `known` bytes of it were looked at before."""
        if self._transport.get_write_buffer_size() and self._is_full_now():
            self._hold_for_later(data)
            return
        if data[0] == 13:
            data, known = without_empty_lines(data), 0
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self._await_head(data, known)
            return
        try:
            if end > MAX_HEAD_BYTES:
                raise HeadTooLarge(f"the request's head is larger than {MAX_HEAD_BYTES} bytes")
            head = read_head(data[:end])
        except MillraceError as error:
            self._take_no_head(data, end, error)
            return
        if self._buffer:
            self._hold(b"")
        length, body_ends = head.length, end + head.length
        is_here = 0 <= length <= self._small_limit and body_ends <= len(data)
        refusal = None if is_here else self._handler.check(head, self._peer)
        if length < 0 or length > LARGE_BYTES or body_ends > len(data):
            self._await_body(head, data[end:], refusal)
            return
        self._head = head
        self.ends = _NEVER
        if body_ends < len(data):
            self._hold_for_later(data[body_ends:])
        if length > self._small_limit and not refusal and length > (limit := self._handler.body_limit(head)):
            refusal = body_error(limit)
        reservation = None if refusal else self._server.budget.reserve(length)
        if reservation is None:
            self._respond(self._handler.refused(head, refusal or no_room()))
        elif length and b"content-encoding" in head.headers:
            self._unpack(head, data[end:body_ends], reservation)
        else:
            self._handle(head, data[end:body_ends], reservation)

    def _take_no_head(self, data: bytes, end: int, error: MillraceError) -> None:
        """What ends there is no head of HTTP/1.1; as the first bytes of a connection, it may be HTTP/2's preface."""
        if self._is_new and data.startswith(PREFACE[:end]):
            self._hold(b"")
            Http2Connection(self._server).take_over(self._transport, self._peer, self, data)
        else:
            self._refuse(None, error)

    def _await_head(self, data: bytes, known: int) -> None:
        """Wait for the rest of a head, where these bytes can be the beginning of one."""
        try:
            if len(data) > MAX_HEAD_BYTES:
                raise HeadTooLarge(f"the request's head is larger than {MAX_HEAD_BYTES} bytes")
            if data.strip(b"\r") and not (self._is_new and PREFACE.startswith(data)):
                check_beginning(data, known)
            if data and not self._buffer:
                self._since = self._server.loop.time()
            if not self._hold(data):
                raise no_room()
        except MillraceError as error:
            self._refuse(None, error)
            return
        if data:
            self.ends = min(self.ends, self._server.loop.time() + _HEAD_S)
        if self._has_ended:
            self._transport.close()

    def _await_body(self, head: RequestHead, data: bytes, refusal: MillraceError | None) -> None:
        server = self._server
        try:
            if error := refusal or coding_error(head.headers.get(b"content-encoding")):
                raise error
            small = 0 <= head.length <= self._small_limit
            if not small and server.uploads and (receiver := server.uploads.receiver(head)):
                self._await_upload(head, data, receiver)
                return
            limit = self._small_limit if small else self._handler.body_limit(head)
            reservation = reserve(server.budget, head, limit)
            self._arrival = IncomingBody(head, reservation, limit)
        except MillraceError as error:
            self._refuse(head, error)
            return
        if self._has_ended:
            self._transport.close()
            return
        self._since = reservation.since = server.loop.time()
        self._body_ends = self._since + server.timeout_s
        self.ends = min(self._body_ends, server.loop.time() + _STALL_S)
        if data:
            self._take_body(self._arrival, data)
        elif head.expects_continue:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _await_upload(self, head: RequestHead, data: bytes, receiver: Receiver) -> None:
        """Wait for a body that goes on to its receiver as it comes."""
        limit, reservation = self._handler.body_limit(head), None
        if head.length <= limit:
            reservation = self._server.budget.reserve(WINDOW_BYTES)
        if reservation is None:
            receiver.close()
            raise body_error(limit) if head.length > limit else no_room()
        self._arrival = arrival = StreamedBody(
            head, reservation, limit, receiver, lambda: self._go_on_with_upload(arrival)
        )
        self._since = self._server.loop.time()
        self.ends = self._since + _STALL_S
        if data:
            self._take_upload(arrival, data)
        elif head.expects_continue:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _go_on_with_upload(self, arrival: StreamedBody) -> None:
        """The receiver has caught up, or ended."""
        if self._arrival is arrival and not self._transport.is_closing():
            self._take_upload(arrival, b"")

    def _take_upload(self, arrival: StreamedBody, data: bytes) -> None:
        try:
            if data:
                arrival.feed(data)
            else:
                arrival.go_on()
        except MillraceError as error:
            self._refuse(arrival.head, error)
            self._read(True)
            return
        if arrival.is_complete:
            self._end_upload(arrival)
            return
        now = self._server.loop.time()
        self._body_ends = self._since + self._server.timeout_s + arrival.size / LEAST_BYTES_PER_S
        self.ends = _NEVER if arrival.is_behind else min(self._body_ends, now + _STALL_S)
        if arrival.has_more:
            self._read(False)
            self._server.pacer.add(self._take_more)
        else:
            self._read(not arrival.is_behind)

    def _end_upload(self, arrival: StreamedBody) -> None:
        self._arrival, self._head = None, arrival.head
        receiver, rest = arrival.take()
        self.ends = _NEVER
        if rest:
            self._hold_for_later(rest)
        self._read(True)
        uploads = cast(Uploads, self._server.uploads)
        withdraw = uploads.handle(arrival.head, receiver, self._peer, arrival.reservation, self._respond)
        if self._head:  # not answered yet
            self._withdraw = withdraw

    def _take_body(self, arrival: IncomingBody | StreamedBody, data: bytes) -> None:
        """Take in more of the body; no bytes where what came is to be decoded further."""
        if isinstance(arrival, StreamedBody):
            self._take_upload(arrival, data)
            return
        self._is_taking = True
        try:
            if data:
                arrival.feed(data)
            else:
                arrival.go_on()
        except MillraceError as error:
            self._refuse(arrival.head, error)
            return
        finally:
            self._is_taking = False
        if arrival.is_complete:
            self._arrival, self._head = None, arrival.head
            body, rest = arrival.take()
            if rest:
                self._hold_for_later(rest)
            elif self._is_paused:
                self._resume()
            self.ends = _NEVER
            if arrival.size and b"content-encoding" in arrival.head.headers:
                self._unpack(arrival.head, body, arrival.reservation)
            else:
                self._handle(arrival.head, body, arrival.reservation)
            return
        if data:
            self.ends = min(self._body_ends, self._server.loop.time() + _STALL_S)
        if arrival.has_more or arrival.size > LARGE_BYTES:
            self._read(False)  # for as long as the others have their turns
            self._server.pacer.add(self._take_more)
        else:
            self._read(True)

    def _take_more(self) -> None:
        """Decode more of the body, or read more once that is done."""
        if self._arrival and self._arrival.has_more:
            self._take_body(self._arrival, b"")
        elif self._arrival:
            self._read(True)

    def _unpack(self, head: RequestHead, body: Body, reservation: Reservation) -> None:
        def unpacked(result: Body | MillraceError) -> None:
            self._withdraw = None
            if isinstance(result, MillraceError):
                reservation.release()
                self._respond(self._handler.refused(head, result))
                return
            size = len(result) if isinstance(result, bytes) else result.size
            headers = {name: value for name, value in head.headers.items() if name != b"content-encoding"}
            self._handle(replace(head, headers=headers, length=size), result, reservation)

        server = self._server
        coding, limit = head.headers[b"content-encoding"], self._handler.body_limit(head)
        unpacking = Unpacking(body, coding, limit, reservation, server.unpackers, unpacked)
        self._withdraw = unpacking.cancel
        unpacking.start()

    def _handle(self, head: RequestHead, body: Body, reservation: Reservation) -> None:
        withdraw = self._handler.handle(head, body, self._peer, reservation, self._respond)
        if self._head:  # not answered yet
            self._withdraw = withdraw

    # What waits

    def _release(self) -> None:
        """Give back the memory; nothing that comes is taken any more."""
        if self._arrival:
            self._arrival.close()
        if self._sending:
            self._sending.close()
        if self._unsent:
            self._unsent.release()
        self._hold(b"")
        self._arrival = self._sending = self._unsent = None
        self._is_discarding = True

    def _hold(self, data: bytes) -> bool:
        """Keep these bytes, and no others, in the buffer. False, and none are kept, where the budget has no room."""
        if self._held:
            self._held.release()
        self._held = self._server.budget.reserve(len(data)) if data else None
        self._buffer = data if self._held else b""
        return not data or self._held is not None

    def _hold_for_later(self, data: bytes) -> None:
        """Keep what came behind the request that is handled; without room for it the connection ends with that one."""
        if not self._hold(data):
            self._is_discarding = True
        elif len(data) > _BUFFERED_BYTES:
            self._read(False)

    def _read(self, reads: bool) -> None:
        """Go on reading from the socket, or stop it."""
        if reads == self._is_paused and not self._has_ended and not self._transport.is_closing():
            self._is_paused = not reads
            if reads:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _resume(self) -> None:
        """Go on with what came while a request was answered."""
        self._read(True)
        if self._buffer and not (self._head or self._arrival or self._sending or self._is_full or self._is_discarding):
            data = self._buffer
            self._hold(b"")
            self._take_head(data)

    # The way out

    def _respond(self, response: HttpResponse) -> None:
        head, self._head, self._withdraw = self._head, None, None
        if head is None or self._transport.is_closing():
            _drop(response)
            return
        self._closes = (
            not head.keeps_alive
            or self._server.is_stopping
            or self._is_discarding
            or (self._has_ended and not self._buffer)
        )
        try:
            if response.pieces and head.method != "HEAD":
                self._begin_pieces(response, response.pieces, head)
            else:
                self._write(response, head)
        except Exception:
            self.abort()  # nothing else would end the caller's wait
            raise

    def _refuse(self, head: RequestHead | None, error: MillraceError) -> None:
        """Answer what is not read to its end, so that nothing behind it can be read either."""
        if self._arrival:
            self._arrival.close()
            self._arrival = None
        self._closes, self._is_unread = True, head is not None
        self._write(self._handler.refused(head, error), head)
        if head and not self._is_full and not self._server.is_stopping:
            self.ends = self._server.loop.time() + _DISCARD_PAUSE_S  # a body is on its way

    def _write(self, response: HttpResponse, head: RequestHead | None) -> None:
        length = body_bytes(response, head)
        if length > SMALL_BYTES:
            self._begin_sending(response, head, length)
            return
        data = write_head(response, length, head, self._table.date, closes=self._closes)
        if length > 0:
            data += response.body if response.spooled is None else response.spooled.read()
        self._transport.write(data[len(STATUS_LINE_BEGINNING) :] if self._has_begun else data)
        if response.spooled or response.reservation:
            _drop(response)
        self._written()

    def _begin_pieces(self, response: HttpResponse, pieces: Pieces, head: RequestHead) -> None:
        """Write the head; the end of the pieces is that of the connection."""
        self._closes = True
        self._head, self._pieces, self._withdraw = head, pieces, pieces.cancel
        self.ends = _NEVER
        self._transport.write(write_head(response, -1, head, self._table.date, closes=True))
        pieces.begin(self._write_piece, self._end_pieces)

    def _write_piece(self, piece: bytes) -> None:
        """Write it, where the caller reads what was written before: newer ones say more."""
        if self._pieces and not self._is_full and not self._transport.is_closing():
            self._transport.write(piece)

    def _end_pieces(self) -> None:
        if self._pieces:
            self._pieces.cancel()
            self._pieces = self._head = self._withdraw = None
            self._close()

    def _begin_sending(self, response: HttpResponse, head: RequestHead | None, size: int) -> None:
        is_on_disk = response.spooled is not None and response.spooled.is_on_disk
        reservation = response.reservation or self._server.budget.reserve(WINDOW_BYTES if is_on_disk else size)
        if reservation is None:
            _drop(response)
            self._write(self._handler.refused(head, no_room()), head)
            return
        start = write_head(response, size, head, self._table.date, closes=self._closes)
        body = response.body if response.spooled is None else response.spooled
        self._since = self._server.loop.time()
        self._sending = Sending(self._transport, body, reservation, self._since)
        self._tell_of_unsent(True)  # each slice is written at once, and what is left of it told
        self._transport.write(start[len(STATUS_LINE_BEGINNING) :] if self._has_begun else start)
        self._send_on()

    def _send_on(self) -> None:
        sending = self._sending
        if sending is None or self._transport.is_closing():
            return
        if not self._is_full and not sending.is_written:
            sending.write_slices()
        if self._is_full:
            self.ends = sending.ends(self._server.loop.time(), self._server.timeout_s)
        elif sending.is_written:
            sending.close()
            self._sending = None
            self._tell_of_unsent(False)
            self._written()
        else:
            self._server.pacer.add(self._send_on)

    def _written(self) -> None:
        """The response is with the transport."""
        self._has_begun = self._is_new = False
        if self._closes:
            self._close()
            return
        self._since = self._server.loop.time()
        if not self._is_full:
            self.ends = self._table.idle_ends
            if self._server.is_stopping:
                self.linger()
        if self._buffer or self._is_paused:
            self._server.pacer.add(self._resume)

    def _close(self) -> None:
        """Close once the response is read: the system would throw it away if more came from the caller meanwhile."""
        self._is_discarding = True
        self._hold(b"")
        now = self._server.loop.time()
        self._discard_ends = now + _DISCARD_S
        if not self._is_full:
            self.ends = now + _LINGER_S
        if self._has_ended or (self._is_secure and not self._is_unread):
            self._transport.close()
            return
        self._read(True)
        if not self._is_secure:
            self._transport.write_eof()

    def _tell_of_unsent(self, tells: bool) -> None:
        """Have `pause_writing` called for each byte that the socket has not taken, or only when these are many.

        In TLS 0 would mean that it is called even where there is none.
        """
        self._transport.set_write_buffer_limits(high=int(self._is_secure) if tells else _UNSENT_BYTES)

    def _find_out_whether_the_caller_left(self) -> None:
        """Begin the response early: a caller who has closed its socket, not only its side, resets the connection."""
        self._has_begun = True
        self._transport.write(STATUS_LINE_BEGINNING)
        self._table.half_closed(self)
        self._server.loop.call_later(_LOOK_S, self.look_for_caller)


def _drop(response: HttpResponse) -> None:
    """Give back what a response that is not sent has of memory."""
    if response.spooled:
        response.spooled.close()
    if response.reservation:
        response.reservation.release()
