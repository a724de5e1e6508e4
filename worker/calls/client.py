"""What code calls: models by name, on behalf of the requests that it answers, on one event loop."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.broker.base import ProducerLink
from millrace.broker.keys import Queue
from millrace.calling.call import Call
from millrace.calling.caller import QueueCaller
from millrace.protocol.errors import DeadlineExceeded, MillraceError, ModelFailed, NoWorker, QueueFull, Unavailable
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Tensor, concatenate_rows
from worker.calls.inputs import tensors_of
from worker.running.current import CurrentRequests

_TIMEOUT_MS = 30_000  # of what is called for no request: while a model is loaded, or in a thread of its own
_Outputs = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is called; without a version and a label, the version that answers requests which name none."""

    name: str
    version: int | None = None
    label: str | None = None
    signature: str = DEFAULT_SIGNATURE


class CallingClient:
    """Calls models for the one that is `own`, on one event loop; the first `call` connects."""

    def __init__(self, link: ProducerLink, own: Queue) -> None:
        self._caller = QueueCaller(link)
        self._own = _named(own)
        self._starting = asyncio.Lock()
        self._is_started = False

    async def call(self, target: Target, inputs: Mapping[str, Any], current: CurrentRequests | None) -> _Outputs:
        """The outputs, on behalf of the current requests and before their deadline. Raises `MillraceError`."""
        await self._start()
        model = await self._found(target)
        queue = Queue(model.name, model.version)
        via = (*(current.via if current else ()), self._own)
        if _named(queue) in via:
            circle = " calls ".join([*via[via.index(_named(queue)) :], _named(queue)])
            raise ModelFailed(f"models call in a circle, which would wait for itself: {circle}")
        tensors, rows = tensors_of(model, target.signature, inputs)
        call = Call(
            queue=queue,
            signature=target.signature,
            tensors=tensors,
            rows=rows,
            max_batch_size=model.max_batch_size,
            is_whole=model.has_whole_requests,
            deadline_ms=current.deadline_ms if current else int(self._caller.now_ms() + _TIMEOUT_MS),
            trace=current.trace if current else "",
            via=via,
        )
        return _arrays(model, await self._answered(call))

    async def close(self) -> None:
        """Disconnect; calls without an answer get `Unavailable`."""
        await self._caller.close("the model is being unloaded")

    async def _answered(self, call: Call) -> list[dict[str, Tensor]]:
        """The outputs of each part, in order. What happens to a call is told to callers who did not make it."""
        try:
            return await self._caller.answers(call)
        except QueueFull as error:
            raise Unavailable(f"{error}, and another model calls it; try again") from error
        except DeadlineExceeded as error:
            raise DeadlineExceeded(f"{error}, and another model waits for it") from error

    async def _found(self, target: Target) -> ModelAnnouncement:
        """The version that answers; one that is not there may have come since the last heartbeat."""
        wanted = target.name, target.version, target.label
        try:
            return self._caller.served.choose(*wanted)
        except NoWorker:
            await self._caller.refresh()
        try:
            return self._caller.served.choose(*wanted)
        except NoWorker as error:
            raise Unavailable(f"{error}, which another model calls") from error

    async def _start(self) -> None:
        async with self._starting:
            if not self._is_started:
                await self._caller.refresh()
                self._is_started = True


def _named(queue: Queue) -> str:
    return f"{queue.model}/{queue.version}"


def _arrays(model: ModelAnnouncement, parts: list[dict[str, Tensor]]) -> _Outputs:
    """The outputs of all parts, end to end, as arrays; of a model without rows, without the first dimension."""
    try:
        joined = {name: concatenate_rows([part[name] for part in parts]) for name in parts[0]}
        arrays = {name: tensor.to_numpy() for name, tensor in joined.items()}
    except (KeyError, MillraceError) as error:
        raise ModelFailed(f"the answers of model '{model.name}' to these rows do not fit together: {error}") from error
    return arrays if model.max_batch_size else {name: np.squeeze(array, 0) for name, array in arrays.items()}
