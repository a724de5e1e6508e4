"""How many rows of bulk run at once: so few that nobody waits long for them, and so many that they cost little more.

Callers come while a run of bulk goes on, and wait for its end. What a run costs is taken to be `a + c x rows`, by one
row and by a full batch. Of the numbers of rows 1, 2, 4 … the smallest is taken whose rows cost no more than 8 % above
those of a full batch: a model that gains little from batches runs a few rows at a time, one that gains much full ones.
"""

from collections.abc import Callable, Mapping
from functools import partial

from worker.backends.base import Arrays, Backend
from worker.loading import warmup
from worker.loading.budget import Budget
from worker.loading.samples import Subject
from worker.running.cores import UnhinderedClock

_DEARER = 1.08
_BETWEEN_S = 0.0002  # beside the run itself: a look at the queue, an answer encoded
_MEASURED_RUNS = 3


def measured_rows(
    backend: Backend,
    subjects: Mapping[str, Subject],
    largest: int,
    budget: Budget,
    timer: Callable[[], float] | None = None,
) -> int:
    """The number of rows, by what the first signature's runs take; `largest` where there is no time to find out.

    `timer` counts seconds; by default those that this thread does not wait for a processor. Raises what the model
    raises.
    """
    own = UnhinderedClock()
    clock = timer or own
    name, subject = next(iter(subjects.items()))
    run = budget.watched(partial(backend.run, name))
    row = warmup.first_that_runs(run, subject, largest, budget)[0]

    def took_s(inputs: Arrays) -> float:
        """The shortest of a few runs."""
        times: list[float] = []
        while len(times) < _MEASURED_RUNS and not (times and budget.lacks(1)):
            started = clock()
            run(inputs)
            times.append(clock() - started)
        return min(times)

    try:
        one_s = took_s(row)
        if budget.lacks(largest):
            return largest
        return cheapest(one_s, took_s(subject.preparation.joined([row] * largest)), largest)
    finally:
        own.times.close()


def cheapest(one_s: float, full_s: float, largest: int) -> int:
    """The number of rows, where one takes `one_s` and a batch of the `largest` number `full_s`."""
    of_row_s = max(0.0, full_s - one_s) / max(1, largest - 1)
    of_run_s = max(0.0, one_s - of_row_s) + _BETWEEN_S
    most_s = _DEARER * (of_run_s / largest + of_row_s)
    rows = 1
    while rows < largest and of_run_s / rows + of_row_s > most_s:
        rows *= 2
    return min(rows, largest)
