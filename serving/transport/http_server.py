"""The HTTP/1.1 server: listens, keeps the time for its connections, and stops without losing a request."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from serving.settings import ServingSettings
from serving.transport.budget import Budget
from serving.transport.certificates import Certificates
from serving.transport.connection_table import ConnectionTable
from serving.transport.handler import Handler, Uploads
from serving.transport.handshake import TlsParts
from serving.transport.http_connection import Connection, ServerParts
from serving.transport.pacer import Pacer
from serving.transport.shared_port import BACKLOG, family_of

_log = logging.getLogger(__name__)
_SWEEP_S = 0.25
_UNPACKERS = 2


class HttpServer:
    """Listens on one address. `start` first, `stop` last.

    All that waits in it is counted in the budget. `max_connections` is the most that it may have open; None stands for
    the settings' own. `uploads` take large bodies that the handler does not take. `port` is a socket that is bound to a
    port which other processes share, and is closed by `stop`; without one the port is this server's own. With
    `certificates` it speaks TLS.
    """

    def __init__(
        self,
        settings: ServingSettings,
        handler: Handler,
        budget: Budget,
        max_connections: int | None = None,
        uploads: Uploads | None = None,
        port: socket.socket | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        self.settings = settings
        loop = asyncio.get_running_loop()
        self.connections = ConnectionTable(
            max_connections or settings.max_connections, settings.keep_alive_timeout_s, loop
        )
        unpackers = ThreadPoolExecutor(_UNPACKERS, thread_name_prefix="unpack")
        self._parts = ServerParts(settings, handler, budget, self.connections, Pacer(loop), unpackers, loop, uploads)
        budget.reclaim = self.connections.reclaim
        self.tls = TlsParts(certificates, self.connections, self._connection, loop) if certificates else None
        self._accepted: Callable[[], asyncio.Protocol] = self.tls.handshake if self.tls else self._connection
        self._listening = port
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Listen. Raises `OSError` where the address cannot be had."""
        host, port = self.settings.host, self.settings.port
        if self._listening is None:
            family = family_of(host, port)
            self._listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
        loop = self._parts.loop
        self._server = await loop.create_server(self._accepted, sock=self._listening, backlog=BACKLOG)
        self._sweep()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listening.getsockname()[1]) if self._listening else self.settings.port

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._parts.is_stopping

    async def stop(self, timeout_s: float | None = None) -> None:
        """Take no more connections, answer what came on those that are open, and close them.

        A connection without a request is given a moment, for one that is on its way. Requests still open after
        `timeout_s`, the settings' `drain_timeout_s` where it is None, are cut off.
        """
        self._parts.is_stopping = True
        await self._take_backlog()
        if self._server:
            self._server.close()
        self._server = self._listening = None
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
        with contextlib.suppress(OSError):  # BlockingIOError: there are no more
            while self._listening:
                accepted, _ = self._listening.accept()
                await self._parts.loop.connect_accepted_socket(self._accepted, accepted)

    def _sweep(self) -> None:
        """Look after all that is late, and set the clocks by which the connections go."""
        self.connections.tick()
        self._sweeping = self._parts.loop.call_later(_SWEEP_S, self._sweep)
