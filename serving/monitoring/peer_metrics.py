"""The metrics of Triton and of TensorFlow Serving, under the names that their users' dashboards have.

They are read from what is counted (`counts.py`), and written here because prometheus_client lets no counter go without
`_total` at its end. The text is Prometheus' format, version 0.0.4.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from serving.monitoring.counts import Distribution, VersionCounts

Versions = Mapping[tuple[str, int], VersionCounts]
_Labels = dict[str, str]

_TRITON: dict[str, tuple[str, Callable[[VersionCounts], float]]] = {
    "nv_inference_request_success": ("Requests answered", lambda of: of.latency.count),
    "nv_inference_count": ("Rows inferred", lambda of: of.rows),
    "nv_inference_exec_count": ("Runs of the model", lambda of: of.batch_rows.count),
    "nv_inference_request_duration_us": ("Time of the requests answered", lambda of: _us(of.latency)),
    "nv_inference_queue_duration_us": ("Time until a worker took them", lambda of: _us(of.queue)),
    "nv_inference_compute_input_duration_us": ("Time until their batches started", lambda of: _us(of.batch)),
    "nv_inference_compute_infer_duration_us": ("Time of the runs of their batches", lambda of: _us(of.compute)),
    "nv_inference_compute_output_duration_us": ("Time until their answers arrived", lambda of: _us(of.reply)),
}
_REASONS = {429: "REJECTED", 503: "REJECTED", 504: "REJECTED", 499: "CANCELED", 500: "BACKEND"}
_TENSORFLOW_STATUSES = {
    200: "OK",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TENSORFLOW = ":tensorflow:serving:"


def triton(versions: Versions) -> bytes:
    """Triton's counters of every model version. They are whole numbers, as its tools read no others."""
    parts = [
        _family(name, "counter", text, ((_of(key), count(of)) for key, of in versions.items()))
        for name, (text, count) in _TRITON.items()
    ]
    failures = (
        (_of(key) | {"reason": reason}, count)
        for key, of in versions.items()
        for reason, count in _grouped(of, lambda status: _REASONS.get(status, "OTHER"), {200}).items()
    )
    parts.append(_family("nv_inference_request_failure", "counter", "Requests not answered", failures))
    return "".join(parts).encode()


def tensorflow(versions: Versions) -> bytes:
    """TensorFlow Serving's metrics: requests by model, times by model version, of all protocols together."""
    statuses: Counter[tuple[str, str]] = Counter()
    for (model, _), of in versions.items():
        for status, count in _grouped(of, lambda status: _TENSORFLOW_STATUSES.get(status, "INVALID_ARGUMENT")).items():
            statuses[model, status] += count
    counts = (({"model_name": model, "status": status}, count) for (model, status), count in statuses.items())
    name = f"{_TENSORFLOW}request_count"
    parts = [_family(name, "counter", "Requests by model and outcome", counts)]
    for name, text, stage in (
        ("request_latency", "Time of the requests answered, in microseconds", "latency"),
        ("runtime_latency", "Time of the runs of their batches, in microseconds", "compute"),
    ):
        parts.append(_histogram(f"{_TENSORFLOW}{name}", text, versions, stage))
    return "".join(parts).encode()


def _us(stage: Distribution) -> float:
    return round(stage.sum * 1e6)


def _of(key: tuple[str, int]) -> _Labels:
    return {"model": key[0], "version": str(key[1])}


def _grouped(of: VersionCounts, group: Callable[[int], str], without: Iterable[int] = ()) -> Counter[str]:
    """How many requests ended with the statuses of each group."""
    counts: Counter[str] = Counter()
    for (_, status), count in list(of.ended.items()):
        if status not in without:
            counts[group(status)] += count
    return counts


def _histogram(name: str, text: str, versions: Versions, stage: str) -> str:
    samples = []
    for (model, version), of in versions.items():
        labels, distribution = {"model_name": model, "version": str(version)}, getattr(of, stage)
        samples += [("_bucket", labels | {"le": bound}, count) for bound, count in distribution.buckets(scale=1e6)]
        samples += [("_sum", labels, distribution.sum * 1e6), ("_count", labels, distribution.count)]
    return _head(name, "histogram", text) + "".join(
        _sample(name + end, labels, value) for end, labels, value in samples
    )


def _family(name: str, kind: str, text: str, samples: Iterable[tuple[_Labels, float]]) -> str:
    return _head(name, kind, text) + "".join(_sample(name, labels, value) for labels, value in samples)


def _head(name: str, kind: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def _sample(name: str, labels: _Labels, value: float) -> str:
    written = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{written}}} {value}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
