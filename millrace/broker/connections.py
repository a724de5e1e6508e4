"""Connections to the servers that hold our keys: asynchronous ones for the API, blocking ones for a worker's thread.

Both send commands in pipelines, each command with a key that says where it goes. With one server all of them are one
pipeline. In a Redis Cluster there is one pipeline for each node; what a node no longer holds (MOVED), hands over just
now (ASK) or holds in part (TRYAGAIN) it has not done, so just those commands are sent again, to where they belong.
"""

import asyncio
import functools
import hashlib
import re
import time
from collections.abc import Awaitable, Sequence
from importlib import resources
from typing import Any

import hiredis

from millrace.broker.clock import Clock
from millrace.broker.cluster_pipeline import PAUSE_S, ClusterPipeline
from millrace.broker.discovery import ClusterServers, Servers
from millrace.broker.resp import Argument, BlockingConnection, Command, Connection, Routed, connect, connect_blocking
from millrace.protocol.errors import Unavailable

GRACE_S = 5.0  # beyond a blocking read's own limit, before the server counts as gone
_OTHER_SERVER = ("NOSCRIPT", "READONLY", "CLUSTERDOWN", "MASTERDOWN")  # it is not the server that it was
_NO_PERMISSION = ("can't run this command", "has no permissions to")  # a script's, of Redis and of Valkey
_CODE = re.compile(r"(?:^(?!ERR Error running script)| -)([A-Z]+) ")


@functools.cache
def script(name: str) -> str:
    """The text of a script in `lua/`."""
    return resources.files("millrace.broker").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


@functools.cache
def sha(name: str) -> str:
    """The name that Redis knows it by."""
    return hashlib.sha1(script(name).encode(), usedforsecurity=False).hexdigest()


def call(name: str, keys: Sequence[str], *arguments: Argument) -> Routed:
    """The command that runs a script which the connections were made with; its keys are all in one slot."""
    return keys[0], ("EVALSHA", sha(name), len(keys), *keys, *arguments)


def failure(error: object) -> Unavailable:
    """What an error of Redis' means to a caller."""
    code, text = _code(error), str(error)
    if code == "OOM":
        return Unavailable("the queue's Redis is out of memory; try again when it has drained")
    if code == "MOVED":
        return Unavailable("the queue's Redis is a Cluster: its URL must begin with redis+cluster://")
    if code == "NOPERM" or any(words in text for words in _NO_PERMISSION):
        return Unavailable(f"the ACL of the queue's Redis lacks a permission (docs/reference/redis-keys.md): {text}")
    return Unavailable(f"the queue's Redis failed: {text}")


def _code(error: object) -> str:
    """The first word of Redis' error, or of the one that a script met: "ERR Error running script …: -OOM …"."""
    found = _CODE.search(str(error))
    return found[1] if found else ""


