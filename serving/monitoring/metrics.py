"""What the API counts, and Prometheus' format of it.

Counting happens several times in every request, on the event loop alone; so it is plain numbers in plain lists, which
take a fourth of the time of prometheus_client's own (docs/decisions/0006-what-made-the-path-fast.md), and become its
families when they are scraped. Times are only noted, and sorted into histograms some hundreds at a time. Triton's
statistics (`model_statistics.py`) and the metrics that other servers name otherwise (`peer_metrics.py`) are read from
the same numbers.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from millrace.protocol.messages import ReplyBlock
from serving.queueing.replies import BlockObserver
from serving.queueing.requests import Timings

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_TOGETHER = 256  # times that are sorted into histograms at once
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_LABELS = ("model", "version")
_HISTOGRAMS = {
    "latency": ("request_duration_seconds", "From the request's arrival to its answer"),
    "parse": ("parse_duration_seconds", "Reading and checking the request"),
    "queue": ("queue_duration_seconds", "From sending to a worker's taking it"),
    "batch": ("batch_duration_seconds", "From a worker's taking it to the start of its batch"),
    "compute": ("compute_duration_seconds", "The run of the batch that it was part of"),
    "reply": ("reply_duration_seconds", "From the end of the batch to the answer's arrival"),
}


class Distribution:
    """How many values fell below each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, values: Sequence[float], times: Sequence[int] | None = None) -> None:
        """Take in values, each once or as many times as is said."""
        found = np.searchsorted(self._bounds, values)
        counts = np.bincount(found, times, len(self._counts))
        self._counts = [old + int(new) for old, new in zip(self._counts, counts, strict=True)]
        self.sum += float(np.dot(values, times) if times else np.sum(values))

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def buckets(self, scale: float = 1.0) -> list[tuple[str, float]]:
        """How many values were at most each bound, in Prometheus' form; bounds are multiplied by `scale`."""
        bounds = [*map(floatToGoString, (bound * scale for bound in self._bounds)), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True))


class Runs:
    """The runs of batches of one size."""

    __slots__ = ("compute_s", "count", "wait_s")

    def __init__(self) -> None:
        self.count = 0
        self.wait_s = 0.0
        self.compute_s = 0.0


class VersionMetrics:
    """What was counted of one model version, in seconds.

    `ended` counts requests by protocol and HTTP status. `latency` is of those that were answered with 200, `failed_s`
    the sum over the others. The stages (`parse` … `reply`) are of the requests that a worker answered. `rows` were
    inferred, in the last run at `last_run_ms` (Unix time, 0 for never). `runs` are the batches, by their rows; those
    that held requests of several API processes are counted by each.
    """

    __slots__ = (*_HISTOGRAMS, "_lock", "_seconds", "_stages_ms", "ended", "failed_s", "last_run_ms", "rows", "runs")

    def __init__(self) -> None:
        self.latency, self.parse, self.queue, self.batch, self.compute, self.reply = (
            Distribution(_SECONDS) for _ in range(6)
        )
        self.ended: Counter[tuple[str, int]] = Counter()
        self.failed_s = 0.0
        self.rows = 0
        self.last_run_ms = 0
        self.runs: dict[int, Runs] = {}
        self._lock = threading.Lock()
        self._seconds: deque[float] = deque()
        self._stages_ms: deque[tuple[float, ...]] = deque()

    def answered(self, seconds: float) -> None:
        """A request was answered with 200, so long after it had come."""
        self._seconds.append(seconds)
        if len(self._seconds) >= _TOGETHER:
            self.sort()

    def ran(self, *stages_ms: float) -> None:
        """A worker answered a request, whose stages took so long, in order."""
        self._stages_ms.append(stages_ms)
        if len(self._stages_ms) >= _TOGETHER:
            self.sort()

    def sort(self) -> None:
        """Sort what was noted into the histograms. Any thread may, while the event loop notes more."""
        with self._lock:
            if seconds := _taken(self._seconds):
                self.latency.observe(seconds)
            if rows := _taken(self._stages_ms):
                stages = self.parse, self.queue, self.batch, self.compute, self.reply
                for stage, values in zip(stages, np.array(rows).T / 1000, strict=True):
                    stage.observe(values)

    @property
    def failed(self) -> int:
        """How many requests were answered with something else than 200, or not at all."""
        return sum(count for (_, status), count in list(self.ended.items()) if status != 200)

    @property
    def batch_rows(self) -> Distribution:
        """The sizes of the batches."""
        sizes = Distribution(_ROWS)
        if runs := list(self.runs.items()):
            sizes.observe([rows for rows, _ in runs], [of.count for _, of in runs])
        return sizes


