"""Traces: which requests are traced, and what became of them as OpenTelemetry spans.

context.py   the W3C header `traceparent`: read, continued, answered
sampling.py  which requests are sampled, as the standard variables OTEL_TRACES_SAMPLER… say
tracer.py    what requests meet: a context at the beginning, and at the end a place in a bounded row
otlp.py      spans out of the stage times, and OTLP: in a thread, and the only module that needs OpenTelemetry's SDK

A request that is not sampled costs the reading of its header; without tracing nothing but a look at an attribute.
"""
