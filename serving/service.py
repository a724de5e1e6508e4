"""The parts of the API and how they fit together, whatever servers are in front of it."""

import asyncio
import itertools
import logging
import re
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from types import MappingProxyType

from millrace.broker.base import Broker, Limits
from millrace.jobs.settings import JobStoreSettings
from millrace.protocol.errors import MillraceError
from serving.access.control import ControlAccess
from serving.access.exchange import UsageExchange
from serving.access.gate import gate
from serving.call import Call
from serving.jobs.service import Jobs
from serving.memory import buffered_bytes
from serving.models.model_control import ModelControl
from serving.models.model_statistics import Statistics
from serving.models.registry import AVAILABLE, ModelRegistry
from serving.models.shadows import Shadows
from serving.monitoring.counts import Counts
from serving.monitoring.depths import Depths
from serving.monitoring.metrics import Metrics
from serving.monitoring.own_process import OwnProcess
from serving.monitoring.slow import SlowRequests
from serving.monitoring.stack import StackFeed
from serving.offload.pool import OffloadPool
from serving.payloads.log import PayloadLog
from serving.processes.member import Member
from serving.processes.siblings import Siblings
from serving.protocols.limits import QUICK_VALUES, ReadLimits
from serving.protocols.rest_calls import Headers, RestCalls
from serving.queueing.producer import Producer
from serving.queueing.send_window import SendWindow
from serving.settings import ServingSettings
from serving.tracing.tracer import Tracer
from serving.transport.budget import Budget
from serving.transport.responses import HttpResponse, cors_headers, shortened
from serving.transport.thinning import Thinning

_log = logging.getLogger(__name__)
_NOBODY_WAITED = 499
_LONGEST_NAME = 128  # of a model that a caller named, in the log
_REFUSALS_LOGGED_PER_S = 10
_FAILURES_LOGGED_PER_S = 50  # of each status
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")


