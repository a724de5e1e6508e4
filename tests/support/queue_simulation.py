"""Callers, API processes, a queue and workers in virtual time: what becomes of requests, in milliseconds of real time.

Events are taken from a heap in the order of their times; the clock that `Flow` is given stands at an event's time.
Everything random comes from a seed, so that each run of a scenario is the same.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from serving.queueing.flow import Flow

_LINK_S = 0.0005  # from an API process to the queue, and from a worker back
Rate = Callable[[float], float]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """`workers` run batches of up to `batch` rows in `fixed_s` + rows x `row_s` seconds, give or take `jitter`.

    Callers send `load` times what the workers can do at full speed, as a function of time, each request with one of
    `rows` and of `deadlines`. `speed` is how fast the workers are at a time: 0 while they stand still. What happens
    before `warm_s` is not counted.
    """

    fixed_s: float
    row_s: float = 0.0
    batch: int = 32
    workers: int = 1
    processes: int = 1
    deadlines: tuple[float, ...] = (1.0,)
    load: Rate = lambda _: 3.0
    rows: tuple[int, ...] = (1,)
    high: float = 0.0
    jitter: float = 0.1
    speed: Rate = lambda _: 1.0
    alive: Rate = lambda _: 1e9
    seconds: float = 20.0
    warm_s: float = 2.0
    seed: int = 1

    @property
    def run_s(self) -> float:
        """How long a full batch takes."""
        return self.fixed_s + self.row_s * self.batch

    @property
    def rows_per_s(self) -> float:
        """What all workers can do with full batches."""
        return self.workers * self.batch / self.run_s


def scenario(
    rows_per_s: float, *, batch: int, workers: int = 1, by_row: float = 0.0, runs: float = 6.0, **others: object
) -> Scenario:
    """A scenario by its peak. `by_row` is how much of a full batch's time grows with its rows.

    The deadline is as long as so many `runs` of a full batch, unless `deadlines` says otherwise.
    """
    run_s = batch * workers / rows_per_s
    plain = Scenario(fixed_s=run_s * (1 - by_row), row_s=run_s * by_row / batch, batch=batch, workers=workers)
    return replace(plain, **({"deadlines": (runs * run_s,)} | others))  # type: ignore[arg-type]


@dataclass(slots=True, eq=False)
class _Request:
    sent: float
    rows: int
    due: float
    priority: str
    flow: Flow
    ahead: int = 0
    is_done: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of the requests that were sent after the warm-up.

    `used` are the parts of their deadlines after which accepted requests were answered, 1 for those that were not.
    """

    used: list[float] = field(default_factory=list)
    late: int = 0
    refused: int = 0
    rows_answered: int = 0
    rows_computed: int = 0
    longest_wait_told_s: float = 0.0

    @property
    def late_share(self) -> float:
        """Which part of the accepted requests missed its deadline."""
        return self.late / max(1, len(self.used))

    def used_by(self, percent: float) -> float:
        """That percentile of the parts of the deadlines that accepted requests took."""
        return sorted(self.used)[min(len(self.used) - 1, int(len(self.used) * percent / 100))]


