"""A worker with model processes, and an API process's side of the queue, in threads of the test's own process."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from millrace.broker.base import Limits
from millrace.broker.redis import RedisBroker
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import Tensor
from serving.queueing.producer import Producer
from serving.queueing.requests import InferenceRequest
from tests.support.offspring import Offspring
from tests.support.running import is_alive, until
from worker.process import Worker
from worker.processes.host import MODULES, ModelProcesses
from worker.settings import WorkerSettings

LEASE_MS = 400


class Api:
    """An API process's side of the queue, on an event loop in a thread."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.do(self._begin(url))

    async def _begin(self, url: str) -> None:
        self.producer = Producer(RedisBroker(url).producer("api"), limits=Limits(10_000, 10**9), heartbeat_s=0.1)
        await self.producer.start()

    def do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def ask(self, *values: float, model: str = "m", timeout_s: float = 20.0) -> "list[Future[Any]]":
        """Requests of one row each, submitted together; their answers, or errors, in the end."""

        async def submit() -> "list[asyncio.Future[Any]]":
            return [asyncio.ensure_future(self.producer.submit(_request(model, value, timeout_s))) for value in values]

        async def answered(task: "asyncio.Future[Any]") -> Any:
            answer = await task
            (output,) = answer.outputs.values()
            return output.to_numpy().ravel().tolist()

        return [asyncio.run_coroutine_threadsafe(answered(task), self._loop) for task in self.do(submit())]

    def call(self, model: str, inputs: Mapping[str, Any], timeout_s: float = 20.0) -> "Future[dict[str, Any]]":
        """One request of the arrays to the newest version, checked by nobody; its outputs in the end."""

        async def answered() -> dict[str, Any]:
            found = self.announced()[model]
            tensors = {name: Tensor.from_numpy(np.asarray(value)) for name, value in inputs.items()}
            rows = next(iter(tensors.values())).shape[0] if found.max_batch_size else 1
            request = InferenceRequest(
                model=model,
                version=found.version,
                signature="serving_default",
                inputs=tensors,
                rows=rows,
                max_batch_size=found.max_batch_size,
                timeout_s=timeout_s,
                trace="trace",
            )
            response = await self.producer.submit(request)
            return {name: tensor.to_numpy() for name, tensor in response.outputs.items()}

        return asyncio.run_coroutine_threadsafe(answered(), self._loop)

    def announced(self) -> dict[str, ModelAnnouncement]:
        return {model.name: model for worker in self.producer.workers for model in worker.models}

    def stop(self) -> None:
        self.do(self.producer.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _request(model: str, value: float, timeout_s: float) -> InferenceRequest:
    dtype = np.int64 if model == "exact" else np.float32
    return InferenceRequest(
        model=model,
        version=1,
        signature="serving_default",
        inputs={"x": Tensor.from_numpy(np.full((1, 3 if model.startswith("tiny") else 1), value, dtype))},
        rows=1,
        max_batch_size=32,
        timeout_s=timeout_s,
        trace="t",
    )


class Running:
    """A worker in a thread of this process, its models in processes."""

    def __init__(self, url: str, models: Path, **options: Any) -> None:
        self._offspring = Offspring()
        own: dict[str, Any] = {name: options.pop(name) for name in ("parking", "bulk_idle_s") if name in options}
        modules = (*MODULES, *options.pop("modules", ("tests.support.breaking_format",)))
        settings = WorkerSettings(
            **{"redis_url": url, "models": models, "lease_ms": LEASE_MS, "poll_s": 0.1, "log_level": "error"} | options
        )

        def make_host(context: Any) -> ModelProcesses:
            broker = RedisBroker(url)
            self.host = ModelProcesses(settings, broker, context, environ=os.environ, modules=modules, **own)
            return self.host

        self.worker = Worker(settings, RedisBroker(url), make_host, unload_grace_s=0.3)
        self.thread = threading.Thread(target=self.worker.run)
        self.thread.start()

    @property
    def processes(self) -> list[psutil.Process]:
        """The model processes, and those of workers that this process has started since."""
        return [process for process in self._offspring.grandchildren() if is_alive(process)]

    @property
    def servers(self) -> set[psutil.Process]:
        """What the model processes were started by."""
        return {parent for process in self.processes if (parent := process.parent())}

    def stop(self) -> None:
        self.worker.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()


@contextmanager
def running(url: str, models: Path, **options: Any) -> Iterator[Running]:
    run = Running(url, models, **options)
    try:
        yield run
    finally:
        run.stop()


@contextmanager
def asking(api: Api, model: str = "other") -> Iterator[list[float]]:
    """Somebody who asks one request after the other of a model, and must have every answer in time."""
    stopping, took, errors = threading.Event(), list[float](), list[BaseException]()

    def ask() -> None:
        while not stopping.is_set():
            started = time.monotonic()
            try:
                (future,) = api.ask(3.0, model=model, timeout_s=2.0)
                assert future.result(10) == [6.0]
            except BaseException as error:
                errors.append(error)
            took.append(time.monotonic() - started)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield took
    finally:
        stopping.set()
        thread.join()
    assert errors == []


def ready(api: Api, *names: str) -> None:
    """Wait until an API process knows that these models are served."""

    def are_ready() -> bool:
        announced = api.announced()
        return all(name in announced and announced[name].state == "AVAILABLE" for name in names)

    until(are_ready, what=f"{names} to be served")