class Connections:
    """An asyncio connection to each server in use, made when it is first needed and again when lost."""

    def __init__(self, servers: Servers, *scripts: str, clock: Clock = time.monotonic) -> None:
        self._servers = servers
        self._scripts = scripts
        self._clock = clock
        self._only: Connection | None = None
        self._nodes: dict[str, Connection] = {}
        self._connecting = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether any server is connected."""
        return any(connection and connection.is_open for connection in (self._only, *self._nodes.values()))

    @property
    def received_s(self) -> float:
        """When the last answer, of any server, was read from its socket, by the clock."""
        return max(connection.received_s for connection in (self._only, *self._nodes.values()) if connection)

    async def execute(self, *commands: Routed, limit_s: float | None = GRACE_S) -> list[Any]:
        """The answers in order. Raises `Unavailable` for the first error among them, and for a lost connection.

        A server that does not answer within `limit_s` loses its connection: all others who wait for it must know.
        """
        return self._checked(await self._answers(commands, limit_s))

    def begin(self, *commands: Routed) -> Awaitable[list[Any]]:
        """The same without a limit; where a server is connected already, the commands are written before it returns."""
        connection = self._only
        if connection is None or not connection.is_open:
            return self.execute(*commands, limit_s=None)
        return self._finish(connection.send([command for _, command in commands]))

    async def _finish(self, futures: "list[asyncio.Future[Any]]") -> list[Any]:
        return self._checked([await future for future in futures])

    def _checked(self, answers: list[Any]) -> list[Any]:
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                if _code(answer) in _OTHER_SERVER:
                    self.lose()  # the next one looks for the right server and loads the scripts again
                raise failure(answer)
        return answers

    def lose(self) -> None:
        """Close all connections; commands on their way are `Unavailable`, later ones connect again."""
        self._servers.forget()
        for connection in (self._only, *self._nodes.values()):
            if connection:
                connection.close()

    async def _answers(self, commands: Sequence[Routed], limit_s: float | None) -> list[Any]:
        if isinstance(self._servers, ClusterServers):
            return await self._spread(ClusterPipeline(self._servers, commands), limit_s)
        connection = self._only
        if connection is None or not connection.is_open:
            connection = await self._reconnected(commands[0][0])
        plain = [command for _, command in commands]
        return await (_within(limit_s, connection, plain) if limit_s else connection.execute(*plain))

    async def _reconnected(self, key: str) -> Connection:
        async with self._connecting:
            if self._only is None or not self._only.is_open:
                self._only = await self._connected(self._servers.known(key) or await self._find(key))
            return self._only

    async def _find(self, key: str) -> str:
        return await asyncio.to_thread(self._servers.find, key)

    async def _connected(self, server: str) -> Connection:
        connection = await connect(server, self._clock)
        try:
            loads: list[Command] = [("SCRIPT", "LOAD", script(name)) for name in self._scripts]
            for answer in await _within(GRACE_S, connection, loads):
                if isinstance(answer, hiredis.ReplyError):
                    raise failure(answer)
        except BaseException:  # cancelled, too
            connection.close()
            raise
        return connection

    async def _spread(self, pipeline: "ClusterPipeline", limit_s: float | None) -> list[Any]:
        while not pipeline.is_over:
            parts = pipeline.parts({key: self._servers.known(key) or await self._find(key) for key in pipeline.keys})
            outcomes = await asyncio.gather(
                *(self._ask(server, pipeline.commands(part), limit_s) for server, part in parts.items()),
                return_exceptions=True,
            )
            for part, outcome in zip(parts.values(), outcomes, strict=True):
                if isinstance(outcome, BaseException):
                    self._servers.forget()
                    raise outcome
                pipeline.take(part, outcome)
            if pipeline.must_pause:
                await asyncio.sleep(PAUSE_S)
        return pipeline.answers

    async def _ask(self, server: str, commands: list[Command], limit_s: float | None) -> list[Any]:
        connection = self._nodes.get(server)
        if connection is None or not connection.is_open:
            async with self._connecting:
                connection = self._nodes.get(server)
                if connection is None or not connection.is_open:
                    connection = self._nodes[server] = await self._connected(server)
        return await _within(limit_s or GRACE_S, connection, commands)


async def _within(limit_s: float, connection: Connection, commands: Sequence[Command]) -> list[Any]:
    timer = asyncio.get_running_loop().call_later(limit_s, connection.close, "the queue's Redis does not answer")
    try:
        return await connection.execute(*commands)
    finally:
        timer.cancel()


class BlockingConnections:
    """The same for one thread, which waits for each answer."""

    def __init__(self, servers: Servers, *scripts: str) -> None:
        self._servers = servers
        self._scripts = scripts
        self._only: BlockingConnection | None = None
        self._nodes: dict[str, BlockingConnection] = {}

    @property
    def is_spread(self) -> bool:
        """Whether keys may be on several servers, so that commands on different keys have no order."""
        return isinstance(self._servers, ClusterServers)

    def execute(self, *commands: Routed, wait_ms: int = 0) -> list[Any]:
        """The answers in order, errors of Redis' own (`hiredis.ReplyError`) among them.

        `wait_ms` is the time that a command may block. When a connection is lost, all are given up.
        """
        if not commands:
            return []
        try:
            if isinstance(self._servers, ClusterServers):
                return self._spread(ClusterPipeline(self._servers, commands), wait_ms)
            if self._only is None:
                self._only = _entered(self._servers.find(commands[0][0]), self._scripts)
            return _exchange([(self._only, [command for _, command in commands])], wait_ms)[0]
        except OSError as error:
            self.close()
            raise Unavailable(f"the connection to the queue was lost: {error}") from None
        except Unavailable:
            self.close()
            raise

    def servers(self) -> list[str]:
        """Every server that holds keys."""
        return self._servers.everyone()

    def execute_at(self, server: str, *commands: Command) -> list[Any]:
        """The answers of one of the `servers`, whatever keys it holds."""
        try:
            return _exchange([(self._node(server), commands)], 0)[0]
        except OSError as error:
            self.close()
            raise Unavailable(f"the connection to the queue was lost: {error}") from None

    def close(self) -> None:
        """Disconnect; the next command connects again."""
        self._servers.forget()
        for connection in (self._only, *self._nodes.values()):
            if connection is not None:
                connection.close()
        self._only, self._nodes = None, {}

    def _node(self, server: str) -> BlockingConnection:
        if server not in self._nodes:
            self._nodes[server] = _entered(server, self._scripts)
        return self._nodes[server]

    def _spread(self, pipeline: "ClusterPipeline", wait_ms: int) -> list[Any]:
        while not pipeline.is_over:
            parts = pipeline.parts({key: self._servers.find(key) for key in pipeline.keys})
            pipelines = [(self._node(server), pipeline.commands(part)) for server, part in parts.items()]
            for part, answers in zip(parts.values(), _exchange(pipelines, wait_ms), strict=True):
                pipeline.take(part, answers)
            if pipeline.must_pause:
                time.sleep(PAUSE_S)
        return pipeline.answers


def _entered(server: str, scripts: Sequence[str]) -> BlockingConnection:
    """A connection with the scripts loaded."""
    connection = connect_blocking(server)
    try:
        for answer in _exchange([(connection, [("SCRIPT", "LOAD", script(name)) for name in scripts])], 0)[0]:
            if isinstance(answer, hiredis.ReplyError):
                raise failure(answer)
    except (OSError, Unavailable):
        connection.close()
        raise
    return connection


def _exchange(pipelines: Sequence[tuple[BlockingConnection, Sequence[Command]]], wait_ms: int) -> list[list[Any]]:
    """Send each pipeline on its connection, then collect each one's answers."""
    for connection, commands in pipelines:
        connection.send(commands)
    return [connection.receive(len(commands), wait_ms / 1000 + GRACE_S) for connection, commands in pipelines]
