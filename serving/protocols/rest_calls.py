"""One call over HTTP: from the head and the body of a request to a response, whatever the protocol's JSON is."""

import asyncio
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from millrace.protocol.errors import InvalidRequest, MillraceError
from serving.access.gate import INFER, Gate, name_of
from serving.call import Call
from serving.execution import Execution
from serving.protocols import uploads
from serving.protocols.verb import Body, Rendered
from serving.routing import Target, target
from serving.transport.budget import SMALL_BYTES, Reservation
from serving.transport.responses import HttpResponse, error_body, error_headers
from serving.transport.spooled_body import SpooledBody

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving.service import Service
    from serving.transport.request_head import RequestHead

Headers = Mapping[bytes, bytes]  # names in lower case
_STAGES = "parse;dur=%.3f, queue;dur=%.3f, batch;dur=%.3f, compute;dur=%.3f, reply;dur=%.3f"
_JSON = ("content-type", "application/json")


class RestCalls:
    """The hot verbs over HTTP. Its methods run on the event loop."""

    def __init__(self, service: "Service") -> None:
        self._service = service

    def check(self, head: "RequestHead", peer: str) -> MillraceError | None:
        """Why a request for a hot verb is refused before its body is read; None where it may go on.

        A small body is here already, or almost: `begin` asks the same at once.
        """
        if 0 <= head.length <= SMALL_BYTES or not (found := target(head.path)):
            return None
        service = self._service
        try:
            if service.gate:
                service.gate.check_limits(service.gate.check(head.headers, peer, INFER, found.model))
            model = service.models.find(found.model, found.version, found.label)
            timeout_s = timeout_ms(head.headers, service.settings.request_timeout_ms) / 1000
            service.producer.refuse_if_late(model.name, model.version, found.verb.priority, timeout_s)
        except MillraceError as error:
            return error.with_traceback(None)
        return None

    def begin(
        self,
        target: Target,
        headers: Headers,
        body: bytes | SpooledBody,
        peer: str,
        reservation: Reservation | None,
        done: "Callable[[HttpResponse], None]",
    ) -> Execution | None:
        """Answer a hot verb by calling `done` once, now or later; unless what is returned is withdrawn.

        The body has no content coding any more. None is returned where the answer is there already.
        """
        service = self._service
        verb, model, version, label = target
        call = Call(verb.protocol, service.request_id(headers), time.perf_counter(), peer, model, version, label)
        if service.tracer:
            since = reservation.since if reservation else 0.0
            call.trace = service.tracer.begin(headers.get(b"traceparent"), since)
        error_text = verb.error_text

        def finish(
            call: Call,
            rendered: Rendered | None,
            spooled: SpooledBody | None = None,
            held: Reservation | None = None,
        ) -> None:
            if rendered is None:
                done(self._failure(call, error_text))
            else:
                headers = (*rendered.headers, *self._headers(call))
                done(HttpResponse(200, rendered.body, headers, None, spooled, held))

        try:
            if service.gate:
                admit(service.gate, call, headers, peer)
            call.timeout_ms = timeout_ms(headers, service.settings.request_timeout_ms)
        except MillraceError as error:
            if not isinstance(body, bytes):
                body.close()
            if reservation:
                reservation.release()
            call.error, call.status = error.with_traceback(None), error.status
            service.ended(call, error_text)
            finish(call, None)
            return None
        accepted = headers.get(b"accept-encoding")
        execution = Execution(service, call, verb, finish, accepted, reservation)
        kind = uploads.content_type(headers)
        json_length = headers.get(b"inference-header-content-length") if kind is None else None
        if isinstance(body, bytes):
            execution.begin(Body(body, json_length, content_type=kind))
        else:
            execution.begin(Body(b"", json_length, content_type=kind), body)
        return execution

    async def answer(self, target: Target, headers: Headers, body: bytes, peer: str = "") -> HttpResponse:
        """The answer to a hot verb, for servers that wait for it."""
        future: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()
        self.begin(target, headers, body, peer, None, future.set_result)
        return await future

    def refused(self, target: Target, headers: Headers, error: MillraceError) -> HttpResponse:
        """The answer to a request for a hot verb whose body was not taken."""
        call = Call(target.verb.protocol, self._service.request_id(headers), time.perf_counter())
        call.target_model, call.target_version, call.label = target.model, target.version, target.label
        call.error, call.status = error, error.status
        self._service.ended(call, target.verb.error_text)
        return self._failure(call, target.verb.error_text)

    def refusal(self, call: Call) -> HttpResponse:
        """The answer to a request that was refused before any verb saw it."""
        return self._failure(call, str)

    def _failure(self, call: Call, error_text: "Callable[[MillraceError], str]") -> HttpResponse:
        error = call.error
        if error is None:
            raise AssertionError("a call without a response has an error")
        headers = (_JSON, *self._headers(call), *error_headers(error))
        return HttpResponse(error.status, error_body(error_text(error)), headers, error)

    def _headers(self, call: Call) -> tuple[tuple[str, str], ...]:
        if t := call.timings:
            stages = _STAGES % (call.parse_ms, t.queue_ms, t.batch_ms, t.compute_ms, t.reply_ms)
        else:
            stages = f"parse;dur={call.parse_ms:.3f}"
        own: tuple[tuple[str, str], ...] = (("x-request-id", call.request_id), ("server-timing", stages))
        if call.trace:
            own = (*own, ("traceparent", call.trace.traceparent))
        return (*own, *self._service.cors)


def admit(gate: Gate, call: Call, headers: Headers, peer: str) -> None:
    """Let the call in, or not: it counts against its caller's key until it has ended.

    Raises `NotAuthenticated`, `NotAllowed`, `LimitReached`.
    """
    call.key = gate.admit(headers, peer, call.target_model)
    if name := name_of(call.key, peer):
        call.name = call.caller = name


def timeout_ms(headers: Headers, longest_ms: float) -> float:
    """The time that the request has, where its body names none: the shorter of its header's and the longest.

    Raises `InvalidRequest` for a header that is no number above 0.
    """
    given = headers.get(b"x-request-timeout-ms")
    if not given:
        return float(longest_ms)
    try:
        milliseconds = float(given)
    except ValueError:
        milliseconds = math.nan
    if not milliseconds > 0:
        raise InvalidRequest(f"X-Request-Timeout-Ms must be a number above 0, got {given.decode('latin-1')!r}")
    return min(float(longest_ms), milliseconds)
