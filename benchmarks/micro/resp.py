"""One append at a time, as group commit sends them: our RESP connection beside redis.asyncio, in alternating rounds.

    .venv/bin/python -m benchmarks.micro.resp

Prints microseconds per append of one 3 KB block (EVALSHA of lua/append.lua), the median of the rounds, and their ratio.
"""

import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis.asyncio
import uvloop

from millrace.broker.keys import Queue
from millrace.broker.redis import script
from millrace.broker.resp import connect
from millrace.supervisor import redis_server

ROUNDS, APPENDS = 7, 3000
QUEUE = Queue("bench", 1)
KEYS = (QUEUE.requests("normal"), QUEUE.rows)
BLOCK = bytes(3200)


async def measure(url: str) -> None:
    """Run both in turn and print what they took."""
    ours = await connect(url)
    theirs = redis.asyncio.Redis.from_url(url, protocol=2)
    (sha,) = await ours.execute(("SCRIPT", "LOAD", script("append")))
    command = ("EVALSHA", sha, 2, *KEYS, 1, 10**9, BLOCK)

    async def by_ours() -> None:
        await ours.execute(command)

    async def by_theirs() -> None:
        await theirs.execute_command(*command)

    taken: dict[str, list[float]] = {"ours": [], "redis.asyncio": []}
    for _ in range(ROUNDS):
        for name, append in (("ours", by_ours), ("redis.asyncio", by_theirs)):
            taken[name].append(await _round(append))
            await theirs.flushall()
            await ours.execute(("SCRIPT", "LOAD", script("append")))
    medians = {name: statistics.median(rounds) for name, rounds in taken.items()}
    for name, median in medians.items():
        print(f"{name:>14}  {median:6.1f} µs an append")
    print(f"{'ratio':>14}  {medians['redis.asyncio'] / medians['ours']:6.2f}")
    ours.close()
    await theirs.aclose()


async def _round(append: Callable[[], Awaitable[None]]) -> float:
    started = time.perf_counter()
    for _ in range(APPENDS):
        await append()
    return (time.perf_counter() - started) / APPENDS * 1e6


def main() -> None:
    """Measure on a Redis of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "redis.sock"
        where = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", folder]
        with subprocess.Popen([redis_server(), *where], stdout=subprocess.DEVNULL) as server:
            try:
                while not path.exists():
                    time.sleep(0.01)
                uvloop.run(measure(f"unix://{path}"))
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
