"""The runs before a version serves: a trial that shows whether rows are independent, and a warm-up.

    what the file shows, and a trial ──► larger and larger batches ──► what runs cost
          │ rows mix, or nothing can be shown
          └──► unbatched: one request, so that no caller waits for a first run

None of it is an examination: a model whose first runs fail is served, and its notes say what failed.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from millrace.protocol.errors import DeadlineExceeded, Unavailable
from millrace.protocol.tensors import Signature
from worker.backends.base import Backend, Device, LoadError, ends_the_program
from worker.backends.texts import reason_of
from worker.loading import trial, warmup
from worker.loading.budget import Budget
from worker.loading.samples import Subject
from worker.preprocessing.preparation import Preparation
from worker.running.batcher import Cost

_log = logging.getLogger(__name__)
LoadExact = Callable[[], tuple[Backend, Device]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRuns:
    """What the first runs showed. `not_batched` says why rows must not run together, "" where they may.

    `rows` is the largest batch that ran; `lacked` says what larger ones do, "" where there are none.
    `not_warmed` says why callers' requests are the first runs, "" where they are not.
    """

    not_batched: str = ""
    length_axes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    rows: int = 0
    lacked: str = ""
    not_warmed: str = ""
    cost: Cost = field(default_factory=Cost)


def first_runs(
    backend: Backend,
    signatures: Mapping[str, Signature],
    subjects: Mapping[str, Subject],
    preparation: Preparation,
    *,
    device: Device,
    max_batch_size: int,
    is_told: bool,
    budget: Budget,
    exact: LoadExact | None = None,
) -> FirstRuns:
    """Run these signatures, as callers see them, in batches of up to `max_batch_size` rows; 0: requests are not cut.

    `exact` loads the model once more, where the device rounds so much that this may be what a trial sees.
    Where the model's owner `is_told` to have said that rows are independent, no trial judges it. Raises `Unavailable`
    or `DeadlineExceeded` for a model that depends on something that is away, and `KeyboardInterrupt`.
    """
    try:
        shown = trial.Evidence()
        if max_batch_size and not is_told:
            rows = max(2, max_batch_size)  # rows that mix must not run one by one either: a request has several
            shown = trial.of_model(backend, signatures, preparation, rows, device, subjects=subjects, budget=budget)
            if shown.reason and exact:
                shown = _exactly(exact, shown, signatures, preparation, rows, subjects)
            shown = replace(shown, reason=_combined(shown.reason, _in_file(backend, signatures)))
        batches = 0 if shown.reason else max_batch_size
        rows, lacked, failed = shown.rows, shown.lacked, ""
        if not rows or any(signature.examples_input for signature in signatures.values()):
            rows, lacked, failed = warmup.run(backend, subjects, batches, budget)
        cost = _cost(backend, signatures, preparation, batches, budget)
    except (Unavailable, DeadlineExceeded):
        raise
    except BaseException as error:  # `sys.exit` in a model's code, or no memory
        if ends_the_program(error):
            raise
        _log.warning("the first runs of a model failed", exc_info=error)
        why = f"{reason_of(error)} ({type(error).__name__})"
        return FirstRuns(not_batched="" if is_told else f"no trial could be made: {why}", not_warmed=why)
    return FirstRuns(
        not_batched=shown.reason,
        length_axes=shown.length_axes,
        rows=rows,
        lacked=lacked,
        not_warmed=failed,
        cost=cost,
    )


def _exactly(
    exact: LoadExact,
    shown: trial.Evidence,
    signatures: Mapping[str, Signature],
    preparation: Preparation,
    rows: int,
    subjects: Mapping[str, Subject],
) -> trial.Evidence:
    """What a trial of the same model shows that rounds less; what was shown before, where there can be none.

    Its runs warmed up nothing of the model that serves, so they count as none.
    """
    try:
        backend, device = exact()
    except LoadError as error:  # no memory for a second one
        _log.info("a model could not be loaded for a trial", extra={"reason": str(error)})
        return shown
    try:
        found = trial.of_model(backend, signatures, preparation, rows, device, subjects=subjects, budget=_budget())
    finally:
        backend.close()
    return replace(found, rows=0)


def _budget() -> Budget:
    return Budget(is_first_free=True)


def _in_file(backend: Backend, signatures: Mapping[str, Signature]) -> str:
    """Why the file itself shows that rows must not run together."""
    return next((backend.mixed_rows[name] for name in signatures if backend.mixed_rows.get(name)), "")


def _combined(shown: str, in_file: str) -> str:
    """What a trial showed, and what the file shows: a trial may miss what happens with other numbers only."""
    return f"{shown} ({in_file})" if shown and in_file else shown or in_file


def _cost(
    backend: Backend, signatures: Mapping[str, Signature], preparation: Preparation, max_batch_size: int, budget: Budget
) -> Cost:
    """What runs cost; nothing where that cannot be found out, which only makes batches less well cut."""
    if max_batch_size < 2 or budget.is_spent:
        return Cost()
    served = {name: backend.signatures[name] for name in signatures}
    try:
        return warmup.measured_cost(backend, served, preparation, max_batch_size)
    except (Unavailable, DeadlineExceeded):
        raise
    except Exception as error:
        _log.info("the cost of a model's runs was not measured", extra={"reason": reason_of(error)})
        return Cost()
