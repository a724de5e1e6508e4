"""The API under its own HTTP server: hot verbs and probes on the event loop, all else in Flask beside it; and gRPC."""

import asyncio
import ctypes
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import msgspec

from millrace.broker.redis import RedisBroker
from millrace.jobs.records import JobRecord
from millrace.jobs.settings import JobStoreSettings
from millrace.protocol.errors import MillraceError, Unavailable
from serving.access.callers import is_local
from serving.jobs.access import check_record
from serving.jobs.events import MEDIA, JobEvents, watched_job
from serving.jobs.uploads import JobUploads, is_submission
from serving.jobs.watching import Watching
from serving.memory import excess_bytes, memory_limit
from serving.processes.member import Member, Started
from serving.protocols.grpc_services import GrpcServices
from serving.routing import target
from serving.service import Service
from serving.settings import ServingSettings
from serving.tracing.tracer import Tracer
from serving.transport.budget import SMALL_BYTES, Reservation
from serving.transport.certificates import Certificates, certificates
from serving.transport.descriptors import allow_descriptors, grpc_connections, http_connections
from serving.transport.handler import Done, Withdraw
from serving.transport.http_server import HttpServer
from serving.transport.intake import Body
from serving.transport.request_head import RequestHead
from serving.transport.responses import HttpResponse
from serving.transport.streamed_body import Receiver
from serving.web.app import PAGES, create_app
from serving.web.flask_threads import FlaskThreads
from serving.web.probes import Probes
from serving.web.route_access import RouteAccess
from serving.web.stack_events import StackEvents, wants_stack_events
from serving.web.stack_routes import models_seen

_log = logging.getLogger(__name__)
_LEAVE_S = 2.0  # for what comes after the drain: leaving the queue
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of mallopt(3)
_MMAP_THRESHOLD_BYTES = 2**20  # blocks of requests are smaller: mapping each anew costs more than packing it
_SWITCH_S = 0.0005  # how long a thread may keep the event loop from the interpreter

Check = Callable[[RequestHead, str], MillraceError | None]


