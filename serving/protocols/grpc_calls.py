"""One gRPC call, from the bytes of its message to those of its answer; errors become gRPC's statuses.

Messages are read and written here: whatever carries the calls (`serving.transport.grpc_method`) has bytes.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

from millrace.protocol.errors import Internal, MillraceError, NotAuthenticated
from serving.access import audit
from serving.access.callers import Caller
from serving.access.gate import ANY, CONTROL, INFER, SEE, check_model, check_role, current, name_of
from serving.call import Call
from serving.execution import Execution, OnDone
from serving.protocols import counted_messages
from serving.protocols.rest_calls import admit, timeout_ms
from serving.protocols.verb import Body, Rendered, Verb
from serving.service import Service
from serving.transport import intake
from serving.transport.budget import Reservation
from serving.transport.grpc_method import Answer, CallHead, Done, Message, Status
from serving.transport.handler import Withdraw
from serving.transport.responses import HttpResponse, shortened
from serving.transport.spooled_body import SpooledBody

_log = logging.getLogger(__name__)
_MOST: dict[str, int] = {"config": 1024, "version_labels": 1024, "versions": 1024}  # of a reload, by field
_MAX_FIELDS = 16_384

# The methods that change models, as the record has them.
CONTROL_ACTIONS = {
    "/inference.GRPCInferenceService/RepositoryModelLoad": "load",
    "/inference.GRPCInferenceService/RepositoryModelUnload": "unload",
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest": "reload",
}

Begin = Callable[[Message, CallHead, Done], Withdraw | None]

_HEALTH, _OIP, _TFS = "/grpc.health.v1.Health/", "/inference.GRPCInferenceService/", "/tensorflow.serving."
# The roles of which a caller's key needs one, by the method's path. () is open; what is not here needs control.
ROLES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((f"{_HEALTH}Check", f"{_HEALTH}Watch"), ()),
    **dict.fromkeys([f"{_OIP}{name}" for name in ("ServerLive", "ServerReady", "ModelReady")], ()),
    f"{_OIP}ServerMetadata": ANY,
    **dict.fromkeys([f"/grpc.reflection.{v}.ServerReflection/ServerReflectionInfo" for v in ("v1", "v1alpha")], ANY),
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


class Asked(NamedTuple):
    """What a message asks for: a verb, of a model, its version or label; and the body for it."""

    verb: Verb
    model: str
    version: int | None
    label: str | None
    body: Body


# What the bytes of a message ask for; raises `MillraceError`.
Question = Callable[[bytes | memoryview], Asked]
# The model that a message names, "" for none.
ModelOf = Callable[[Any], str]
# An error as a protocol words it.
Words = Callable[[MillraceError], tuple[Status, str]]


def status_of(error: MillraceError) -> Status:
    """gRPC's status for the error."""
    return Status[error.code]


def failure(response: HttpResponse, error: MillraceError, words: Words) -> Answer:
    """The answer to a call that failed; the response is what HTTP would say."""
    status, text = words(error)
    # The answer has the error, and the frames that this came through have the answer: a circle that would keep them.
    error.__traceback__ = error.__context__ = None
    return Answer(status=status, text=shortened(text), trailers=_trailers(response))


def _trailers(response: HttpResponse) -> tuple[tuple[str, str], ...]:
    """What a response's headers are in gRPC: only what callers act on."""
    return tuple([header for header in response.headers if header[0] in ("x-request-id", "retry-after")])


def read(message_class: Any, request: bytes | memoryview) -> Any:
    """The message in the bytes, of a method that needs no queue. Raises `InvalidRequest`, `PayloadTooLarge`."""
    counted_messages.check_fields(message_class, request, _MOST, _MAX_FIELDS)
    return counted_messages.read(message_class, request)


def contents(body: intake.Body) -> bytes | memoryview:
    """The bytes of a message; of a large one a view of its file, which lasts as long as the view is used."""
    return body if isinstance(body, bytes) else body.mapped()


# Methods whose requests go through the queue


def hot(service: Service, question: Question, words: Words) -> Begin:
    """A method whose requests go through the queue."""

    def begin(message: Message, head: CallHead, done: Done) -> Withdraw | None:
        try:
            asked = question(contents(message.body))
        except Exception as error:
            message.close()
            done(_refused(service, head, error, words))
            return None

        def finish(
            call: Call,
            rendered: Rendered | None,
            spooled: SpooledBody | None = None,
            held: Reservation | None = None,
        ) -> None:
            if call.error or rendered is None:
                done(failure(service.rest.refusal(call), call.error or Internal("no answer"), words))
            else:
                body = rendered.body if spooled is None else spooled
                done(Answer(body, Status.OK, "", (("x-request-id", call.request_id),), held))

        execution = _begin(service, asked, head, message, finish)
        return execution.withdraw if execution else None

    return begin


class CallResult(NamedTuple):
    """What came of a call: its response, spooled where it is large and counted then; or none and the call's error."""

    call: Call
    rendered: Rendered | None
    spooled: SpooledBody | None = None
    held: Reservation | None = None

    async def read(self) -> bytes:
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


def _refused(service: Service, head: CallHead, raised: Exception, words: Words) -> Answer:
    """The answer to a call that failed before anything was asked of a model."""
    error = raised
    if not isinstance(error, MillraceError):
        _log.error("a call failed", exc_info=raised)
        error = Internal("internal error; the server's log has it")
    return failure(service.refused(head.headers, error, "grpc"), error, words)


