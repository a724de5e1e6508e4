"""The server's own count of where the time went: Triton's statistics, which Millrace and others serve too."""

from collections.abc import Callable
from typing import Any

from millrace_client.encoding import json_of, model_path
from millrace_client.errors import MillraceError
from millrace_client.exchange import Request, Response

_STAGES = ("queue", "compute_input", "compute_infer", "compute_output")
Totals = dict[str, tuple[int, int]]  # by stage: how often, and nanoseconds


def totals(ask: Callable[[Request], Response], models: tuple[str, ...]) -> Totals | None:
    """The sums until now over all versions of the models; None where the server has no such statistics."""
    summed: Totals = {}
    try:
        for model in models:
            path = f"/v2{model_path(model.partition('/')[0], None)}/stats"
            _add(summed, json_of(ask(Request(method="GET", path=path)).body))
    except (MillraceError, KeyError, TypeError, AttributeError):
        return None
    return summed


def means_ms(before: Totals | None, after: Totals | None) -> dict[str, float] | None:
    """The mean of each stage in between, in milliseconds."""
    if not before or not after:
        return None
    means = {}
    for stage, (count, ns) in after.items():
        count_before, ns_before = before.get(stage, (0, 0))
        if count > count_before:
            means[stage] = (ns - ns_before) / (count - count_before) / 1e6
    return means or None


def _add(summed: Totals, document: Any) -> None:
    for model in document["model_stats"]:
        for stage in _STAGES:
            told = model["inference_stats"].get(stage)
            if told is not None:
                count, ns = summed.get(stage, (0, 0))
                summed[stage] = count + int(told["count"]), ns + int(told["ns"])
