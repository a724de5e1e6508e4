"""What one API process counts, and Prometheus' format of what all of them counted.

Triton's statistics (`model_statistics.py`) and the metrics that other servers name otherwise (`peer_metrics.py`) are
read from the same numbers (`counts.py`).
"""

import time
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from millrace.protocol.messages import ReplyBlock
from serving.monitoring.counts import Counts, Distribution, Runs
from serving.queueing.replies import BlockObserver
from serving.queueing.requests import Timings

_LABELS = ("model", "version")
_HISTOGRAMS = {
    "latency": ("request_duration_seconds", "From the request's arrival to its answer"),
    "parse": ("parse_duration_seconds", "Reading and checking the request"),
    "queue": ("queue_duration_seconds", "From sending to a worker's taking it"),
    "batch": ("batch_duration_seconds", "From a worker's taking it to the start of its batch"),
    "compute": ("compute_duration_seconds", "The run of the batch that it was part of"),
    "reply": ("reply_duration_seconds", "From the end of the batch to the answer's arrival"),
}


class Metrics(BlockObserver):
    """Counts what this process does, in `counts`, which may begin with what was counted before."""

    def __init__(self, counts: Counts | None = None) -> None:
        self.counts = counts or Counts()

    def block_answered(self, model: str, version: int, block: ReplyBlock) -> None:
        """See `BlockObserver`."""
        if not block.batch_rows:
            return
        of = self.counts.of(model, version)
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
        of = self.counts.of(model, version)
        of.ended[protocol, status] = of.ended.get((protocol, status), 0) + 1
        if status == 200:
            of.latency.observe(seconds)
        else:
            of.failed_s += seconds

    def request_answered(self, model: str, version: int, parse_ms: float, timings: Timings) -> None:
        """Take in the stages of a request that a worker answered."""
        of = self.counts.of(model, version)
        of.parse.observe(parse_ms / 1000)
        of.queue.observe(timings.queue_ms / 1000)
        of.batch.observe(timings.batch_ms / 1000)
        of.compute.observe(timings.compute_ms / 1000)
        of.reply.observe(timings.reply_ms / 1000)

    def shadow_ended(self, model: str, version: int, outcome: str) -> None:
        """Count a copy for a shadow: it was "answered", "failed", or "shed" because of the load."""
        shadows = self.counts.shadows
        shadows[model, version, outcome] = shadows.get((model, version, outcome), 0) + 1


def render(counts: Counts, workers: Mapping[str, int]) -> bytes:
    """The counts in Prometheus' text format; `workers` is how many live workers each model has."""
    registry = CollectorRegistry()
    registry.register(_Families(counts, workers))
    return generate_latest(registry)


class _Families(Collector):
    """What prometheus_client is to write."""

    def __init__(self, counts: Counts, workers: Mapping[str, int]) -> None:
        self._counts = counts
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        yield self._requests()
        for attribute, (name, text) in _HISTOGRAMS.items():
            yield self._histogram(name, text, attribute)
        yield self._histogram("batch_rows", "Rows in a batch that answered requests of this API", "batch_rows")
        shadows = CounterMetricFamily(
            "millrace_shadow_requests",
            "Copies of requests for a version that is a shadow: answered, failed, or shed for the load",
            labels=[*_LABELS, "outcome"],
        )
        for (model, version, outcome), count in list(self._counts.shadows.items()):
            shadows.add_metric([model, str(version), outcome], count)
        yield shadows
        workers = GaugeMetricFamily("millrace_workers", "Live workers that have the model available", labels=["model"])
        for model, live in self._workers.items():
            workers.add_metric([model], live)
        yield workers
        yield GaugeMetricFamily("millrace_api_processes", "API processes on this port", self._counts.processes)
        yield GaugeMetricFamily(
            "millrace_queue_up", "1 while the queue answers heartbeats, else 0", float(self._counts.queue_up)
        )

    def _requests(self) -> Metric:
        requests = CounterMetricFamily(
            "millrace_requests",
            "Requests by model and outcome (HTTP status)",
            labels=[*_LABELS, "protocol", "status"],
        )
        for (model, version), of in list(self._counts.by_version.items()):
            for (protocol, status), count in list(of.ended.items()):
                requests.add_metric([model, str(version) if model else "", protocol, str(status)], count)
        return requests

    def _histogram(self, name: str, text: str, attribute: str) -> HistogramMetricFamily:
        family = HistogramMetricFamily(f"millrace_{name}", text, labels=_LABELS)
        for (model, version), of in self._counts.versions.items():
            distribution: Distribution = getattr(of, attribute)
            family.add_metric([model, str(version)], distribution.buckets(), distribution.sum)
        return family
