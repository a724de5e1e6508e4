"""One gRPC call, from the bytes of its message to those of its answer; errors become gRPC's statuses.

Messages are read and written here, and not by gRPC: a handler gets bytes and returns bytes.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, NoReturn

import grpc

from millrace.protocol.errors import Internal, MillraceError, NotAuthenticated
from serving.access import audit
from serving.access.callers import Caller, Peer, grpc_address
from serving.access.gate import ANY, CONTROL, INFER, SEE, check_model, check_role, current, name_of
from serving.call import Call
from serving.execution import Execution
from serving.protocols import counted_messages
from serving.protocols.rest_calls import Headers, admit, timeout_ms
from serving.protocols.verb import Body, Rendered, Verb
from serving.service import Service
from serving.transport.budget import Reservation
from serving.transport.responses import HttpResponse, shortened
from serving.transport.spooled_body import SpooledBody

_log = logging.getLogger(__name__)
_MOST: dict[str, int] = {"config": 1024, "version_labels": 1024, "versions": 1024}  # of a reload, by field
_MAX_FIELDS = 16_384
_HEADERS = {
    name: name.encode()
    for name in ("x-request-id", "x-request-timeout-ms", "authorization", "x-api-key", "traceparent")
}
_KEYS = (b"authorization", b"x-api-key")  # of which two of one name are none

# The methods that change models, as the record has them.
CONTROL_ACTIONS = {
    "/inference.GRPCInferenceService/RepositoryModelLoad": "load",
    "/inference.GRPCInferenceService/RepositoryModelUnload": "unload",
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest": "reload",
}

_HEALTH, _OIP, _TFS = "/grpc.health.v1.Health/", "/inference.GRPCInferenceService/", "/tensorflow.serving."
# The roles of which a caller's key needs one, by the method's path. () is open; what is not here needs control.
ROLES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((f"{_HEALTH}Check", f"{_HEALTH}Watch"), ()),
    **dict.fromkeys([f"{_OIP}{name}" for name in ("ServerLive", "ServerReady", "ModelReady")], ()),
    f"{_OIP}ServerMetadata": ANY,
    **dict.fromkeys([f"{_OIP}{name}" for name in ("ModelInfer", "ModelStreamInfer")], INFER),
    **dict.fromkeys([f"{_OIP}{name}" for name in ("ModelMetadata", "ModelConfig")], SEE),
    **dict.fromkeys([f"{_OIP}{name}" for name in ("ModelStatistics", "RepositoryIndex")], SEE),
    **dict.fromkeys([f"{_OIP}{kind}SharedMemoryStatus" for kind in ("System", "Cuda")], SEE),
    **dict.fromkeys(
        [f"{_TFS}PredictionService/{name}" for name in ("Predict", "Classify", "Regress", "MultiInference")], INFER
    ),
    f"{_TFS}PredictionService/GetModelMetadata": SEE,
    f"{_TFS}ModelService/GetModelStatus": SEE,
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
# The model that a message names, "" for none.
ModelOf = Callable[[Any], str]
# An error as a protocol words it.
Words = Callable[[MillraceError], tuple[grpc.StatusCode, str]]


def status_of(error: MillraceError) -> grpc.StatusCode:
    """gRPC's status for the error."""
    return grpc.StatusCode[error.code]


def headers_of(context: Context) -> Headers:
    """Of the call's metadata what means something here."""
    found: dict[bytes, bytes] = {}
    for key, value in context.invocation_metadata():
        if name := _HEADERS.get(key):
            value = value.encode()
            found[name] = found[name] + b"," + value if name in _KEYS and name in found else value
    return found


