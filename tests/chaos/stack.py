"""The stack that a scenario breaks, with the exact model, and what its queue holds."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from millrace.broker.keys import Queue
from tests.support import exact
from tests.support.running import Parts, until

QUEUE = Queue("exact", 1)


@contextlib.contextmanager
def exact_stack(
    folder: Path, *, apis: int = 1, workers: int = 2, batch_s: float = 0.0, **settings: str
) -> Iterator[Parts]:
    """A running stack with the exact model, each of whose batches takes about `batch_s` longer than it must."""
    exact.make(folder / "models", batch_s=batch_s)
    with Parts(folder, folder / "models", apis=apis, workers=workers, waits=True, **settings) as parts:
        yield parts


def held(parts: Parts) -> int:
    """How many rows the queue holds, waiting or in work."""
    with redis.Redis.from_url(parts.redis.url) as client:
        return int(client.hget(QUEUE.held, "rows") or 0)


def pass_for(seconds: float) -> None:
    """Return when the time has passed."""
    ends = time.monotonic() + seconds
    until(lambda: time.monotonic() >= ends, seconds + 10)
