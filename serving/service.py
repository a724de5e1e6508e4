"""The two hot verbs, `:predict` and `/infer`, from the body's bytes to the answer's, whatever server they run under."""

import asyncio
import itertools
import logging
import math
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from millrace.broker.base import Broker, Limits
from millrace.broker.producer import Producer, Response, Timings
from millrace.protocol.errors import InvalidRequest, MillraceError, NotSupported
from millrace.protocol.tensors import Tensor
from serving import oip, tfs
from serving.admission import Inference, admit
from serving.answers import Answer, error_body, retry_after
from serving.intake import too_large
from serving.metrics import Metrics
from serving.models import AVAILABLE, Models, ServedModel
from serving.settings import ServingSettings

_log = logging.getLogger(__name__)
_LARGE_BODY_BYTES = 256 * 1024
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_PREDICT = re.compile(r"(?i)/v1/models/([^/:]+)(?:/versions/(\d{1,19})|/labels/([^/:]+))?:predict")
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/(\d{1,19}))?/infer")

Headers = Mapping[bytes, bytes]  # names in lower case
_Render = Callable[[dict[str, Tensor]], bytes]


@dataclass(slots=True)
class Call:
    """One request while it is answered; `started` is a time of `time.perf_counter`."""

    request_id: str
    protocol: str
    started: float = field(default_factory=time.perf_counter)
    model: str = ""
    parse_ms: float = 0.0
    timings: Timings | None = None


Verb = Callable[[Headers, bytes], Coroutine[Any, Any, Answer]]


