"""One gRPC call, from the bytes of its message to those of its answer; errors become gRPC's statuses.

Messages are read and written here, and not by gRPC: a handler gets bytes and returns bytes.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from millrace.protocol.errors import Internal, InvalidRequest, MillraceError
from serving.access import audit
from serving.access.callers import Caller, grpc_address
from serving.service import Headers, Service, Target
from serving.transport.responses import HttpResponse, shortened

_log = logging.getLogger(__name__)
_LARGE_MESSAGE_BYTES = 256 * 1024
_HEADERS = {"x-request-id": b"x-request-id", "x-request-timeout-ms": b"x-request-timeout-ms"}

# The methods that change models, as the record has them.
CONTROL_ACTIONS = {
    "/inference.GRPCInferenceService/RepositoryModelLoad": "load",
    "/inference.GRPCInferenceService/RepositoryModelUnload": "unload",
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest": "reload",
}

Context = Any  # grpc.aio.ServicerContext
# What a message asks for, whose caller's deadline is in so many milliseconds (None: has none).
Question = Callable[[Any, float | None], Target]
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
    """The message in the bytes. Raises `InvalidRequest`."""
    try:
        if len(request) > _LARGE_MESSAGE_BYTES:  # too long for the event loop, which has others to serve
            return await asyncio.get_running_loop().run_in_executor(None, message_class.FromString, request)
        return message_class.FromString(request)
    except DecodeError:
        raise InvalidRequest(f"the message cannot be read as {message_class.DESCRIPTOR.full_name}") from None


def hot(service: Service, message_class: Any, question: Question, words: Words) -> grpc.RpcMethodHandler:
    """A method whose requests go through the queue."""

    async def handle(request: bytes, context: Context) -> bytes:
        headers = headers_of(context)
        try:
            target = question(await read(message_class, request), milliseconds_left(context))
        except MillraceError as error:
            answer = service.refused(headers, error, "grpc")
        else:
            answer = await ask(service, target, headers, request)
        if answer.error:
            await abort(context, answer, answer.error, words)
        context.set_trailing_metadata(metadata_of(answer))
        return answer.body

    return grpc.unary_unary_rpc_method_handler(handle)


async def ask(service: Service, target: Target, headers: Headers, body: bytes) -> HttpResponse:
    """The answer to a hot verb; cancelling this withdraws the request."""
    future: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()

    def settle(answer: HttpResponse) -> None:
        if not future.done():  # cancelled in this turn of the loop, before it could be withdrawn
            future.set_result(answer)

    call = service.begin(target, headers, body, settle)
    try:
        return await future
    finally:
        if future.cancelled():
            call.withdraw()


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
    await context.abort(status, shortened(text), metadata_of(answer))
    raise AssertionError("abort raises")
