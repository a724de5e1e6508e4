"""What gRPC callers send: bounded and counted before anybody reads it.

grpc.aio receives the message of a unary method by itself, whatever waits already. So every method is registered as one
whose callers stream: then its head alone is here, and its message comes when it is asked for. Until then the caller can
have sent no more than a stream's window, `WINDOW_BYTES`.

    head ──► may this caller? ──► room for a window? ──► message ──► room for all of it? ──► unpacked ──► handled
              │                    │                      │           │                       └─ too large
              └─ refused           └─ refused             │           └─ refused
                                                          └─ slow: room for the largest message, or refused

A caller is told of each refusal, and each is counted. Packed messages come here packed, so that they are unpacked
within their limit; gRPC itself would unpack them whole before it looks at their size.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from millrace.protocol.errors import (
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    MillraceError,
    PayloadTooLarge,
    QueueFull,
)
from serving.transport.budget import SMALL_BYTES, Budget, Reservation
from serving.transport.content_encoding import unpack

_log = logging.getLogger(__name__)
WINDOW_BYTES = SMALL_BYTES
_LARGE_BYTES = 256 * 1024
_SWEEP_S = 0.1
_NO_ROOM = "the server holds all the bytes that it may; try again"
_GZIP = b"\x1f\x8b"

Context = Any  # grpc.aio.ServicerContext
Check = Callable[[Context], MillraceError | None]
Refuse = Callable[[Context, MillraceError], Awaitable[None]]


class Method:
    """How one method is taken in: a `handler` that takes bytes, the largest message, and how many may be open.

    `check` says by a call's head why its caller is refused.
    """

    __slots__ = ("check", "handler", "most_bytes", "most_open", "open")

    def __init__(
        self, handler: grpc.RpcMethodHandler, most_bytes: int, most_open: int, check: Check | None = None
    ) -> None:
        self.handler = handler
        self.most_bytes = most_bytes
        self.most_open = most_open
        self.check = check
        self.open = 0


class _Reading:
    """A message that is awaited since `began`, on the loop's clock; `is_slow` once it has room for the largest."""

    __slots__ = ("began", "is_slow", "reservation")

    def __init__(self, began: float, reservation: Reservation) -> None:
        self.began = began
        self.is_slow = False
        self.reservation = reservation


