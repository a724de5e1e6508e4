"""An API process's view of the models, and workers that look at a repository often: for tests of versions."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from millrace.broker.base import Broker, Limits
from millrace.protocol.errors import ModelNotFound
from millrace.protocol.tensors import Tensor
from serving.models.model_control import ModelControl
from serving.models.registry import ModelRegistry, ServedModel
from serving.queueing.producer import Producer
from serving.queueing.requests import InferenceRequest
from serving.settings import ServingSettings
from tests.support.running import until
from worker.process import Worker
from worker.reconciling.local_host import LocalHost
from worker.settings import WorkerSettings


class Api:
    """The parts of an API process that know of models, on an event loop in a thread."""

    def __init__(self, broker: Broker, name: str = "api", model_control: str = "explicit") -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._start = self.do(self._begin(broker, name, model_control))

    async def _begin(self, broker: Broker, name: str, model_control: str) -> None:
        self.producer = Producer(broker.producer(name), limits=Limits(1000, 10**8), heartbeat_s=0.05)
        self.models = ModelRegistry(lambda: self.producer.workers, lambda: self.producer.desired_states.by_model)
        settings = ServingSettings(model_control=model_control, load_timeout_s=30)
        self.repository = ModelControl(self.producer, self.models, settings)
        await self.producer.start()

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def ask(self, name: str = "m", *, version: int | None = None, label: str | None = None) -> int:
        """The version of the model that answered, by its scores for 1, 1, 1."""
        first, second = self.do(self.asked(self.models.find(name, version, label))).outputs["scores"].to_numpy()[0]
        assert second == 10 * first
        return int(first) // 6

    async def asked(self, model: ServedModel) -> Any:
        request = InferenceRequest(
            model=model.name,
            version=model.version,
            signature="serving_default",
            inputs={"x": Tensor.from_numpy(np.ones((1, 3), np.float32))},
            rows=1,
            max_batch_size=model.max_batch_size,
            timeout_s=10,
            trace="t",
        )
        return await self.producer.submit(request)

    def states(self, name: str = "m") -> dict[int, str]:
        """The versions' states; none where nobody has heard of the model."""
        try:
            return {version.version: version.state for version in self.models.versions(name)}
        except ModelNotFound:
            return {}

    def error(self, version: int, name: str = "m") -> str:
        return self.models.versions(name, version)[0].error

    def until(self, *, name: str = "m", **states: str) -> None:
        """Wait until the model's versions v1, v2… have these states."""
        wanted = {int(version[1:]): state for version, state in states.items()}
        until(lambda: self.states(name) == wanted, what=f"{wanted}, it is {self.states(name)}")

    def stop(self) -> None:
        self.do(self.producer.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def running(broker: Broker, root: Path, host: type[LocalHost] = LocalHost, **more: Any) -> Iterator[Worker]:
    """A worker that looks at the repository often; it ends with the block, without an error."""
    settings = WorkerSettings(**{"models": root, "poll_s": 0.05, "lease_ms": 300, "instances": 1} | more)
    worker = Worker(settings, broker, partial(host, settings, broker), unload_grace_s=0.3)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(30)
    assert not thread.is_alive()
    assert not worker.has_failed
