"""What a model's code is given to call others with: objects whose methods any thread may call."""

import asyncio
import concurrent.futures
import uuid
from typing import Any

from millrace.broker.base import Broker
from millrace.broker.keys import Queue
from millrace.model import Outputs
from millrace.protocol.tensors import DEFAULT_SIGNATURE
from worker.calls.client import CallingClient, Target
from worker.python.loop_thread import LoopThread
from worker.running.current import current

_CLOSE_S = 2.0


class QueueModels:
    """The models of the repository, as `millrace.model.Models`, for the model that is `own`.

    The link to the queue, and a thread for it, are there from the first call until `close`.
    """

    def __init__(self, broker: Broker, worker: str, own: Queue) -> None:
        self._broker = broker
        self._name = f"{worker}-calls-{uuid.uuid4().hex[:8]}"
        self._own = own
        self._loop = LoopThread("calls")
        self._client: CallingClient | None = None

    def __getitem__(self, name: str) -> "QueueModel":
        """See `Models`."""
        return self.model(name)

    def model(
        self, name: str, *, version: int | None = None, label: str | None = None, signature: str = DEFAULT_SIGNATURE
    ) -> "QueueModel":
        """See `Models`."""
        return QueueModel(self, Target(name=name, version=version, label=label, signature=signature))

    def call(self, target: Target, inputs: dict[str, Any]) -> "concurrent.futures.Future[Outputs]":
        """The outputs in the end, for the requests that the calling thread or task answers."""
        return self._loop.submit(self._called(target, inputs))

    async def _called(self, target: Target, inputs: dict[str, Any]) -> Outputs:
        if self._client is None:
            self._client = CallingClient(self._broker.producer(self._name), self._own)
        return await self._client.call(target, inputs, current.get())

    def close(self) -> None:
        """Disconnect."""
        if self._loop.is_running:
            concurrent.futures.wait([self._loop.submit(self._closed())], _CLOSE_S)
            self._loop.close()

    async def _closed(self) -> None:
        if self._client:
            await self._client.close()


class QueueModel:
    """One of them, as `millrace.model.CalledModel`."""

    def __init__(self, models: QueueModels, target: Target) -> None:
        self._models = models
        self._target = target

    def predict(self, **inputs: Any) -> Outputs:
        """See `CalledModel`."""
        return self.submit(**inputs).result()

    async def predict_async(self, **inputs: Any) -> Outputs:
        """See `CalledModel`."""
        return await asyncio.wrap_future(self.submit(**inputs))

    def submit(self, **inputs: Any) -> "concurrent.futures.Future[Outputs]":
        """See `CalledModel`."""
        return self._models.call(self._target, inputs)