class GrpcIntake:
    """Takes in the calls of one server. `refuse` ends a call with an error, and counts it.

    `most_bytes` is the largest message of any method; `most_open` how many calls may be open; a message that takes
    longer than `timeout_s` is given up.
    """

    def __init__(self, budget: Budget, refuse: Refuse, *, most_bytes: int, most_open: int, timeout_s: float) -> None:
        self._budget = budget
        self._refuse = refuse
        self._most_bytes = most_bytes
        self._most_open = most_open
        self._timeout_s = timeout_s
        self._open = 0
        self._slow = 0
        self._most_slow = max(1, budget.limit // 2 // most_bytes)  # and the rest is for others
        self._readings: dict[Context, _Reading] = {}
        self._loop = asyncio.get_running_loop()
        self._refusing: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look after slow callers."""
        self._sweeping = self._loop.call_later(_SWEEP_S, self._sweep)

    def stop(self) -> None:
        """No calls come any more."""
        if self._sweeping:
            self._sweeping.cancel()

    def registered(self, method: Method) -> grpc.RpcMethodHandler:
        """What gRPC is to call for the method."""
        handler = method.handler
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(self._streamed(method))
        if handler.unary_stream:
            return grpc.stream_stream_rpc_method_handler(
                self._watched(method), response_serializer=handler.response_serializer
            )
        return grpc.stream_unary_rpc_method_handler(
            self._unary(method), response_serializer=handler.response_serializer
        )

    # The kinds of methods

    def _unary(self, method: Method) -> Callable[[Any, Context], Awaitable[Any]]:
        handle, serializes = method.handler.unary_unary, method.handler.response_serializer is not None

        async def take(_requests: object, context: Context) -> Any:
            reservation = await self._admitted(method, context)
            request = await self._read(method, context, reservation)
            answer = await self._handled(handle(request, context), context)
            if not serializes and len(answer) > _LARGE_BYTES and not reservation.grow(len(answer)):
                await self._refuse(context, QueueFull(_NO_ROOM))
            return answer

        return take

    def _watched(self, method: Method) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def take(_requests: object, context: Context) -> AsyncIterator[Any]:
            reservation = await self._admitted(method, context)
            request = await self._read(method, context, reservation)
            async for answer in method.handler.unary_stream(request, context):
                yield answer

        return take

    def _streamed(self, method: Method) -> Callable[[Any, Context], Awaitable[None]]:
        async def take(requests: AsyncIterator[bytes], context: Context) -> None:
            await self._admitted(method, context)
            await self._handled(method.handler.stream_stream(self._unpacked(method, requests), context), context)

        return take

    # The steps

    async def _admitted(self, method: Method, context: Context) -> Reservation:
        """The call's reservation, of a window; it is given back when the call is over."""
        if method.check and (error := method.check(context)):
            await self._refuse(context, error)
        if self._open >= self._most_open or method.open >= method.most_open:
            await self._refuse(context, QueueFull("too many calls are open; try again"))
        reservation = self._budget.reserve(WINDOW_BYTES)
        if reservation is None:
            await self._refuse(context, QueueFull(_NO_ROOM))
            raise AssertionError("refuse raises")
        self._open += 1
        method.open += 1

        def over(_context: Context) -> None:
            self._open -= 1
            method.open -= 1
            reservation.release()

        context.add_done_callback(over)
        return reservation

    async def _read(self, method: Method, context: Context, reservation: Reservation) -> bytes:
        """The call's message, unpacked. Its bytes are counted twice: as they came, and as what is made of them."""
        self._readings[context] = reading = _Reading(self._loop.time(), reservation)
        try:
            request = await context.read()
        finally:
            del self._readings[context]
            self._slow -= reading.is_slow
        if request is grpc.aio.EOF:
            with contextlib.suppress(grpc.aio.InternalError):  # the caller went away
                await self._refuse(context, InvalidRequest("the call has no message"))
        if len(request) <= method.most_bytes and request[:1] in (b"\x1f", b"x") and (coding := _coding(request)):
            request = await self._unpack(method, context, request, coding, reservation)
        if len(request) > method.most_bytes:
            await self._refuse(context, _too_large(method.most_bytes))
        if not _resize(reservation, 2 * len(request)):
            await self._refuse(context, QueueFull(_NO_ROOM))
        return bytes(request)

    async def _unpack(
        self, method: Method, context: Context, request: bytes, coding: bytes, reservation: Reservation
    ) -> bytes:
        try:
            plain = unpack(request, coding, min(_LARGE_BYTES, method.most_bytes))
            if plain is None and method.most_bytes > _LARGE_BYTES:
                if not _resize(reservation, len(request) + method.most_bytes):
                    raise QueueFull(_NO_ROOM)
                plain = await self._loop.run_in_executor(None, unpack, request, coding, method.most_bytes)
            if plain is None:
                raise _too_large(method.most_bytes)
        except MillraceError as error:
            refusal = error
        else:
            return plain
        await self._refuse(context, refusal)
        raise AssertionError("refuse raises")

    async def _unpacked(self, method: Method, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The messages of a stream; one that cannot be unpacked within its limit comes as it is, and is refused."""
        async for request in requests:
            plain: bytes | None = None
            if coding := _coding(request):
                with contextlib.suppress(MillraceError):
                    plain = await self._loop.run_in_executor(None, unpack, request, coding, method.most_bytes)
            yield request if plain is None else plain

    async def _handled(self, answering: Awaitable[Any], context: Context) -> Any:
        try:
            return await answering
        except (grpc.aio.AbortError, grpc.aio.InternalError, grpc.aio.UsageError):
            raise
        except Exception:
            _log.exception("a call failed")
        await self._refuse(context, Internal("internal error; the server's log has it"))
        raise AssertionError("refuse raises")

    # Slow callers

    def _sweep(self) -> None:
        """Find room for the largest message for each caller that is slow to send one, or refuse it.

        How much of a message has come nobody can ask gRPC.
        """
        now = self._loop.time()
        for context, reading in list(self._readings.items()):
            if reading.began > now - _SWEEP_S:
                break  # those behind are younger
            if not reading.is_slow:
                if self._slow < self._most_slow and _resize(reading.reservation, self._most_bytes):
                    reading.is_slow = True
                    self._slow += 1
                else:
                    self._give_up(context, QueueFull(_NO_ROOM))
            elif reading.began < now - self._timeout_s:
                self._give_up(context, DeadlineExceeded(f"no message came within {self._timeout_s:.0f} s"))
        self._sweeping = self._loop.call_later(_SWEEP_S, self._sweep)

    def _give_up(self, context: Context, error: MillraceError) -> None:
        async def give_up() -> None:
            with contextlib.suppress(grpc.aio.AbortError, grpc.aio.InternalError, grpc.aio.UsageError):
                await self._refuse(context, error)

        task = self._loop.create_task(give_up())
        self._refusing.add(task)
        task.add_done_callback(self._refusing.discard)


def _coding(request: bytes) -> bytes:
    """What the message is packed with, b"" for nothing: gRPC does not show its servers the call's `grpc-encoding`.

    No message of ours begins like this: gzip's first byte is no field, and zlib's is field 15, which none has.
    """
    if request.startswith(_GZIP):
        return b"gzip"
    if len(request) > 1 and request[0] == 0x78 and int.from_bytes(request[:2]) % 31 == 0:
        return b"deflate"
    return b""


def _resize(reservation: Reservation, bytes_: int) -> bool:
    if bytes_ > reservation.bytes:
        return reservation.grow(bytes_ - reservation.bytes)
    reservation.shrink_to(bytes_)
    return True


def _too_large(most_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the message is larger than the {most_bytes} bytes that are allowed")
