"""One asyncio connection to Redis that speaks RESP through hiredis, and nothing else.

Commands are written as they come and answered in order, so that any number may be on their way. `redis.asyncio` does
the same at a third less throughput (docs/decisions/0002-resp-over-hiredis.md). What it takes to find and enter a server
(URL, TLS, user, password, database) is redis-py's.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import hiredis
from redis.connection import SSLConnection, parse_url

from millrace.protocol.errors import Unavailable

Argument = bytes | str | int | float
CONNECT_TIMEOUT_S = 2.0


class Connection(asyncio.Protocol):
    """A connection made by `connect`. Once lost it stays lost: all waiting and later commands are `Unavailable`."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.WriteTransport | None = None
        self._loop = asyncio.get_running_loop()
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of `asyncio.Protocol`."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Part of `asyncio.Protocol`."""
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not False:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of `asyncio.Protocol`."""
        self.is_open = False
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(Unavailable(f"the connection to the queue was lost: {exc or 'closed'}"))
                future.exception()  # seen: of several commands that were sent together, only the first is waited for

    def send(self, commands: Sequence[tuple[Argument, ...]]) -> "list[asyncio.Future[Any]]":
        """Write the commands at once; each future has its answer, a `hiredis.ReplyError` among the results."""
        if not self.is_open or self._transport is None:
            raise Unavailable("the connection to the queue was lost")
        self._transport.write(b"".join([hiredis.pack_command(command) for command in commands]))
        futures = [self._loop.create_future() for _ in commands]
        self._waiting.extend(futures)
        return futures

    async def execute(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """Send the commands and wait for all their answers; Redis' own errors are returned, not raised."""
        return [await future for future in self.send(commands)]

    def close(self) -> None:
        """Close the connection at once; commands on their way are `Unavailable`."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()  # `close` would wait until a server that is gone has taken what was written


async def connect(url: str) -> Connection:
    """A connection to the server that a redis://, rediss:// or unix:// URL names, authenticated, its database selected.

    Raises `Unavailable` with the reason.
    """
    options = parse_url(url)  # type: ignore[no-untyped-call]
    connection = None
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            connection = await _open(options)
            await _enter(connection, options)
    except (OSError, TimeoutError) as error:
        if connection:
            connection.close()
        reason = str(error) or f"no answer within {CONNECT_TIMEOUT_S} s"
        raise Unavailable(f"the queue's Redis cannot be reached: {reason}") from None
    return connection


async def _open(options: dict[str, Any]) -> Connection:
    loop = asyncio.get_running_loop()
    if "path" in options:
        return (await loop.create_unix_connection(Connection, options["path"]))[1]
    context = _tls(options) if options.get("connection_class") is SSLConnection else None
    host, port = options.get("host", "localhost"), options.get("port", 6379)
    return (await loop.create_connection(Connection, host, port, ssl=context))[1]


def _tls(options: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"), capath=options.get("ssl_ca_path"))
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif options.get("ssl_check_hostname") is False:
        context.check_hostname = False
    if certificate := options.get("ssl_certfile"):
        context.load_cert_chain(certificate, options.get("ssl_keyfile"), options.get("ssl_password"))
    return context


async def _enter(connection: Connection, options: dict[str, Any]) -> None:
    commands: list[tuple[Argument, ...]] = []
    if password := options.get("password"):
        user = options.get("username")
        commands.append(("AUTH", user, password) if user else ("AUTH", password))
    if database := options.get("db"):
        commands.append(("SELECT", database))
    for answer in await connection.execute(*commands):
        if isinstance(answer, hiredis.ReplyError):
            connection.close()
            raise Unavailable(f"the queue's Redis refused the connection: {answer}")
