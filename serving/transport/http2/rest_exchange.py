"""A request to the REST API on a stream of HTTP/2: the same handler, limits and responses as over HTTP/1.1."""

import re
from dataclasses import replace

from millrace.protocol.errors import MillraceError, Unavailable
from serving.transport.budget import SMALL_BYTES, Reservation
from serving.transport.content_encoding import coding_error
from serving.transport.event_stream import Pieces
from serving.transport.handler import Withdraw
from serving.transport.head_errors import FramingNotSupported, LengthRequired, RequestHeadError
from serving.transport.http2 import field_encoding
from serving.transport.http2.exchange import NEVER, SPARE_BYTES, Arrival, Link
from serving.transport.http2.frames import DEFAULT_WINDOW, ErrorCode
from serving.transport.http2.header_blocks import Fields
from serving.transport.http2.inflow import Inflow
from serving.transport.http2.outflow import OVERHEAD_BYTES, Outflow
from serving.transport.intake import Body, body_error, no_room
from serving.transport.request_head import RequestHead
from serving.transport.request_target import check_host, read_target
from serving.transport.response_head import body_bytes
from serving.transport.responses import HttpResponse
from serving.transport.streamed_body import LEAST_BYTES_PER_S, WINDOW_BYTES, StreamedBody
from serving.transport.unpacking import Unpacking

_TARGET = re.compile(rb"/[!-\"$-~]*|\*")
_CONTINUE = field_encoding.status(100)


def head_of(fields: Fields, *, ends: bool) -> RequestHead:
    """The request's head. Raises `RequestHeadError`, `FramingNotSupported`."""
    if not _TARGET.fullmatch(fields.path):
        raise RequestHeadError("the request target is not a path")
    method = fields.method.decode("ascii")
    if method != method.upper():
        raise FramingNotSupported("the server does not know the request's method")
    path, query, _ = read_target(method, fields.path)
    headers, host = fields.headers, fields.authority or fields.headers.get(b"host", b"")
    if fields.authority and headers.get(b"host", fields.authority) != fields.authority:
        raise RequestHeadError("the request names two hosts")
    if host:
        check_host(host)
        headers = {**headers, b"host": host}
    given = headers.get(b"content-length")
    if given is not None and not (given.isdigit() and len(given) < 19):
        raise RequestHeadError("the Content-Length is no number")
    length = int(given) if given is not None else -1
    if ends and length > 0:
        raise RequestHeadError("the request announces a body and has none")
    return RequestHead(
        method=method,
        path=path,
        query=query,
        headers=headers,
        length=0 if ends else length,
        keeps_alive=True,
        expects_continue=headers.get(b"expect", b"").lower() == b"100-continue",
    )


def refuse_head(link: Link, stream: int, error: MillraceError) -> None:
    """Answer a request whose head is not looked at."""
    _write(link, stream, None, link.server.handler.refused(None, error))


