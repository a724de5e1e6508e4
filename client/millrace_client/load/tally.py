"""What came of the requests, counted where they are sent: mergeable, and able to travel as JSON."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from millrace_client.load.histogram import Histogram

# ok; 429; 503; 504 or the generator's own timeout; an answer that is not right; no connection, or lost before the
# answer was complete; any other status; cut off because the run was stopped.
Kind = Literal["ok", "refused", "unavailable", "timed_out", "wrong", "connection", "error", "unfinished"]
KINDS: tuple[Kind, ...] = ("ok", "refused", "unavailable", "timed_out", "wrong", "connection", "error", "unfinished")
MESSAGES = 20  # distinct error messages that are kept


@dataclass(slots=True)
class Tally:
    """Requests by what came of them. `latency` has the successes alone; the rest never touches it.

    `lag` is by how much the generator itself was late. `stages` are the parts of the successes' time, the client's own
    (send, wait, receive) and those that the server named. `windows` are the latencies of the successes by the second
    of the run in which they were due, `window_failures` how many others were due there.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)
    stages: dict[str, Histogram] = field(default_factory=dict)
    windows: dict[int, Histogram] = field(default_factory=dict)
    window_failures: Counter[int] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        """All of them."""
        return self.kinds.total()

    def succeed(self, second: int, latency_us: int, stages: Mapping[str, int]) -> None:
        """Count a right answer to a request that was due in that second; `stages` in µs."""
        self.kinds["ok"] += 1
        self.latency.record(latency_us)
        if (window := self.windows.get(second)) is None:
            window = self.windows[second] = Histogram()
        window.record(latency_us)
        for name, us in stages.items():
            if (histogram := self.stages.get(name)) is None:
                histogram = self.stages[name] = Histogram()
            histogram.record(us)

    def fail(self, second: int, kind: Kind, message: str) -> None:
        """Count any other end of a request."""
        self.kinds[kind] += 1
        self.window_failures[second] += 1
        self._note(message, 1)

    def merge(self, other: "Tally") -> None:
        """Add the other's requests."""
        self.kinds.update(other.kinds)
        self.latency.merge(other.latency)
        self.lag.merge(other.lag)
        self.window_failures.update(other.window_failures)
        for mine, theirs in ((self.stages, other.stages), (self.windows, other.windows)):
            _merge_all(mine, theirs)
        for message, count in other.messages.items():
            self._note(message, count)

    def document(self) -> dict[str, Any]:
        """All of it in the types of JSON; `of` reads it back."""
        return {
            "kinds": dict(self.kinds),
            "latency": self.latency.document(),
            "lag": self.lag.document(),
            "stages": {name: histogram.document() for name, histogram in self.stages.items()},
            "windows": {str(second): histogram.document() for second, histogram in sorted(self.windows.items())},
            "window_failures": {str(second): count for second, count in sorted(self.window_failures.items())},
            "messages": dict(self.messages),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """The tally of a `document`. Raises `KeyError`, `TypeError`, `ValueError` for something else."""
        return cls(
            kinds=Counter(document["kinds"]),
            latency=Histogram.of(document["latency"]),
            lag=Histogram.of(document["lag"]),
            stages={name: Histogram.of(each) for name, each in document["stages"].items()},
            windows={int(second): Histogram.of(each) for second, each in document["windows"].items()},
            window_failures=Counter({int(second): count for second, count in document["window_failures"].items()}),
            messages=Counter(document["messages"]),
        )

    def _note(self, message: str, count: int) -> None:
        if message in self.messages or len(self.messages) < MESSAGES:
            self.messages[message] += count
        else:
            self.messages["(others)"] += count


def _merge_all(mine: dict[Any, Histogram], theirs: Mapping[Any, Histogram]) -> None:
    for key, histogram in theirs.items():
        mine.setdefault(key, Histogram()).merge(histogram)
