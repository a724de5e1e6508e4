"""The hot verbs, from the body's bytes to the answer's, whatever server they run under.

They are TensorFlow Serving's `:predict`, `:classify` and `:regress`, and the Open Inference Protocol's `/infer`.
"""

import asyncio
import itertools
import logging
import math
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import NamedTuple

import orjson

from millrace.broker.base import Broker, Limits
from millrace.protocol.errors import DeadlineExceeded, Internal, InvalidRequest, MillraceError
from serving.access.control import ControlAccess, ControlRefused
from serving.models.model_control import ModelControl
from serving.models.model_statistics import Statistics
from serving.models.registry import AVAILABLE, ModelRegistry, ServedModel
from serving.models.shadows import Shadows
from serving.monitoring.metrics import Metrics
from serving.protocols.oip import rest as oip
from serving.protocols.tfs import rest as tfs
from serving.queueing.admission import Inference, admit
from serving.queueing.pending import Pending
from serving.queueing.producer import Producer
from serving.queueing.requests import InferenceResponse, Timings
from serving.settings import ServingSettings
from serving.transport.budget import Budget
from serving.transport.content_encoding import coding_for, packed, unpack
from serving.transport.intake import too_large
from serving.transport.responses import Content, HttpResponse, cors_headers, error_body, error_headers

_log = logging.getLogger(__name__)
_LARGE_BODY_BYTES = 256 * 1024
_MAX_REMEMBERED_CHARACTERS = 512
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_VERB = re.compile(r"(?i)/v1/models/([^/:]+)(?:/versions/(\d{1,19})|/labels/([^/:]+))?:(predict|classify|regress)")
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/(\d{1,19}))?/infer")

Headers = Mapping[bytes, bytes]  # names in lower case
Render = Callable[[InferenceResponse], Content]
Done = Callable[[HttpResponse], None]


class Verb(NamedTuple):
    """How one protocol words a hot verb. `parse` reads a body and says how its answer will be written.

    `priority` is the highest that a body may name; `packs` says whether answers are packed for callers who accept it.
    """

    protocol: str
    parse: Callable[[Headers, bytes, ServedModel], tuple[Inference, Render]]
    error_text: Callable[[MillraceError], str]
    priority: str
    packs: bool = False


class Target(NamedTuple):
    """What a path names."""

    verb: Verb
    model: str
    version: int | None
    label: str | None


def _parse_predict(_headers: Headers, body: bytes, model: ServedModel) -> tuple[Inference, Render]:
    inference, form = tfs.parse_predict(body, model)
    return inference, lambda response: tfs.render_predict(response.outputs, form)


def _parse_infer(headers: Headers, body: bytes, model: ServedModel) -> tuple[Inference, Render]:
    inference, wanted = oip.parse_infer(body, headers.get(b"inference-header-content-length"), model)
    return inference, lambda response: oip.render_infer(model, response.outputs, wanted)


def _parse_classify(_headers: Headers, body: bytes, model: ServedModel) -> tuple[Inference, Render]:
    inference = tfs.parse_examples(body, model)
    signature, labels = model.signature(inference.signature), model.announcement.labels
    return inference, lambda response: tfs.render_classify(response.outputs, signature, labels)


def _parse_regress(_headers: Headers, body: bytes, model: ServedModel) -> tuple[Inference, Render]:
    inference = tfs.parse_examples(body, model)
    signature = model.signature(inference.signature)
    return inference, lambda response: tfs.render_regress(response.outputs, signature)


INFER = Verb("oip", _parse_infer, oip.error_text, "high", packs=True)
_TENSORFLOW_VERBS = {
    name: Verb("tfs", parse, tfs.predict_error_text, "normal")
    for name, parse in (("predict", _parse_predict), ("classify", _parse_classify), ("regress", _parse_regress))
}


def target(path: str) -> Target | None:
    """What a POST to the path asks for, None where it is none of the hot verbs."""
    return _remembered(path) if len(path) <= _MAX_REMEMBERED_CHARACTERS else _target(path)


def _target(path: str) -> Target | None:
    if match := _VERB.fullmatch(path):
        name, version, label, verb = match.groups()
        return Target(_TENSORFLOW_VERBS[verb.lower()], name, _number(version), label)
    if match := _INFER.fullmatch(path):
        name, version = match.groups()
        return Target(INFER, name, _number(version), None)
    return None


_remembered = lru_cache(maxsize=1024)(_target)


