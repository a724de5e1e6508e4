"""The execution of one call: from the bytes of its body to those of its response, whatever the protocol.

begin ──► parsed ──► sent ──► answered ──► rendered ──► ended
   │                  │                                   ├─ `on_done` has the response, or None: the call has the error
   │                  └─ withdraw: nobody waits any more, `on_done` is not called
   └─ MillraceError at any place: ended

Parsing and rendering run here as long as they are quick; what is not runs in an offload process (`NotQuick`).
"""

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec

from millrace.protocol.errors import DeadlineExceeded, Internal, MillraceError
from serving.call import Call
from serving.models.agreement import Comparison
from serving.models.registry import ServedModel
from serving.offload.jobs import Parsed, ParseJob, RenderJob, Written, describe, encoder, with_elements
from serving.offload.pool import Result, Ticket
from serving.offload.work import packed
from serving.payloads.log import Sample
from serving.protocols.limits import NotQuick
from serving.protocols.verb import Body, Rendered, Verb
from serving.queueing.admission import Inference, check, request_of
from serving.queueing.pending import Pending
from serving.queueing.requests import InferenceResponse, size_of
from serving.queueing.send_window import LARGE_BYTES, SMALL_BYTES, Place
from serving.transport.budget import Reservation
from serving.transport.intake import no_room
from serving.transport.spooled_body import SpooledBody

if TYPE_CHECKING:
    from serving.service import Service

_log = logging.getLogger(__name__)
_PACKED_HERE_BYTES = 16_384  # of outputs, whose response is packed in about a millisecond


class OnDone(Protocol):
    """Called with a call and its response; without one where the call has an error.

    A large response is `spooled`, with its headers in `rendered`; `held` counts it, and whoever sends it releases that.
    """

    def __call__(
        self,
        call: Call,
        rendered: Rendered | None,
        spooled: SpooledBody | None = None,
        held: Reservation | None = None,
    ) -> None:
        """The call has ended."""


