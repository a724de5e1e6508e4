"""Runs before a model serves: so that no caller waits for a first run, and to measure what a run costs."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.protocol.tensors import BYTES, DTYPES, Signature, TensorSpec
from worker.backends.base import Backend
from worker.batcher import Cost
from worker.preprocess import Preparation

_log = logging.getLogger(__name__)
_MEASURED_LENGTH, _MEASURED_ROWS, _MEASURED_RUNS = 64, 8, 5
_LARGEST_INPUT_BYTES = 2**30
_SEND_MS = 0.05  # one more reply block: written, sent and read by the API


def run_on_zeros(backend: Backend, signatures: Mapping[str, Signature], rows: int) -> None:
    """Run each signature on that many rows of zeros; `rows` 0 is for a model without batches.

    A signature that takes serialized examples may refuse empty strings. Raises `ValueError` for a batch that is too
    large to hold, and whatever the runtime raises.
    """
    for name, signature in signatures.items():
        try:
            _check_size(signature, rows)
            backend.run(name, {spec.name: _filled(spec, rows) for spec in signature.inputs})
        except Exception as error:  # whatever the runtime raises
            if not signature.examples_input:
                raise
            _log.info(
                "a signature that takes examples was not warmed up", extra={"signature": name, "reason": str(error)}
            )


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
    pads = preparation.may_pad(spec.name)
    return _filled(spec, rows, length if pads else 1, value=preparation.filler(spec.name))


def _check_size(signature: Signature, rows: int) -> None:
    """Raises `ValueError` for a batch that a worker had better not try to hold."""
    size = max((math.prod(_shape(spec, rows)) * DTYPES[spec.datatype].itemsize for spec in signature.inputs), default=0)
    if size > _LARGEST_INPUT_BYTES:
        raise ValueError(f"a batch of {rows} rows has an input of {size} bytes; max_batch_size must be lower")


def _shape(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    """What the smallest tensor of so many rows has; `rows` 0 is a model without batches."""
    shape = tuple(1 if size < 0 else size for size in spec.shape)
    return (rows, *shape[1:]) if rows else shape


def _filled(spec: TensorSpec, rows: int, length: int = 1, *, value: int = 0) -> npt.NDArray[Any]:
    """A tensor of one value, its last axis `length` long where that is free; `rows` 0 is a model without batches."""
    shape = _shape(spec, rows)
    if len(shape) > 1 and spec.shape[-1] < 0:
        shape = (*shape[:-1], length)
    if spec.datatype == BYTES:
        return np.full(shape, b"", object)
    return np.full(shape, value, DTYPES[spec.datatype])
