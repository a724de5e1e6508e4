"""The server's own count of where the time went, read before and after a run.

Triton's statistics, which Millrace and others serve too; else TensorFlow Serving's metrics.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from millrace_client.encoding import json_of, model_path
from millrace_client.errors import MillraceError
from millrace_client.exchange import Request, Response

_STAGES = ("queue", "compute_input", "compute_infer", "compute_output")
_METRICS = {
    "request_latency": "request",
    "batching_session:queuing_latency": "queue",
    "runtime_latency": "run",
}
_SAMPLE = re.compile(
    rf":tensorflow:serving:({'|'.join(_METRICS)})_(sum|count)(?:\{{(.*)\}})? ([0-9.eE+-]+)(?: -?[0-9]+)?"
)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
Ask = Callable[[Request], Response]
Totals = dict[str, tuple[int, float]]  # by stage: how often, and nanoseconds


@dataclass(frozen=True, slots=True)
class Counts:
    """The sums until now over all versions of the models. `source` is `statistics` or `metrics`."""

    source: str
    totals: Totals = field(default_factory=dict)

    def means_ms(self, before: "Counts | None") -> dict[str, float]:
        """The mean of each stage since then, in milliseconds; empty where nothing was counted, or by another source."""
        if before is None or before.source != self.source:
            return {}
        means = {}
        for stage, (count, ns) in self.totals.items():
            count_before, ns_before = before.totals.get(stage, (0, 0.0))
            if count > count_before:
                means[stage] = (ns - ns_before) / (count - count_before) / 1e6
        return means


def counts(ask: Ask, models: tuple[str, ...]) -> Counts | None:
    """What the server has counted; None where it has neither statistics nor metrics."""
    names = tuple(model.partition("/")[0] for model in models)
    for source, read in (("statistics", _statistics), ("metrics", _metrics)):
        try:
            return Counts(source, read(ask, names))
        except (MillraceError, OSError, LookupError, TypeError, AttributeError, ValueError):
            continue  # this server has no such page
    return None


def _statistics(ask: Ask, models: tuple[str, ...]) -> Totals:
    summed: Totals = {}
    for name in models:
        document = json_of(ask(Request(method="GET", path=f"/v2{model_path(name, None)}/stats")).body)
        for model in document["model_stats"]:
            for stage in _STAGES:
                told = model["inference_stats"].get(stage)
                if told is not None:
                    _add(summed, stage, int(told["count"]), int(told["ns"]))
    return summed


def _metrics(ask: Ask, models: tuple[str, ...]) -> Totals:
    """TensorFlow Serving does not say whose requests waited for a batch: `queue` is of all its models."""
    summed: Totals = {}
    page = ask(Request(method="GET", path="/monitoring/prometheus/metrics")).body.decode()
    for stage, labels, kind, value in _samples(page):
        if labels.get("model_name", models[0]) in models and labels.get("API", "predict").lower() == "predict":
            _add(summed, stage, *((int(value), 0.0) if kind == "count" else (0, value * 1000)))
    return summed


def _samples(page: str) -> Iterator[tuple[str, dict[str, Any], str, float]]:
    for line in page.splitlines():
        if found := _SAMPLE.fullmatch(line):
            name, kind, labels, value = found.groups()
            yield _METRICS[name], dict(_LABEL.findall(labels or "")), kind, float(value)


def _add(summed: Totals, stage: str, count: int, ns: float) -> None:
    count_before, ns_before = summed.get(stage, (0, 0.0))
    summed[stage] = count_before + count, ns_before + ns
