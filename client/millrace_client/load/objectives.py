"""What a run has to reach, as `--fail` says it: "p99<50ms", "errors<0.1%", "goodput>0.95".

p50 p90 p99 p99.9 max mean    a latency of the successes
errors                        the share of requests that failed, 429 too
refused                       the share of 429
goodput                       the share of requests that were answered within the objective (--p99-ms)
throughput                    successes a second
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from millrace_client.load.results import PERCENTILES, needed

_FORM = re.compile(r"\s*([a-z0-9.]+)\s*(<=|>=|<|>)\s*([0-9.]+)\s*(us|ms|s|%)?\s*")
_LATENCIES = {"p50": "p50", "p90": "p90", "p99": "p99", "p99.9": "p999", "max": "max", "mean": "mean"}
_SHARES = ("errors", "refused", "goodput")
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "%": 0.01, None: 1.0}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one objective: whether it was reached, and the value; `is_claimed` is false where it rests on too little."""

    objective: str
    value: float | None
    is_met: bool
    is_claimed: bool = True


@dataclass(frozen=True, slots=True)
class Objective:
    """A limit for one figure; latencies in ms."""

    text: str
    figure: str
    sign: str
    limit: float

    @classmethod
    def of(cls, text: str) -> "Objective":
        """The objective that the text says. Raises `ValueError`."""
        found = _FORM.fullmatch(text)
        if not found or found[1] not in (*_LATENCIES, *_SHARES, "throughput"):
            raise ValueError(f'{text!r} is no objective: give "p99<50ms", "errors<0.1%" or "goodput>0.95"')
        figure, sign, number, unit = found.groups()
        is_time = unit in ("us", "ms", "s")
        if (figure in _LATENCIES) != is_time or (unit == "%" and figure not in _SHARES):
            raise ValueError(f"{text!r}: {figure} is {'a time, in ms' if figure in _LATENCIES else 'not a time'}")
        return cls(text, figure, sign, float(number) * _UNITS[unit])

    def verdict(self, document: Mapping[str, Any]) -> Verdict:
        """Whether the run reached it."""
        value = self._value(document)
        if value is None:
            return Verdict(self.text, None, is_met=False)
        is_met = {
            "<": value < self.limit,
            "<=": value <= self.limit,
            ">": value > self.limit,
            ">=": value >= self.limit,
        }[self.sign]
        percent = PERCENTILES.get(_LATENCIES.get(self.figure, ""))
        is_claimed = percent is None or document["ok"] >= needed(percent)
        return Verdict(self.text, value, is_met=is_met, is_claimed=is_claimed)

    def _value(self, document: Mapping[str, Any]) -> float | None:
        requests = document["requests"] or 1
        if self.figure in _LATENCIES:
            value: float | None = document["latency_ms"][_LATENCIES[self.figure]]
            return value
        if self.figure == "throughput":
            return float(document["ok_per_s"])
        if self.figure == "goodput":
            return float(document["goodput"]["share"]) if document["goodput"] else None
        return float(
            (document["requests"] - document["ok"] if self.figure == "errors" else document["refused"]) / requests
        )