async def ask(service: Service, asked: Asked, head: CallHead, message: Message) -> CallResult:
    """What comes of a question; cancelling this withdraws the request. The message is closed once it is used."""
    future: asyncio.Future[CallResult] = asyncio.get_running_loop().create_future()

    def settle(
        call: Call,
        rendered: Rendered | None,
        spooled: SpooledBody | None = None,
        held: Reservation | None = None,
    ) -> None:
        if not future.done():  # cancelled in this turn of the loop, before it could be withdrawn
            future.set_result(CallResult(call, rendered, spooled, held))

    execution = _begin(service, asked, head, message, settle)
    try:
        return await future
    finally:
        if future.cancelled() and execution:
            execution.withdraw()


def _begin(service: Service, asked: Asked, head: CallHead, message: Message, on_done: OnDone) -> Execution | None:
    """Begin to answer; None where the answer is there already."""
    verb, model, version, label, body = asked
    headers = head.headers
    call = Call(verb.protocol, service.request_id(headers), time.perf_counter(), head.peer, model, version, label)
    if service.tracer:
        call.trace = service.tracer.begin(headers.get(b"traceparent"))
    try:
        if service.gate:
            admit(service.gate, call, headers, head.peer)
        call.timeout_ms = timeout_ms(headers, service.settings.request_timeout_ms)
    except MillraceError as error:
        message.close()
        call.error, call.status = error.with_traceback(None), error.status
        service.ended(call, verb.error_text)
        on_done(call, None)
        return None
    left_s = head.seconds_left()
    if left_s is not None:
        call.timeout_ms = min(call.timeout_ms, left_s * 1000)
    execution = Execution(service, call, verb, on_done, reservation=message.reservation)
    execution.begin(body, message.body if isinstance(message.body, SpooledBody) else None)
    return execution


# Methods that need no queue


def plain(
    service: Service,
    message_class: Any,
    method: Callable[[Any], Awaitable[Any]],
    words: Words,
    model_of: ModelOf | None = None,
    *,
    is_open: bool = False,
) -> Begin:
    """A method that needs no queue: `method` gets a message and returns one, or raises `MillraceError`.

    `model_of` finds in the message the model that the caller's key must be good for. One that `is_open` needs no key.
    """

    async def answer(message: Message, head: CallHead) -> Answer:
        request = read(message_class, contents(message.body))
        if not is_open:
            _check_key(service, head, model_of, request)
        written = (await method(request)).SerializeToString()
        return Answer(written, trailers=(("x-request-id", service.request_id(head.headers)),))

    return awaited(service, answer, words)


def _check_key(service: Service, head: CallHead, model_of: ModelOf | None, message: Any) -> None:
    """Raises `NotAuthenticated`, and `NotAllowed` for a model that the caller's key is not good for."""
    if service.gate is None:
        return
    key = service.gate.identify(head.headers, head.peer)
    current.set(key)
    if key and model_of and (model := model_of(message)):
        check_model(key, model)


def control(
    service: Service,
    message_class: Any,
    method: Callable[[Any, Caller], Awaitable[Any]],
    words: Words,
    model_of: ModelOf,
) -> Begin:
    """A method that changes models: as `plain`, and `method` gets the caller, too. See `control_refusal`."""

    def begin(message: Message, head: CallHead, done: Done) -> Withdraw | None:
        caller = _caller(service, head)
        headers = {**head.headers, b"x-request-id": caller.request_id.encode()}  # the answer's is that of the record
        known = CallHead(head.path, headers, head.peer, head.timeout_s)
        by_caller = plain(service, message_class, partial(_by_caller, method, caller), words, model_of)
        return by_caller(message, known, done)

    return begin


async def _by_caller(method: Callable[[Any, Caller], Awaitable[Any]], caller: Caller, message: Any) -> Any:
    return await method(message, caller)


def awaited(service: Service, answer: Callable[[Message, CallHead], Awaitable[Answer]], words: Words) -> Begin:
    """A method that is a coroutine, which runs as a task; `MillraceError` and whatever else it raises are answers."""

    def begin(message: Message, head: CallHead, done: Done) -> Withdraw:
        task = asyncio.get_running_loop().create_task(_settled(service, answer, words, message, head))

        def finish(ended: asyncio.Task[Answer]) -> None:
            message.close()
            if not ended.cancelled():
                done(ended.result())

        task.add_done_callback(finish)
        return lambda: _cancel(task)

    return begin


def _cancel(task: "asyncio.Task[Answer]") -> None:
    task.cancel()


async def _settled(
    service: Service,
    answer: Callable[[Message, CallHead], Awaitable[Answer]],
    words: Words,
    message: Message,
    head: CallHead,
) -> Answer:
    try:
        return await answer(message, head)
    except Exception as error:
        return _refused(service, head, error, words)


# Who may call


def refusal(service: Service, head: CallHead) -> MillraceError | None:
    """Why the caller may not call the method, before its message is read."""
    action = CONTROL_ACTIONS.get(head.path)
    if action is None and service.gate is None:
        return None
    headers, peer, error = head.headers, head.peer, None
    caller = Caller(str(peer), service.request_id(headers), "grpc")
    try:
        if service.gate and (roles := ROLES.get(head.path, CONTROL)):
            key = service.gate.identify(headers, peer)
            caller = caller._replace(name=name_of(key, peer))
            if key:
                check_role(key, roles)
    except MillraceError as raised:
        error = raised.with_traceback(None)
    if action:
        error = error or service.access.check(headers, caller, has_host=False)
        if error:
            error.request_id = caller.request_id
            audit.refused(error, caller, action, "")
    return error


def _caller(service: Service, head: CallHead) -> Caller:
    peer, name = head.peer, ""
    if service.gate:
        try:
            name = name_of(service.gate.identify(head.headers, peer), peer)
        except NotAuthenticated:
            name = ""  # as the record has it of a stranger
    return Caller(str(peer), service.request_id(head.headers), "grpc", name)
