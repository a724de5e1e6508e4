"""What the API counts, in Prometheus' format.

Counting happens several times in every request, on the event loop alone; so it is plain numbers in plain lists, which
take a fourth of the time of prometheus_client's own (docs/decisions/0006-what-made-the-path-fast.md), and become its
families when they are scraped.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from millrace.broker.producer import BlockObserver, Timings
from millrace.protocol.messages import ReplyBlock

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_HISTOGRAMS = {
    "latency": ("request_duration_seconds", "From the request's arrival to its answer"),
    "parse": ("parse_duration_seconds", "Reading and checking the request"),
    "queue": ("queue_duration_seconds", "From sending to a worker's taking it"),
    "batch": ("batch_duration_seconds", "From a worker's taking it to the start of its batch"),
    "compute": ("compute_duration_seconds", "The run of the batch that it was part of"),
    "reply": ("reply_duration_seconds", "From the end of the batch to the answer's arrival"),
    "rows": ("batch_rows", "Rows in a batch that answered requests of this process"),
}


class _Distribution:
    """How many values fell below each bound."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, model: str) -> None:
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        family.add_metric([model], list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)


class _ModelMetrics:
    """The distributions of one model."""

    __slots__ = tuple(_HISTOGRAMS)

    def __init__(self) -> None:
        self.latency, self.parse, self.queue, self.batch, self.compute, self.reply = (
            _Distribution(_SECONDS) for _ in range(6)
        )
        self.rows = _Distribution(_ROWS)


class Metrics(BlockObserver, Collector):
    """The metrics of one API process.

    When they are scraped, `workers` is asked for the live workers of each model, and `is_connected` for the queue.
    """

    def __init__(
        self, workers: Callable[[], dict[str, int]] = dict, is_connected: Callable[[], bool] = lambda: False
    ) -> None:
        self._workers = workers
        self._is_connected = is_connected
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._models: dict[str, _ModelMetrics] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def block_answered(self, model: str, block: ReplyBlock) -> None:
        """See `BlockObserver`."""
        if block.batch_rows:
            self._of(model).rows.observe(block.batch_rows)

    def request_ended(self, model: str, protocol: str, status: int, seconds: float) -> None:
        """Count a request of a hot verb; `model` is "" where no such model is known."""
        self._requests[model, protocol, status] += 1
        if status == 200:
            self._of(model).latency.observe(seconds)

    def request_answered(self, model: str, parse_ms: float, timings: Timings) -> None:
        """Take in the stages of a request that a worker answered."""
        of = self._of(model)
        of.parse.observe(parse_ms / 1000)
        of.queue.observe(timings.queue_ms / 1000)
        of.batch.observe(timings.batch_ms / 1000)
        of.compute.observe(timings.compute_ms / 1000)
        of.reply.observe(timings.reply_ms / 1000)

    def _of(self, model: str) -> _ModelMetrics:
        found = self._models.get(model)
        if found is None:
            found = self._models[model] = _ModelMetrics()
        return found

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        requests = CounterMetricFamily(
            "millrace_requests", "Requests by model and outcome (HTTP status)", labels=["model", "protocol", "status"]
        )
        for (model, protocol, status), count in list(self._requests.items()):
            requests.add_metric([model, protocol, str(status)], count)
        yield requests
        for attribute, (name, text) in _HISTOGRAMS.items():
            family = HistogramMetricFamily(f"millrace_{name}", text, labels=["model"])
            for model, metrics in list(self._models.items()):
                getattr(metrics, attribute).add_to(family, model)
            yield family
        workers = GaugeMetricFamily("millrace_workers", "Live workers that have the model available", labels=["model"])
        for model, count in self._workers().items():
            workers.add_metric([model], count)
        yield workers
        yield GaugeMetricFamily(
            "millrace_queue_up", "1 while the queue answers heartbeats, else 0", float(self._is_connected())
        )

    def render(self) -> bytes:
        """The body of `GET /metrics`."""
        return generate_latest(self._registry)
