"""Request bodies that come packed: unpacked step by step outside of the event loop, and counted as they grow."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from millrace.protocol.errors import MillraceError, PayloadTooLarge, Unavailable
from serving.transport.budget import Reservation
from serving.transport.content_encoding import Unpacker, is_identity, unpack
from serving.transport.intake import LARGE_BYTES, Body, body_error, no_room
from serving.transport.spooled_body import SpooledBody

MAX_RATIO = 100
SMALLEST_LIMIT_BYTES = 4 * 2**20
_ON_THE_LOOP_BYTES = 8192
_ON_THE_LOOP_PLAIN_BYTES = 65_536
_PIECE_BYTES = 65_536
_STEP_BYTES = 2**20

Unpacked = Callable[[Body | MillraceError], None]


def allowed_bytes(sent_bytes: int, limit_bytes: int) -> int:
    """How many bytes a body may have when it is unpacked: no more than 100 times those that were sent, or 4 MiB."""
    return min(limit_bytes, max(SMALLEST_LIMIT_BYTES, MAX_RATIO * sent_bytes))


def unpacked_error(sent_bytes: int, limit_bytes: int) -> PayloadTooLarge:
    """The error for a body that is larger than `allowed_bytes` when it is unpacked."""
    allowed = allowed_bytes(sent_bytes, limit_bytes)
    if allowed == limit_bytes:
        return body_error(limit_bytes)
    return PayloadTooLarge(f"the request body unpacks to more than {allowed} bytes; send it unpacked or in parts")


class Unpacking:
    """Takes the content coding off one body. `done` gets the plain body or the error, unless it is cancelled.

    The plain body may have no more than `allowed_bytes`. The
    reservation grows with it. Errors are values: what raises them in a thread would keep the body alive.
    """

    def __init__(
        self, body: Body, coding: bytes, limit_bytes: int, reservation: Reservation, executor: Executor, done: Unpacked
    ) -> None:
        self._body = body
        self._size = len(body) if isinstance(body, bytes) else body.size
        self._coding = coding
        self._limit_bytes = limit_bytes
        self._allowed_bytes = allowed_bytes(self._size, limit_bytes)
        self._reservation = reservation
        self._executor = executor
        self._done: Unpacked | None = done
        self._position = 0

    def start(self) -> None:
        """Unpack a small body at once, a larger one in steps."""
        if is_identity(self._coding):
            body, self._body = self._body, b""
            self._finish(body)
            return
        try:
            if isinstance(self._body, bytes) and self._size <= _ON_THE_LOOP_BYTES:
                plain = unpack(self._body, self._coding, min(_ON_THE_LOOP_PLAIN_BYTES, self._allowed_bytes))
                if plain is not None:
                    self._finish(plain if self._counts(len(plain)) else no_room())
                    return
            self._unpacker = Unpacker(self._coding)
            self._plain = SpooledBody()
        except MillraceError as error:
            self._finish(error.with_traceback(None))
        except OSError as error:
            self._finish(_cannot_store(error))
        else:
            self._go_on()

    def cancel(self) -> None:
        """The caller has left: `done` is not called, and the memory comes back after the current step."""
        self._done = None

    def _go_on(self) -> None:
        if not self._reservation.grow(_STEP_BYTES):
            self._plain.close()
            self._finish(no_room())
            return
        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._executor, self._step).add_done_callback(self._stepped)

    def _stepped(self, step: "asyncio.Future[MillraceError | None]") -> None:
        error = no_room() if step.cancelled() else step.result()
        if error or self._done is None:
            self._plain.close()
            self._finish(error or no_room())
        elif not self._unpacker.is_complete:
            self._go_on()
        elif self._plain.size > LARGE_BYTES:
            self._reservation.shrink_to(self._plain.size)
            self._finish(self._plain)
        else:
            plain = self._plain.read()
            self._plain.close()
            self._reservation.shrink_to(len(plain))
            self._finish(plain)

    def _step(self) -> MillraceError | None:
        """Unpack until a step's bytes were read or written. Runs in a thread; returns the error."""
        try:
            ends = self._plain.size + _STEP_BYTES - _PIECE_BYTES
            for _ in range(_STEP_BYTES // _PIECE_BYTES):
                piece = self._unpacker.feed(self._next_piece, _PIECE_BYTES)
                self._plain.write(piece)
                if self._plain.size > self._allowed_bytes:
                    return unpacked_error(self._size, self._limit_bytes)
                if self._unpacker.is_complete:
                    return self._unpacker.check_end(is_all=self._position >= self._size)
                if self._plain.size > ends:
                    break
        except MillraceError as error:
            return error.with_traceback(None)
        except OSError as error:
            return _cannot_store(error)
        return None

    def _next_piece(self) -> bytes:
        start = self._position
        self._position = min(start + _PIECE_BYTES, self._size)
        if isinstance(self._body, bytes):
            return self._body[start : self._position]
        return self._body.read(self._position - start, start)

    def _counts(self, plain_bytes: int) -> bool:
        if plain_bytes > self._size:
            return self._reservation.grow(plain_bytes - self._size)
        self._reservation.shrink_to(plain_bytes)
        return True

    def _finish(self, result: Body | MillraceError) -> None:
        if isinstance(self._body, SpooledBody):
            self._body.close()
        self._body = b""
        done, self._done = self._done, None
        if done:
            done(result)
        else:
            self._reservation.release()


def _cannot_store(error: OSError) -> Unavailable:
    return Unavailable(f"the server cannot store the request body ({error.strerror}); try again")
