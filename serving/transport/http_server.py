"""The server of HTTP/1.1, HTTP/2 and gRPC: listens, keeps its connections' time, and stops without losing a request."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from serving.settings import ServingSettings
from serving.transport.budget import Budget
from serving.transport.certificates import Certificates
from serving.transport.connection_table import ConnectionTable
from serving.transport.descriptors import grpc_connections
from serving.transport.grpc_method import Calls
from serving.transport.handler import Handler, Uploads
from serving.transport.handshake import TlsParts
from serving.transport.http_connection import Connection
from serving.transport.pacer import Pacer
from serving.transport.server_parts import ServerParts
from serving.transport.shared_port import BACKLOG, family_of

_log = logging.getLogger(__name__)
_SWEEP_S = 0.25
_UNPACKERS = 2


class HttpServer:
    """Listens on its ports, on each for all three protocols: what a caller speaks, its first bytes say.

    `start` first, `stop` last. All that waits in it is counted in the budget. `max_connections` is the most that it may
    have open; None stands for the settings' own. `uploads` take large bodies that the handler does not take. `calls`
    are served over gRPC, on the settings' gRPC port, too. `sockets` are bound to ports that other processes share, and
    are closed by `stop`; without them the ports are this server's own. With `certificates` it speaks TLS.
    """

    def __init__(
        self,
        settings: ServingSettings,
        handler: Handler,
        budget: Budget,
        max_connections: int | None = None,
        uploads: Uploads | None = None,
        calls: Calls | None = None,
        sockets: Sequence[socket.socket] = (),
        certificates: Certificates | None = None,
    ) -> None:
        self.settings = settings
        loop = asyncio.get_running_loop()
        self.connections = ConnectionTable(
            max_connections or settings.max_connections, settings.keep_alive_timeout_s, loop
        )
        unpackers = ThreadPoolExecutor(_UNPACKERS, thread_name_prefix="unpack")
        self._parts = ServerParts(
            settings, handler, budget, self.connections, Pacer(loop), unpackers, loop, uploads, calls
        )
        self._parts.most_http2_connections = grpc_connections(settings.max_grpc_connections)
        budget.reclaim = self.connections.reclaim
        self.tls = TlsParts(certificates, self.connections, self._connection, loop) if certificates else None
        self._accepted: Callable[[], asyncio.Protocol] = self.tls.handshake if self.tls else self._connection
        self._listening = list(sockets)
        self._servers: list[asyncio.Server] = []
        self._sweeping: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Listen. Raises `OSError` where an address cannot be had."""
        if not self._listening:
            self._bind()
        for listening in self._listening:
            self._servers.append(await self._parts.loop.create_server(self._accepted, sock=listening, backlog=BACKLOG))
        self._sweep()

    @property
    def port(self) -> int:
        """The HTTP port that it listens on."""
        return int(self._listening[0].getsockname()[1]) if self._listening else self.settings.port

    @property
    def open_calls(self) -> int:
        """How many requests of HTTP/2, calls of gRPC among them, have no answer yet."""
        return self._parts.open_calls

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._parts.is_stopping

    def watch_memory(self, excess_bytes: Callable[[], int]) -> None:
        """All that waits here is counted in the budget: there is nothing else to watch."""

    async def stop(self, timeout_s: float | None = None) -> None:
        """Take no more connections, answer what came on those that are open, and close them.

        A connection without a request is given a moment, for one that is on its way. Requests still open after
        `timeout_s`, the settings' `drain_timeout_s` where it is None, are cut off.
        """
        self._parts.is_stopping = True
        await self._take_backlog()
        for server in self._servers:
            server.close()
        self._servers, self._listening = [], []
        for connection in self.connections:
            connection.linger()
        self.connections.emptied.clear()
        if self.connections:
            with contextlib.suppress(TimeoutError):
                timeout_s = self.settings.drain_timeout_s if timeout_s is None else timeout_s
                await asyncio.wait_for(self.connections.emptied.wait(), timeout_s)
        if self.connections:
            _log.warning("connections were cut off", extra={"connections": len(self.connections)})
        for connection in self.connections:
            connection.abort()
        if self._sweeping:
            self._sweeping.cancel()
        self._parts.unpackers.shutdown(wait=False, cancel_futures=True)

    def _connection(self) -> Connection:
        return Connection(self._parts)

    async def _take_backlog(self) -> None:
        """Accept the connections that the system has already accepted for us: closing the socket would reset them."""
        for listening in self._listening:
            with contextlib.suppress(OSError):  # BlockingIOError: there are no more
                while True:
                    accepted, _ = listening.accept()
                    await self._parts.loop.connect_accepted_socket(self._accepted, accepted)

    def _bind(self) -> None:
        """Take the ports. Raises `OSError`, and has none, where one cannot be had."""
        settings = self.settings
        ports = [settings.port, *([settings.grpc_port] if self._parts.calls and settings.grpc_port else [])]
        try:
            for port in ports:
                self._listening.append(_bound(settings.host, port))
        except OSError:
            self._close_sockets()
            raise

    def _close_sockets(self) -> None:
        for listening in self._listening:
            listening.close()
        self._listening = []

    def _sweep(self) -> None:
        """Look after all that is late, and set the clocks by which the connections go."""
        self.connections.tick()
        self._sweeping = self._parts.loop.call_later(_SWEEP_S, self._sweep)


def _bound(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=family_of(host, port), backlog=BACKLOG)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from None