Noted = TypeVar("Noted")


def _taken(noted: deque[Noted]) -> list[Noted]:
    """What has been noted so far, which is not there any more."""
    return [noted.popleft() for _ in range(len(noted))]


class Metrics(BlockObserver, Collector):
    """The metrics of one API process.

    When they are scraped, `workers` is asked for the live workers of each model, and `is_connected` for the queue.
    """

    def __init__(
        self, workers: Callable[[], dict[str, int]] = dict, is_connected: Callable[[], bool] = lambda: False
    ) -> None:
        self._workers = workers
        self._is_connected = is_connected
        self._versions: dict[tuple[str, int], VersionMetrics] = {}
        self._shadows: Counter[tuple[str, int, str]] = Counter()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def block_answered(self, model: str, version: int, block: ReplyBlock) -> None:
        """See `BlockObserver`."""
        if not block.batch_rows:
            return
        of = self._of(model, version)
        runs = of.runs.get(block.batch_rows)
        if runs is None:
            runs = of.runs[block.batch_rows] = Runs()
        runs.count += 1
        runs.compute_s += block.compute_ms / 1000
        runs.wait_s += block.items[-1].batch_ms / 1000
        of.rows += next(iter(block.tensors.values())).shape[0] if block.tensors else 0
        of.last_run_ms = int(time.time() * 1000)

    def request_ended(self, model: str, version: int, protocol: str, status: int, seconds: float) -> None:
        """Count a request of a hot verb; `model` is "" and `version` 0 where no such model is known."""
        of = self._of(model, version)
        of.ended[protocol, status] += 1
        if status == 200:
            of.answered(seconds)
        else:
            of.failed_s += seconds

    def request_answered(self, model: str, version: int, parse_ms: float, timings: Timings) -> None:
        """Take in the stages of a request that a worker answered."""
        t = timings
        self._of(model, version).ran(parse_ms, t.queue_ms, t.batch_ms, t.compute_ms, t.reply_ms)

    def shadow_ended(self, model: str, version: int, outcome: str) -> None:
        """Count a copy for a shadow: it was "answered", "failed", or "shed" because of the load."""
        self._shadows[model, version, outcome] += 1

    def _of(self, model: str, version: int) -> VersionMetrics:
        found = self._versions.get((model, version))
        if found is None:
            found = self._versions[model, version] = VersionMetrics()
        return found

    def version(self, model: str, version: int) -> VersionMetrics:
        """What was counted of a version; zeros where it was never asked."""
        of = self._versions.get((model, version)) or VersionMetrics()
        of.sort()
        return of

    @property
    def versions(self) -> Mapping[tuple[str, int], VersionMetrics]:
        """Every model version that was ever asked, by name and number."""
        found = {key: of for key, of in list(self._versions.items()) if key[0]}
        for of in found.values():
            of.sort()
        return found

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        requests = CounterMetricFamily(
            "millrace_requests",
            "Requests by model and outcome (HTTP status)",
            labels=[*_LABELS, "protocol", "status"],
        )
        for (model, version), of in list(self._versions.items()):
            for (protocol, status), count in list(of.ended.items()):
                requests.add_metric([model, str(version) if model else "", protocol, str(status)], count)
        yield requests
        for attribute, (name, text) in _HISTOGRAMS.items():
            yield self._histogram(name, text, attribute)
        yield self._histogram("batch_rows", "Rows in a batch that answered requests of this process", "batch_rows")
        shadows = CounterMetricFamily(
            "millrace_shadow_requests",
            "Copies of requests for a version that is a shadow: answered, failed, or shed for the load",
            labels=[*_LABELS, "outcome"],
        )
        for (model, version, outcome), count in list(self._shadows.items()):
            shadows.add_metric([model, str(version), outcome], count)
        yield shadows
        workers = GaugeMetricFamily("millrace_workers", "Live workers that have the model available", labels=["model"])
        for model, count in self._workers().items():
            workers.add_metric([model], count)
        yield workers
        yield GaugeMetricFamily(
            "millrace_queue_up", "1 while the queue answers heartbeats, else 0", float(self._is_connected())
        )

    def _histogram(self, name: str, text: str, attribute: str) -> HistogramMetricFamily:
        family = HistogramMetricFamily(f"millrace_{name}", text, labels=_LABELS)
        for (model, version), of in self.versions.items():
            distribution: Distribution = getattr(of, attribute)
            family.add_metric([model, str(version)], distribution.buckets(), distribution.sum)
        return family

    def render(self) -> bytes:
        """The body of `GET /metrics`."""
        return generate_latest(self._registry)