class Service:
    """Answers the hot verbs. `start` before the first request, `stop` after the last; both on the event loop.

    Without `jobs`, or where they name no Redis, there are no background jobs. `member` is told where this is one of
    several processes on the same ports. Without a `tracer` no request is traced. Raises `KeyFileError`.
    """

    def __init__(
        self,
        settings: ServingSettings,
        broker: Broker,
        jobs: JobStoreSettings | None = None,
        member: Member | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.settings = settings
        self.tracer = tracer
        self.gate = gate(settings)
        self._exchanging: asyncio.Task[None] | None = None
        self.jobs = Jobs(jobs)
        self.budget = Budget(buffered_bytes(settings))
        self.api = uuid.uuid4().hex[:12]
        self.siblings = Siblings(
            member,
            self._counted,
            refresh=lambda: self.producer.refresh(),
            is_connected=lambda: self.producer.is_connected,
        )
        self.metrics = Metrics(self.siblings.counted_before())
        self._traces_before = self.metrics.counts.traces
        self._process = OwnProcess(self.metrics.counts.cpu_s)
        self.slow = SlowRequests()
        if self.gate:
            self.gate.observer = self.metrics
        self.producer = Producer(
            broker.producer(self.api),
            limits=Limits(settings.max_queue_rows, settings.max_queue_bytes),
            observer=self.metrics,
            processes=settings.process_count,
            tell=self.siblings.refresh if member else None,
            grace_s=settings.worker_grace_s,
        )
        self.models = ModelRegistry(
            lambda: self.producer.workers,
            lambda: self.producer.desired_states.by_model,
            is_known=lambda: self.producer.has_heard,
        )
        self.repository = ModelControl(self.producer, self.models, settings, self.siblings.refresh)
        self.access = ControlAccess(settings)
        self.payloads = PayloadLog(settings, self.metrics.payload_ended) if settings.payload_share else None
        self.shadows = Shadows(self.producer, self.metrics, budget=self.budget)
        self.pool = OffloadPool(settings.offload_processes, settings.offload_memory_bytes)
        self.quick = ReadLimits(settings.max_queue_rows, max_quick=QUICK_VALUES if self.pool.is_on else 0)
        self.window = SendWindow()
        self.rest = RestCalls(self)
        self.statistics = Statistics(self.models)
        self.depths = Depths(self.producer.depths, self.models.queues, self.producer.now_ms)
        self.stack = StackFeed(self.siblings.total, lambda: self.producer.workers)
        self.cors = cors_headers(settings.cors_origin)
        self._numbers = itertools.count(1)
        self._refusals = Thinning(_REFUSALS_LOGGED_PER_S)
        self._failures: defaultdict[int, Thinning] = defaultdict(lambda: Thinning(_FAILURES_LOGGED_PER_S))

    async def start(self) -> None:
        """Begin to listen to the queue, and learn who serves; a queue that does not answer is not waited for long."""
        self.pool.start()
        if self.tracer:
            self.tracer.start()
        if self.payloads:
            self.payloads.start()
        await self.siblings.start()  # first: what another process hears after our first heartbeat, it has to tell us
        await self.producer.start()
        if self.gate and self.gate.has_keys:
            self.gate.files.start()
            exchange = UsageExchange(self.gate, self.api, self.producer.exchange_usage)
            self._exchanging = asyncio.get_running_loop().create_task(exchange.run())
        _log.info("started", extra={"api": self.api, "port": self.settings.port})

    def begin_to_drain(self) -> None:
        """The process is to stop: from now on, what no live worker can answer is refused at once."""
        self.producer.begin_to_drain()

    async def stop(self, timeout_s: float | None = None) -> None:
        """Let the open requests finish, for `drain_timeout_s` where no time is given, then leave the queue."""
        if self.gate and self._exchanging:
            self._exchanging.cancel()
            await self.gate.files.stop()
        await self.repository.stop()
        self.shadows.stop()
        await self.producer.drain(self.settings.drain_timeout_s if timeout_s is None else timeout_s)
        await self.producer.stop()
        self.siblings.stop()
        self.pool.stop()
        if self.tracer:
            await asyncio.to_thread(self.tracer.stop)
        if self.payloads:
            await asyncio.to_thread(self.payloads.stop)
        _log.info("stopped", extra={"api": self.api})

    @property
    def is_ready(self) -> bool:
        """Whether the queue answers and at least one model has a live worker."""
        return self.producer.is_connected and self.models.is_ready

    def refused(self, headers: Headers, error: MillraceError, protocol: str = "http") -> HttpResponse:
        """The answer to a request that was refused before any verb saw it."""
        call = Call(protocol, error.request_id or self.request_id(headers), time.perf_counter())
        call.error, call.status = error, error.status
        left_out = self._refusals.count()
        if left_out is not None:
            self._log(call, str(error), {"left_out": left_out} if left_out else {})
        return self.rest.refusal(call)

    def ended(self, call: Call, error_text: Callable[[MillraceError], str]) -> None:
        """A call has its response, or nobody waits for it any more: what is counted and logged of it is so here."""
        if call.status == 503 and not call.model:
            call.model, call.version = self.models.expected(call.target_model, call.target_version)
        self.metrics.request_ended(
            call.model, call.version, call.protocol, call.status, call.seconds, call.parse_ms, call.timings
        )
        if call.trace and call.trace.is_sampled and self.tracer:
            self.tracer.end(call.trace, call)
        if call.seconds > self.slow.least_s:
            self.slow.add(call)
        if self.gate and call.key:
            key, call.key = call.key, None
            self.gate.ended(key, call.status)
        if call.error:
            left_out = self._failures[call.status].count()
            if left_out is not None or self.settings.access_log:
                self._log(call, error_text(call.error), {"left_out": left_out} if left_out else {})
        elif self.settings.access_log and call.status != _NOBODY_WAITED:
            self._log(call, "")

    def _log(self, call: Call, error: str, more: Mapping[str, object] = MappingProxyType({})) -> None:
        """Write the request's line to the log, with what `more` there is to say."""
        extra: dict[str, object] = {
            **more,
            "request_id": call.request_id,
            "protocol": call.protocol,
            "model": call.model or call.target_model[:_LONGEST_NAME],
            "status": call.status,
            "duration_ms": round(call.seconds * 1000, 3),
        }
        if call.name:
            extra["key"] = call.name
        if error:
            extra["error"] = shortened(error)
        _log.log(logging.ERROR if call.status >= 500 else logging.INFO, "request", extra=extra)

    def request_id(self, headers: Headers) -> str:
        """The caller's X-Request-Id where it is printable and at most 128 characters long, else one of our own."""
        given = headers.get(b"x-request-id")
        return given.decode() if given and _REQUEST_ID.fullmatch(given) else f"{self.api}-{next(self._numbers):x}"

    def _counted(self) -> Counts:
        """What this process has counted, and what it has now."""
        counts = self.metrics.counts
        counts.cpu_s = self._process.cpu_s
        if self.tracer:
            before = self._traces_before
            counts.traces = {name: count + before.get(name, 0) for name, count in self.tracer.counts.items()}
        counts.present = self._process.present(self.producer.in_flight())
        counts.slow = self.slow.recent()
        return counts

    def worker_counts(self) -> dict[str, int]:
        """How many live workers have each model available."""
        counts: Counter[str] = Counter()
        for worker in self.producer.workers:
            counts.update({model.name for model in worker.models if model.state == AVAILABLE})
        return dict(counts)
