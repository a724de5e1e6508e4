"""What the server's metrics say of one version, since a moment."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_SAMPLE = re.compile(r"(millrace_\w+)\{(.*)\} (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_REQUESTS = "millrace_requests_total"
_BUCKETS = "millrace_request_duration_seconds_bucket"
_ROWS = "millrace_shadow_rows_total"
_Key = tuple[str, str]  # a metric, and the label of it that matters


@dataclass(frozen=True, slots=True)
class Numbers:
    """What was counted. `buckets` are how many requests were answered within so many seconds."""

    requests: float = 0.0
    failed: float = 0.0
    agreed: float = 0.0
    differed: float = 0.0
    buckets: Mapping[float, float] = field(default_factory=dict)

    @property
    def errors(self) -> float:
        """The share of the requests that were answered with a status of 500 or more."""
        return self.failed / self.requests if self.requests else 0.0

    @property
    def answered(self) -> float:
        """The requests that were answered with 200, whose times are known."""
        return self.buckets.get(math.inf, 0.0)

    @property
    def compared(self) -> float:
        """The rows that were compared with the other version's."""
        return self.agreed + self.differed

    @property
    def agreement(self) -> float:
        """The share of these that agree."""
        return self.agreed / self.compared if self.compared else 1.0

    def percentile(self, share: float) -> float:
        """The time within which that share of the answers came, in seconds, as exact as the buckets are.

        Where it is above the last bucket's bound it is infinite.
        """
        bounds = sorted(self.buckets)
        wanted = share * (self.buckets[bounds[-1]] if bounds else 0.0)
        low, below = 0.0, 0.0
        for bound in bounds:
            count = self.buckets[bound]
            if count >= wanted and count > below:
                return low + (bound - low) * (wanted - below) / (count - below) if bound < math.inf else math.inf
            low, below = bound, count
        return 0.0


class Growth:
    """By how much the counters of one model's version grew, over all of several servers. `feed` with each look.

    A server that was started anew counts from 0 on.
    """

    def __init__(self, model: str, version: int) -> None:
        self._of = {"model": model, "version": str(version)}
        self._last: dict[int, dict[_Key, float]] = {}
        self._grown: dict[_Key, float] = {}

    def feed(self, texts: Sequence[str | None]) -> None:
        """Take in what each server says now; None for one that did not answer."""
        for number, text in enumerate(texts):
            if text is None:
                continue
            now = dict(self._read(text))
            before = self._last.get(number)
            for key, value in now.items() if before is not None else ():
                old = (before or {}).get(key, 0.0)
                self._grown[key] = self._grown.get(key, 0.0) + (value - old if value >= old else value)
            self._last[number] = now

    def begin(self) -> None:
        """Count from now on."""
        self._grown = {}

    @property
    def numbers(self) -> Numbers:
        """What was counted since."""
        of = self._grown
        statuses = {label: count for (name, label), count in of.items() if name == _REQUESTS}
        return Numbers(
            requests=sum(statuses.values()),
            failed=sum(count for status, count in statuses.items() if status >= "500"),
            agreed=of.get((_ROWS, "agreed"), 0.0),
            differed=of.get((_ROWS, "differed"), 0.0),
            buckets={float(label): count for (name, label), count in of.items() if name == _BUCKETS},
        )

    def _read(self, text: str) -> Iterator[tuple[_Key, float]]:
        found: dict[_Key, float] = {}
        for name, labels, value in _SAMPLE.findall(text):
            what = {_REQUESTS: "status", _BUCKETS: "le", _ROWS: "outcome"}.get(name)
            if what is None:
                continue
            named = dict(_LABEL.findall(labels))
            if all(named.get(label) == wanted for label, wanted in self._of.items()):
                key = name, named[what]
                found[key] = found.get(key, 0.0) + float(value)
        yield from found.items()
