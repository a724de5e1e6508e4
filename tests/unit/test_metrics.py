"""What is counted, as Prometheus and as Triton's statistics extension show it."""

import time

import msgspec
import numpy as np
import pytest

from millrace.protocol.errors import InvalidRequest
from millrace.protocol.messages import ModelAnnouncement, ReplyBlock, ReplyItem, WorkerAnnouncement
from millrace.protocol.tensors import Tensor
from serving.models.model_statistics import Statistics
from serving.models.registry import ModelRegistry
from serving.monitoring.counts import Counts, total
from serving.monitoring.metrics import Metrics, render
from serving.queueing.requests import Timings

WORKERS = [
    WorkerAnnouncement(
        worker="w",
        expires_ms=2**60,
        models=(
            ModelAnnouncement(name="m", version=1, state="AVAILABLE"),
            ModelAnnouncement(name="m", version=2, state="AVAILABLE"),
            ModelAnnouncement(name="m", version=3, state="LOADING"),
            ModelAnnouncement(name="n", version=1, state="AVAILABLE"),
        ),
    )
]


def _block(rows: int, *, batch_rows: int, compute_ms: float, batch_ms: float) -> ReplyBlock:
    items = (ReplyItem(1, 1, 0.0, 99.0), ReplyItem(2, rows - 1, 0.0, batch_ms))
    tensors = {"y": Tensor.from_numpy(np.zeros(rows, np.float32))}
    return ReplyBlock(worker="w", compute_ms=compute_ms, batch_rows=batch_rows, items=items, tensors=tensors)


@pytest.fixture
def metrics() -> Metrics:
    """Two requests of model m, version 1, in one batch of 4 rows, and a third in a batch with others'; four failed."""
    counted = Metrics(Counts(queue_up=True))
    counted.block_answered("m", 1, _block(4, batch_rows=4, compute_ms=2.0, batch_ms=0.5))
    counted.block_answered("m", 1, _block(2, batch_rows=8, compute_ms=3.0, batch_ms=1.0))
    for compute_ms in (2.0, 2.0, 3.0):
        timings = Timings(queue_ms=1.0, batch_ms=0.5, compute_ms=compute_ms, reply_ms=0.1)
        counted.request_ended("m", 1, "oip", 200, 0.010, 0.25, timings)
    for status in (400, 429, 499, 500):
        counted.request_ended("m", 1, "tfs", status, 0.001)
    counted.request_ended("", 0, "tfs", 404, 0.001)
    return counted


def test_statistics_are_in_tritons_words(metrics: Metrics) -> None:
    statistics = Statistics(ModelRegistry(lambda: WORKERS))
    (stats,) = statistics.render(metrics.counts, "m", 1)["model_stats"]
    assert abs(stats.pop("last_inference") - time.time() * 1000) < 60_000
    assert stats == {
        "name": "m",
        "version": "1",
        "inference_count": 6,
        "execution_count": 2,
        "inference_stats": {
            "success": {"count": 3, "ns": 30_000_000},
            "fail": {"count": 4, "ns": 4_000_000},
            "queue": {"count": 3, "ns": 3_000_000},
            "compute_input": {"count": 3, "ns": 1_500_000},
            "compute_infer": {"count": 3, "ns": 7_000_000},
            "compute_output": {"count": 3, "ns": 300_000},
            "cache_hit": {"count": 0, "ns": 0},
            "cache_miss": {"count": 0, "ns": 0},
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": 4,
                "compute_input": {"count": 1, "ns": 500_000},
                "compute_infer": {"count": 1, "ns": 2_000_000},
                "compute_output": {"count": 1, "ns": 0},
            },
            {
                "batch_size": 8,
                "compute_input": {"count": 1, "ns": 1_000_000},
                "compute_infer": {"count": 1, "ns": 3_000_000},
                "compute_output": {"count": 1, "ns": 0},
            },
        ],
        "memory_usage": [],
    }


def test_every_available_version_has_statistics(metrics: Metrics) -> None:
    statistics = Statistics(ModelRegistry(lambda: WORKERS))

    def found(*named: object) -> list[tuple[str, str]]:
        return [(stats["name"], stats["version"]) for stats in statistics.render(metrics.counts, *named)["model_stats"]]  # type: ignore[arg-type]

    assert found() == [("m", "1"), ("m", "2"), ("n", "1")]
    assert found("m") == [("m", "1"), ("m", "2")]
    assert found("m", 2) == [("m", "2")]
    (never_asked,) = statistics.render(metrics.counts, "n")["model_stats"]
    assert never_asked["inference_count"] == never_asked["last_inference"] == 0
    for model, version, message in (
        ("m", 3, "requested model version is not available for model 'm'"),
        ("m", 9, "requested model version is not available for model 'm'"),
        ("x", None, "requested model 'x' is not available"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            statistics.render(metrics.counts, model, version)


def test_prometheus_has_the_same_numbers(metrics: Metrics) -> None:
    text = render(metrics.counts, {"m": 1}).decode()
    for line in (
        'millrace_requests_total{model="m",protocol="oip",status="200",version="1"} 3.0',
        'millrace_requests_total{model="",protocol="tfs",status="404",version=""} 1.0',
        'millrace_request_duration_seconds_count{model="m",version="1"} 3.0',
        'millrace_compute_duration_seconds_sum{model="m",version="1"} 0.007',
        'millrace_batch_rows_bucket{le="4.0",model="m",version="1"} 1.0',
        'millrace_batch_rows_sum{model="m",version="1"} 12.0',
        'millrace_workers{model="m"} 1.0',
        "millrace_queue_up 1.0",
    ):
        assert line in text
    assert 'duration_seconds_count{model=""' not in text


def test_what_several_processes_counted_is_added_up(metrics: Metrics) -> None:
    one = metrics.counts
    found = total([one, one, Counts(queue_up=True)])
    assert found.processes == 3
    assert found.queue_up
    assert not total([one, Counts()]).queue_up
    double, single = found.version("m", 1), one.version("m", 1)
    assert (double.rows, double.failed, double.latency.count) == (2 * single.rows, 2 * single.failed, 6)
    assert double.latency.sum == 2 * single.latency.sum
    assert double.runs[4].compute_s == 2 * single.runs[4].compute_s
    assert double.last_run_ms == single.last_run_ms
    assert single.latency.count == 3  # none is changed


def test_counts_survive_their_way_through_a_file(metrics: Metrics) -> None:
    metrics.shadow_ended("m", 2, "shed")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(metrics.counts), type=Counts) == metrics.counts
