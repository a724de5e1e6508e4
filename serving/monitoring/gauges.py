"""What there is now, in Prometheus' format: what waits, what is in flight, who serves, what the processes take.

Queues and workers are the same whichever API process is asked, and of several APIs on one Redis all say the same: take
`max` of them, not `sum`. What is in flight, and processes, are those of this API alone.
"""

import platform
from collections import Counter
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from millrace import __version__
from millrace.protocol.messages import WorkerAnnouncement
from serving.monitoring.counts import Counts
from serving.monitoring.depths import Seen

_VERSION = ("model", "version")
_STREAM = (*_VERSION, "priority")


def render(counts: Counts, seen: Seen, workers: Sequence[WorkerAnnouncement]) -> bytes:
    """What is added to the body of `GET /metrics`."""
    registry = CollectorRegistry()
    registry.register(_Gauges(counts, seen, workers))
    return generate_latest(registry)


class _Gauges(Collector):
    """What prometheus_client is to write."""

    def __init__(self, counts: Counts, seen: Seen, workers: Sequence[WorkerAnnouncement]) -> None:
        self._counts = counts
        self._seen = seen
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        yield from _of_queues(self._seen)
        yield from _in_flight(self._counts)
        yield from _of_workers(self._workers)
        yield from _of_processes(self._counts)
        yield from _of_traces(self._counts)


def _of_queues(seen: Seen) -> Iterator[Metric]:
    rows = GaugeMetricFamily(
        "millrace_queue_rows",
        "Rows that wait or are in work; normal with those of high, which share its room",
        labels=_STREAM,
    )
    size = GaugeMetricFamily("millrace_queue_bytes", "Bytes that wait or are in work; normal with high", labels=_STREAM)
    blocks = GaugeMetricFamily("millrace_queue_blocks", "Blocks of requests", labels=[*_STREAM, "state"])
    oldest = GaugeMetricFamily(
        "millrace_queue_oldest_seconds", "Since when the oldest block waits or is in work; 0 for none", labels=_STREAM
    )
    dead = GaugeMetricFamily("millrace_dead_letters", "Blocks of requests that were given up", labels=_VERSION)
    for of in seen.queues:
        version = [of.queue.model, str(of.queue.version)]
        rows.add_metric([*version, "normal"], of.rows)
        rows.add_metric([*version, "bulk"], of.bulk_rows)
        size.add_metric([*version, "normal"], of.bytes)
        size.add_metric([*version, "bulk"], of.bulk_bytes)
        for priority, stream in of.streams.items():
            blocks.add_metric([*version, priority, "waiting"], stream.waiting)
            blocks.add_metric([*version, priority, "working"], stream.working)
            age_s = max(0.0, seen.at_ms - stream.oldest_ms) / 1000 if stream.oldest_ms else 0.0
            oldest.add_metric([*version, priority], age_s)
        dead.add_metric(version, of.dead_letters)
    yield from (rows, size, blocks, oldest, dead)


def _in_flight(counts: Counts) -> Iterator[Metric]:
    requests = GaugeMetricFamily("millrace_inflight_requests", "Requests without an answer", labels=_VERSION)
    rows = GaugeMetricFamily("millrace_inflight_rows", "Rows of these requests", labels=_VERSION)
    pending = GaugeMetricFamily(
        "nv_inference_pending_request_count",
        "Requests without an answer, in Triton's words",
        labels=_VERSION,
    )
    for (model, version), (number, of_rows) in counts.present.in_flight.items():
        requests.add_metric([model, str(version)], number)
        pending.add_metric([model, str(version)], number)
        rows.add_metric([model, str(version)], of_rows)
    yield from (requests, rows, pending)


def _of_workers(workers: Sequence[WorkerAnnouncement]) -> Iterator[Metric]:
    states: Counter[tuple[str, int, str]] = Counter()
    instances: Counter[tuple[str, int]] = Counter()
    for model in (model for worker in workers for model in worker.models if model.version >= 0):
        states[model.name, model.version, model.state] += 1
        if model.state == "AVAILABLE":
            instances[model.name, model.version] += model.instances
    yield GaugeMetricFamily("millrace_live_workers", "Workers that send heartbeats", len(workers))
    versions = GaugeMetricFamily(
        "millrace_model_versions", "Live workers that have the version in that state", labels=[*_VERSION, "state"]
    )
    for (name, version, state), count in states.items():
        versions.add_metric([name, str(version), state], count)
    running = GaugeMetricFamily(
        "millrace_model_instances", "Threads of live workers that run the version", labels=_VERSION
    )
    for (name, version), count in instances.items():
        running.add_metric([name, str(version)], count)
    yield from (versions, running)


def _of_processes(counts: Counts) -> Iterator[Metric]:
    present = counts.present
    build = GaugeMetricFamily("millrace_build_info", "1, of this build", labels=["version", "python"])
    build.add_metric([__version__, platform.python_version()], 1)
    yield build
    yield CounterMetricFamily("process_cpu_seconds", "Processor time of all API processes", counts.cpu_s)
    yield GaugeMetricFamily("process_resident_memory_bytes", "Memory of all API processes", present.memory_bytes)
    yield GaugeMetricFamily("process_open_fds", "Open files of all API processes", present.open_files)
    yield GaugeMetricFamily(
        "process_start_time_seconds", "When the first of the API processes started, in Unix time", present.started_s
    )


def _of_traces(counts: Counts) -> Iterator[Metric]:
    if counts.traces:
        traces = CounterMetricFamily(
            "millrace_traces",
            "Sampled requests: exported, dropped for lack of room, or failed",
            labels=["outcome"],
        )
        for outcome, count in counts.traces.items():
            traces.add_metric([outcome], count)
        yield traces
