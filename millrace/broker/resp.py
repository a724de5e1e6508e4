"""A connection to Redis that speaks RESP through hiredis, and nothing else: one on asyncio, one that blocks.

Commands are written as they come and answered in order, so that any number may be on their way. redis-py does the same
at a third less throughput (docs/decisions/0002-resp-over-hiredis.md). The URL is read by redis-py, so all that one may
say of user, password, database and TLS means what it means there.
"""

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import hiredis
from redis.connection import SSLConnection, parse_url

from millrace.broker.clock import Clock
from millrace.protocol.errors import Unavailable
from millrace.protocol.paths import without_paths

Argument = bytes | str | int | float
Command = tuple[Argument, ...]
Routed = tuple[str, Command]  # a key that the command touches, and the command
CONNECT_TIMEOUT_S = 2.0
_RECEIVED_BYTES = 2**16
_VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


class Connection(asyncio.Protocol):
    """A connection made by `connect`. Once lost it stays lost: all waiting and later commands are `Unavailable`.

    `received_s` is when bytes were read last, by the clock.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self.received_s = clock()
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.WriteTransport | None = None
        self._loop = asyncio.get_running_loop()
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of `asyncio.Protocol`."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self._transport.set_write_buffer_limits(0)  # uvloop would keep what is written until the turn's end
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Part of `asyncio.Protocol`."""
        self.received_s = self._clock()
        self._reader.feed(data)
        while self._waiting and (answer := self._reader.gets()) is not False:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of `asyncio.Protocol`."""
        self._fail(f"the connection to the queue was lost: {exc or 'closed'}")

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

    def close(self, reason: str = "the connection to the queue was lost: closed") -> None:
        """Close the connection at once; commands on their way are `Unavailable` for that reason."""
        self._fail(reason)
        if self._transport is not None:
            self._transport.abort()  # `close` would wait until a server that is gone has taken what was written

    def _fail(self, reason: str) -> None:
        self.is_open = False
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(Unavailable(reason))
                future.exception()  # seen: of several commands that were sent together, only the first is waited for


class BlockingConnection:
    """A connection made by `connect_blocking`, for one thread at a time. Raises `OSError` when it is lost."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._timeout_s = connected.gettimeout()
        self._reader = hiredis.Reader()

    def send(self, commands: Sequence[tuple[Argument, ...]]) -> None:
        """Write the commands; `receive` then has their answers, in this order."""
        self._socket.sendall(b"".join([hiredis.pack_command(command) for command in commands]))

    def receive(self, count: int, timeout_s: float) -> list[Any]:
        """The next answers, Redis' own errors (`hiredis.ReplyError`) among them; each may take up to `timeout_s`."""
        if timeout_s != self._timeout_s:  # setting it is a system call
            self._socket.settimeout(timeout_s)
            self._timeout_s = timeout_s
        answers: list[Any] = []
        while len(answers) < count:
            answer = self._reader.gets()
            if answer is not False:
                answers.append(answer)
            elif data := self._socket.recv(_RECEIVED_BYTES):
                self._reader.feed(data)
            else:
                raise ConnectionResetError("closed by the server")
        return answers

    def close(self) -> None:
        """Close the connection at once; a connection that nobody holds any more closes itself."""
        self._socket.close()

    __del__ = close


async def connect(url: str, clock: Clock = time.monotonic) -> Connection:
    """A connection to the server that a redis://, rediss:// or unix:// URL names, authenticated, its database selected.

    Raises `Unavailable` with the reason.
    """
    options = parse_url(url)  # type: ignore[no-untyped-call]
    connection = None
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            connection = await _open(options, partial(Connection, clock))
            _check_entry(await connection.execute(*_entry(options)))
    except (OSError, TimeoutError, Unavailable) as error:
        if connection:
            connection.close()
        raise _unreachable(error) from None
    return connection


def connect_blocking(url: str) -> BlockingConnection:
    """The same for a thread."""
    options = parse_url(url)  # type: ignore[no-untyped-call]
    connected = None
    try:
        connected = _open_blocking(options)
        connection = BlockingConnection(connected)
        entry = _entry(options)
        connection.send(entry)
        _check_entry(connection.receive(len(entry), CONNECT_TIMEOUT_S))
    except (OSError, Unavailable) as error:
        if connected:
            connected.close()
        raise _unreachable(error) from None
    return connection


def _unreachable(error: Exception) -> Unavailable:
    if isinstance(error, Unavailable):
        return error
    reason = without_paths(str(error)) or f"no answer within {CONNECT_TIMEOUT_S} s"  # callers read it
    return Unavailable(f"the queue's Redis cannot be reached: {reason}")


async def _open(options: dict[str, Any], made: Callable[[], Connection]) -> Connection:
    loop = asyncio.get_running_loop()
    if "path" in options:
        return (await loop.create_unix_connection(made, options["path"]))[1]
    return (await loop.create_connection(made, *_address(options), ssl=_tls(options)))[1]


def _open_blocking(options: dict[str, Any]) -> socket.socket:
    if "path" in options:
        connected = socket.socket(socket.AF_UNIX)
        try:
            connected.settimeout(CONNECT_TIMEOUT_S)
            connected.connect(options["path"])
        except OSError:
            connected.close()
            raise
        return connected
    host, port = _address(options)
    connected = socket.create_connection((host, port), CONNECT_TIMEOUT_S)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        context = _tls(options)
        return context.wrap_socket(connected, server_hostname=host) if context else connected
    except OSError:
        connected.close()
        raise


def _address(options: dict[str, Any]) -> tuple[str, int]:
    return options.get("host", "localhost"), options.get("port", 6379)


def _tls(options: dict[str, Any]) -> ssl.SSLContext | None:
    """The context that redis-py makes of the same options; None without TLS."""
    if options.get("connection_class") is not SSLConnection:
        return None
    context = ssl.create_default_context()
    verify = _VERIFY.get(options.get("ssl_cert_reqs", "required"))
    if verify is None:
        raise Unavailable(
            f"the Redis URL has ssl_cert_reqs={options['ssl_cert_reqs']}; it is none, optional or required"
        )
    context.check_hostname = verify is not ssl.CERT_NONE and options.get("ssl_check_hostname", True)
    context.verify_mode = verify
    for flag in options.get("ssl_include_verify_flags", ()):
        context.verify_flags |= flag
    for flag in options.get("ssl_exclude_verify_flags", ()):
        context.verify_flags &= ~flag
    if certificate := options.get("ssl_certfile"):
        context.load_cert_chain(certificate, options.get("ssl_keyfile"), options.get("ssl_password"))
    authorities = [options.get(name) for name in ("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data")]
    if any(authorities):
        context.load_verify_locations(*authorities)
    if version := options.get("ssl_min_version"):
        context.minimum_version = ssl.TLSVersion(version)
    if ciphers := options.get("ssl_ciphers"):
        context.set_ciphers(ciphers)
    return context


def _entry(options: dict[str, Any]) -> list[tuple[Argument, ...]]:
    """What to say first."""
    commands: list[tuple[Argument, ...]] = []
    user, password = options.get("username"), options.get("password")
    if user or password:
        commands.append(("AUTH", user, password or "") if user else ("AUTH", password or ""))
    if database := options.get("db"):
        commands.append(("SELECT", int(database)))
    return commands


def _check_entry(answers: Sequence[Any]) -> None:
    for answer in answers:
        if isinstance(answer, hiredis.ReplyError):
            raise Unavailable(f"the queue's Redis refused the connection: {answer}")
