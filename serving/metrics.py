"""What the API counts, in Prometheus' format."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from millrace.broker.producer import BlockObserver, Timings
from millrace.protocol.messages import ReplyBlock

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class _ModelMetrics(NamedTuple):
    latency: Histogram
    batch_rows: Histogram
    stages: tuple[Histogram, ...]


class Metrics(BlockObserver):
    """The metrics of one API process. `workers` is asked for the live workers of each model when they are scraped."""

    def __init__(self, workers: Callable[[], dict[str, int]] = dict) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Workers(workers))
        self._requests = Counter(
            "millrace_requests", "Requests by model and outcome (HTTP status)", ["model", "protocol", "status"],
            registry=self.registry,
        )  # fmt: skip
        self._latency = self._histogram("request_duration_seconds", "From the request's arrival to its answer")
        self._stages = (
            self._histogram("parse_duration_seconds", "Reading and checking the request"),
            self._histogram("queue_duration_seconds", "From sending to a worker's taking it"),
            self._histogram("batch_duration_seconds", "From a worker's taking it to the start of its batch"),
            self._histogram("compute_duration_seconds", "The run of the batch that it was part of"),
            self._histogram("reply_duration_seconds", "From the end of the batch to the answer's arrival"),
        )
        self._batch_rows = self._histogram(
            "batch_rows", "Rows in a batch that answered requests of this process", _ROWS
        )
        self.queue_up = Gauge(
            "millrace_queue_up", "1 while the queue answers heartbeats, else 0", registry=self.registry
        )

        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._models: dict[str, _ModelMetrics] = {}

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(f"millrace_{name}", text, ["model"], buckets=buckets, registry=self.registry)

    def block_answered(self, model: str, block: ReplyBlock) -> None:
        """See `BlockObserver`."""
        if block.batch_rows:
            self._of(model).batch_rows.observe(block.batch_rows)

    def request_ended(self, model: str, protocol: str, status: int, seconds: float) -> None:
        """Count a request of a hot verb; `model` is "" where no such model is known."""
        key = (model, protocol, status)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._requests.labels(model, protocol, str(status))
        counter.inc()
        if status == 200:
            self._of(model).latency.observe(seconds)

    def request_answered(self, model: str, parse_ms: float, timings: Timings) -> None:
        """Take in the stages of a request that a worker answered."""
        parse, queue, batch, compute, reply = self._of(model).stages
        parse.observe(parse_ms / 1000)
        queue.observe(timings.queue_ms / 1000)
        batch.observe(timings.batch_ms / 1000)
        compute.observe(timings.compute_ms / 1000)
        reply.observe(timings.reply_ms / 1000)

    def _of(self, model: str) -> "_ModelMetrics":
        """The model's own; finding them by label takes as long as counting."""
        found = self._models.get(model)
        if found is None:
            stages = tuple(histogram.labels(model) for histogram in self._stages)
            found = _ModelMetrics(self._latency.labels(model), self._batch_rows.labels(model), stages)
            self._models[model] = found
        return found

    def render(self) -> bytes:
        """The body of `GET /metrics`."""
        return generate_latest(self.registry)


class _Workers(Collector):
    def __init__(self, workers: Callable[[], dict[str, int]]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("millrace_workers", "Live workers that have the model available", labels=["model"])
        for model, count in self._workers().items():
            family.add_metric([model], count)
        yield family
