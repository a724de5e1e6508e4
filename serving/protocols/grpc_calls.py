"""One gRPC call, from the bytes of its message to those of its answer; errors become gRPC's statuses.

Messages are read and written here, and not by gRPC: a handler gets bytes and returns bytes.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, NoReturn

import grpc

from millrace.protocol.errors import Internal, MillraceError
from serving.access import audit
from serving.access.callers import Caller, grpc_address
from serving.call import Call
from serving.execution import Execution
from serving.protocols import counted_messages
from serving.protocols.rest_calls import Headers, timeout_ms
from serving.protocols.verb import Body, Rendered, Verb
from serving.service import Service
from serving.transport.budget import Reservation
from serving.transport.responses import HttpResponse, shortened
from serving.transport.spooled_body import SpooledBody

_log = logging.getLogger(__name__)
_MOST: dict[str, int] = {"config": 1024, "version_labels": 1024, "versions": 1024}  # of a reload, by field
_MAX_FIELDS = 16_384
_HEADERS = {"x-request-id": b"x-request-id", "x-request-timeout-ms": b"x-request-timeout-ms"}

# The methods that change models, as the record has them.
CONTROL_ACTIONS = {
    "/inference.GRPCInferenceService/RepositoryModelLoad": "load",
    "/inference.GRPCInferenceService/RepositoryModelUnload": "unload",
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest": "reload",
}

Context = Any  # grpc.aio.ServicerContext


class Asked(NamedTuple):
    """What a message asks for: a verb, of a model, its version or label; and the body for it."""

    verb: Verb
    model: str
    version: int | None
    label: str | None
    body: Body


# What the bytes of a message ask for; raises `MillraceError`.
Question = Callable[[bytes], Asked]
# An error as a protocol words it.
Words = Callable[[MillraceError], tuple[grpc.StatusCode, str]]


def status_of(error: MillraceError) -> grpc.StatusCode:
    """gRPC's status for the error."""
    return grpc.StatusCode[error.code]


def headers_of(context: Context) -> Headers:
    """Of the call's metadata what means something here."""
    found: dict[bytes, bytes] = {}
    for key, value in context.invocation_metadata():
        if key in _HEADERS:
            found[_HEADERS[key]] = value.encode()
    return found


def metadata_of(answer: HttpResponse) -> tuple[tuple[str, str], ...]:
    """What an answer's headers are in gRPC. Each costs several microseconds, so only what callers act on."""
    return tuple([header for header in answer.headers if header[0] in ("x-request-id", "retry-after")])


def milliseconds_left(context: Context) -> float | None:
    """The time until the caller's deadline."""
    left_s: float | None = context.time_remaining()
    return None if left_s is None else left_s * 1000


async def read(message_class: Any, request: bytes) -> Any:
    """The message in the bytes, of a method that needs no queue. Raises `InvalidRequest`, `PayloadTooLarge`."""
    counted_messages.check_fields(message_class, request, _MOST, _MAX_FIELDS)
    return counted_messages.read(message_class, request)


def hot(service: Service, question: Question, words: Words) -> grpc.RpcMethodHandler:
    """A method whose requests go through the queue."""

    async def handle(request: bytes, context: Context) -> bytes:
        try:
            asked = question(request)
        except MillraceError as error:
            await abort(context, service.refused(headers_of(context), error, "grpc"), error, words)
        result = await ask(service, asked, context)
        return await answered(service, result, context, words)

    return grpc.unary_unary_rpc_method_handler(handle)


class CallResult(NamedTuple):
    """What came of a call: its response, spooled where it is large and counted then; or none and the call's error."""

    call: Call
    rendered: Rendered | None
    spooled: SpooledBody | None = None
    held: Reservation | None = None

    async def body(self) -> bytes:
        """The response's bytes. A large one is read in a thread, since that takes a moment."""
        if self.rendered is None:
            raise AssertionError("a call that failed has no body")
        if self.spooled is None:
            return self.rendered.body
        body = await asyncio.get_running_loop().run_in_executor(None, self.spooled.read)
        self.spooled.close()
        if self.held:
            self.held.release()
        return body


async def answered(service: Service, result: CallResult, context: Context, words: Words) -> bytes:
    """The bytes that answer a call; ends it with its error where it has one."""
    call = result.call
    if call.error:
        await abort(context, service.rest.refusal(call), call.error, words)
    body = await result.body()
    context.set_trailing_metadata((("x-request-id", call.request_id),))
    return body