class Service:
    """Answers the hot verbs. `start` before the first request, `stop` after the last; both on the event loop."""

    def __init__(self, settings: ServingSettings, broker: Broker) -> None:
        self.settings = settings
        self.api = uuid.uuid4().hex[:12]
        self.metrics = Metrics(self._worker_counts)
        self.producer = Producer(
            broker.producer(self.api),
            limits=Limits(settings.max_queue_rows, settings.max_queue_bytes),
            observer=self.metrics,
        )
        self.models = Models(lambda: self.producer.workers)
        self._numbers = itertools.count(1)

    async def start(self) -> None:
        """Begin to listen to the queue; does not wait for it to be reachable."""
        await self.producer.start()
        _log.info("started", extra={"api": self.api, "port": self.settings.port})

    async def stop(self) -> None:
        """Let the open requests finish, as long as the settings allow, then leave the queue."""
        await self.producer.drain(self.settings.drain_timeout_s)
        await self.producer.stop()
        _log.info("stopped", extra={"api": self.api})

    @property
    def is_ready(self) -> bool:
        """Whether the queue answers and at least one model has a live worker."""
        return self.producer.is_connected and self.models.is_ready

    def verb(self, path: str) -> Verb | None:
        """The verb that a POST to the path asks for, None where it is neither of the two."""
        if match := _PREDICT.fullmatch(path):
            name, version, label = match.groups()
            return lambda headers, body: self.predict(name, _number(version), label, headers, body)
        if match := _INFER.fullmatch(path):
            name, version = match.groups()
            return lambda headers, body: self.infer(name, _number(version), headers, body)
        return None

    async def predict(self, name: str, version: int | None, label: str | None, headers: Headers, body: bytes) -> Answer:
        """TensorFlow Serving's `:predict`."""

        def parse(model: ServedModel) -> tuple[Inference, _Render]:
            inference, form = tfs.parse_predict(body, model)
            return inference, lambda outputs: tfs.render_predict(outputs, form)

        def find() -> ServedModel:
            tfs.refuse_label(label)
            return self.models.find(name, version)

        call = Call(self.request_id(headers), "tfs")
        return await self._answer(call, headers, body, find, parse, tfs.predict_error_text)

    async def infer(self, name: str, version: int | None, headers: Headers, body: bytes) -> Answer:
        """The Open Inference Protocol's `/infer`."""

        def parse(model: ServedModel) -> tuple[Inference, _Render]:
            oip.refuse_binary(headers.get(b"inference-header-content-length"), body)
            inference, identity = oip.parse_infer(body, model)
            return inference, lambda outputs: oip.render_infer(inference, outputs, identity)

        call = Call(self.request_id(headers), "oip")
        return await self._answer(call, headers, body, lambda: self.models.find(name, version), parse, oip.error_text)

    def refused(self, headers: Headers, error: MillraceError) -> Answer:
        """The answer to a request that was refused before any verb saw it."""
        call = Call(self.request_id(headers), "http")
        answer = _refusal(call, error, str(error))
        _log_request(call, answer, 0.0)
        return answer

    def request_id(self, headers: Headers) -> str:
        """The caller's X-Request-Id where it is printable and at most 128 characters long, else one of our own."""
        given = headers.get(b"x-request-id", b"")
        return given.decode() if _REQUEST_ID.fullmatch(given) else f"{self.api}-{next(self._numbers):x}"

    async def _answer(
        self,
        call: Call,
        headers: Headers,
        body: bytes,
        find: Callable[[], ServedModel],
        parse: Callable[[ServedModel], tuple[Inference, _Render]],
        error_text: Callable[[MillraceError], str],
    ) -> Answer:
        try:
            if len(body) > self.settings.max_body_bytes:
                raise too_large(self.settings)
            if headers.get(b"content-encoding", b"identity") != b"identity":
                raise NotSupported("compressed bodies are not supported; send the body as it is")
            model = find()
            call.model = model.name
            if len(body) > _LARGE_BODY_BYTES:  # too long for the event loop, which has others to serve
                inference, render = await asyncio.to_thread(parse, model)
            else:
                inference, render = parse(model)
            response = await self._submit(call, headers, inference)
            answer = Answer(200, render(response.outputs), _headers(call))
        except MillraceError as error:
            answer = _refusal(call, error, error_text(error))
        except Exception:
            _log.exception("a request failed", extra={"request_id": call.request_id, "model": call.model})
            text = f"internal error; the server's log has it under request id {call.request_id}"
            answer = Answer(500, error_body(text), _headers(call))
        seconds = time.perf_counter() - call.started
        self.metrics.request_ended(call.model, call.protocol, answer.status, seconds)
        if answer.status >= 400 or self.settings.access_log:
            _log_request(call, answer, seconds)
        return answer

    async def _submit(self, call: Call, headers: Headers, inference: Inference) -> Response:
        deadline = call.started + self._timeout_ms(headers, inference) / 1000
        request = admit(
            inference, trace=call.request_id, deadline=deadline, max_queue_rows=self.settings.max_queue_rows
        )
        call.parse_ms = (time.perf_counter() - call.started) * 1000
        response = await self.producer.submit(request)
        call.timings = response.timings
        self.metrics.request_answered(call.model, call.parse_ms, response.timings)
        return response

    def _timeout_ms(self, headers: Headers, inference: Inference) -> float:
        """The time that the request has: the shortest of what its header, its body and the settings say."""
        named = [float(self.settings.request_timeout_ms)]
        if inference.timeout_ms is not None:
            named.append(inference.timeout_ms)
        if given := headers.get(b"x-request-timeout-ms"):
            try:
                milliseconds = float(given)
            except ValueError:
                milliseconds = math.nan
            if not milliseconds > 0:
                raise InvalidRequest(f"X-Request-Timeout-Ms must be a number above 0, got {given.decode('latin-1')!r}")
            named.append(milliseconds)
        return min(named)

    def _worker_counts(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for worker in self.producer.workers:
            counts.update({model.name for model in worker.models if model.state == AVAILABLE})
        return dict(counts)


def _number(version: str | None) -> int | None:
    return None if version is None else int(version)


def _headers(call: Call) -> tuple[tuple[str, str], ...]:
    stages = f"parse;dur={call.parse_ms:.3f}"
    if t := call.timings:
        stages += (
            f", queue;dur={t.queue_ms:.3f}, batch;dur={t.batch_ms:.3f}, "
            f"compute;dur={t.compute_ms:.3f}, reply;dur={t.reply_ms:.3f}"
        )
    return (("content-type", "application/json"), ("x-request-id", call.request_id), ("server-timing", stages))


def _refusal(call: Call, error: MillraceError, text: str) -> Answer:
    return Answer(error.status, error_body(text), _headers(call) + retry_after(error))


def _log_request(call: Call, answer: Answer, seconds: float) -> None:
    extra = {
        "request_id": call.request_id,
        "protocol": call.protocol,
        "model": call.model,
        "status": answer.status,
        "duration_ms": round(seconds * 1000, 3),
    }
    if answer.status >= 400:
        extra["error"] = orjson.loads(answer.body)["error"]
    _log.log(logging.ERROR if answer.status == 500 else logging.INFO, "request", extra=extra)
