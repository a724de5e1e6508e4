"""A client of the jobs' Redis, which also follows the Redis that Sentinels name as the master."""

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError
from redis.retry import Retry

from millrace.broker.discovery import OneServer, Servers, servers
from millrace.jobs.keys import INDEX
from millrace.protocol.errors import Unavailable

_CONNECT_S = 2.0
_ANSWER_S = 5.0  # nothing of ours waits in Redis; RQ's workers, which do, set a longer time


def connect(url: str) -> "redis.Redis":
    """A client. It connects when it is first used, and again where the connection is lost.

    A command is sent again once where the connection is lost under it: all of ours may come twice.
    """
    where = servers(url)
    options: dict[str, Any] = {
        "socket_connect_timeout": _CONNECT_S,
        "socket_timeout": _ANSWER_S,
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    }
    if isinstance(where, OneServer):
        return redis.Redis.from_url(where.find(INDEX), **options)
    kind = _TlsMasterConnection if url.startswith("rediss") else _MasterConnection
    return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=kind, servers=where, **options))


class _FindsMaster:
    """Asks for the master each time that it connects, and connects again when the master is one no more."""

    def __init__(self, *, servers: Servers, **options: Any) -> None:
        self._servers = servers
        super().__init__(**options)

    def _connect(self) -> Any:
        try:
            found = parse_url(self._servers.find(INDEX))  # type: ignore[no-untyped-call]
        except Unavailable as error:
            raise RedisConnectionError(str(error)) from None
        for name in ("host", "port", "db", "username", "password"):
            if name in found:
                setattr(self, name, found[name])
        return super()._connect()  # type: ignore[misc]

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().read_response(*arguments, **options)  # type: ignore[misc]
        except ReadOnlyError:
            self.disconnect()  # type: ignore[attr-defined]
            raise RedisConnectionError("the Redis that keeps jobs is the master no more") from None


class _MasterConnection(_FindsMaster, Connection):
    """A connection to the master."""


class _TlsMasterConnection(_FindsMaster, SSLConnection):
    """The same with TLS."""
