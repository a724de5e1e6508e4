"""The whole stack at one moment: who serves, what was counted, and which requests took long.

The document counts from the start, so that whoever has two of them has the rates between them. One document is made for
all who ask within a second, however many they are.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from millrace.protocol.errors import Unavailable
from millrace.protocol.messages import WorkerAnnouncement
from millrace.protocol.paths import without_paths
from serving.monitoring.counts import SECONDS, Counts, SlowRequest, VersionCounts

FRESH_S = 1.0
_MOST_WATCHERS = 64


class WorkerModel(Struct):
    """One model version at one worker; `error` says why it is not available there."""

    name: str
    version: str
    state: str
    platform: str
    error: str


class StackWorker(Struct):
    """A live worker and its models. One that is leaving takes no more requests."""

    worker: str
    is_leaving: bool
    models: list[WorkerModel]


class VersionTotals(Struct):
    """What was counted of one model version since the API started. The model "" stands for unknown ones."""

    name: str
    version: str
    requests: Annotated[dict[str, int], Meta(description="By HTTP status; 499 where the caller left.")]
    latency: Annotated[list[int], Meta(description="Requests answered with 200 by time: how many up to each bound.")]
    batches: Annotated[dict[str, int], Meta(description="Runs of the model, by the rows in the batch.")]
    rows: int


class SlowStages(Struct):
    """The stages of a request, in milliseconds, as in `Server-Timing`."""

    parse: float
    queue: float
    batch: float
    compute: float
    reply: float


class Slow(Struct):
    """A request that took long."""

    model: str
    version: str
    protocol: str
    status: int
    request_id: str
    ended_ms: Annotated[int, Meta(description="Milliseconds of Unix time.")]
    duration_ms: float
    stages: SlowStages


class Stack(Struct):
    """The stack now. What is counted includes all API processes."""

    time_ms: Annotated[int, Meta(description="Milliseconds of Unix time.")]
    queue_up: Annotated[bool, Meta(description="Whether the queue answers all API processes.")]
    api_processes: int
    open_requests: Annotated[int, Meta(description="Requests that have no answer yet, waiting or running.")]
    latency_bounds_s: Annotated[list[float], Meta(description="The bounds of `latency`; the last number has none.")]
    workers: list[StackWorker]
    models: list[VersionTotals]
    slow: Annotated[list[Slow], Meta(description="The slowest requests of the last minute.")]


class StackFeed:
    """Makes the document, once a second at most. Used on the event loop.

    `total` gives what all API processes have counted, `workers` are those that live. `clock` counts seconds.
    """

    def __init__(
        self,
        total: Callable[[], Awaitable[Counts]],
        workers: Callable[[], Sequence[WorkerAnnouncement]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._workers = workers
        self._clock = clock
        self._making = asyncio.Lock()
        self._made_s = -FRESH_S
        self._stack: Stack | None = None
        self._encoded = b""
        self._watchers = 0

    def enter(self) -> None:
        """One more watches. Raises `Unavailable` where too many do."""
        if self._watchers >= _MOST_WATCHERS:
            raise Unavailable(f"{_MOST_WATCHERS} callers watch the stack already; ask for /v1/stack without events")
        self._watchers += 1

    def leave(self) -> None:
        """One that entered watches no more."""
        self._watchers -= 1

    async def latest(self, may_see: Callable[[str], bool] | None = None) -> bytes:
        """The document as JSON, at most a second old, with the models that the caller `may_see`: all without it."""
        async with self._making:
            if self._stack is None or self._clock() - self._made_s >= FRESH_S * 0.9:
                self._made_s = self._clock()
                counts = await self._total()
                self._stack = _stack(counts, self._workers())
                self._encoded = msgspec.json.encode(self._stack)
        return msgspec.json.encode(_seen(self._stack, may_see)) if may_see else self._encoded


def _stack(counts: Counts, workers: Sequence[WorkerAnnouncement]) -> Stack:
    return Stack(
        time_ms=round(time.time() * 1000),
        queue_up=counts.queue_up,
        api_processes=counts.processes,
        open_requests=counts.open_requests,
        latency_bounds_s=list(SECONDS),
        workers=[_worker(worker) for worker in sorted(workers, key=lambda worker: worker.worker)],
        models=[_totals(*key, of) for key, of in sorted(counts.by_version.items())],
        slow=[_slow(request) for request in counts.slow],
    )


def _worker(worker: WorkerAnnouncement) -> StackWorker:
    models = [
        WorkerModel(model.name, model.shown_version, model.state, model.platform, without_paths(model.error))
        for model in worker.models
    ]
    return StackWorker(worker.worker, worker.is_leaving, models)


def _totals(name: str, version: int, of: VersionCounts) -> VersionTotals:
    requests: dict[str, int] = {}
    for (_, status), count in list(of.ended.items()):
        requests[str(status)] = requests.get(str(status), 0) + count
    batches = {str(rows): runs.count for rows, runs in sorted(of.runs.items())}
    return VersionTotals(name, str(version), requests, list(of.latency.counts), batches, of.rows)


def _slow(request: SlowRequest) -> Slow:
    return Slow(
        request.model,
        str(request.version),
        request.protocol,
        request.status,
        request.request_id,
        request.ended_ms,
        round(request.duration_ms, 3),
        SlowStages(
            parse=round(request.parse_ms, 3),
            queue=round(request.queue_ms, 3),
            batch=round(request.batch_ms, 3),
            compute=round(request.compute_ms, 3),
            reply=round(request.reply_ms, 3),
        ),
    )


def _seen(stack: Stack, may_see: Callable[[str], bool]) -> Stack:
    workers = [
        StackWorker(of.worker, of.is_leaving, [model for model in of.models if may_see(model.name)])
        for of in stack.workers
    ]
    return msgspec.structs.replace(
        stack,
        workers=workers,
        models=[of for of in stack.models if may_see(of.name)],
        slow=[request for request in stack.slow if may_see(request.model)],
    )
