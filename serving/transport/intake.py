"""Request bodies that do not come in one piece: limited in size, and counted in the budget from their first byte."""

from millrace.protocol.errors import PayloadTooLarge, Unavailable
from serving.settings import ServingSettings
from serving.transport.budget import Budget, Reservation
from serving.transport.chunks import ChunkedDecoder
from serving.transport.request_head import RequestHead
from serving.transport.spooled_body import SpooledBody

LARGE_BYTES = 256 * 1024  # a larger body is a SpooledBody

Body = bytes | SpooledBody


def body_error(limit_bytes: int) -> PayloadTooLarge:
    """The error for a body above that limit."""
    return PayloadTooLarge(f"the request body is larger than the {limit_bytes} bytes that are allowed")


def too_large(settings: ServingSettings) -> PayloadTooLarge:
    """The error for a body above the limit of the settings."""
    return body_error(settings.max_body_bytes)


def no_room() -> Unavailable:
    """The error for a body that finds no room in the budget."""
    return Unavailable("the server holds as many bytes of requests and responses as it may; try again")


def reserve(budget: Budget, head: RequestHead, limit_bytes: int) -> Reservation:
    """Reserve what the head announces. Raises `PayloadTooLarge`, or `Unavailable` where there is no room."""
    if head.length > limit_bytes:
        raise body_error(limit_bytes)
    reservation = budget.reserve(max(0, head.length))
    if reservation is None:
        raise no_room()
    return reservation


class BodyBuffer:
    """The bytes of a body as they come: in memory while they are few, in a file when they are many."""

    __slots__ = ("_small", "_spooled")

    def __init__(self) -> None:
        self._small = bytearray()
        self._spooled: SpooledBody | None = None

    def add(self, data: bytes | memoryview, size: int) -> None:
        """Keep these bytes too; `size` is how many there will be with them at least. Raises `Unavailable`."""
        if self._spooled is None and size <= LARGE_BYTES:
            self._small += data
            return
        try:
            if self._spooled is None:
                self._spooled = SpooledBody()
                self._spooled.write(self._small)
                self._small = bytearray()
            self._spooled.write(data)
        except OSError as error:
            raise Unavailable(f"the server cannot store the request body ({error.strerror}); try again") from None

    def take(self) -> Body:
        """All of them; none are kept."""
        body: Body = self._spooled or bytes(self._small)
        self._spooled, self._small = None, bytearray()
        return body

    def close(self) -> None:
        """Give back the memory."""
        if self._spooled:
            self._spooled.close()
        self._spooled, self._small = None, bytearray()


class IncomingBody:
    """One body on its way. `reservation` counts its bytes; `close` gives back what came, unless `take` was called."""

    def __init__(self, head: RequestHead, reservation: Reservation, limit_bytes: int) -> None:
        self.head = head
        self.reservation = reservation
        self._limit = limit_bytes
        self._decoder = ChunkedDecoder() if head.length < 0 else None
        self.has_more = False
        self._kept = BodyBuffer()
        self._rest = b""
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Take in bytes that came. If it `has_more` then, `go_on` is to be called.

        Raises `RequestHeadError`, `PayloadTooLarge`, or `Unavailable`.
        """
        if self._decoder is None:
            mine = data[: self.head.length - self._size]
            self._keep([mine])
            self._rest = data[len(mine) :]
            return
        if not self.reservation.grow(len(data)):
            raise no_room()
        self._decoder.feed(data)
        self.go_on()

    def go_on(self) -> None:
        """Decode more of what came; like `feed`."""
        decoder = self._decoder
        if decoder is None:
            return
        parts, self.has_more = decoder.decode()
        if decoder.announced > self._limit:
            raise body_error(self._limit)
        self._keep(parts)
        self.reservation.shrink_to(self._size + decoder.pending)

    @property
    def size(self) -> int:
        """How many bytes of it have come."""
        return self._size

    @property
    def is_complete(self) -> bool:
        """Whether all of the body is here."""
        return self._decoder.is_complete if self._decoder else self._size == self.head.length

    def take(self) -> tuple[Body, bytes]:
        """The complete body, and what came behind it. The reservation goes to the caller."""
        rest = self._decoder.rest if self._decoder else self._rest
        self.reservation.shrink_to(self._size)
        return self._kept.take(), rest

    def close(self) -> None:
        """Give back the memory."""
        self._kept.close()
        self.reservation.release()

    def _keep(self, parts: list[bytes]) -> None:
        part = parts[0] if len(parts) == 1 else b"".join(parts)
        self._size += len(part)
        self._kept.add(part, max(self._size, self.head.length))
