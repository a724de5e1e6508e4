"""Runs before a model serves: so that no caller waits for a first run, and to measure what a run costs."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.protocol.errors import DeadlineExceeded, Unavailable
from millrace.protocol.tensors import BYTES, DTYPES, Signature, TensorSpec
from worker.backends.base import Arrays, Backend
from worker.backends.texts import reason_of
from worker.loading.budget import Budget, Run
from worker.loading.samples import Subject
from worker.preprocessing.preparation import Preparation
from worker.running.batcher import Cost

_MEASURED_LENGTH, _MEASURED_ROWS, _MEASURED_RUNS = 64, 8, 5
_SEND_MS = 0.05  # one more reply block: written, sent and read by the API


def run(backend: Backend, subjects: Mapping[str, Subject], max_batch_size: int, budget: Budget) -> tuple[int, str, str]:
    """Run each signature on what its files give, else on guesses, in batches of up to `max_batch_size` rows.

    Returns how many rows the largest batch had, what larger ones do that did not run, and why a signature could not be
    run, "" where all could. Raises `Unavailable`, `DeadlineExceeded` and `MemoryError`.
    """
    largest, lacked, failed = max_batch_size, "", ""
    for name, subject in subjects.items():
        of_signature = budget.watched(partial(backend.run, name))
        try:
            rows = first_that_runs(of_signature, subject, max_batch_size, budget)
        except (Unavailable, DeadlineExceeded, MemoryError):
            raise
        except Exception as error:  # whatever the runtime raises
            if not subject.signature.examples_input:  # which may refuse what is no serialized example
                failed = failed or reason_of(error)
            continue
        grown, lack = _grow(of_signature, rows, subject.preparation, max_batch_size, budget)
        if grown < largest:
            largest, lacked = grown, lack
    return largest, lacked, failed


def sample(backend: Backend, name: str, subject: Subject, budget: Budget) -> Arrays:
    """One row that the model runs. Raises whatever it raises where there is none."""
    return first_that_runs(budget.watched(partial(backend.run, name)), subject, 1, budget)[0]


def first_that_runs(run: Run, subject: Subject, max_batch_size: int, budget: Budget) -> list[Arrays]:
    """The rows, or the one whole request, of the first sample that the model runs; else the first error is raised."""
    first: Exception | None = None
    for sample in _samples(subject, has_rows=bool(max_batch_size)):
        try:
            run(sample[0])
        except (Unavailable, DeadlineExceeded, MemoryError):
            raise
        except Exception as error:  # whatever the runtime raises
            first = first or error
            if budget.is_spent:
                break
        else:
            return sample
    raise first or ValueError("no sample of its inputs is small enough")


def _samples(subject: Subject, *, has_rows: bool) -> Iterator[list[Arrays]]:
    if not has_rows:
        yield from ([given] for given in subject.given)
        yield from ([request] for request in subject.wholes())
        return
    if rows := subject.given_rows(1):
        yield rows
    yield from (subject.rows(guess, 1) for guess in subject.guesses())


def _grow(
    run: Run, sample: list[Arrays], preparation: Preparation, max_batch_size: int, budget: Budget
) -> tuple[int, str]:
    """Run larger and larger batches: the rows of the largest, and what larger ones do that did not run."""
    rows, batch = 1, sample[0]
    while rows < max_batch_size:
        larger = min(2 * rows, max_batch_size)
        if lacked := budget.lacks(larger / rows, partial(run, batch)):
            return rows, lacked
        batch = preparation.joined([sample[0]] * larger)
        try:
            run(batch)
        except (Unavailable, DeadlineExceeded):
            raise
        except Exception as error:  # memory, or whatever the runtime raises
            return rows, f"fail: {reason_of(error)}"
        rows = larger
    return max_batch_size, ""


def measured_cost(
    backend: Backend,
    signatures: Mapping[str, Signature],
    preparation: Preparation,
    max_batch_size: int,
    timer: Callable[[], float] = time.perf_counter,
) -> Cost:
    """The cost that three sizes of batch show, with what it takes to answer one more batch.

    Zero where rows do not differ in length. The first signature stands for all.
    """
    name, signature = next(iter(signatures.items()))

    def took_ms(rows: int, length: int) -> float:
        """The time of a run, the shortest of a few: what else the machine does is no part of it."""
        inputs = {spec.name: _sample(spec, preparation, rows, length) for spec in signature.inputs}
        times = []
        for _ in range(_MEASURED_RUNS):
            started = timer()
            backend.run(name, inputs)
            times.append((timer() - started) * 1000)
        return min(times)

    long = min(_MEASURED_LENGTH, preparation.max_length)
    rows = min(_MEASURED_ROWS, max_batch_size)
    if not preparation.pads or long < 2 or rows < 2:
        return Cost()
    short_ms, long_ms, wide_ms = took_ms(1, 1), took_ms(1, long), took_ms(rows, long)
    element = max(0.0, wide_ms - long_ms) / ((rows - 1) * long)
    step = max(0.0, (long_ms - short_ms) / (long - 1) - element)
    return Cost(batch=max(0.0, short_ms - step - element) + _SEND_MS, step=step, element=element)


def _sample(spec: TensorSpec, preparation: Preparation, rows: int, length: int) -> npt.NDArray[Any]:
    """A tensor of one value, its last axis `length` long where it may be filled up."""
    shape = (rows, *(1 if size < 0 else size for size in spec.shape[1:]))
    if len(shape) > 1 and spec.shape[-1] < 0:
        shape = (*shape[:-1], length if preparation.may_pad(spec.name) else 1)
    if spec.datatype == BYTES:
        return np.full(shape, b"", object)
    return np.full(shape, preparation.filler(spec.name), DTYPES[spec.datatype])
