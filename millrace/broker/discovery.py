"""Which server holds a key: one Redis, the master that Sentinels name, or the node of a Redis Cluster.

    redis://[user:password@]host[:6379][/database]                          one server
    rediss://…                                                              the same with TLS
    unix://[user:password@]/path/to/redis.sock[?db=database]
    redis+sentinel://[user:password@]host[:26379][,host…]/master[/database]
    redis+cluster://[user:password@]host[:6379][,host…]
    rediss+sentinel://…, rediss+cluster://…                                 the same with TLS, to the Sentinels too

Options behind `?` are redis-py's (ssl_ca_certs, ssl_certfile, …) and go for every server; Sentinels that ask for a
password get `sentinel_username` and `sentinel_password`. Finding is redis-py's work; the connections are ours.
"""

import re
import threading
from typing import Any, Protocol
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, NodesManager
from redis.connection import SSLConnection, parse_url
from redis.crc import key_slot
from redis.exceptions import MovedError, RedisClusterException
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from millrace.protocol.errors import Unavailable

_TIMEOUT_S = 2.0
_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")


_DATABASE = re.compile(r"(/\d*)?")
_HOST = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?"
_HOSTS = re.compile(rf"{_HOST}(?:,{_HOST})*(?:/[A-Za-z0-9._-]*){{0,2}}")
_PATH = re.compile(r"/[^@?#:]*")


class RedisUrlError(ValueError):
    """What is wrong with a Redis URL, without any part of it."""


class Servers(Protocol):
    """Where the keys are. A server is named by its redis://, rediss:// or unix:// URL. Any thread may ask.

    Methods raise `Unavailable` where nobody can say.
    """

    def known(self, key: str, /) -> str | None:
        """The server that holds the key, as far as that is known without asking; never waits."""

    def find(self, key: str, /) -> str:
        """The server that holds the key; may ask over the network."""

    def everyone(self) -> list[str]:
        """Every server that holds keys, asked anew."""

    def forget(self) -> None:
        """Ask anew next time: a server was lost, or is not what it was."""


def servers(url: str) -> Servers:
    """What the URL names; connects to nothing. Raises `ValueError`, saying what is wrong with the URL.

    No error repeats a part of the URL: where it is malformed, any part may be the password.
    """
    try:
        parts = urlsplit(url)
        _check(parts)
        if parts.scheme.endswith("+sentinel"):
            return SentinelServers(parts)
        if parts.scheme.endswith("+cluster"):
            return ClusterServers(parts)
        _options(url)
    except RedisUrlError:
        raise
    except TypeError:  # redis-py has no option of that name
        raise RedisUrlError("the Redis URL has an option behind '?' that redis-py does not have") from None
    except (ValueError, redis.RedisError):  # whose texts repeat parts of the URL
        raise RedisUrlError(
            "the Redis URL cannot be read: is its port a number, and its password percent-encoded (%40 for @)?"
        ) from None
    return OneServer(url)


def without_secrets(url: str) -> str:
    """What of a Redis URL may be shown: its scheme and where it leads, where both are surely that."""
    scheme, separator, rest = url.partition("://")
    if scheme not in _SCHEMES or not separator:
        return "the given URL"
    where, _, options = rest.partition("?")
    where = where.rpartition("@")[2]
    is_plain = _PATH.fullmatch(where) if scheme == "unix" else _HOSTS.fullmatch(where)
    return f"{scheme}://{where if is_plain and '@' not in options else '…'}"