class Execution:
    """Runs one call. Its methods run on the event loop, one after the other.

    `reservation` counts the body's bytes in the budget; it is released when the tensors are in the queue.
    """

    __slots__ = (
        "_accepted", "_body_bytes", "_comparison", "_held", "_model", "_on_done", "_pending", "_place", "_reservation",
        "_sample", "_service", "_spooled", "_ticket", "_verb", "call",
    )  # fmt: skip

    def __init__(
        self,
        service: "Service",
        call: Call,
        verb: Verb,
        on_done: OnDone,
        accepted: bytes | None = None,
        reservation: Reservation | None = None,
    ) -> None:
        self._service = service
        self.call = call
        self._verb = verb
        self._on_done: OnDone | None = on_done
        self._accepted = accepted if verb.packs else None
        self._reservation = reservation
        self._held: Reservation | None = None
        self._body_bytes = 0
        self._spooled: SpooledBody | None = None
        self._model: ServedModel | None = None
        self._pending: Pending | None = None
        self._place: Place | None = None
        self._ticket: Ticket | None = None
        self._comparison: Comparison | None = None
        self._sample: Sample | None = None

    def begin(self, body: Body, spooled: SpooledBody | None = None) -> None:
        """Begin. A large body is `spooled`, in the place of the body's data; it is closed when it is read."""
        call, service = self.call, self._service
        self._spooled = spooled
        try:
            self._model = model = service.models.find(call.target_model, call.target_version, call.label)
            call.model, call.version = model.name, model.version
            service.producer.refuse_if_late(model.name, model.version, self._verb.priority, call.timeout_ms / 1000)
            try:
                if spooled:
                    body = self._mapped(body, spooled)
                inference, call.form = self._verb.parse(body, model, service.quick)
                rows = check(inference, service.settings.max_queue_rows)
            except NotQuick:
                self._parse_elsewhere(body, model)
                return
            if spooled:
                self._close_body()  # the tensors are views of its mapping
            self._send(inference, rows, is_small=not spooled and len(body.data) <= SMALL_BYTES)
        except MillraceError as error:
            self._fail(error)
        except Exception:
            self._break()

    def withdraw(self) -> None:
        """The caller went away."""
        if self._on_done is None:
            return
        self._on_done = None
        if self._pending:
            self._service.producer.withdraw(self._pending)
        if self._ticket:
            self._ticket.cancel()
        self._end(499)

    def _mapped(self, body: Body, spooled: SpooledBody) -> Body:
        """The body with its data. Raises `NotQuick` where these are not tensors behind a JSON of known length.

        A message that was read already has views of its tensors.
        """
        if body.message is not None:
            return body
        if body.json_length is None:
            self._service.quick.check_quick(spooled.size)
        return Body(spooled.mapped(), body.json_length, body.task, content_type=body.content_type)

    # Parsing elsewhere

    def _parse_elsewhere(self, body: Body, model: ServedModel) -> None:
        spooled, settings = self._spooled, self._service.settings
        buffers = [] if spooled else [body.data]
        size = self._body_bytes = sum(map(len, buffers))
        job = ParseJob(
            self._verb.name,
            model.announcement,
            size,
            settings.max_queue_rows,
            body.json_length,
            body.task,
            body.content_type,
        )
        self._ticket = self._service.pool.submit(job, buffers, spooled, self._parsed, self._left_s())

    def _parsed(self, result: Result | MillraceError) -> None:
        self._ticket = None
        self._close_body()
        try:
            if isinstance(result, MillraceError):
                self._fail(self._late() if isinstance(result, DeadlineExceeded) else result)
                return
            parsed: Parsed = result.outcome  # type: ignore[assignment]  # which a ParseJob has
            self._hold(len(result.contents))
            inputs = with_elements(parsed.tensors, result.buffers([each.size for each in parsed.tensors]))
            self.call.form = msgspec.msgpack.decode(parsed.form, type=self._verb.form)
            asked = parsed.signature, inputs, parsed.timeout_ms, parsed.priority, parsed.is_alone
            inference = Inference(self._found, *asked)
            self._send(inference, parsed.rows)
        except MillraceError as error:
            self._fail(error)
        except Exception:
            self._break()

    def _hold(self, size: int) -> None:
        """Count the tensors in the place of the body. Raises `Unavailable` where there is no room for them."""
        held = self._reservation
        if held is None:
            # The body is counted elsewhere; a few bytes of it may stand for many.
            self._reservation = self._service.budget.reserve(max(0, size - self._body_bytes))
            if self._reservation is None:
                raise no_room()
            return
        if size > held.bytes and not held.grow(size - held.bytes):
            raise no_room()
        held.shrink_to(size)

    # The queue

    def _send(self, inference: Inference, rows: int, *, is_small: bool = False) -> None:
        call, service = self.call, self._service
        call.signature, call.inputs, call.priority = inference.signature, inference.inputs, inference.priority
        if inference.timeout_ms is not None:
            call.timeout_ms = min(call.timeout_ms, inference.timeout_ms)
        call.parse_ms = (time.perf_counter() - call.started) * 1000
        if is_small:
            self._send_now(inference, rows)
        elif SMALL_BYTES < (size := size_of(inference.inputs)) < LARGE_BYTES:
            start = partial(self._send_in_turn, inference, rows)
            self._place = service.window.enter(size, start, self._left_s(), self._is_late)
            if call.status:  # it failed at once
                self._place.leave()
        else:
            self._send_now(inference, rows)

    def _send_in_turn(self, inference: Inference, rows: int) -> None:
        try:
            self._send_now(inference, rows)
        except MillraceError as error:
            self._fail(error)
        except Exception:
            self._break()

    def _send_now(self, inference: Inference, rows: int) -> None:
        call, service = self.call, self._service
        trace = call.trace.beside(call.request_id) if call.trace else call.request_id
        request = request_of(inference, rows, trace=trace, deadline=call.deadline, caller=call.caller)
        if request.timeout_s <= 0:
            raise self._late()
        if service.payloads:
            self._sample = service.payloads.sample(request)  # while its tensors are here
        self._pending = service.producer.send(request, self._respond, self._fail, self._sent)
        if shadow := inference.model.shadow:
            self._comparison = service.shadows.send_copy(shadow, inference, request)

    def _sent(self) -> None:
        self.call.inputs = {}
        if self._reservation:
            self._reservation.release()
        if self._place:
            self._place.leave()

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"no answer within {self.call.timeout_ms:.0f} ms")

    def _is_late(self) -> None:
        self._fail(self._late())

    def _respond(self, response: InferenceResponse) -> None:
        call, service = self.call, self._service
        call.timings, call.outputs = response.timings, response.outputs
        if self._comparison:
            self._comparison.answered(response.outputs)
        if self._sample and service.payloads:
            service.payloads.put(self._sample, call.request_id, response.outputs)
        try:
            try:
                if self._accepted is not None and size_of(call.outputs) > _PACKED_HERE_BYTES:
                    service.quick.check_quick(size_of(call.outputs))
                rendered = self._verb.render(self._found, call.outputs, call.form, service.quick)
            except NotQuick:
                self._render_elsewhere()
                return
            self._succeed(packed(rendered, self._accepted) if self._accepted else rendered)
        except MillraceError as error:
            self._fail(error)
        except Exception:
            self._break()

    # Rendering elsewhere

    def _render_elsewhere(self) -> None:
        call, outputs = self.call, self.call.outputs
        self._held = self._service.budget.reserve(size_of(outputs))
        if self._held is None:
            raise no_room()
        form = msgspec.Raw(encoder.encode(call.form))
        job = RenderJob(self._verb.name, self._found.announcement, form, describe(outputs), self._accepted)
        buffers = [tensor.data for tensor in outputs.values()]
        self._ticket = self._service.pool.submit(job, buffers, None, self._written, self._left_s())
        call.outputs = {}

    def _written(self, result: Result | MillraceError) -> None:
        self._ticket = None
        try:
            if isinstance(result, MillraceError):
                self._fail(self._late() if isinstance(result, DeadlineExceeded) else result)
                return
            written: Written = result.outcome  # type: ignore[assignment]  # which a RenderJob has
            spooled, held = result.take_body(), self._held
            if held and spooled.size > held.bytes and not held.grow(spooled.size - held.bytes):
                spooled.close()
                raise no_room()
            if held:
                held.shrink_to(spooled.size)
            self._held = None  # it goes with the response
            self._succeed(Rendered(b"", written.headers), spooled, held)
        except MillraceError as error:
            self._fail(error)
        except Exception:
            self._break()

    # The end

    @property
    def _found(self) -> ServedModel:
        """The model that answers, which is known once the body is read."""
        if self._model is None:
            raise AssertionError("the model is found first")
        return self._model

    def _left_s(self) -> float:
        left_s = self.call.deadline - time.perf_counter()
        if left_s <= 0:
            raise self._late()
        return left_s

    def _succeed(self, rendered: Rendered, spooled: SpooledBody | None = None, held: Reservation | None = None) -> None:
        on_done, self._on_done = self._on_done, None
        if on_done:
            try:
                on_done(self.call, rendered, spooled, held)
            except Exception:
                self._on_done = on_done  # the caller still waits, and gets the error
                raise
        elif spooled:
            spooled.close()
            if held:
                held.release()
        self._end(200)

    def _fail(self, error: MillraceError) -> None:
        # What an error refers to, by its traceback, would stay until the next garbage collection.
        self.call.error = error.with_traceback(None)
        error.__context__ = error.__cause__ = None
        on_done, self._on_done = self._on_done, None
        self._end(error.status)
        if on_done:
            on_done(self.call, None)

    def _break(self) -> None:
        call = self.call
        _log.exception("a request failed", extra={"request_id": call.request_id, "model": call.model})
        self._fail(Internal(f"internal error; the server's log has it under request id {call.request_id}"))

    def _end(self, status: int) -> None:
        call = self.call
        call.inputs, call.outputs = {}, {}
        if self._pending is None:  # else these are given up when the tensors are in the queue, or will not go there
            if self._reservation:
                self._reservation.release()
            if self._place:
                self._place.leave()
        if self._held:
            self._held.release()
        self._pending = None  # which refers to this execution, and would keep it until the next garbage collection
        if self._spooled:
            self._close_body()
        call.status, call.seconds = status, time.perf_counter() - call.started
        self._service.ended(call, self._verb.error_text)

    def _close_body(self) -> None:
        if self._spooled:
            self._spooled.close()
            self._spooled = None
