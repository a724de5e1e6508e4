"""What a model's code is given to call others with: objects whose methods any thread may call."""

import asyncio
import concurrent.futures
import threading
import uuid
from typing import Any

from millrace.broker.base import Broker
from millrace.broker.keys import Queue
from millrace.model import Outputs
from millrace.protocol.tensors import DEFAULT_SIGNATURE
from worker.calls.client import CallingClient, Target
from worker.current import current

_CLOSE_S = 2.0


class QueueModels:
    """The models of the repository, as `millrace.model.Models`, for the model that is `own`.

    The link to the queue, and a thread for it, are there from the first call until `close`.
    """

    def __init__(self, broker: Broker, worker: str, own: Queue) -> None:
        self._broker = broker
        self._name = f"{worker}-calls-{uuid.uuid4().hex[:8]}"
        self._own = own
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
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
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="calls", daemon=True).start()
            loop = self._loop
        return asyncio.run_coroutine_threadsafe(self._called(target, inputs), loop)

    async def _called(self, target: Target, inputs: dict[str, Any]) -> Outputs:
        if self._client is None:
            self._client = CallingClient(self._broker.producer(self._name), self._own)
        return await self._client.call(target, inputs, current.get())

    def close(self) -> None:
        """Disconnect."""
        with self._starting:
            loop, self._loop = self._loop, None
        if loop and self._client:
            closing = asyncio.run_coroutine_threadsafe(self._client.close(), loop)
            concurrent.futures.wait([closing], _CLOSE_S)
        if loop:
            loop.call_soon_threadsafe(loop.stop)


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