class Api:
    """Hands each request to the service, to the probes or to Flask. See `serving.transport.handler.Handler`.

    The checks are asked one after the other before a body is read. Each gets the head and the caller's address, and
    says why the request is refused.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        loop = asyncio.get_running_loop()
        app = create_app(service, loop)
        self._flask = FlaskThreads(app, loop)
        self._access = RouteAccess(app, service)
        self._probes = Probes(service, app.extensions[PAGES])
        self.uploads = JobUploads(service.jobs, service.settings.cors_origin, self._answer_upload)
        self._largest_bytes = min(service.settings.max_body_bytes, service.budget.largest)
        self.hot_checks: tuple[Check, ...] = (service.rest.check,)
        self.other_checks: tuple[Check, ...] = (self._check_access, self._check_flask)

    def check(self, head: RequestHead, peer: str) -> MillraceError | None:
        """See `Handler.check`."""
        is_hot = head.method == "POST" and target(head.path)
        for check in self.hot_checks if is_hot else self.other_checks:
            if refusal := check(head, peer):
                return refusal
        return None

    def body_limit(self, head: RequestHead) -> int:
        """See `Handler.body_limit`: only the hot verbs take large bodies, and those that submit jobs."""
        if is_submission(head):
            return max(SMALL_BYTES, self._service.jobs.max_body_bytes)
        is_hot = head.method == "POST" and target(head.path)
        return self._largest_bytes if is_hot else min(SMALL_BYTES, self._largest_bytes)

    def handle(self, head: RequestHead, body: Body, peer: str, reservation: Reservation, done: Done) -> Withdraw | None:
        """See `Handler.handle`."""
        if head.method == "POST" and (hot := target(head.path)):
            execution = self._service.rest.begin(hot, head.headers, body, peer, reservation, done)
            return execution.withdraw if execution else None
        response: HttpResponse | None = None
        if refusal := self.check(head, peer):
            response = self.refused(head, refusal)
        elif self._probes.has(head):
            response = self._probes.respond(head)
        elif head.path == "*":
            response = _star()
        if response:
            reservation.release()
            done(response)
            return None
        if (job := watched_job(head)) and self._service.jobs.watching:
            reservation.release()
            return self._tell_of_job(head, peer, job, self._service.jobs.watching, done)
        if wants_stack_events(head):
            reservation.release()
            return self._tell_of_stack(head, peer, done)
        return self._ask_flask(head, body, peer, reservation, done)

    def refused(self, head: RequestHead | None, error: MillraceError) -> HttpResponse:
        """See `Handler.refused`."""
        if head and head.method == "POST" and (hot := target(head.path)):
            return self._service.rest.refused(hot, head.headers, error)
        return self._service.refused(head.headers if head else {}, error)

    def _may_watch(self, head: RequestHead, peer: str, record: JobRecord) -> MillraceError | None:
        """Why the caller may not see the job any more: its key may be gone."""
        try:
            if self._service.gate:
                check_record(self._service.gate.check(head.headers, peer, ("read", "infer")), record)
        except MillraceError as error:
            return error.with_traceback(None)
        return None

    def _tell_of_job(self, head: RequestHead, peer: str, job: str, watching: Watching, done: Done) -> Withdraw | None:
        def begun(error: MillraceError | None) -> None:
            done(self.refused(head, error) if error else HttpResponse(200, b"", headers, pieces=events))

        own = (("content-type", MEDIA), ("cache-control", "no-store"))
        headers = (*own, ("X-Request-Id", self._service.request_id(head.headers)), *self._service.cors)
        try:
            events = JobEvents(watching, job, begun, partial(self._may_watch, head, peer))
        except Unavailable as error:
            done(self.refused(head, error))
            return None
        return events.cancel

    def _tell_of_stack(self, head: RequestHead, peer: str, done: Done) -> Withdraw | None:
        own = (("content-type", MEDIA), ("cache-control", "no-store"))
        headers = (*own, ("X-Request-Id", self._service.request_id(head.headers)), *self._service.cors)
        try:
            events = StackEvents(self._service.stack, partial(models_seen, self._service, head.headers, peer))
        except Unavailable as error:
            done(self.refused(head, error))
            return None
        done(HttpResponse(200, b"", headers, pieces=events))
        return events.cancel

    def _answer_upload(
        self, head: RequestHead, receiver: Receiver, peer: str, reservation: Reservation, done: Done
    ) -> Withdraw | None:
        return self._ask_flask(head, b"", peer, reservation, done, receiver)

    def _ask_flask(
        self,
        head: RequestHead,
        body: Body,
        peer: str,
        reservation: Reservation,
        done: Done,
        received: Receiver | None = None,
    ) -> Withdraw | None:
        def finish(response: HttpResponse) -> None:
            reservation.release()
            done(response)

        try:
            withdraw = self._flask.handle(head, body, peer, finish, received)
        except Unavailable as error:
            if received:
                received.close()
            finish(self.refused(head, error))
            return None
        return partial(_withdraw, withdraw, reservation)

    def _check_flask(self, head: RequestHead, _peer: str) -> MillraceError | None:
        if self._flask.has_room or self._probes.has(head) or head.path == "*":
            return None
        return Unavailable("too many requests wait to be answered; try again")

    def _check_access(self, head: RequestHead, peer: str) -> MillraceError | None:
        return self._access.check(head.method, head.path, head.headers, peer)


def _withdraw(withdraw: Withdraw, reservation: Reservation) -> None:
    withdraw()
    reservation.release()


def _star() -> HttpResponse:
    """The response to `OPTIONS *`: what the server as a whole can do."""
    return HttpResponse(200, b"", (("allow", "GET, HEAD, OPTIONS, POST, PUT, DELETE"),))


async def serve(
    settings: ServingSettings,
    jobs: JobStoreSettings | None = None,
    member: Member | None = None,
    tracer: Tracer | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then answer what is open, and return.

    It listens when it knows who serves, or that the queue does not answer. A `member` is one of several processes: it
    stops, too, when the one that started it is gone.
    """
    sys.setswitchinterval(_SWITCH_S)
    _tune_the_allocator()
    descriptors = allow_descriptors(settings.max_connections)
    connections = http_connections(settings.max_connections, has_grpc=bool(settings.grpc_port), descriptors=descriptors)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    shown = certificates(settings)
    service = Service(settings, RedisBroker(settings.redis_url), jobs, member, tracer)
    await service.start()
    api = Api(service)
    sockets = [socket.socket(fileno=port) for port in member.ports] if member else []
    servers = servers_of(service, api, stopping, connections, sockets, shown)
    if shown:
        shown.files.start()
    for server in servers:
        await server.start()
    _spare_the_collector()
    limit = memory_limit(
        settings,
        connections=connections,
        grpc_connections=grpc_connections(settings.max_grpc_connections) if settings.grpc_port else 0,
        offload_bytes=settings.offload_processes * settings.offload_memory_bytes,
    )
    for server in servers:
        server.watch_memory(partial(excess_bytes, limit.bytes - limit.offload_bytes))
    if not settings.keys_file:
        _log.log(*_open(settings))
    if member:
        _report(member, Started(limit=limit, connections=connections), stopping, service.siblings.left_alone)
    else:
        parts = {"memory_limit_bytes": limit.bytes, "offload_limit_bytes": limit.offload_bytes}
        _log.info(f"serving with {limit}", extra={**parts, "connections": connections})
    await stopping.wait()
    if shown:
        await shown.files.stop()
    await _stop(service, servers)


