"""The faults: processes of a running stack are killed, stopped and started again."""

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import redis

from millrace.broker.keys import GROUP
from tests.chaos.stack import QUEUE
from tests.support.running import Parts, until


def kill_and_wait(parts: Parts, number: int) -> float:
    """Kill a worker while it has blocks; the seconds until other workers have claimed all of them."""
    with redis.Redis.from_url(parts.redis.url) as client:

        def in_work() -> dict[bytes, bytes]:
            pending = client.xpending_range(QUEUE.requests("normal"), GROUP, "-", "+", 1000)
            return {entry["message_id"]: entry["consumer"] for entry in pending}

        until(in_work)
        parts.workers[number].kill()
        killed = time.monotonic()
        parts.workers[number].wait()
        held = in_work()
        until(lambda: not held.items() & in_work().items(), what="the claim of a dead worker's blocks")
        return time.monotonic() - killed


def stopped(process: "subprocess.Popen[bytes]") -> float:
    """Stop a process by SIGTERM; the seconds that it takes. Its exit status must be 0."""
    process.terminate()
    started = time.monotonic()
    status = process.wait(60)
    assert status == 0, f"exit status {status}"
    return time.monotonic() - started


@contextlib.contextmanager
def revived(parts: Parts) -> Iterator[list[int]]:
    """Start every worker that dies again, as a supervisor does. The list has one entry for each death."""
    deaths: list[int] = []

    def look() -> None:
        for number, worker in enumerate(parts.workers):
            if worker.poll() is not None:
                deaths.append(number)
                parts.restart_worker(number)

    with every(0.05, look):
        yield deaths


@contextlib.contextmanager
def every(seconds: float, look: Callable[[], None]) -> Iterator[None]:
    """Call the function again and again in a thread while the block runs."""
    stopping = threading.Event()

    def watch() -> None:
        while not stopping.wait(seconds):
            look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
