"""Shadow traffic: copies of requests for a version that is tried out, whose answers nobody sees.

A copy is sent after the caller's own request and shares nothing with it but the memory of its tensors; whatever becomes
of it, the caller has the answer to their own. Copies are the first to go under load: none is made while the version
that answers has two full batches in flight, from when on its workers may have no time to spare, or the shadow one.
"""

import logging
import random
import time
from collections.abc import Callable

from msgspec.structs import replace

from millrace.protocol.errors import MillraceError
from serving.models.registry import ServedModel, ServedShadow
from serving.monitoring.metrics import Metrics
from serving.queueing.admission import Inference, admit
from serving.queueing.producer import Producer
from serving.queueing.requests import InferenceRequest

_log = logging.getLogger(__name__)


class Shadows:
    """Sends the copies. `chance` gives numbers from 0 to 1, of which those below a shadow's share are copied."""

    def __init__(self, producer: Producer, metrics: Metrics, chance: Callable[[], float] = random.random) -> None:
        self._producer = producer
        self._metrics = metrics
        self._chance = chance

    def cast(self, shadow: ServedShadow, inference: Inference, request: InferenceRequest) -> None:
        """Send a copy of a request that has just been sent, if its turn comes; raises nothing."""
        if self._chance() >= shadow.share:
            return
        if self._producer.batches_in_flight(request.model, request.version) >= 2 or (
            self._producer.batches_in_flight(shadow.model.name, shadow.model.version) >= 1
        ):
            self._count(shadow.model, "shed")
            return
        try:
            self._send(shadow.model, inference, request)
        except MillraceError as error:  # it takes other inputs than the version that answers, perhaps
            self._failed(shadow.model, error)
        except Exception:
            _log.exception("a copy for a shadow could not be made", extra={"model": request.model})
            self._count(shadow.model, "failed")

    def _send(self, model: ServedModel, inference: Inference, request: InferenceRequest) -> None:
        deadline = time.perf_counter() + request.timeout_s
        copied = replace(inference, model=model, priority="normal")
        self._producer.send(
            admit(copied, trace=request.trace, deadline=deadline, max_queue_rows=request.rows),
            lambda _response: self._count(model, "answered"),
            lambda error: self._failed(model, error),
        )

    def _failed(self, model: ServedModel, error: MillraceError) -> None:
        _log.info("a shadow failed", extra={"model": model.name, "version": model.version, "reason": str(error)[:300]})
        self._count(model, "failed")

    def _count(self, model: ServedModel, outcome: str) -> None:
        self._metrics.shadow_ended(model.name, model.version, outcome)
