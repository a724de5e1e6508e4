"""A gRPC call with one message each way, on a stream of HTTP/2.

head ──► may this caller? ──► message ──► room for it? ──► unpacked ──► handled ──► answer
          └─ refused           └─ late      └─ refused      └─ too large   └─ the caller leaves: withdrawn
"""

from collections.abc import Callable

from millrace.protocol.errors import InvalidRequest, MillraceError, NotSupported, QueueFull
from serving.transport.budget import Reservation
from serving.transport.grpc_method import NO_ROOM, Answer, CallHead, Message, UnaryMethod
from serving.transport.handler import Withdraw
from serving.transport.http2 import grpc_framing as framing
from serving.transport.http2.exchange import SPARE_BYTES, Arrival, Link
from serving.transport.http2.frames import DEFAULT_WINDOW, MAX_FRAME_BYTES
from serving.transport.http2.grpc_framing import PREFIX_BYTES, Framed, MessageReader
from serving.transport.http2.outflow import OVERHEAD_BYTES, Outflow
from serving.transport.intake import Body
from serving.transport.unpacking import Unpacking

Unpacked = Callable[[Body | MillraceError, Reservation], None]


class UnaryCall:
    """One call; see `exchange.Exchange`."""

    __slots__ = (
        "_framed",
        "_has_all",
        "_head",
        "_is_over",
        "_link",
        "_method",
        "_reader",
        "_stream",
        "_window",
        "_withdraw",
        "arrival",
    )

    def __init__(self, link: Link, stream: int, method: UnaryMethod, head: CallHead) -> None:
        self._link = link
        self._stream = stream
        self._method = method
        self._head = head
        self._reader: MessageReader | None = None
        self._framed: Framed | None = None
        self._withdraw: Withdraw | None = None
        self._window = DEFAULT_WINDOW
        self._has_all = self._is_over = False
        self.arrival: Arrival | None = None

    def received(self, data: bytes, *, ends: bool) -> None:
        """See `Exchange.received`. A small message usually comes in one piece."""
        if self._is_over:
            return
        self._has_all = ends
        size = len(data) - PREFIX_BYTES
        if ends and self._reader is None and size >= 0 and data[:PREFIX_BYTES] == framing.prefix(size):
            if size > self._method.most_bytes:
                self._gather(data, ends=True)
                return
            reservation = self._link.server.budget.reserve(size)
            if reservation:
                self._handle(data[PREFIX_BYTES:], reservation)
            else:
                self.refuse(QueueFull(NO_ROOM))
            return
        self._gather(data, ends=ends)

    def await_body(self) -> None:
        """See `Exchange.await_body`."""
        if not self._has_all and self.arrival is None:
            server = self._link.server
            self.arrival = Arrival(server.loop, server.timeout_s)
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
            calls = self._link.server.calls
            if calls:
                self._respond(calls.refused(self._head, as_full(error)))

    def linger(self) -> None:
        """See `Exchange.linger`: what came is answered."""

    def _gather(self, data: bytes, *, ends: bool) -> None:
        link, server = self._link, self._link.server
        if self._reader is None:
            self._reader = MessageReader(server.budget, self._method.most_bytes)
        if self.arrival:
            self.arrival.came(len(data))
            link.await_until(self.arrival.ends)
        self._window -= len(data)
        try:
            for framed in self._reader.read(data):
                if self._framed:
                    framed.reservation.release()
                    raise InvalidRequest("the method takes one message, and more came")
                self._framed = framed
            if ends and (self._framed is None or self._reader.held_bytes):
                raise InvalidRequest(
                    "the message ends too early" if self._reader.held_bytes else "the call has no message"
                )
        except MillraceError as error:
            self.refuse(error)
            return
        if ends:
            self._take()
        elif (more := self._reader.missing_bytes + SPARE_BYTES - self._window) > 0:
            self._window += more
            link.session.open_window(self._stream, more)

    def _take(self) -> None:
        """The message is here: unpack it where it is packed."""
        self.arrival = None
        framed = self._framed
        if framed is None:
            raise AssertionError("the message is here")
        if not framed.is_packed:
            if isinstance(framed.body, bytes):
                self._begin()
            else:
                self._link.server.pacer.add(self._begin)  # to look into a large one takes up to a millisecond
            return
        self._framed = None
        try:
            self._withdraw = unpack(self._link, self._head, framed, self._method.most_bytes, self._unpacked)
        except MillraceError as error:
            close(framed)
            self.refuse(error)

    def _begin(self) -> None:
        framed, self._framed = self._framed, None
        if framed:  # else the call is over
            self._handle(framed.body, framed.reservation)

    def _unpacked(self, result: Body | MillraceError, reservation: Reservation) -> None:
        self._withdraw = None
        if isinstance(result, MillraceError):
            reservation.release()
            self.refuse(result)
        else:
            self._handle(result, reservation)

    def _handle(self, body: Body, reservation: Reservation) -> None:
        withdraw = self._method.begin(Message(body, reservation), self._head, self._respond)
        if not self._is_over:
            self._withdraw = withdraw

    def _respond(self, answer: Answer) -> None:
        if self._is_over:
            answer.close()
            return
        self._withdraw = None
        self._end()
        respond(self._link, self._stream, self._head, answer)

    def _end(self) -> None:
        self._is_over = True
        self.arrival = None
        if self._framed:
            close(self._framed)
            self._framed = None
        if self._reader:
            self._reader.close()


