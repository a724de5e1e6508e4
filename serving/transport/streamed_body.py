"""A large body that goes on as it arrives, to a receiver in a thread: of it no more than a window waits in memory."""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Protocol

from millrace.protocol.errors import Internal, MillraceError
from serving.transport.budget import Reservation
from serving.transport.chunks import ChunkedDecoder
from serving.transport.intake import body_error
from serving.transport.request_head import RequestHead

WINDOW_BYTES = 1_048_576  # what one such body takes of the budget
LEAST_BYTES_PER_S = 65_536  # of a caller, averaged from a timeout after the start
_MOST_WAITING_BYTES = 524_288  # beyond it no more is read, and what is read at once is no more than that


class Receiver(Protocol):
    """Takes one body. Its methods may block; they are called in a thread, one after the other."""

    def write(self, data: bytes) -> None:
        """Take in more of it. Raises `MillraceError`; then only `close` is called."""

    def close(self) -> None:
        """The body is not wanted any more; or all of it was used."""


class StreamedBody:
    """One body on its way to its receiver; see `IncomingBody`, whose place it takes.

    `moved` is called on the event loop when the receiver has caught up, when it has all, and when it fails.
    """

    def __init__(
        self,
        head: RequestHead,
        reservation: Reservation,
        limit_bytes: int,
        receiver: Receiver,
        moved: Callable[[], None],
    ) -> None:
        self.head = head
        self.reservation = reservation
        self.has_more = False
        self.size = 0
        self._limit = limit_bytes
        self._receiver = receiver
        self._moved = moved
        self._decoder = ChunkedDecoder() if head.length < 0 else None
        self._rest = b""
        self._error: MillraceError | None = None
        self._is_written = self._is_closed = self._is_ended = self._is_idle = False
        self._waiting_bytes = 0  # changed on the event loop alone
        self._loop = asyncio.get_running_loop()
        self._parts: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._write, name="upload", daemon=True).start()

    def feed(self, data: bytes) -> None:
        """Take in bytes that came. Raises `RequestHeadError`, `PayloadTooLarge`, and what the receiver raised."""
        if self._decoder is None:
            mine = data[: self.head.length - self.size]
            self._rest = data[len(mine) :]
            self._pass_on([mine])
        else:
            self._decoder.feed(data)
        self.go_on()

    def go_on(self) -> None:
        """Decode more of what came; like `feed`."""
        if self._error:
            raise self._error
        if self._decoder:
            parts, self.has_more = self._decoder.decode()
            if self._decoder.announced > self._limit:
                raise body_error(self._limit)
            self._pass_on(parts)
        if self.has_all and not self._is_ended:
            self._is_ended = True
            self._parts.put(None)

    @property
    def has_all(self) -> bool:
        """Whether all of it has come."""
        return self._decoder.is_complete if self._decoder else self.size == self.head.length

    @property
    def is_behind(self) -> bool:
        """Whether nothing more is to be read until the receiver has caught up."""
        return self.has_all or self._waiting_bytes > _MOST_WAITING_BYTES

    @property
    def is_complete(self) -> bool:
        """Whether the receiver has all of it."""
        return self._is_written

    def take(self) -> tuple[Receiver, bytes]:
        """The receiver, and what came behind the body. The reservation goes to the caller."""
        self._is_closed = True
        return self._receiver, self._decoder.rest if self._decoder else self._rest

    def close(self) -> None:
        """Nobody wants it any more: the receiver is closed, in its thread."""
        self.reservation.release()
        if not self._is_closed:
            self._is_closed = True
            self._parts.put(None)
            if self._is_idle:
                self._close_receiver()

    def _pass_on(self, parts: list[bytes]) -> None:
        for part in parts:
            self.size += len(part)
            self._waiting_bytes += len(part)
            self._parts.put(part)

    def _write(self) -> None:
        """What the thread does: it ends with the body, with the first error, or when nobody wants it any more."""
        error: MillraceError | None = None
        try:
            while (part := self._parts.get()) is not None and not self._is_closed:
                self._receiver.write(part)
                self._tell(self._caught_up, len(part))
        except MillraceError as failure:
            error = failure
        except OSError as failure:
            error = Internal(f"the upload could not be written: {failure.strerror}")
        if error:
            self._receiver.close()
        self._tell(self._ended, error)

    def _tell(self, what: Callable[..., None], value: object) -> None:
        try:
            self._loop.call_soon_threadsafe(what, value)
        except RuntimeError:  # the loop is closed: the process ends
            self._is_closed = True

    def _caught_up(self, bytes_: int) -> None:
        was_behind = self.is_behind
        self._waiting_bytes -= bytes_
        if was_behind and not self.is_behind:
            self._tell_moved()

    def _ended(self, error: MillraceError | None) -> None:
        self._is_idle, self._error, self._is_written = True, error, error is None
        if self._is_closed and not error:
            self._close_receiver()
        self._tell_moved()

    def _close_receiver(self) -> None:
        threading.Thread(target=self._receiver.close, name="upload", daemon=True).start()

    def _tell_moved(self) -> None:
        if not self._is_closed:
            self._moved()
