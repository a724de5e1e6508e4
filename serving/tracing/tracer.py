"""What requests meet of tracing: a context when they begin, and a place in a bounded row when they end.

The row is emptied by a thread (`Exporting`), which makes spans and sends them. It takes a tenth of the time at most, so
that it does not keep the interpreter from the requests: where more is sampled than it can send, what does not fit into
the row is dropped, and counted.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from serving.call import Call
from serving.tracing.context import TraceContext, new_id, read
from serving.tracing.ended import Ended
from serving.tracing.errors import TracingError
from serving.tracing.sampling import Sampler, sampler_of

_log = logging.getLogger(__name__)
_SHARE = 9  # times as long as it worked, the thread leaves the interpreter to others
_SPANS = 7  # of one request
_BOUNDS = (("OTEL_BSP_MAX_QUEUE_SIZE", 2048), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512))  # in spans
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Exporter(Protocol):
    """Where traces go. Both methods may take long, and are called by one thread."""

    def export(self, traces: Sequence[Ended]) -> bool:
        """Send them; whether they have arrived."""

    def close(self) -> None:
        """Disconnect."""


class Tracer:
    """Traces requests. `begin` and `end` run on the event loop; `start` comes first, `stop` last.

    `most` traces wait to be sent, `together` of them are sent at once, every `delay_s`, or when so many are there.
    """

    def __init__(
        self,
        sampler: Sampler,
        exporter: Exporter,
        *,
        most: int = 2048 // _SPANS,
        together: int = 512 // _SPANS,
        delay_s: float = 5.0,
    ) -> None:
        self._sampler = sampler
        self._exporter = exporter
        self._most = most
        self._together = together
        self._delay_s = delay_s
        self._waiting: deque[Ended] = deque()
        self._wanted = threading.Event()
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self.counts = {"exported": 0, "dropped": 0, "failed": 0}

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Send what waits, for so long at most."""
        self._is_stopping.set()
        self._wanted.set()
        self._thread.join(timeout_s)

    def begin(self, header: bytes | None, received_at: float = 0.0) -> TraceContext:
        """The context of a request with that `traceparent`."""
        parent = read(header)
        trace_id = parent.trace_id if parent else new_id(128)
        is_sampled = self._sampler(trace_id, parent)
        parent_id = parent.span_id if parent else 0
        return TraceContext(trace_id, parent_id, new_id(64), is_sampled=is_sampled, received_at=received_at)

    def end(self, context: TraceContext, call: Call) -> None:
        """A sampled call has ended."""
        if len(self._waiting) >= self._most:
            self.counts["dropped"] += 1
            return
        self._waiting.append(Ended.of(context, call))
        if len(self._waiting) >= self._together:
            self._wanted.set()

    def _run(self) -> None:
        while not self._is_stopping.is_set():
            self._wanted.wait(self._delay_s)
            self._wanted.clear()
            began = time.monotonic()
            self._send_some()
            self._is_stopping.wait(_SHARE * (time.monotonic() - began))
        while self._waiting:
            self._send_some()
        self._exporter.close()

    def _send_some(self) -> None:
        traces = [self._waiting.popleft() for _ in range(min(self._together, len(self._waiting)))]
        if not traces:
            return
        try:
            has_arrived = self._exporter.export(traces)
        except Exception:
            _log.exception("traces could not be sent")
            has_arrived = False
        self.counts["exported" if has_arrived else "failed"] += len(traces)


def tracer_of(environ: Mapping[str, str], exporter: Callable[[], Exporter] | None = None) -> Tracer | None:
    """The tracer that OpenTelemetry's variables ask for; None where they name no endpoint, or switch traces off.

    Raises `TracingError` for values that are none, and `ModuleNotFoundError` where the extra `tracing` is missing.
    """
    if not any(environ.get(name) for name in _ENDPOINTS):
        return None
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return None
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in (None, "", "http/protobuf"):
        raise TracingError(f"OTEL_EXPORTER_OTLP_PROTOCOL: traces are sent with http/protobuf, not with {protocol!r}")
    if exporter is None:
        from serving.tracing.otlp import OtlpExporter  # the SDK is loaded only where it is used

        exporter = OtlpExporter
    most, together = (_number(environ, name, spans) for name, spans in _BOUNDS)
    delay_ms = _number(environ, "OTEL_BSP_SCHEDULE_DELAY", 5000)
    return Tracer(
        sampler_of(environ),
        exporter(),
        most=max(1, most // _SPANS),
        together=max(1, together // _SPANS),
        delay_s=delay_ms / 1000,
    )


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or not int(text):
        raise TracingError(f"{name}: expected a whole number above 0, got {text!r}")
    return int(text)
