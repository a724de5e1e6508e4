"""What callers of grpc.aio send: bounded and counted before anybody reads it.

grpc.aio receives the message of a unary method by itself, whatever waits already. So every method is registered as one
whose callers stream: then its head alone is here, and its message comes when it is asked for. Until then the caller can
have sent no more than a stream's window, `WINDOW_BYTES`.

    head ──► may this caller? ──► room for a window? ──► message ──► room for all of it? ──► unpacked ──► handled
              │                    │                      │           │                       └─ too large
              └─ refused           └─ refused             │           └─ refused
                                                          └─ slow: room for the largest message, which the one that
                                                             has had it longest gives up; or refused

The messages of an open stream come whole, too, and nobody can ask how much of them has come. So where the process takes
more memory than it may, streams that wait for a message are given up, first those that have waited longest.

A caller is told of each refusal, and each is counted. Packed messages come here packed, so that they are unpacked
within their limit; gRPC itself would unpack them whole before it looks at their size.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
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
from serving.transport.budget import SMALL_BYTES, Budget
from serving.transport.content_encoding import unpack
from serving.transport.grpc_method import NO_ROOM, Answer, CallerLeft, Calls, Message, Status, StreamMethod
from serving.transport.grpcio_method import Call, Context, CountedMethod, begun, body_of, head_of

_log = logging.getLogger(__name__)
WINDOW_BYTES = SMALL_BYTES
_LARGE_BYTES = 256 * 1024
_SWEEP_S = 0.1
_PATIENCE_S = 1.0  # which a slow message has, whoever else waits for its room
_TOO_SLOW = "the message came slowly, and others need its room; try again"
_NO_MEMORY = "the server has all the memory that it may have, and the stream waited for a message; open it again"
_STATUSES = {status.value[0]: status for status in grpc.StatusCode}
_FIRST_OF_PACKED = (b"\x1f", b"\x78")
_GZIP = b"\x1f\x8b"


class GrpcioIntake:
    """Takes in the calls of one server.

    `most_bytes` is the largest message of any method; `most_open` how many calls may be open; a message that takes
    longer than `timeout_s` is given up. `open` counts the calls that are open. `excess_bytes` says how much more memory
    the process has than it may have; it is asked ten times a second while streams wait for messages.
    """

    def __init__(self, budget: Budget, calls: Calls, *, most_bytes: int, most_open: int, timeout_s: float) -> None:
        self._budget = budget
        self._calls = calls
        self._most_bytes = most_bytes
        self._most_open = most_open
        self._timeout_s = timeout_s
        self.open = 0
        self._slow = 0
        self._most_slow = max(1, budget.limit // 2 // most_bytes)  # and the rest is for others
        self._reading: dict[Context, Call] = {}
        self._idle_streams: dict[Context, Call] = {}  # they wait for a message, the first one for longest
        self.excess_bytes: Callable[[], int] = lambda: 0
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

    def registered(self, method: CountedMethod) -> grpc.RpcMethodHandler:
        """What gRPC is to call for the method."""
        if isinstance(method.method, StreamMethod):
            return grpc.stream_stream_rpc_method_handler(self._streamed(method, method.method))
        return grpc.stream_unary_rpc_method_handler(self._unary(method))

    # The kinds of methods

    def _unary(self, method: CountedMethod) -> Callable[[Any, Context], Awaitable[Any]]:
        async def take(_requests: object, context: Context) -> Any:
            call = self._begun(method, context)
            try:
                await self._admit(context, call)
                request = await self._read(context, call)
                return await self._answered(begun(method.method, request, call.head), context, call)  # type: ignore[arg-type]
            except grpc.aio.AbortError as error:
                call.aborted = error
                raise

        return take

    def _streamed(self, method: CountedMethod, stream: StreamMethod) -> Callable[[Any, Context], Awaitable[None]]:
        async def take(requests: AsyncIterator[bytes], context: Context) -> None:
            async def write(body: Any) -> None:
                try:
                    await context.write(await body_of(Answer(body)))
                except grpc.aio.InternalError:
                    raise CallerLeft from None

            call = self._begun(method, context)
            try:
                await self._admit(context, call)
                taken = self._messages(method, requests, context, call)
                await self._answered(stream.run(taken, call.head, write), context, call)
            except grpc.aio.AbortError as error:
                call.aborted = error
                raise

        return take

    # The steps

    def _begun(self, method: CountedMethod, context: Context) -> Call:
        """The call that gRPC's current task is for; the task ends when the answer is sent."""
        call = Call(method, head_of(method.path, context))
        if task := asyncio.current_task():
            task.add_done_callback(partial(self._over, call))
        return call

    def _over(self, call: Call, _task: object) -> None:
        if call.reservation:
            self.open -= 1
            call.method.open -= 1
        call.forget()

    async def _admit(self, context: Context, call: Call) -> None:
        """Count the call, and reserve a window for it."""
        method = call.method
        if error := self._calls.check(call.head):
            await self._refuse(context, call, error)
        if self.open >= self._most_open or method.open >= method.most_open:
            await self._refuse(context, call, QueueFull("too many calls are open; try again"))
        call.reservation = self._budget.reserve(WINDOW_BYTES)
        if call.reservation is None:
            await self._refuse(context, call, QueueFull(NO_ROOM))
        self.open += 1
        method.open += 1

    async def _read(self, context: Context, call: Call) -> bytes:
        """The call's message, unpacked. Its bytes are counted twice: as they came, and as what is made of them."""
        call.began = self._loop.time()
        self._reading[context] = call
        try:
            request = await context.read()
        finally:
            del self._reading[context]
            self._slow -= call.is_slow
        if request is grpc.aio.EOF:
            with contextlib.suppress(grpc.aio.InternalError):  # the caller went away
                await self._refuse(context, call, InvalidRequest("the call has no message"))
            raise asyncio.CancelledError
        most_bytes = call.method.most_bytes
        if request[:1] in _FIRST_OF_PACKED and len(request) <= most_bytes and (coding := _coding(request)):
            request = await self._unpack(context, call, request, coding)
        if len(request) > most_bytes:
            await self._refuse(context, call, _too_large(most_bytes))
        if not call.resize(2 * len(request)):
            await self._refuse(context, call, QueueFull(NO_ROOM))
        return bytes(request)

    async def _unpack(self, context: Context, call: Call, request: bytes, coding: bytes) -> bytes:
        most_bytes = call.method.most_bytes
        try:
            plain = unpack(request, coding, min(_LARGE_BYTES, most_bytes))
            if plain is None and most_bytes > _LARGE_BYTES:
                if not call.resize(len(request) + most_bytes):
                    raise QueueFull(NO_ROOM)
                plain = await self._loop.run_in_executor(None, unpack, request, coding, most_bytes)
            if plain is not None:
                return plain
            refusal: MillraceError = _too_large(most_bytes)
        except MillraceError as error:
            refusal = error.with_traceback(None)
        await self._refuse(context, call, refusal)
        raise AssertionError("refuse raises")

    async def _messages(
        self, method: CountedMethod, requests: AsyncIterator[bytes], context: Context, call: Call
    ) -> AsyncIterator[Message]:
        """The messages of a stream, each counted twice: as it came, and as what is made of it."""
        self._idle_streams[context] = call
        try:
            async for request in requests:
                self._idle_streams.pop(context, None)
                plain: bytes | None = None
                if coding := _coding(request):  # one that cannot be unpacked within its limit comes as it is
                    with contextlib.suppress(MillraceError):
                        plain = await self._loop.run_in_executor(None, unpack, request, coding, method.most_bytes)
                body = request if plain is None else plain
                if len(body) > method.most_bytes:
                    raise _too_large(method.most_bytes)
                reservation = self._budget.reserve(2 * len(body))
                if reservation is None:
                    raise QueueFull(NO_ROOM)
                yield Message(body, reservation)
                self._idle_streams[context] = call
        finally:
            self._idle_streams.pop(context, None)

    async def _answered(self, answering: Awaitable[Answer], context: Context, call: Call) -> Any:
        """The bytes that answer; a large answer is counted until it is sent."""
        try:
            answer = await answering
        except (grpc.aio.AbortError, grpc.aio.InternalError, grpc.aio.UsageError):
            raise
        except Exception as error:
            if not isinstance(error, MillraceError):
                _log.exception("a call failed")
                error = Internal("internal error; the server's log has it")
            await self._refuse(context, call, error)
            raise AssertionError("refuse raises") from None
        await self._end(context, answer)
        body = await body_of(answer)
        if len(body) > _LARGE_BYTES and not call.resize(len(body)):
            await self._refuse(context, call, QueueFull(NO_ROOM))
        return body

    async def _end(self, context: Context, answer: Answer) -> None:
        """Say how the call ends; raises what tells gRPC of an error."""
        if answer.status != Status.OK:
            await context.abort(_STATUSES[answer.status], answer.text, answer.trailers)
        context.set_trailing_metadata(answer.trailers)

    async def _refuse(self, context: Context, call: Call, error: MillraceError) -> None:
        await self._end(context, self._calls.refused(call.head, error))

    # Slow callers

    def _sweep(self) -> None:
        """Find room for the largest message for each caller that is slow to send one, or refuse it.

        How much of a message has come nobody can ask gRPC.
        """
        now = self._loop.time()
        for context, call in list(self._reading.items()):
            if call.began > now - _SWEEP_S:
                break  # those behind are younger
            if call.is_given_up:
                continue
            if not call.is_slow:
                if not self._has_room(call) and not (self._take_from_oldest(now) and self._has_room(call)):
                    self._give_up(context, call, QueueFull(NO_ROOM))
            elif call.began < now - self._timeout_s:
                self._give_up(context, call, DeadlineExceeded(f"no message came within {self._timeout_s:.0f} s"))
        if self._idle_streams and (excess := self.excess_bytes()):
            for context, call in list(self._idle_streams.items())[: 1 + excess // self._most_bytes]:
                del self._idle_streams[context]
                self._give_up(context, call, QueueFull(_NO_MEMORY))
        self._sweeping = self._loop.call_later(_SWEEP_S, self._sweep)

    def _has_room(self, call: Call) -> bool:
        """Whether there is room for the largest message, which the call has then."""
        call.is_slow = self._slow < self._most_slow and call.resize(self._most_bytes)
        self._slow += call.is_slow
        return call.is_slow

    def _take_from_oldest(self, now: float) -> bool:
        """Give up the slow call that began first, if it has had its time: else a few could keep all others out."""
        for context, call in self._reading.items():
            if call.is_slow:
                if call.began > now - _PATIENCE_S:
                    return False
                call.is_slow = False
                self._slow -= 1
                call.resize(WINDOW_BYTES)
                self._give_up(context, call, QueueFull(_TOO_SLOW))
                return True
        return False

    def _give_up(self, context: Context, call: Call, error: MillraceError) -> None:
        call.is_given_up = True

        async def give_up() -> None:
            with contextlib.suppress(grpc.aio.AbortError, grpc.aio.InternalError, grpc.aio.UsageError):
                await self._refuse(context, call, error)

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


def _too_large(most_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the message is larger than the {most_bytes} bytes that are allowed")
