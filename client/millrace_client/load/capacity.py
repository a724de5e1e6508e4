"""The highest rate that holds an objective: doubled until it is missed, halved in between, and confirmed.

The rules are MLPerf's in short form. A rate counts as held when the run is valid, lasted its minimum time, had enough
requests for the percentile that is claimed, its percentile kept the bound, and at least 99.9 % of the requests were
answered rightly. The answer is confirmed by further runs; where one of them fails, a lower rate is tried.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from millrace_client.load.results import needed

Document = Mapping[str, Any]
CLOSE_ENOUGH = 1.05  # the bisection ends when the rate that is missed is at most this much above the one that is held
CONFIRMATIONS = 2  # further runs at the answer
STEP_DOWN = 0.95  # to the next candidate, where a confirmation fails
MIN_OK_SHARE = 0.999
MAX_DOUBLINGS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The bound on the p99 in ms, and the shortest run in seconds."""

    p99_ms: float
    seconds: float

    def seconds_at(self, rate: float) -> float:
        """How long a run at that rate lasts: with a tenth more requests than a p99 needs."""
        return max(self.seconds, 1.1 * needed(99) / rate)

    def why_missed(self, run: Document) -> str | None:
        """Why the rate of a run does not count as held; None when it does."""
        if not run["valid"]:
            return "; ".join(run["invalid"])
        if run["ok"] < MIN_OK_SHARE * run["requests"]:
            return f"{run['requests'] - run['ok']} of {run['requests']} requests were not answered rightly"
        if run["ok"] < needed(99):
            return f"only {run['ok']} answers: too few for a p99"
        if run["latency_ms"]["p99"] > self.p99_ms:
            return f"p99 {run['latency_ms']['p99']:.1f} ms"
        return None


@dataclass(slots=True)
class Capacity:
    """The answer: the rate that is held (0 where none is), and all runs that led there.

    `p99_ms` are those of the runs at that rate. `limit` says why the next higher rate that was tried was missed.
    """

    rate: float = 0.0
    p99_ms: list[float] = field(default_factory=list)
    ok_per_s: list[float] = field(default_factory=list)
    limit: str = ""
    runs: list[Document] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """The answer with its spread, in the types of JSON."""
        return {
            "rate": self.rate,
            "ok_per_s": _spread(self.ok_per_s),
            "p99_ms": _spread(self.p99_ms),
            "confirmed_by": len(self.p99_ms),
            "limit": self.limit,
        }


def find(measure: Callable[[float, float], Document], rules: Rules, first: float) -> Capacity:
    """Search, beginning at the rate `first`; `measure` makes a run at a rate, of a number of seconds."""
    found = Capacity()

    def holds(rate: float) -> bool:
        run = measure(rate, rules.seconds_at(rate))
        found.runs.append(run)
        if not run["valid"]:  # it says nothing of the server: once more
            run = measure(rate, rules.seconds_at(rate))
            found.runs.append(run)
        why = rules.why_missed(run)
        if why is not None:
            found.limit = f"{rate:g}/s: {why}"
        return why is None

    held, missed = _bracket(holds, first)
    while held and missed and missed / held > CLOSE_ENOUGH:
        middle = (held * missed) ** 0.5
        held, missed = (middle, missed) if holds(middle) else (held, middle)
    while held >= first / 2**MAX_DOUBLINGS and not all(holds(held) for _ in range(CONFIRMATIONS)):
        held *= STEP_DOWN
    found.rate = held
    at_answer = [run for run in found.runs if run["load"]["rate"] == float(f"{held:g}")]
    found.p99_ms = [run["latency_ms"]["p99"] for run in at_answer if rules.why_missed(run) is None]
    found.ok_per_s = [run["ok_per_s"] for run in at_answer if rules.why_missed(run) is None]
    return found


def _bracket(holds: Callable[[float], bool], first: float) -> tuple[float, float]:
    """A rate that is held and the double of it, which is not; (0, rate) where none is, (rate, 0) where all are."""
    rate = first
    if holds(rate):
        for _ in range(MAX_DOUBLINGS):
            if not holds(rate * 2):
                return rate, rate * 2
            rate *= 2
        return rate, 0.0
    for _ in range(MAX_DOUBLINGS):
        rate /= 2
        if rate < 1:
            return 0.0, rate * 2
        if holds(rate):
            return rate, rate * 2
    return 0.0, rate


def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
