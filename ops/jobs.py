"""What `millrace up` starts for background jobs: a server that keeps them on the disk, and jobs programs."""

import fcntl
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from millrace.jobs.settings import default_folder
from ops.embedded_redis import redis_server
from ops.errors import UpError

STORE_URL, FOLDER = "MILLRACE_JOBS_REDIS_URL", "MILLRACE_JOBS_FOLDER"
_NEEDS = ("rq", "pyarrow", "fsspec")  # of the jobs program


def missing_packages() -> list[str]:
    """What the jobs program needs and this Python lacks."""
    return [name for name in _NEEDS if find_spec(name) is None]


class JobsFolder:
    """Where the files of jobs are, and the server that keeps them. One stack at a time has it.

    Raises `UpError` where the folder cannot be made, or another stack has it.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.path = Path(environ.get(FOLDER) or default_folder(environ)).absolute()
        self._data = self.path / "redis"
        try:
            self._data.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self._data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UpError(f"the folder of jobs cannot be used: {error} ({FOLDER})") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.release()
            raise UpError(f"another stack has the jobs in {self.path}; name another folder with {FOLDER}") from None

    @property
    def log(self) -> Path:
        """What the server has to say."""
        return self._data / "redis.log"

    def redis_command(self, sockets: Path) -> tuple[list[str], str]:
        """How to start the server, and its URL. Its socket is in `sockets`: a path in the folder could be too long."""
        path = sockets / "jobs.sock"
        keeps = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        quiet = ["--maxmemory-policy", "noeviction", "--loglevel", "warning"]
        where = ["--port", "0", "--unixsocket", str(path), "--dir", str(self._data)]
        return [redis_server(), *where, *keeps, *quiet], f"unix://{path}"

    def release(self) -> None:
        """Let another stack have it."""
        os.close(self._lock)