def respond(link: Link, stream: int, head: CallHead, answer: Answer) -> None:
    """Send an answer that is the only one of its call."""
    session, server = link.session, link.server
    trailers = framing.trailers(answer)
    body = answer.body
    if answer.status:
        session.send_headers(stream, framing.OPENING + trailers, ends=True)
        answer.close()
    elif isinstance(body, bytes) and _fits(link, stream, len(body) + PREFIX_BYTES):
        session.send_small(stream, framing.OPENING, framing.prefix(len(body)) + body, trailers)
        if answer.reservation:
            answer.reservation.release()
    else:
        size = len(body) if isinstance(body, bytes) else body.size
        reservation = answer.reservation or server.budget.reserve(size + OVERHEAD_BYTES)
        if reservation is None and server.calls:
            answer.close()
            respond(link, stream, head, server.calls.refused(head, QueueFull(NO_ROOM)))
            return
        session.send_headers(stream, framing.OPENING, ends=False)
        outflow = Outflow(body, reservation, server.loop.time(), prefix=framing.prefix(size), trailers=trailers)
        link.send(stream, outflow)
    link.forget(stream)
    link.flush_soon()


def _fits(link: Link, stream: int, size: int) -> bool:
    """Whether a message can be sent at once, in one frame."""
    return size <= MAX_FRAME_BYTES and not link.is_full and size <= link.session.room(stream)


def unpack(link: Link, head: CallHead, framed: Framed, most_bytes: int, done: Unpacked) -> Withdraw:
    """Unpack a message, within its limit; returns what gives it up. Raises `NotSupported`."""
    coding = head.headers.get(b"grpc-encoding", b"identity")
    if coding not in framing.CODINGS:
        raise NotSupported(
            f"messages packed with '{coding[:32].decode('latin-1')}' are not supported; use gzip or deflate"
        )
    reservation = framed.reservation
    unpacking = Unpacking(
        framed.body,
        coding,
        most_bytes,
        reservation,
        link.server.unpackers,
        lambda result: done(result, reservation),
    )
    unpacking.start()
    return unpacking.cancel


def close(framed: Framed) -> None:
    """Give back the memory of a message that nobody wants."""
    Message(framed.body, framed.reservation).close()


def as_full(error: MillraceError) -> MillraceError:
    """Room that is not there is RESOURCE_EXHAUSTED in gRPC, where UNAVAILABLE stands for a server that is not."""
    return QueueFull(NO_ROOM) if error.status == 503 else error
