"""Whether a worker on this host is alive: `python -m worker.health` exits with 0 if so, else with 1 and the reason.

A worker has no port to ask. Its heartbeat announces it in Redis under an id that begins with the host's name; in a
container, that is the container's own. For health checks of Docker and Kubernetes.
"""

import os
import socket
import sys

from millrace.broker.redis import RedisBroker
from millrace.protocol.errors import Unavailable
from millrace.settings import SettingsError, load
from worker.settings import WorkerSettings


def main() -> int:
    """Look for a live announcement of this host's."""
    try:
        settings = load(WorkerSettings, os.environ)
        workers = RedisBroker(settings.redis_url).worker().live()
    except (SettingsError, Unavailable) as error:
        print(f"unhealthy: {error}", file=sys.stderr)
        return 1
    host = socket.gethostname()
    if any(worker.worker.startswith(f"{host}-") for worker in workers):
        return 0
    print(f"unhealthy: no worker of {host} has announced itself in the last seconds", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
