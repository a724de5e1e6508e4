"""What one API process counts, and Prometheus' format of what all of them counted.

Counting happens several times in every request, on the event loop alone; so it is plain numbers in plain lists, which
take a fourth of the time of prometheus_client's own (docs/decisions/0006-what-made-the-path-fast.md). A request is only
noted when it ends, and some hundreds at a time are sorted into counts and histograms.

Triton's statistics (`model_statistics.py`) and the metrics that other servers name otherwise (`peer_metrics.py`) are
read from the same numbers (`counts.py`).
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from millrace.protocol.messages import ReplyBlock
from serving.access.gate import KeyObserver
from serving.monitoring.counts import Counts, Distribution, Runs, VersionCounts
from serving.queueing.replies import BlockObserver
from serving.queueing.requests import Timings

_TOGETHER = 256  # requests that are sorted into counts at once
_LABELS = ("model", "version")
_HISTOGRAMS = {
    "latency": ("request_duration_seconds", "From the request's arrival to its answer"),
    "parse": ("parse_duration_seconds", "Reading and checking the request"),
    "queue": ("queue_duration_seconds", "From sending to a worker's taking it"),
    "batch": ("batch_duration_seconds", "From a worker's taking it to the start of its batch"),
    "compute": ("compute_duration_seconds", "The run of the batch that it was part of"),
    "reply": ("reply_duration_seconds", "From the end of the batch to the answer's arrival"),
}


class _Noted:
    """Requests of one model version that have ended and are not in its counts yet.

    Of each one the protocol, the status, the seconds that it took, the ms of reading it, and its timings if it has any.
    """

    __slots__ = ("counts", "ended")

    def __init__(self, counts: VersionCounts) -> None:
        self.counts = counts
        self.ended: list[tuple[str, int, float, float, Timings | None]] = []

    def sort(self) -> None:
        """Take them into the counts."""
        counts, ended = self.counts, self.ended
        if not ended:
            return
        self.ended = []
        for key, count in Counter([(protocol, status) for protocol, status, *_ in ended]).items():
            counts.ended[key] = counts.ended.get(key, 0) + count
        if seconds := [seconds for _, status, seconds, *_ in ended if status == 200]:
            counts.latency.observe(seconds)
        counts.failed_s += sum([seconds for _, status, seconds, *_ in ended if status != 200])
        if rows := [(ms, t.queue_ms, t.batch_ms, t.compute_ms, t.reply_ms) for *_, ms, t in ended if t]:
            stages = counts.parse, counts.queue, counts.batch, counts.compute, counts.reply
            for stage, values in zip(stages, np.array(rows).T / 1000, strict=True):
                stage.observe(values)


class Metrics(BlockObserver, KeyObserver):
    """Counts what this process does, beginning with what was `counted` before."""

    def __init__(self, counted: Counts | None = None) -> None:
        self._counts = counted or Counts()
        self._noted: dict[tuple[str, int], _Noted] = {}

    @property
    def counts(self) -> Counts:
        """What was counted so far; the same object each time."""
        for noted in self._noted.values():
            noted.sort()
        return self._counts

    def block_answered(self, model: str, version: int, block: ReplyBlock) -> None:
        """See `BlockObserver`."""
        if not block.batch_rows:
            return
        of = self._of(model, version).counts
        runs = of.runs.get(block.batch_rows)
        if runs is None:
            runs = of.runs[block.batch_rows] = Runs()
        runs.count += 1
        runs.compute_s += block.compute_ms / 1000
        runs.wait_s += block.items[-1].batch_ms / 1000
        of.rows += next(iter(block.tensors.values())).shape[0] if block.tensors else 0
        of.last_run_ms = int(time.time() * 1000)

    def request_ended(
        self,
        model: str,
        version: int,
        protocol: str,
        status: int,
        seconds: float,
        parse_ms: float = 0.0,
        timings: Timings | None = None,
    ) -> None:
        """Count a request of a hot verb; `model` is "" and `version` 0 where no such model is known.

        `timings` are its stages behind the parsing, where a worker answered it.
        """
        noted = self._of(model, version)
        noted.ended.append((protocol, status, seconds, parse_ms, timings))
        if len(noted.ended) >= _TOGETHER:
            noted.sort()

    def shadow_ended(self, model: str, version: int, outcome: str) -> None:
        """Count a copy for a shadow: it was "answered", "failed", or "shed" because of the load."""
        shadows = self._counts.shadows
        shadows[model, version, outcome] = shadows.get((model, version, outcome), 0) + 1

    def shadow_compared(self, model: str, version: int, agreed: int, differed: int) -> None:
        """Count the rows of a copy that a shadow answered as the version in service did, or not."""
        compared = self._counts.compared
        for outcome, rows in (("agreed", agreed), ("differed", differed)):
            compared[model, version, outcome] = compared.get((model, version, outcome), 0) + rows

    def payload_ended(self, model: str, outcome: str) -> None:
        """Count a request that was sampled for the payload log: "handed_over", "dropped" or "too_large"."""
        payloads = self._counts.payloads
        payloads[model, outcome] = payloads.get((model, outcome), 0) + 1

    def key_ended(self, key: str, status: int) -> None:
        """Count a request for inference by its API key."""
        keys = self._counts.keys
        keys[key, status] = keys.get((key, status), 0) + 1

    def key_unknown(self) -> None:
        """Count a request without a key that is known."""
        self._counts.unknown_keys += 1

    def _of(self, model: str, version: int) -> _Noted:
        found = self._noted.get((model, version))
        if found is None:
            found = self._noted[model, version] = _Noted(self._counts.of(model, version))
        return found


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
        compared = CounterMetricFamily(
            "millrace_shadow_rows",
            "Rows that a shadow answered as the version in service did: agreed; or not: differed",
            labels=[*_LABELS, "outcome"],
        )
        for (model, version, outcome), rows in list(self._counts.compared.items()):
            compared.add_metric([model, str(version), outcome], rows)
        yield compared
        payloads = CounterMetricFamily(
            "millrace_payloads",
            "Requests sampled for the payload log: handed_over, dropped because the writer was busy, or too_large",
            labels=["model", "outcome"],
        )
        for (model, outcome), count in list(self._counts.payloads.items()):
            payloads.add_metric([model, outcome], count)
        yield payloads
        workers = GaugeMetricFamily("millrace_workers", "Live workers that have the model available", labels=["model"])
        for model, live in self._workers.items():
            workers.add_metric([model], live)
        yield workers
        if self._counts.keys or self._counts.unknown_keys:
            yield from _of_keys(self._counts)
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


def _of_keys(counts: Counts) -> Iterator[Metric]:
    keys = CounterMetricFamily(
        "millrace_key_requests", "Requests for inference by API key and outcome (HTTP status)", labels=["key", "status"]
    )
    for (key, status), count in list(counts.keys.items()):
        keys.add_metric([key, str(status)], count)
    yield keys
    yield CounterMetricFamily("millrace_unknown_keys", "Requests without a key that is known", counts.unknown_keys)