class Service:
    """Answers the hot verbs. `start` before the first request, `stop` after the last; both on the event loop."""

    def __init__(self, settings: ServingSettings, broker: Broker) -> None:
        self.settings = settings
        self.api = uuid.uuid4().hex[:12]
        self.metrics = Metrics(self._worker_counts, lambda: self.producer.is_connected)
        self.producer = Producer(
            broker.producer(self.api),
            limits=Limits(settings.max_queue_rows, settings.max_queue_bytes),
            observer=self.metrics,
        )
        self.models = ModelRegistry(lambda: self.producer.workers, lambda: self.producer.desired_states.by_model)
        self.repository = ModelControl(self.producer, self.models, settings)
        self.access = ControlAccess(settings)
        self.budget = Budget(settings.max_arriving_bytes)
        self.shadows = Shadows(self.producer, self.metrics)
        self.statistics = Statistics(self.models, self.metrics)
        self.cors = cors_headers(settings.cors_origin)
        self._numbers = itertools.count(1)

    async def start(self) -> None:
        """Begin to listen to the queue; does not wait for it to be reachable."""
        await self.producer.start()
        _log.info("started", extra={"api": self.api, "port": self.settings.port})

    async def stop(self) -> None:
        """Let the open requests finish, as long as the settings allow, then leave the queue."""
        await self.repository.stop()
        self.shadows.stop()
        await self.producer.drain(self.settings.drain_timeout_s)
        await self.producer.stop()
        _log.info("stopped", extra={"api": self.api})

    @property
    def is_ready(self) -> bool:
        """Whether the queue answers and at least one model has a live worker."""
        return self.producer.is_connected and self.models.is_ready

    def begin(self, target: Target, headers: Headers, body: bytes, done: Done) -> "Call":
        """Answer a hot verb by calling `done` once, now or later, on the event loop; unless the call is withdrawn."""
        call = Call(self, target.verb.protocol, self.request_id(headers))
        call.begin(target, headers, body, done)
        return call

    async def answer(self, target: Target, headers: Headers, body: bytes) -> HttpResponse:
        """The answer to a hot verb."""
        future: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()
        self.begin(target, headers, body, future.set_result)
        return await future

    def refused(self, headers: Headers, error: MillraceError, protocol: str = "http") -> HttpResponse:
        """The answer to a request that was refused before any verb saw it."""
        known = error.caller.request_id if isinstance(error, ControlRefused) else ""  # its record has one already
        call = Call(self, protocol, known or self.request_id(headers))
        answer = call.refusal(error, str(error))
        call.log(answer, 0.0)
        return answer

    def request_id(self, headers: Headers) -> str:
        """The caller's X-Request-Id where it is printable and at most 128 characters long, else one of our own."""
        given = headers.get(b"x-request-id")
        return given.decode() if given and _REQUEST_ID.fullmatch(given) else f"{self.api}-{next(self._numbers):x}"

    def _worker_counts(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for worker in self.producer.workers:
            counts.update({model.name for model in worker.models if model.state == AVAILABLE})
        return dict(counts)


class Call:
    """One request while it is answered. Its methods run on the event loop, one after the other.

    begin ──► parsed ──► submitted ──► rendered ──► done
                │             └─ withdraw: nobody waits any more, `done` is not called
                └─ in a thread where the body is large
    """

    __slots__ = (
        "_accepted", "_done", "_error_text", "_pending", "_render", "_service", "model", "parse_ms", "protocol",
        "request_id", "started", "timings", "version",
    )  # fmt: skip

    def __init__(self, service: Service, protocol: str, request_id: str) -> None:
        self._service = service
        self._accepted: bytes | None = None
        self._done: Done | None = None
        self._pending: Pending | None = None
        self._render: Render | None = None
        self._error_text: Callable[[MillraceError], str] = str
        self.protocol = protocol
        self.request_id = request_id
        self.started = time.perf_counter()
        self.model = ""
        self.version = 0
        self.parse_ms = 0.0
        self.timings: Timings | None = None

    def begin(self, target: Target, headers: Headers, body: bytes, done: Done) -> None:
        """See `Service.begin`."""
        self._done = done
        self._error_text = target.verb.error_text
        if target.verb.packs:
            self._accepted = headers.get(b"accept-encoding")
        service = self._service
        try:
            if len(body) > service.settings.max_body_bytes:
                raise too_large(service.settings)
            model = service.models.find(target.model, target.version, target.label)
            self.model, self.version = model.name, model.version
            longest_s = self._timeout_ms(headers) / 1000
            service.producer.refuse_if_late(model.name, model.version, target.verb.priority, longest_s)
            coding = headers.get(b"content-encoding")
            plain = body if coding is None else unpack(body, coding, _LARGE_BODY_BYTES)
            if plain is None or len(plain) > _LARGE_BODY_BYTES:
                # Reading it takes too long for the event loop, which has others to serve.
                loop = asyncio.get_running_loop()
                parsing = loop.run_in_executor(None, self._unpack_and_parse, target.verb, headers, body, model)
                parsing.add_done_callback(partial(self._parsed, headers))
            else:
                self._submit(headers, *target.verb.parse(headers, plain, model))
        except MillraceError as error:
            self._fail(error)
        except Exception:
            self._break()

    def withdraw(self) -> None:
        """The caller went away."""
        self._done = None
        if self._pending:
            self._service.producer.withdraw(self._pending)
        self._pending = None
        self._end(499, time.perf_counter() - self.started)

    def _unpack_and_parse(
        self, verb: Verb, headers: Headers, body: bytes, model: ServedModel
    ) -> tuple[Inference, Render]:
        settings = self._service.settings
        plain = unpack(body, headers.get(b"content-encoding", b"identity"), settings.max_body_bytes)
        if plain is None:
            raise too_large(settings)
        return verb.parse(headers, plain, model)

    def _parsed(self, headers: Headers, parsing: "asyncio.Future[tuple[Inference, Render]]") -> None:
        if self._done is None:
            parsing.exception()  # nobody is left to hear of it
            return
        try:
            self._submit(headers, *parsing.result())
        except MillraceError as error:
            self._fail(error)
        except Exception:
            self._break()

    def _submit(self, headers: Headers, inference: Inference, render: Render) -> None:
        self._render = render
        service = self._service
        timeout_ms = self._timeout_ms(headers)
        if inference.timeout_ms is not None:
            timeout_ms = min(timeout_ms, inference.timeout_ms)
        deadline = self.started + timeout_ms / 1000
        request = admit(
            inference, trace=self.request_id, deadline=deadline, max_queue_rows=service.settings.max_queue_rows
        )
        if request.timeout_s <= 0:
            raise DeadlineExceeded(f"no answer within {timeout_ms:.0f} ms")
        self.parse_ms = (time.perf_counter() - self.started) * 1000
        self._pending = service.producer.send(request, self._respond, self._fail)
        if shadow := inference.model.shadow:
            service.shadows.cast(shadow, inference, request)

    def _timeout_ms(self, headers: Headers) -> float:
        """The time that the request has, where its body names none: the shorter of its header and the settings."""
        shortest = float(self._service.settings.request_timeout_ms)
        if given := headers.get(b"x-request-timeout-ms"):
            try:
                milliseconds = float(given)
            except ValueError:
                milliseconds = math.nan
            if not milliseconds > 0:
                raise InvalidRequest(f"X-Request-Timeout-Ms must be a number above 0, got {given.decode('latin-1')!r}")
            shortest = min(shortest, milliseconds)
        return shortest

    def _respond(self, response: InferenceResponse) -> None:
        self.timings = response.timings
        try:
            content = self._render(response)  # type: ignore[misc]  # set before the request was sent
            self._service.metrics.request_answered(self.model, self.version, self.parse_ms, response.timings)
            coding = coding_for(self._accepted, len(content.body))
            if coding and len(content.body) > _LARGE_BODY_BYTES:
                packing = asyncio.get_running_loop().run_in_executor(None, packed, content, coding)
                packing.add_done_callback(self._packed)
            else:
                self._succeed(packed(content, coding) if coding else content)
        except MillraceError as error:
            self._fail(error)
        except Exception:
            self._break()

    def _packed(self, packing: "asyncio.Future[Content]") -> None:
        content = packing.result()
        if self._done:  # else the caller went away meanwhile
            self._succeed(content)

    def _succeed(self, content: Content) -> None:
        self._finish(HttpResponse(200, content.body, content.headers + self._headers()))

    def _fail(self, error: MillraceError) -> None:
        self._finish(self.refusal(error, self._error_text(error)))

    def _break(self) -> None:
        _log.exception("a request failed", extra={"request_id": self.request_id, "model": self.model})
        text = f"internal error; the server's log has it under request id {self.request_id}"
        self._fail(Internal(text))

    def _finish(self, answer: HttpResponse) -> None:
        seconds = time.perf_counter() - self.started
        self._end(answer.status, seconds)
        if answer.status >= 400 or self._service.settings.access_log:
            self.log(answer, seconds)
        done, self._done = self._done, None
        self._pending = None  # which refers to this call, and would keep it until the next garbage collection
        if done:
            done(answer)

    def _end(self, status: int, seconds: float) -> None:
        self._service.metrics.request_ended(self.model, self.version, self.protocol, status, seconds)

    def refusal(self, error: MillraceError, text: str) -> HttpResponse:
        """The answer that carries an error."""
        return HttpResponse(error.status, error_body(text), (_JSON, *self._headers(), *error_headers(error)), error)

    def _headers(self) -> tuple[tuple[str, str], ...]:
        stages = f"parse;dur={self.parse_ms:.3f}"
        if t := self.timings:
            stages += (
                f", queue;dur={t.queue_ms:.3f}, batch;dur={t.batch_ms:.3f}, "
                f"compute;dur={t.compute_ms:.3f}, reply;dur={t.reply_ms:.3f}"
            )
        return (("x-request-id", self.request_id), ("server-timing", stages), *self._service.cors)

    def log(self, answer: HttpResponse, seconds: float) -> None:
        """Write the request's line to the log."""
        extra = {
            "request_id": self.request_id,
            "protocol": self.protocol,
            "model": self.model,
            "status": answer.status,
            "duration_ms": round(seconds * 1000, 3),
        }
        if answer.status >= 400:
            extra["error"] = orjson.loads(answer.body)["error"]
        _log.log(logging.ERROR if answer.status == 500 else logging.INFO, "request", extra=extra)


_JSON = ("content-type", "application/json")


def _number(version: str | None) -> int | None:
    return None if version is None else int(version)
