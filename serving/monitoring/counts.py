"""What is counted of requests: plain numbers, which several processes' can be added up."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import msgspec
import numpy as np
from prometheus_client.utils import floatToGoString

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Distribution(msgspec.Struct, array_like=True):
    """How many values fell below each of the bounds `SECONDS`, or `ROWS`, and their sum."""

    counts: list[int]
    sum: float = 0.0

    @classmethod
    def over(cls, bounds: tuple[float, ...]) -> "Distribution":
        """Of no values yet."""
        return cls([0] * (len(bounds) + 1))

    @property
    def bounds(self) -> tuple[float, ...]:
        """What the values are compared with: they are not written each time."""
        return SECONDS if len(self.counts) > len(SECONDS) else ROWS

    def observe(self, values: Sequence[float], times: Sequence[int] | None = None) -> None:
        """Take in values, each once or as many times as is said."""
        found = np.searchsorted(self.bounds, values)
        counts = np.bincount(found, times, len(self.counts))
        self.counts = [old + int(new) for old, new in zip(self.counts, counts, strict=True)]
        self.sum += float(np.dot(values, times) if times else np.sum(values))

    def add(self, other: "Distribution") -> None:
        """Take in all values of another one with the same bounds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def buckets(self, scale: float = 1.0) -> list[tuple[str, float]]:
        """How many values were at most each bound, in Prometheus' form; bounds are multiplied by `scale`."""
        bounds = [*map(floatToGoString, (bound * scale for bound in self.bounds)), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


class Runs(msgspec.Struct, array_like=True):
    """The runs of batches of one size."""

    count: int = 0
    wait_s: float = 0.0
    compute_s: float = 0.0

    def add(self, other: "Runs") -> None:
        """Take in others of the same size."""
        self.count += other.count
        self.wait_s += other.wait_s
        self.compute_s += other.compute_s


def _of_seconds() -> Distribution:
    return Distribution.over(SECONDS)


class VersionCounts(msgspec.Struct):
    """What was counted of one model version, in seconds.

    `ended` counts requests by protocol and HTTP status. `latency` is of those that were answered with 200, `failed_s`
    the sum over the others. The stages (`parse` … `reply`) are of the requests that a worker answered. `rows` were
    inferred, in the last run at `last_run_ms` (Unix time, 0 for never). `runs` are the batches, by their rows; those
    that held requests of several API processes are counted by each.
    """

    latency: Distribution = msgspec.field(default_factory=_of_seconds)
    parse: Distribution = msgspec.field(default_factory=_of_seconds)
    queue: Distribution = msgspec.field(default_factory=_of_seconds)
    batch: Distribution = msgspec.field(default_factory=_of_seconds)
    compute: Distribution = msgspec.field(default_factory=_of_seconds)
    reply: Distribution = msgspec.field(default_factory=_of_seconds)
    ended: dict[tuple[str, int], int] = {}
    failed_s: float = 0.0
    rows: int = 0
    last_run_ms: int = 0
    runs: dict[int, Runs] = {}

    def add(self, other: "VersionCounts") -> None:
        """Take in what another process counted."""
        for stage in STAGES:
            getattr(self, stage).add(getattr(other, stage))
        for key, count in other.ended.items():
            self.ended[key] = self.ended.get(key, 0) + count
        self.failed_s += other.failed_s
        self.rows += other.rows
        self.last_run_ms = max(self.last_run_ms, other.last_run_ms)
        for rows, runs in other.runs.items():
            self.runs.setdefault(rows, Runs()).add(runs)

    @property
    def failed(self) -> int:
        """How many requests were answered with something else than 200, or not at all."""
        return sum(count for (_, status), count in list(self.ended.items()) if status != 200)

    @property
    def batch_rows(self) -> Distribution:
        """The sizes of the batches."""
        sizes = Distribution.over(ROWS)
        if runs := list(self.runs.items()):
            sizes.observe([rows for rows, _ in runs], [of.count for _, of in runs])
        return sizes


STAGES = ("latency", "parse", "queue", "batch", "compute", "reply")


class Present(msgspec.Struct):
    """What API processes have now: it is gone with them, where counts stay.

    `in_flight` are requests without an answer, and their rows, by model and version. `started_s` is when the first of
    the processes started, in Unix time; 0 where there is none.
    """

    in_flight: dict[tuple[str, int], tuple[int, int]] = {}
    memory_bytes: int = 0
    open_files: int = 0
    started_s: float = 0.0

    def add(self, other: "Present") -> None:
        """Take in what another process has."""
        for key, (requests, rows) in other.in_flight.items():
            mine = self.in_flight.get(key, (0, 0))
            self.in_flight[key] = mine[0] + requests, mine[1] + rows
        self.memory_bytes += other.memory_bytes
        self.open_files += other.open_files
        self.started_s = min(filter(None, (self.started_s, other.started_s)), default=0.0)


MOST_SLOW = 8


class SlowRequest(msgspec.Struct, array_like=True, frozen=True):
    """One request that took long, with its stages in milliseconds, in the order of `Server-Timing`.

    `ended_ms` is Unix time. The stages are 0 for a request that no worker answered.
    """

    ended_ms: int
    duration_ms: float
    model: str
    version: int
    protocol: str
    status: int
    request_id: str
    parse_ms: float = 0.0
    queue_ms: float = 0.0
    batch_ms: float = 0.0
    compute_ms: float = 0.0
    reply_ms: float = 0.0


def slowest(requests: Iterable[SlowRequest]) -> list[SlowRequest]:
    """The slowest of them, the slowest first; `MOST_SLOW` at most."""
    return sorted(requests, key=lambda request: -request.duration_ms)[:MOST_SLOW]


class Counts(msgspec.Struct):
    """All that is counted: by model and version, and copies for shadows by model, version and outcome.

    `compared` are rows that were copied to a shadow, by model, version and whether its answers "agreed" or "differed".
    `cpu_s` is processor time. The model "" of version 0 is of requests for models that are not known. `processes` is
    how many API processes counted it, and `queue_up` whether the queue answers all of them. `keys` are requests for
    inference by API key and HTTP status, `unknown_keys` requests without one that is known. `payloads` are requests for
    the payload log, by model and outcome. `slow` are the slowest of the last minute.
    """

    by_version: dict[tuple[str, int], VersionCounts] = {}
    shadows: dict[tuple[str, int, str], int] = {}
    payloads: dict[tuple[str, str], int] = {}
    keys: dict[tuple[str, int], int] = {}
    unknown_keys: int = 0
    processes: int = 1
    queue_up: bool = False
    compared: dict[tuple[str, int, str], int] = {}
    cpu_s: float = 0.0
    traces: dict[str, int] = {}
    present: Present = msgspec.field(default_factory=Present)
    slow: list[SlowRequest] = []

    @property
    def open_requests(self) -> int:
        """How many requests have no answer yet."""
        return sum(requests for requests, _ in self.present.in_flight.values())

    def of(self, model: str, version: int) -> VersionCounts:
        """What was counted of a version; what is changed there is counted."""
        found = self.by_version.get((model, version))
        if found is None:
            found = self.by_version[model, version] = VersionCounts()
        return found

    def add(self, other: "Counts") -> None:
        """Take in what another process counted."""
        for (model, version), counts in other.by_version.items():
            self.of(model, version).add(counts)
        for key, count in other.shadows.items():
            self.shadows[key] = self.shadows.get(key, 0) + count
        for logged, count in other.payloads.items():
            self.payloads[logged] = self.payloads.get(logged, 0) + count
        for name, count in other.keys.items():
            self.keys[name] = self.keys.get(name, 0) + count
        self.unknown_keys += other.unknown_keys
        self.processes += other.processes
        self.queue_up &= other.queue_up
        for key, count in other.compared.items():
            self.compared[key] = self.compared.get(key, 0) + count
        self.cpu_s += other.cpu_s
        for outcome, number in other.traces.items():
            self.traces[outcome] = self.traces.get(outcome, 0) + number
        self.present.add(other.present)
        self.slow = slowest([*self.slow, *other.slow])

    def version(self, model: str, version: int) -> VersionCounts:
        """What was counted of a version; zeros where it was never asked."""
        return self.by_version.get((model, version)) or VersionCounts()

    @property
    def versions(self) -> Mapping[tuple[str, int], VersionCounts]:
        """Every model version that was ever asked, by name and number."""
        return {key: of for key, of in list(self.by_version.items()) if key[0]}


def total(counts: Iterable[Counts]) -> Counts:
    """All of them together, of which none is changed."""
    together = Counts(processes=0, queue_up=True)
    for each in counts:
        together.add(each)
    return together