class Simulation:
    """One run of a scenario: `outcome` when `run` returns. Without a deadline that ends, it measures the peak."""

    def __init__(self, scenario: Scenario, *, most_rows: int | None = None) -> None:
        self._scenario = scenario
        self._most_rows = most_rows
        self._rows = 0
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._random = random.Random(scenario.seed)
        self.flows = [Flow(scenario.batch, lambda: self.now) for _ in range(scenario.processes)]
        self._queue: dict[str, deque[_Request]] = {"high": deque(), "normal": deque()}
        self._idle = scenario.workers
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Let the time pass, until the last request has ended."""
        self._at(0.0, self._arrive)
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
        return self.outcome

    def _at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), event))

    def _arrive(self) -> None:
        scenario, draw = self._scenario, self._random
        if self.now >= scenario.seconds:
            return
        rate = scenario.load(self.now) * scenario.rows_per_s / (sum(scenario.rows) / len(scenario.rows))
        self._at(self.now + draw.expovariate(rate), self._arrive)
        flow, rows, timeout_s = draw.choice(self.flows), draw.choice(scenario.rows), draw.choice(scenario.deadlines)
        priority = "high" if draw.random() < scenario.high else "normal"
        if self._most_rows is None:
            too_late_s = flow.seconds_too_late(priority, timeout_s, rows)
        else:
            too_late_s = float(self._rows + rows > self._most_rows)
        if too_late_s:
            self.outcome.longest_wait_told_s = max(self.outcome.longest_wait_told_s, too_late_s)
            self.outcome.refused += self.now >= scenario.warm_s
            return
        request = _Request(self.now, rows, self.now + timeout_s, priority, flow)
        request.ahead = flow.sent(priority, rows)
        self._rows += rows
        if self._most_rows is None:
            self._at(request.due, lambda: self._expire(request))
        self._at(self.now + _LINK_S, lambda: self._queued(request))

    def _queued(self, request: _Request) -> None:
        self._queue[request.priority].append(request)
        if self._idle > max(0, self._scenario.workers - self._scenario.alive(self.now)):
            self._idle -= 1
            self._take()

    def _take(self) -> None:
        """A worker takes a batch's worth of each priority, and drops what nobody waits for any more."""
        batches: list[list[_Request]] = [[]]
        filled = 0
        is_alive = self._scenario.workers - self._idle <= self._scenario.alive(self.now)
        for queue in self._queue.values() if is_alive else ():
            taken = 0
            while queue and (taken == 0 or taken + queue[0].rows <= self._scenario.batch):
                request = queue.popleft()
                if request.is_done:
                    continue
                if batches[-1] and filled + request.rows > self._scenario.batch:
                    batches.append([])
                    filled = 0
                batches[-1].append(request)
                filled += request.rows
                taken += request.rows
        if batches[0]:
            self._work(batches, self.now)
        else:
            self._idle += 1

    def _work(self, batches: list[list[_Request]], taken: float) -> None:
        scenario = self._scenario
        rows = sum(request.rows for request in batches[0])
        run_s = (scenario.fixed_s + scenario.row_s * rows) * self._random.lognormvariate(0, scenario.jitter)

        def ran() -> None:
            ended, run_s = self.now, self.now - taken
            self._at(ended + _LINK_S, lambda: self._answer(batches[0], run_s))
            if batches[1:]:
                self._work(batches[1:], taken)
            else:
                self._take()

        self._at(self._after(run_s), ran)

    def _after(self, run_s: float) -> float:
        """When so much work is done, at the speeds of that time."""
        time, step_s = self.now, max(1e-4, min(0.02, run_s / 8))
        while run_s > (done := self._scenario.speed(time) * step_s):
            run_s -= done
            time += step_s
        return time + run_s / max(self._scenario.speed(time), 1e-9)

    def _answer(self, requests: list[_Request], run_s: float) -> None:
        for request in requests:
            if self._scenario.warm_s <= self.now <= self._scenario.seconds:
                self.outcome.rows_computed += request.rows
            if not request.is_done:
                self._end(request)
                request.flow.answered(request.priority, request.rows, request.ahead, request.sent, run_s)
                if self._scenario.warm_s <= self.now <= self._scenario.seconds:
                    self.outcome.rows_answered += request.rows
                if request.sent >= self._scenario.warm_s:
                    self.outcome.used.append((self.now - request.sent) / (request.due - request.sent))

    def _expire(self, request: _Request) -> None:
        if not request.is_done:
            self._end(request)
            request.flow.expired(request.priority, request.rows, request.ahead, request.sent)
            if request.sent >= self._scenario.warm_s:
                self.outcome.late += 1
                self.outcome.used.append(1.0)

    def _end(self, request: _Request) -> None:
        request.is_done = True
        self._rows -= request.rows


def peak_rows_per_s(scenario: Scenario) -> float:
    """What the workers do when there is always enough to do, under the same arrivals and at the same speeds."""
    endless = replace(scenario, high=0.0, load=lambda _: 3.0)
    simulation = Simulation(endless, most_rows=8 * scenario.batch * scenario.workers)
    return simulation.run().rows_answered / (scenario.seconds - scenario.warm_s)


def goodput(scenario: Scenario, outcome: Outcome) -> float:
    """Rows answered in time, as a part of the peak."""
    return outcome.rows_answered / (scenario.seconds - scenario.warm_s) / peak_rows_per_s(scenario)
