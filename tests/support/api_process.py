"""The API as users run it, and what it says and takes."""

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.support.running import ROOT, free_port, until

MB = 2**20


class ApiProcess:
    """`python -m serving` on a port of this machine: one process, without gRPC, where nothing else is said.

    Its log is in `lines`.
    """

    def __init__(
        self,
        redis_url: str,
        log: Path,
        *,
        port: int = 0,
        grpc_port: int = 0,
        descriptors: int = 0,
        **settings: object,
    ) -> None:
        self.port = port or free_port()
        self.grpc_port = grpc_port
        self._log = log
        chosen = {f"MILLRACE_SERVING_{name.upper()}": str(value) for name, value in settings.items()}
        environment = os.environ | {
            "MILLRACE_REDIS_URL": redis_url,
            "MILLRACE_SERVING_PORT": str(self.port),
            "MILLRACE_SERVING_GRPC_PORT": str(grpc_port),
            "MILLRACE_SERVING_PROCESSES": "1",
            **chosen,
        }
        limits = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))}
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "serving"],
                cwd=ROOT,
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                **(limits if descriptors else {}),  # type: ignore[call-overload]
            )
        until(lambda: self.process.poll() is not None or self.memory_limit_bytes, 60, "the API")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it has logged."""
        lines = self._log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    @property
    def memory_limit_bytes(self) -> int:
        """The most memory that it said it would take; 0 before it did."""
        return next((int(line["memory_limit_bytes"]) for line in self.lines if "memory_limit_bytes" in line), 0)

    @property
    def own_limit_bytes(self) -> int:
        """The same without what its offload processes may take."""
        return self.memory_limit_bytes - next(
            int(line["offload_limit_bytes"]) for line in self.lines if "offload_limit_bytes" in line
        )

    @property
    def memory_bytes(self) -> int:
        """What it takes now, without its offload processes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One request on a connection of its own."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def raw(self, data: bytes) -> bytes:
        """What comes back for these bytes until the connection ends."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            parts = []
            with contextlib.suppress(ConnectionError):
                while part := connection.recv(65_536):
                    parts.append(part)
            return b"".join(parts)

    def connect(self, data: bytes = b"") -> socket.socket:
        """A connection that has sent these bytes, as far as they go."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.setblocking(False)
        if data:
            with contextlib.suppress(BlockingIOError):
                connection.send(data)
        return connection

    @contextmanager
    def watched(self) -> Iterator[list[int]]:
        """A list whose only item is the most memory that the process had meanwhile."""
        peak, done = [self.memory_bytes], threading.Event()

        def watch() -> None:
            while not done.wait(0.005):
                peak[0] = max(peak[0], self.memory_bytes)

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            yield peak
        finally:
            done.set()
            watching.join()

    def stop(self) -> float:
        """Tell it to stop; how many seconds that took."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        return time.monotonic() - started

    def __enter__(self) -> "ApiProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
