"""Shadow traffic: copies of requests for a version that is tried out, whose answers are compared and dropped.

A copy is sent after the caller's own request and shares nothing with it but the memory of its tensors; whatever becomes
of it, the caller has the answer to their own. Copies are the first to go under load: none is made while the version
that answers has two full batches in flight, from when on its workers may have no time to spare, or the shadow one.
So there is never more than about one batch of copies open. The tensors of a copy are counted in the budget until they
are in the queue. When the server stops, open copies are dropped.
"""

import itertools
import logging
import random
import time
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from millrace.protocol.errors import MillraceError
from serving.models.agreement import Comparison, Comparisons
from serving.models.registry import ServedModel, ServedShadow
from serving.monitoring.metrics import Metrics
from serving.queueing.admission import Inference, admit
from serving.queueing.pending import Pending
from serving.queueing.producer import Producer
from serving.queueing.requests import InferenceRequest, InferenceResponse, size_of
from serving.transport.budget import Budget

_log = logging.getLogger(__name__)


class Shadows:
    """Sends the copies. `chance` gives numbers from 0 to 1, of which those below a shadow's share are copied.

    Without a budget the copies' bytes are not counted.
    """

    def __init__(
        self,
        producer: Producer,
        metrics: Metrics,
        chance: Callable[[], float] = random.random,
        budget: Budget | None = None,
    ) -> None:
        self._producer = producer
        self._metrics = metrics
        self._chance = chance
        self._budget = budget
        self._open: dict[int, Pending] = {}
        self._numbers = itertools.count()
        self._is_stopped = False
        self._comparisons = Comparisons()

    def stop(self) -> None:
        """Drop the copies that have no answer yet, and make no more."""
        self._is_stopped = True
        for copy in self._open.values():
            self._producer.withdraw(copy)
        self._open.clear()

    def send_copy(self, shadow: ServedShadow, inference: Inference, request: InferenceRequest) -> Comparison | None:
        """Send a copy of a request that has just been sent, if its turn comes; raises nothing.

        What is returned is to be told of the request's answer, with which the copy's is compared.
        """
        if self._is_stopped or self._chance() >= shadow.share:
            return None
        if self._producer.batches_in_flight(request.model, request.version) >= 2 or (
            self._producer.batches_in_flight(shadow.model.name, shadow.model.version) >= 1
        ):
            self._count(shadow.model, "shed")
            return None
        model = shadow.model
        counted = partial(self._metrics.shadow_compared, model.name, model.version)
        comparison = self._comparisons.begin(model, request.rows, counted)
        try:
            return comparison if self._send(model, inference, request, comparison) else None
        except MillraceError as error:  # it takes other inputs than the version that answers, perhaps
            self._log_failure(model, error)
            self._count(model, "failed")
            comparison.copy_failed(error)
            return comparison
        except Exception:
            _log.exception("a copy for a shadow could not be made", extra={"model": request.model})
            self._count(model, "failed")
        return None

    def _send(
        self, model: ServedModel, inference: Inference, request: InferenceRequest, comparison: Comparison
    ) -> bool:
        """Whether the copy is under way; there may be no room for it."""
        deadline = time.perf_counter() + request.timeout_s
        copied = replace(inference, model=model, priority="normal")
        copy = admit(copied, trace=request.trace, deadline=deadline, max_queue_rows=request.rows)
        reservation = self._budget.reserve(size_of(copy.inputs)) if self._budget else None
        if self._budget and not reservation:
            self._count(model, "shed")
            return False
        number = next(self._numbers)

        def end(outcome: str) -> None:
            self._open.pop(number, None)
            self._count(model, outcome)

        def fail(error: MillraceError) -> None:
            self._log_failure(model, error)
            end("failed")
            comparison.copy_failed(error)

        def answered(response: InferenceResponse) -> None:
            end("answered")
            comparison.copy_answered(response.outputs)

        release = reservation.release if reservation else _do_nothing
        try:
            pending = self._producer.send(copy, answered, fail, release)
        except Exception:
            release()
            raise
        if not pending.is_done:
            self._open[number] = pending
        return True

    def _log_failure(self, model: ServedModel, error: MillraceError) -> None:
        _log.info("a shadow failed", extra={"model": model.name, "version": model.version, "reason": str(error)[:300]})

    def _count(self, model: ServedModel, outcome: str) -> None:
        self._metrics.shadow_ended(model.name, model.version, outcome)


def _do_nothing() -> None:
    """There is no reservation to release."""
