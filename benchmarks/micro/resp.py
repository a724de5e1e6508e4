"""One append at a time, as group commit sends them: our RESP connection beside redis.asyncio.

    .venv/bin/python -m benchmarks.micro.resp

Each append is one XADD of a 3 KB block, on a Redis of its own.
"""

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis.asyncio
import uvloop

from benchmarks.micro.timing import compare
from millrace.broker.keys import Queue
from millrace.broker.resp import connect
from ops.embedded_redis import redis_server

APPENDS = 2000
QUEUE = Queue("bench", 1)
APPEND = ("XADD", QUEUE.requests("normal"), "*", "b", bytes(3200), "r", 1)


def measure(url: str) -> None:
    """Run both in turn; the queue is emptied after each round."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ours = runner.run(connect(url))
        theirs = redis.asyncio.Redis.from_url(url, protocol=2)

        async def appends(append: Callable[[], Awaitable[object]]) -> float:
            started = time.perf_counter()
            for _ in range(APPENDS):
                await append()
            taken = time.perf_counter() - started
            await theirs.flushdb()
            return taken / APPENDS * 1e6

        execute: Callable[..., Awaitable[object]] = theirs.execute_command
        compare(
            "an append of 3 KB",
            {
                "millrace.broker.resp": lambda: runner.run(appends(lambda: ours.execute(APPEND))),
                "redis.asyncio": lambda: runner.run(appends(lambda: execute(*APPEND))),
            },
        )
        ours.close()
        runner.run(theirs.aclose())


def main() -> None:
    """Measure on a Redis of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "redis.sock"
        where = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", folder]
        with subprocess.Popen([redis_server(), *where], stdout=subprocess.DEVNULL) as server:
            try:
                while not path.exists():
                    time.sleep(0.01)
                measure(f"unix://{path}")
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
