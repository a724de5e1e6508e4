"""A neighbour: a caller who sends one small request after the other, and notes how long each waits.

It is a process of its own, so that what the test does cannot delay it.
"""

import contextlib
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_CALLER = """
import http.client, sys, time
port, path, body = int(sys.argv[1]), sys.argv[2], sys.argv[3].encode()
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
while True:
    began = time.monotonic()
    connection.request("POST", path, body)
    response = connection.getresponse()
    response.read()
    print(began, time.monotonic() - began, response.status, flush=True)
    time.sleep(0.01)
"""
_BURN = "while True: pass"


class Neighbour:
    """A caller of one model; use it as a context manager."""

    def __init__(self, port: int, path: str, body: str) -> None:
        self._arguments = [sys.executable, "-c", _CALLER, str(port), path, body]
        self._seen: list[tuple[float, float, int]] = []

    def __enter__(self) -> "Neighbour":
        self._process = subprocess.Popen(self._arguments, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stdout:
            self._process.stdout.close()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            began, waited, status = line.split()
            self._seen.append((float(began), float(waited), int(status)))

    def until(self, moment: float) -> None:
        """Return when an answer to a request that was sent after the moment, on `time.monotonic`, is in."""
        while not self._seen or self._seen[-1][0] < moment:
            assert self._process.poll() is None, "the neighbour ended"
            time.sleep(0.01)

    @contextmanager
    def waits(self) -> Iterator[list[float]]:
        """The list has, afterwards, how long each request waited that was open meanwhile; all of them were answered."""
        self.until(time.monotonic())
        began, found = time.monotonic(), list[float]()
        yield found
        ends = time.monotonic()
        self.until(ends)
        seen = [each for each in self._seen if each[0] + each[1] >= began and each[0] <= ends]
        seen = seen or self._seen[-1:]  # it was over between two requests: the next one counts
        assert {status for _, _, status in seen} == {200}, seen
        found += [waited for _, waited, _ in seen]

    def longest_s(self, seconds: float) -> float:
        """The longest wait in so many seconds in which nobody else asks for anything."""
        with self.waits() as waits:
            time.sleep(seconds)
        return max(waits, default=math.inf)


@contextmanager
def burning(processes: int) -> Iterator[None]:
    """Other programs that take all the processor they can get."""
    with contextlib.ExitStack() as stack:
        for _ in range(processes):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", _BURN]))
            stack.callback(process.kill)
        yield