def peer_of(service: Service, context: Context) -> str:
    """The caller's address, with the name in its certificate where callers have some."""
    address = grpc_address(context.peer())
    if service.gate is None:
        return address
    shown = context.auth_context()
    names = [*shown.get("x509_common_name", ()), *shown.get("x509_subject_alternative_name", ())]
    return Peer(address, names[0].decode("utf-8", "replace") if names else "")


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
    request_id, peer = service.request_id(headers), peer_of(service, context)
    call = Call(verb.protocol, request_id, time.perf_counter(), peer, model, version, label)
    if service.tracer:
        call.trace = service.tracer.begin(headers.get(b"traceparent"))
    try:
        if service.gate:
            admit(service.gate, call, headers, peer)
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
    service: Service,
    message_class: Any,
    method: Callable[[Any], Awaitable[Any]],
    words: Words,
    model_of: ModelOf | None = None,
    *,
    is_open: bool = False,
) -> grpc.RpcMethodHandler:
    """A method that needs no queue: `method` gets a message and returns one, or raises `MillraceError`.

    `model_of` finds in the message the model that the caller's key must be good for. One that `is_open` needs no key.
    """

    async def handle(request: bytes, context: Context) -> bytes:
        checked = method if is_open else _for_key(service, context, method, model_of)
        return await _answer(service, message_class, checked, words, headers_of(context), request, context)

    return grpc.unary_unary_rpc_method_handler(handle)


def _for_key(
    service: Service, context: Context, method: Callable[[Any], Awaitable[Any]], model_of: ModelOf | None
) -> Callable[[Any], Awaitable[Any]]:
    """The method, for callers whose key is good for the model."""
    gate = service.gate
    if gate is None:
        return method

    async def checked(message: Any) -> Any:
        key = gate.identify(headers_of(context), peer_of(service, context))
        current.set(key)
        if key and model_of and (model := model_of(message)):
            check_model(key, model)
        return await method(message)

    return checked


def control(
    service: Service,
    message_class: Any,
    method: Callable[[Any, Caller], Awaitable[Any]],
    words: Words,
    model_of: ModelOf,
) -> grpc.RpcMethodHandler:
    """A method that changes models: as `plain`, and `method` gets the caller, too. See `control_refusal`."""

    async def handle(request: bytes, context: Context) -> bytes:
        headers = dict(headers_of(context))
        caller = _caller(service, context)
        headers[b"x-request-id"] = caller.request_id.encode()  # the answer's is that of the record

        async def by_caller(message: Any) -> Any:
            return await method(message, caller)

        checked = _for_key(service, context, by_caller, model_of)
        return await _answer(service, message_class, checked, words, headers, request, context)

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


def refusal(service: Service, path: str, context: Context) -> MillraceError | None:
    """Why the caller may not call the method at that path, by the call's head alone."""
    headers, peer, error = headers_of(context), peer_of(service, context), None
    caller = Caller(str(peer), service.request_id(headers), "grpc")
    try:
        if service.gate and (roles := ROLES.get(path, CONTROL)):
            key = service.gate.identify(headers, peer)
            caller = caller._replace(name=name_of(key, peer))
            if key:
                check_role(key, roles)
    except MillraceError as raised:
        error = raised.with_traceback(None)
    if path in CONTROL_ACTIONS:
        metadata = {
            key.encode(): value.encode() for key, value in context.invocation_metadata() if isinstance(value, str)
        }
        error = error or service.access.check(metadata, caller, has_host=False)
        if error:
            error.request_id = caller.request_id
            audit.refused(error, caller, CONTROL_ACTIONS[path], "")
    return error


def _caller(service: Service, context: Context) -> Caller:
    peer, name = peer_of(service, context), ""
    if service.gate:
        try:
            name = name_of(service.gate.identify(headers_of(context), peer), peer)
        except NotAuthenticated:
            name = ""  # as the record has it of a stranger
    return Caller(str(peer), service.request_id(headers_of(context)), "grpc", name)


async def abort(context: Context, answer: HttpResponse, error: MillraceError, words: Words) -> NoReturn:
    """End a call with an error. Raises what tells gRPC of it."""
    status, text = words(error)
    # The answer has the error, and the frames that this came through have the answer: a circle that would keep them.
    error.__traceback__ = error.__context__ = None
    await context.abort(status, shortened(text), metadata_of(answer))
    raise AssertionError("abort raises")