def _check(parts: SplitResult) -> None:
    """Raises `RedisUrlError` for what would be taken for something else than was meant."""
    if parts.scheme not in _SCHEMES:
        raise RedisUrlError(f"a Redis URL begins with {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
    is_path = parts.scheme == "unix"
    if parts.fragment or "@" in parts.query or ("@" in parts.path and not is_path):
        raise RedisUrlError(
            "the Redis URL's user and password must be percent-encoded: %40 for @, %23 for #, %3F for ?"
        )
    if not is_path and not parts.scheme.endswith("+sentinel") and not _DATABASE.fullmatch(parts.path):
        raise RedisUrlError("a Redis URL ends with the number of a database: redis://host:6379/0")


class OneServer:
    """A Redis whose address never changes."""

    def __init__(self, url: str) -> None:
        self._url = url

    def known(self, _key: str) -> str:
        """See `Servers`."""
        return self._url

    def find(self, _key: str) -> str:
        """See `Servers`."""
        return self._url

    def everyone(self) -> list[str]:
        """See `Servers`."""
        return [self._url]

    def forget(self) -> None:
        """See `Servers`."""


class SentinelServers:
    """The master of the name that the Sentinels watch; each time that somebody connects they are asked again."""

    def __init__(self, parts: SplitResult) -> None:
        self._base = _Base(parts)
        self._name, _, self._database = parts.path.strip("/").partition("/")
        if not self._name:
            raise RedisUrlError(
                "a Redis Sentinel URL ends with the master's name: redis+sentinel://host:26379/mymaster/0"
            )
        options = self._base.sentinel_options()
        self._sentinel = Sentinel(self._base.hosts(26379), sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()

    def known(self, _key: str) -> None:
        """See `Servers`."""

    def find(self, _key: str) -> str:
        """See `Servers`."""
        with self._lock:
            try:
                host, port = self._sentinel.discover_master(self._name)  # type: ignore[no-untyped-call]
            except MasterNotFoundError:
                raise Unavailable(f"no Redis Sentinel that answers has a master {self._name!r} that is up") from None
            except (redis.RedisError, OSError) as error:
                raise Unavailable(f"the Redis Sentinels do not answer: {error}") from None
        return self._base.url(host, port, self._database)

    def everyone(self) -> list[str]:
        """See `Servers`."""
        return [self.find("")]

    def forget(self) -> None:
        """See `Servers`."""


class ClusterServers:
    """The nodes of a Redis Cluster, by the slot of a key."""

    def __init__(self, parts: SplitResult) -> None:
        if parts.path.strip("/0"):
            raise RedisUrlError("a Redis Cluster has only database 0: redis+cluster://host:6379,host:6379")
        self._base = _Base(parts)
        self._seeds = self._base.hosts(6379)
        self._nodes: NodesManager | None = None
        self._is_fresh = False
        self._lock = threading.Lock()

    def known(self, key: str) -> str | None:
        """See `Servers`."""
        nodes = self._nodes
        if nodes is None or not self._is_fresh:
            return None
        try:
            node = nodes.get_node_from_slot(key_slot(key.encode()))
        except redis.RedisError:  # no node has the slot
            return None
        return self.at(node.host, node.port)

    def find(self, key: str) -> str:
        """See `Servers`."""
        if self.known(key) is None:
            self._ask()
        server = self.known(key)
        if server is None:
            raise Unavailable("no node of the Redis Cluster has the slot of the queue's key")
        return server

    def everyone(self) -> list[str]:
        """See `Servers`."""
        self.forget()
        nodes = self._ask().get_nodes_by_server_type("primary")
        return [self.at(node.host, node.port) for node in nodes]

    def at(self, host: str, port: int) -> str:
        """The URL of a node that another one pointed to."""
        return self._base.url(host, port)

    def moved(self, error: MovedError) -> None:
        """Take a node's word that a slot is elsewhere now."""
        with self._lock:
            try:
                if self._nodes is not None and self._is_fresh and error.host:
                    self._nodes.move_slot(error)
                    return
            except KeyError:  # a slot that nobody had
                pass
            self._is_fresh = False

    def forget(self) -> None:
        """See `Servers`."""
        self._is_fresh = False

    def _ask(self) -> NodesManager:
        """Have redis-py read the slots from a node that it knows, or else from one that the URL names."""
        with self._lock:
            nodes, self._nodes = self._nodes, None
            if nodes is not None and self._is_fresh:  # another thread was faster
                self._nodes = nodes
                return nodes
            try:
                if nodes is None:
                    seeds = [ClusterNode(host, port) for host, port in self._seeds]  # type: ignore[no-untyped-call]
                    nodes = NodesManager(seeds, **self._base.options())
                else:
                    nodes.initialize()
            except (redis.RedisError, RedisClusterException, OSError, IndexError) as error:  # the last: no slots yet
                raise Unavailable(f"the Redis Cluster cannot be reached: {_first_cause(error)}") from None
            self._nodes, self._is_fresh = nodes, True
            return nodes


def _first_cause(error: BaseException) -> BaseException:
    """What led to it: redis-py says "Cluster mode is not enabled" of any refusal."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


class _Base:
    """What all servers of a URL with several hosts have in common."""

    def __init__(self, parts: SplitResult) -> None:
        self._scheme = parts.scheme.partition("+")[0]
        self._user, _, self._hosts = parts.netloc.rpartition("@")
        query = dict(parse_qsl(parts.query))
        self._sentinel = {name: query.pop(f"sentinel_{name}", None) for name in ("username", "password")}
        self._query = urlencode(query)

    def hosts(self, port: int) -> list[tuple[str, int]]:
        """The hosts and ports that the URL names; `port` is the default."""
        found = [urlsplit(f"//{host}") for host in self._hosts.split(",")]
        if not all(host.hostname for host in found):
            raise RedisUrlError("a Redis Sentinel or Cluster URL names its hosts: host:port,host:port")
        return [(host.hostname or "", host.port or port) for host in found]

    def url(self, host: str, port: int, database: str = "") -> str:
        """The URL of one server."""
        user = f"{self._user}@" if self._user else ""
        host = f"[{host}]" if ":" in host else host
        return f"{self._scheme}://{user}{host}:{port}/{database}{f'?{self._query}' if self._query else ''}"

    def options(self) -> dict[str, Any]:
        """What redis-py's client needs to enter any of the servers."""
        return _options(self.url("localhost", 6379))

    def sentinel_options(self) -> dict[str, Any]:
        """What redis-py's client needs to enter any of the Sentinels."""
        return self.options() | self._sentinel | {"retry": Retry(NoBackoff(), 0)}


def _options(url: str) -> dict[str, Any]:
    """The arguments that `redis.Redis` takes beside host and port. Raises `TypeError` for one that it has not."""
    options = parse_url(url)  # type: ignore[no-untyped-call]
    is_tls = options.pop("connection_class", None) is SSLConnection
    for name in ("host", "port", "db", "path"):
        options.pop(name, None)
    limits = {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
    known: dict[str, Any] = limits | options | {"protocol": 2, "driver_info": None} | ({"ssl": True} if is_tls else {})
    redis.Redis(**known).close()
    return known