class RestExchange:
    """One request; see `exchange.Exchange`."""

    __slots__ = (
        "_has_all", "_head", "_inflow", "_is_over", "_limit", "_link", "_pieces", "_stream", "_upload", "_window",
        "_withdraw", "arrival",
    )  # fmt: skip

    def __init__(self, link: Link, stream: int, head: RequestHead, limit: int) -> None:
        self._link = link
        self._stream = stream
        self._head = head
        self._limit = limit
        self._inflow: Inflow | None = None
        self._upload: StreamedBody | None = None
        self._window = DEFAULT_WINDOW
        self._withdraw: Withdraw | None = None
        self._pieces: Pieces | None = None
        self._has_all = self._is_over = False
        self.arrival: Arrival | None = None

    @classmethod
    def open(cls, link: Link, stream: int, fields: Fields, *, ends: bool) -> None:
        """Begin with a request, or refuse it before any of its body is taken."""
        server, head = link.server, None
        handler = server.handler
        try:
            head = head_of(fields, ends=ends)
            small_limit = min(SMALL_BYTES, server.settings.max_body_bytes)
            is_small = 0 <= head.length <= small_limit
            if refusal := None if ends and is_small else handler.check(head, link.peer):
                raise refusal
            if error := coding_error(head.headers.get(b"content-encoding")):
                raise error
            if server.open_calls >= server.settings.max_connections:
                raise Unavailable("too many requests are open; try again")
            limit = small_limit if is_small else handler.body_limit(head)
            if head.length > limit:
                raise body_error(limit)
            exchange = cls(link, stream, head, limit)
            if not is_small:
                exchange._begin_upload()
            link.add(stream, exchange)
            if head.expects_continue and not ends:
                link.session.send_headers(stream, _CONTINUE, ends=False)
        except MillraceError as error:
            _write(link, stream, head, handler.refused(head, error))

    def received(self, data: bytes, *, ends: bool) -> None:
        """See `Exchange.received`."""
        if self._is_over:
            return
        self._has_all = ends
        server = self._link.server
        try:
            if self._upload:
                self._take_upload(self._upload, data, ends=ends)
                return
            if self._inflow is None:
                self._inflow = Inflow(server.budget, len(data) if ends else self._head.length)
            self._inflow.add(data)
            size = self._inflow.size
            if size > self._limit:
                raise body_error(self._limit)
            if self._head.length >= 0 and (size > self._head.length or (ends and size < self._head.length)):
                raise RequestHeadError("the body is not as long as its Content-Length")
        except MillraceError as error:
            self.refuse(error)
            return
        if ends:
            self._take(self._inflow)
        else:
            self._follow(self._inflow, len(data))

    def await_body(self) -> None:
        """See `Exchange.await_body`."""
        if not self._has_all and self.arrival is None:
            server = self._link.server
            least = LEAST_BYTES_PER_S if self._upload else NEVER
            self.arrival = Arrival(server.loop, server.timeout_s, least)
            self._link.await_until(self.arrival.ends)

    def left(self) -> None:
        """See `Exchange.left`."""
        self._end()
        withdraw, self._withdraw = self._withdraw, None
        if withdraw:
            withdraw()

    def refuse(self, error: MillraceError) -> None:
        """See `Exchange.refuse`."""
        if not self._is_over:
            self._respond(self._link.server.handler.refused(self._head, error))

    def linger(self) -> None:
        """See `Exchange.linger`: what has no end of its own ends now."""
        if self._pieces:
            self._end_pieces()

    # The way in

    def _follow(self, inflow: Inflow, came: int) -> None:
        """Keep the clocks, and let more come: all that was announced, since that is counted, or as much as came."""
        if self.arrival:
            self.arrival.came(came)
            self._link.await_until(self.arrival.ends)
        self._window -= came
        more = DEFAULT_WINDOW - self._window
        if self._head.length >= 0:
            more = self._head.length + SPARE_BYTES - inflow.size - self._window
        if more > 0:
            self._window += more
            self._link.session.open_window(self._stream, more)

    def _take(self, inflow: Inflow) -> None:
        self._inflow, self.arrival = None, None
        body, reservation, head = inflow.take(), inflow.reservation, self._head
        size = inflow.size
        if size and b"content-encoding" in head.headers:
            self._unpack(body, reservation)
        else:
            self._handle(replace(head, length=size) if head.length < 0 else head, body, reservation)

    def _unpack(self, body: Body, reservation: Reservation) -> None:
        def unpacked(result: Body | MillraceError) -> None:
            self._withdraw = None
            if isinstance(result, MillraceError):
                reservation.release()
                self.refuse(result)
                return
            size = len(result) if isinstance(result, bytes) else result.size
            headers = {name: value for name, value in head.headers.items() if name != b"content-encoding"}
            self._handle(replace(head, headers=headers, length=size), result, reservation)

        head, server = self._head, self._link.server
        coding, limit = head.headers[b"content-encoding"], server.handler.body_limit(head)
        unpacking = Unpacking(body, coding, limit, reservation, server.unpackers, unpacked)
        self._withdraw = unpacking.cancel
        unpacking.start()

    def _handle(self, head: RequestHead, body: Body, reservation: Reservation) -> None:
        withdraw = self._link.server.handler.handle(head, body, self._link.peer, reservation, self._respond)
        if not self._is_over:
            self._withdraw = withdraw

    def _begin_upload(self) -> None:
        """Hand the body on as it comes, where there is somebody who takes it so. Raises `MillraceError`."""
        server, head = self._link.server, self._head
        receiver = server.uploads.receiver(head) if server.uploads else None
        if receiver is None:
            return
        reservation = server.budget.reserve(WINDOW_BYTES) if head.length >= 0 else None
        if reservation is None:
            receiver.close()
            raise no_room() if head.length >= 0 else LengthRequired("a large upload over HTTP/2 has a Content-Length")
        self._upload = StreamedBody(head, reservation, self._limit, receiver, self._upload_moved)

    def _upload_moved(self) -> None:
        if self._upload and not self._is_over:
            try:
                self._take_upload(self._upload, b"", ends=False)
            except MillraceError as error:
                self.refuse(error)

    def _take_upload(self, upload: StreamedBody, data: bytes, *, ends: bool) -> None:
        """Take in more; the window opens as the receiver takes what came. Raises `MillraceError`."""
        server = self._link.server
        self._window -= len(data)
        if upload.size + len(data) > self._head.length or (ends and upload.size + len(data) < self._head.length):
            raise RequestHeadError("the body is not as long as its Content-Length")
        if data:
            upload.feed(data)
        else:
            upload.go_on()
        self._follow_upload(upload, len(data))
        if upload.is_complete:
            self._upload = self.arrival = None
            receiver, _ = upload.take()
            if server.uploads is None:
                raise AssertionError("who has begun to take uploads takes them")
            withdraw = server.uploads.handle(self._head, receiver, self._link.peer, upload.reservation, self._respond)
            if not self._is_over:
                self._withdraw = withdraw
        elif not upload.is_behind and self._window <= DEFAULT_WINDOW // 2:
            more = 4 * DEFAULT_WINDOW - self._window
            self._window += more
            self._link.session.open_window(self._stream, more)
            self._link.flush_soon()

    def _follow_upload(self, upload: StreamedBody, came: int) -> None:
        """Keep the clocks, which stand still while the receiver is behind."""
        if self.arrival is None:
            return
        if upload.is_behind:
            self.arrival.pause()
        else:
            self.arrival.came(came)
            self._link.await_until(self.arrival.ends)

    # The way out

    def _respond(self, response: HttpResponse) -> None:
        if self._is_over:
            _drop(response)
            return
        self._withdraw = None
        if response.pieces and self._head.method != "HEAD":
            self._begin_pieces(response, response.pieces)
            return
        self._end()
        _write(self._link, self._stream, self._head, response)

    def _begin_pieces(self, response: HttpResponse, pieces: Pieces) -> None:
        self._pieces, self._withdraw = pieces, pieces.cancel
        self._link.session.send_headers(self._stream, _head_block(self._link, response, -1), ends=False)
        self._link.flush_soon()
        pieces.begin(self._write_piece, self._end_pieces)

    def _write_piece(self, piece: bytes) -> None:
        """Write it, where the caller reads what was written before: newer ones say more."""
        session = self._link.session
        if self._pieces and not self._link.is_full and len(piece) <= session.room(self._stream):
            session.send_data(self._stream, piece, ends=False)
            self._link.flush_soon()

    def _end_pieces(self) -> None:
        if self._pieces:
            self._pieces.cancel()
            self._pieces = self._withdraw = None
            self._end()
            self._link.session.send_data(self._stream, b"", ends=True)
            self._link.forget(self._stream)
            self._link.flush_soon()

    def _end(self) -> None:
        self._is_over = True
        self.arrival = None
        if self._inflow:
            self._inflow.close()
        if self._upload:
            self._upload.close()
        self._inflow = self._upload = None