async def ask(service: Service, asked: Asked, context: Context) -> CallResult:
    """What comes of a question; cancelling this withdraws the request."""
    future: asyncio.Future[CallResult] = asyncio.get_running_loop().create_future()

    def settle(
        call: Call,
        rendered: Rendered | None,
        spooled: SpooledBody | None = None,
        held: Reservation | None = None,
    ) -> None:
        if not future.done():  # cancelled in this turn of the loop, before it could be withdrawn
            future.set_result(CallResult(call, rendered, spooled, held))

    headers = headers_of(context)
    verb, model, version, label, _ = asked
    request_id, peer = service.request_id(headers), grpc_address(context.peer())
    call = Call(verb.protocol, request_id, time.perf_counter(), peer, model, version, label)
    try:
        call.timeout_ms = timeout_ms(headers, service.settings.request_timeout_ms)
    except MillraceError as error:
        call.error, call.status = error.with_traceback(None), error.status
        service.ended(call, asked.verb.error_text)
        return CallResult(call, None)
    left_ms = milliseconds_left(context)
    call.timeout_ms = call.timeout_ms if left_ms is None else min(call.timeout_ms, left_ms)
    execution = Execution(service, call, asked.verb, settle)
    execution.begin(asked.body)
    try:
        return await future
    finally:
        if future.cancelled():
            execution.withdraw()


def plain(
    service: Service, message_class: Any, method: Callable[[Any], Awaitable[Any]], words: Words
) -> grpc.RpcMethodHandler:
    """A method that needs no queue: `method` gets a message and returns one, or raises `MillraceError`."""

    async def handle(request: bytes, context: Context) -> bytes:
        return await _answer(service, message_class, method, words, headers_of(context), request, context)

    return grpc.unary_unary_rpc_method_handler(handle)


def control(
    service: Service, message_class: Any, method: Callable[[Any, Caller], Awaitable[Any]], words: Words
) -> grpc.RpcMethodHandler:
    """A method that changes models: as `plain`, and `method` gets the caller, too. See `control_refusal`."""

    async def handle(request: bytes, context: Context) -> bytes:
        headers = dict(headers_of(context))
        caller = _caller(service, context)
        headers[b"x-request-id"] = caller.request_id.encode()  # the answer's is that of the record

        async def by_caller(message: Any) -> Any:
            return await method(message, caller)

        return await _answer(service, message_class, by_caller, words, headers, request, context)

    return grpc.unary_unary_rpc_method_handler(handle)


async def _answer(
    service: Service,
    message_class: Any,
    method: Callable[[Any], Awaitable[Any]],
    words: Words,
    headers: Headers,
    request: bytes,
    context: Context,
) -> bytes:
    try:
        written: bytes = (await method(await read(message_class, request))).SerializeToString()
    except MillraceError as error:
        await abort(context, service.refused(headers, error, "grpc"), error, words)
    except Exception:
        _log.exception("a call failed")
        failure = Internal("internal error; the server's log has it")
        await abort(context, service.refused(headers, failure, "grpc"), failure, words)
    context.set_trailing_metadata((("x-request-id", service.request_id(headers)),))
    return written


def control_refusal(service: Service, path: str, context: Context) -> MillraceError | None:
    """Why the caller may not do what the method at that path does, which is one that changes models."""
    metadata = {key.encode(): value.encode() for key, value in context.invocation_metadata() if isinstance(value, str)}
    refusal = service.access.check(metadata, _caller(service, context), has_host=False)
    if refusal:
        audit.refused(refusal, CONTROL_ACTIONS[path], "")
    return refusal


def _caller(service: Service, context: Context) -> Caller:
    return Caller(grpc_address(context.peer()), service.request_id(headers_of(context)), "grpc")


async def abort(context: Context, answer: HttpResponse, error: MillraceError, words: Words) -> NoReturn:
    """End a call with an error. Raises what tells gRPC of it."""
    status, text = words(error)
    # The answer has the error, and the frames that this came through have the answer: a circle that would keep them.
    error.__traceback__ = error.__context__ = None
    await context.abort(status, shortened(text), metadata_of(answer))
    raise AssertionError("abort raises")
