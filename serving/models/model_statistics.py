"""Triton's statistics extension, in the words of its JSON: read from what is counted (`counts.py`).

Its stages are these of ours:

    queue            queue     sent … taken by a worker
    compute_input    batch     taken … its batch starts: preprocessing, and the wait for the run
    compute_infer    compute   the run of its batch
    compute_output   reply     the run ended … the answer arrived
"""

from typing import Any

from millrace.protocol.errors import InvalidRequest, MillraceError
from serving.models.registry import AVAILABLE, ModelRegistry
from serving.monitoring.counts import Counts, Distribution, Runs, VersionCounts


class Statistics:
    """The statistics of the models that are available."""

    def __init__(self, models: ModelRegistry) -> None:
        self._models = models

    def render(self, counts: Counts, name: str | None = None, version: int | None = None) -> dict[str, Any]:
        """`{"model_stats": […]}` of every available version, or of that model's, or of that one, by these counts.

        Raises `InvalidRequest` in Triton's words where what was named is not available.
        """
        names = self._models.names() if name is None else [name]
        found = [(model, number) for model in names for number in self._available(model, version)]
        if name is not None and not found:
            what = f"requested model '{name}' is not available"
            if version is not None:
                what = f"requested model version is not available for model '{name}'"
            raise InvalidRequest(what)
        return {"model_stats": [_of_version(*key, counts.version(*key)) for key in found]}

    def _available(self, name: str, version: int | None) -> list[int]:
        """The numbers of the model's versions that are available, in order."""
        try:
            announced = self._models.versions(name, version)
        except MillraceError:
            return []
        return sorted(model.version for model in announced if model.state == AVAILABLE)


def _of_version(name: str, version: int, of: VersionCounts) -> dict[str, Any]:
    return {
        "name": name,
        "version": str(version),
        "last_inference": of.last_run_ms,
        "inference_count": of.rows,
        "execution_count": of.batch_rows.count,
        "inference_stats": {
            "success": _duration(of.latency.count, of.latency.sum),
            "fail": _duration(of.failed, of.failed_s),
            "queue": _of_stage(of.queue),
            "compute_input": _of_stage(of.batch),
            "compute_infer": _of_stage(of.compute),
            "compute_output": _of_stage(of.reply),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "response_stats": {},
        "batch_stats": [_of_runs(rows, runs) for rows, runs in sorted(of.runs.items())],
        "memory_usage": [],
    }


def _of_runs(rows: int, runs: Runs) -> dict[str, Any]:
    """The runs of one size; what passed between a run's end and the answers is known by request alone."""
    return {
        "batch_size": rows,
        "compute_input": _duration(runs.count, runs.wait_s),
        "compute_infer": _duration(runs.count, runs.compute_s),
        "compute_output": _duration(runs.count, 0.0),
    }


def _of_stage(stage: Distribution) -> dict[str, int]:
    return _duration(stage.count, stage.sum)


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}
