"""The API under its own HTTP server: the hot verbs on the event loop, everything else in Flask beside it; and gRPC."""

import asyncio
import gc
import resource
import signal

from millrace import logs
from millrace.broker.redis import RedisBroker
from millrace.protocol.errors import MillraceError
from serving.service import Service, target
from serving.settings import ServingSettings
from serving.transport.grpc_server import GrpcServer
from serving.transport.http_server import Done, HttpServer, Withdraw
from serving.transport.request_head import RequestHead
from serving.transport.responses import HttpResponse
from serving.web.app import create_app
from serving.web.flask_threads import FlaskThreads


class Api:
    """Hands each request to the service or to Flask."""

    def __init__(self, service: Service) -> None:
        self._service = service
        loop = asyncio.get_running_loop()
        self._flask = FlaskThreads(create_app(service, loop), loop)

    def handle(self, head: RequestHead, body: bytes, done: Done) -> Withdraw | None:
        """See `serving.transport.http_server.Handler`."""
        if head.method == "POST" and (hot := target(head.path)):
            return self._service.begin(hot, head.headers, body, done).withdraw
        self._flask.handle(head, body, done)
        return None

    def refused(self, head: RequestHead, error: MillraceError) -> HttpResponse:
        """See `serving.transport.http_server.Handler`."""
        return self._service.refused(head.headers, error)

    def stop(self) -> None:
        """Let Flask's threads end."""
        self._flask.stop()


async def serve(settings: ServingSettings) -> None:
    """Serve until SIGTERM or SIGINT; then answer what is open, and return."""
    logs.configure("serving", settings.log_level)
    _allow_connections(settings.max_connections)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    service = Service(settings, RedisBroker(settings.redis_url))
    await service.start()
    api = Api(service)
    servers: list[HttpServer | GrpcServer] = [HttpServer(settings, api)]
    if settings.grpc_port:
        servers.append(GrpcServer(service))
    for server in servers:
        await server.start()
    _spare_the_collector()
    await stopping.wait()
    await asyncio.gather(service.repository.stop(), *(server.stop() for server in servers))
    await service.stop()
    await asyncio.to_thread(api.stop)  # a thread of Flask's may wait for what the loop has to finish


def _spare_the_collector() -> None:
    """Let garbage collections pass over all that was imported, and come rarely: a request leaves no cycles behind."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _allow_connections(count: int) -> None:
    """Raise this process's limit of open files, as far as it may, to so many connections and some files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count + 256)), hard))
