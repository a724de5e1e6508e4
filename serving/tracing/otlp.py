"""Spans of calls that have ended, sent by OpenTelemetry's own exporter. Needs the extra `tracing`.

infer digits                 from the first byte of the body to the answer
  receive                    the body arrives; nothing where it came with the head
  parse                      it is read and checked
  queue                      sent … taken by a worker
  batch                      taken … its batch starts
  compute                    the run of the batch, with `millrace.batch.rows`
  reply                      the run ended … the answer arrived
"""

from collections.abc import Iterator, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from millrace import __version__
from serving.tracing.context import new_id
from serving.tracing.ended import Ended

_SCOPE = InstrumentationScope("millrace.serving", __version__)
_FLAGS = TraceFlags(TraceFlags.SAMPLED)


class OtlpExporter:
    """Sends traces to where the standard variables say (OTEL_EXPORTER_OTLP_…, OTEL_RESOURCE_ATTRIBUTES)."""

    def __init__(self) -> None:
        made = Resource.create({"service.version": __version__})
        is_named = not str(made.attributes.get(SERVICE_NAME, "")).startswith("unknown_service")
        self._resource = made if is_named else made.merge(Resource({SERVICE_NAME: "millrace"}))
        self._exporter = OTLPSpanExporter()

    def export(self, traces: Sequence[Ended]) -> bool:
        """See `Exporter`."""
        spans = [span for trace in traces for span in self._spans(trace)]
        return bool(self._exporter.export(spans) is SpanExportResult.SUCCESS)

    def close(self) -> None:
        """See `Exporter`."""
        self._exporter.shutdown()

    def _spans(self, trace: Ended) -> Iterator[ReadableSpan]:
        """The request's span, and one for each stage that it came to."""
        of = trace.context
        own = SpanContext(of.trace_id, of.span_id, is_remote=False, trace_flags=_FLAGS)
        started_ns = trace.end_ns - round(trace.seconds * 1e9)
        received_ns = started_ns - round(trace.receive_s * 1e9)
        attributes: dict[str, str | int] = {
            "millrace.model.name": trace.model,
            "millrace.model.version": trace.version,
            "millrace.protocol": trace.protocol,
            "millrace.request_id": trace.request_id,
            "http.response.status_code": trace.status,
        }
        if trace.error:
            attributes["error.type"] = trace.error
        yield ReadableSpan(
            name=f"infer {trace.model}".strip(),
            context=own,
            parent=SpanContext(of.trace_id, of.parent_id, is_remote=True, trace_flags=_FLAGS) if of.parent_id else None,
            resource=self._resource,
            attributes=attributes,
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR, trace.error) if trace.status >= 500 else Status(StatusCode.UNSET),
            start_time=received_ns,
            end_time=trace.end_ns,
            instrumentation_scope=_SCOPE,
        )
        begins_ns = received_ns
        for name, milliseconds, more in _stages(trace):
            ends_ns = min(begins_ns + round(milliseconds * 1e6), trace.end_ns)
            yield ReadableSpan(
                name=name,
                context=SpanContext(of.trace_id, new_id(64), is_remote=False, trace_flags=_FLAGS),
                parent=own,
                resource=self._resource,
                attributes={**attributes, **more},
                start_time=begins_ns,
                end_time=ends_ns,
                instrumentation_scope=_SCOPE,
            )
            begins_ns = ends_ns


def _stages(trace: Ended) -> Iterator[tuple[str, float, dict[str, int]]]:
    """The stages in order: their names, how many ms each took, and what else there is to say."""
    if trace.receive_s:
        yield "receive", trace.receive_s * 1000, {}
    if trace.parse_ms:
        yield "parse", trace.parse_ms, {}
    if t := trace.timings:
        yield "queue", t.queue_ms, {}
        yield "batch", t.batch_ms, {}
        yield "compute", t.compute_ms, {"millrace.batch.rows": t.batch_rows}
        yield "reply", t.reply_ms, {}