def _report(member: Member, started: Started, stopping: asyncio.Event, left_alone: Callable[[], None]) -> None:
    """Tell whoever started this process that it listens; when they are gone, it is to stop."""
    channel = socket.socket(fileno=member.channel)
    channel.sendall(msgspec.json.encode(started))

    def gone() -> None:
        loop.remove_reader(channel)
        channel.close()
        left_alone()
        stopping.set()

    loop = asyncio.get_running_loop()
    loop.add_reader(channel, gone)


class Server(Protocol):
    """What listens."""

    async def start(self) -> None:
        """Listen. Raises `OSError` where an address cannot be had."""

    async def stop(self, timeout_s: float | None = None) -> None:
        """Take nothing new, answer what came, and cut off what is open after that time."""

    def watch_memory(self, excess_bytes: Callable[[], int]) -> None:
        """That function says how many bytes the process has above its limit."""


def servers_of(
    service: Service,
    api: Api,
    stopping: asyncio.Event,
    max_connections: int | None = None,
    sockets: Sequence[socket.socket] = (),
    shown: Certificates | None = None,
) -> Sequence[Server]:
    """The servers that the settings ask for; `stopping` ends streams that are open. See `HttpServer` for the others."""
    settings, budget = service.settings, service.budget
    largest = min(settings.max_grpc_message_bytes, budget.largest)
    if settings.grpc_server == "grpcio" and settings.grpc_port:
        from serving.transport.grpcio_server import GrpcioServer  # which needs an extra of its own

        largest = min(settings.max_grpc_message_bytes, budget.largest // 2)  # each message is counted twice
        grpcio = GrpcioServer(settings, budget, GrpcServices(service, stopping, largest), largest, shown)
        return [HttpServer(settings, api, budget, max_connections, api.uploads, None, sockets, shown), grpcio]
    calls = GrpcServices(service, stopping, largest) if settings.grpc_port else None
    return [HttpServer(settings, api, budget, max_connections, api.uploads, calls, sockets, shown)]


async def _stop(service: Service, servers: Sequence[Server]) -> None:
    """Drain for as long as the settings allow, all parts together, and leave."""
    loop, timeout_s = asyncio.get_running_loop(), service.settings.drain_timeout_s
    ends = loop.time() + timeout_s
    service.begin_to_drain()
    await asyncio.gather(service.repository.stop(), *(server.stop(timeout_s) for server in servers))
    left_s = max(0.0, ends - loop.time())
    try:
        await asyncio.wait_for(service.stop(left_s), left_s + _LEAVE_S)
    except TimeoutError:
        _log.warning("the queue was left without a word: it did not answer in time")


def _open(settings: ServingSettings) -> tuple[int, str]:
    """What to log where callers need no key, and how important it is."""
    who = {"loopback": "callers on this machine alone", "explicit": "every caller", "none": "nobody"}
    level = logging.INFO if is_local(settings.host) else logging.WARNING
    return level, (
        f"without MILLRACE_SERVING_KEYS_FILE every caller may use the models and read about them; "
        f"{who[settings.model_control]} may change them"
    )


def _spare_the_collector() -> None:
    """Let garbage collections pass over all that was imported, and come rarely: a request leaves no cycles behind."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _tune_the_allocator() -> None:
    """Have glibc give back what large requests took.

    Left to itself, it raises the size from which a block is mapped alone up to 32 MB, and keeps an arena a thread.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 4 * _MMAP_THRESHOLD_BYTES)
        mallopt(_M_ARENA_MAX, 2)