def _write(link: Link, stream: int, head: RequestHead | None, response: HttpResponse) -> None:
    """Send a response, and be done with the stream."""
    session, server, length = link.session, link.server, body_bytes(response, head)
    if length > SMALL_BYTES or (length > 0 and (link.is_full or session.room(stream) < length)):
        is_on_disk = response.spooled is not None and response.spooled.is_on_disk
        reservation = response.reservation or server.budget.reserve(
            WINDOW_BYTES if is_on_disk else length + OVERHEAD_BYTES
        )
        if reservation is None:
            _drop(response)
            if length > SMALL_BYTES:
                _write(link, stream, head, server.handler.refused(head, no_room()))
                return
            session.reset(stream, ErrorCode.ENHANCE_YOUR_CALM)
        else:
            session.send_headers(stream, _head_block(link, response, length), ends=False)
            body = response.body if response.spooled is None else response.spooled
            link.send(stream, Outflow(body, reservation, server.loop.time()))
    else:
        session.send_headers(stream, _head_block(link, response, length), ends=length <= 0)
        if length > 0:
            body_now = response.body if response.spooled is None else response.spooled.read()
            session.send_data(stream, body_now, ends=True)
        _drop(response)
    link.forget(stream)
    link.flush_soon()


def _head_block(link: Link, response: HttpResponse, length: int) -> bytes:
    headers = list(response.headers)
    if length >= 0:
        headers.append(("content-length", str(length)))
    headers.append(("date", link.server.table.date[len("date: ") : -2]))
    return field_encoding.status(response.status) + field_encoding.fields(headers)


def _drop(response: HttpResponse) -> None:
    """Give back what a response has of memory beside its bytes."""
    if response.spooled:
        response.spooled.close()
    if response.reservation:
        response.reservation.release()
