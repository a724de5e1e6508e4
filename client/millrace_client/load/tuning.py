"""The search for settings: one setting after the other is moved up and down while that helps.

A candidate is judged by the most requests a second that it answers within the objective, over a few numbers of users.
Where it is far behind the best at the first of them already, the rest are left out.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

USERS = (16, 64)  # closed loops: enough to fill one batch, and several
GAIN = 1.03  # less than this is noise, and the simpler settings stay
FAR_BEHIND = 0.7


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings of a stack: rows of a batch, instances and threads of a worker, and workers."""

    max_batch_size: int
    instances: int
    threads: int
    workers: int

    def __str__(self) -> str:
        return (
            f"max_batch_size {self.max_batch_size}, instances {self.instances}, threads {self.threads}, "
            f"workers {self.workers}"
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """What a number of users got: answers a second, their p99 in ms, and CPU seconds of the stack for 1,000 answers."""

    users: int
    ok_per_s: float
    p99_ms: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate and its measurements; `best` is the one with the most answers within the objective, if any."""

    candidate: Candidate
    measured: tuple[Measured, ...]
    best: Measured | None
    note: str = ""


Measure = Callable[[Candidate, int], Measured]


@dataclass(slots=True)
class Search:
    """One search. `measure` runs a candidate with a number of users, `close` ends what it started for the last one.

    `limits` are the largest value of each setting. No candidate is begun after `seconds` of `clock`.
    """

    measure: Measure
    close: Callable[[], None]
    p99_ms: float
    limits: Mapping[str, int]
    seconds: float
    clock: Callable[[], float] = time.monotonic
    say: Callable[[Trial], None] = lambda _: None
    trials: dict[Candidate, Trial] = field(default_factory=dict)

    def run(self, start: Candidate) -> Trial:
        """The best trial, beginning from `start`; it is `start`'s where nothing is better."""
        ends_s = self.clock() + self.seconds
        best = self._try(start, None)
        improved = True
        while improved:
            improved = False
            for name in self.limits:
                for factor in (2.0, 0.5):
                    while self.clock() < ends_s:
                        candidate = self._moved(best.candidate, name, factor)
                        if candidate is None or candidate in self.trials:
                            break
                        trial = self._try(candidate, best)
                        if not _is_better(trial, best):
                            break
                        best, improved = trial, True
        return best

    def _moved(self, candidate: Candidate, name: str, factor: float) -> Candidate | None:
        value = int(getattr(candidate, name) * factor)
        return replace(candidate, **{name: value}) if 1 <= value <= self.limits[name] else None

    def _try(self, candidate: Candidate, best: Trial | None) -> Trial:
        measured: list[Measured] = []
        note = ""
        try:
            for users in USERS:
                measured.append(self.measure(candidate, users))
                if best and measured[0].ok_per_s < FAR_BEHIND * best.measured[0].ok_per_s:
                    note = "far behind"
                    break
        finally:
            self.close()
        within = [each for each in measured if each.p99_ms <= self.p99_ms]
        chosen = max(within, key=lambda each: each.ok_per_s, default=None)
        trial = Trial(candidate, tuple(measured), chosen, note or ("" if chosen else "p99 is over the objective"))
        self.trials[candidate] = trial
        self.say(trial)
        return trial


def _is_better(trial: Trial, best: Trial) -> bool:
    if trial.best is None:
        return False
    return best.best is None or trial.best.ok_per_s > GAIN * best.best.ok_per_s
