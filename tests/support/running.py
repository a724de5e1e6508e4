"""The real parts that tests run as processes: Redis and the whole stack."""

import contextlib
import itertools
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import redis

from ops.embedded_redis import redis_server
from ops.stopping import stop_timeouts

ROOT = Path(__file__).parents[2]


def server_under_test() -> str:
    """The Redis or Valkey that tests run: the one that `millrace up` embeds, or TEST_REDIS_SERVER. Raises `UpError`."""
    return os.environ.get("TEST_REDIS_SERVER") or redis_server()


@dataclass
class RedisServer:
    """A Redis of the test's own, on a Unix socket. One that `persists` loses nothing when it is killed."""

    path: Path
    process: "subprocess.Popen[bytes] | None" = None
    persists: bool = False

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def start(self) -> None:
        keeps = ["--appendonly", "yes", "--appendfsync", "always"] if self.persists else ["--appendonly", "no"]
        quiet = ["--save", "", *keeps, "--loglevel", "warning"]
        where = ["--port", "0", "--unixsocket", str(self.path), "--dir", str(self.path.parent)]
        self.process = subprocess.Popen([server_under_test(), *where, *quiet], stdout=subprocess.DEVNULL)
        until(self.answers)

    def answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()


def until(condition: Callable[[], object], timeout_s: float = 30.0, what: str = "the condition") -> None:
    """Return when the condition holds; fail the test when it does not in time."""
    ends = time.monotonic() + timeout_s
    pause = selectors.DefaultSelector()
    while not condition():
        assert time.monotonic() < ends, f"{what} did not hold within {timeout_s} s"
        pause.select(0.01)
    pause.close()


def until_all_say(count: int, look: Callable[[], tuple[int, str]], what: str) -> None:
    """Return when each of so many API processes has said 200, and not another status since.

    A look, on a connection of its own, is of whichever process has it: its status and the X-Request-Id.
    """
    agreed: set[str] = set()

    def do_all() -> bool:
        with contextlib.suppress(OSError, httpx.TransportError):  # none listens yet
            status, request_id = look()
            process = request_id.rpartition("-")[0]
            (agreed.add if status == 200 else agreed.discard)(process)
        return len(agreed) == count

    until(do_all, 60, what)


@dataclass
class Stack:
    """`millrace up` as a process; what it and its children print goes to the file `log`. `grpc` is HOST:PORT."""

    url: str
    grpc: str
    process: "subprocess.Popen[bytes]"
    log: Path
    redis_url: str = ""

    @property
    def output(self) -> str:
        return self.log.read_text()

    def children(self, word: str = "") -> list[psutil.Process]:
        """The living processes below it whose command line has that word, the oldest first."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if is_alive(process) and word in " ".join(process.cmdline()):
                    found.append(process)
        return sorted(found, key=lambda process: process.create_time())

    def programs(self, name: str) -> list[psutil.Process]:
        """The living processes below it that are a program of that name, without those that such a one started."""
        found = self.children()
        return [
            process
            for process in found
            if process.cmdline()[1:] == ["-P", "-m", name] and process.parent() not in found
        ]

    def is_settled(self) -> bool:
        """Whether it has said that it is ready, or that it has no model, or has ended."""
        return "Stop it with Ctrl-C" in self.output or self.process.poll() is not None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tell it to stop; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=sum(stop_timeouts(os.environ).values()) + 10)


def freeze(pid: int) -> None:
    """Stop a program where it stands, with all the processes that it started."""
    program = psutil.Process(pid)
    for process in (program, *program.children(recursive=True)):
        process.suspend()


def thaw(pid: int) -> None:
    """Let it go on."""
    program = psutil.Process(pid)
    for process in (program, *program.children(recursive=True)):
        process.resume()


def is_alive(process: psutil.Process) -> bool:
    """Whether the process still runs: one that ended and was not waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    """A port that nobody listens on, and that no connection and no other process of these tests is given meanwhile."""
    for port in _ports:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("there is always another port")


def _own_ports() -> Iterator[int]:
    """Ports below those that systems give to connections, 1,500 for each process of the tests, from a chance start."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw7").removeprefix("gw")) % 8
    start = random.SystemRandom().randrange(1_500)
    return itertools.cycle(20_000 + 1_500 * number + (start + step) % 1_500 for step in range(1_500))


_ports = _own_ports()


def our_environment() -> dict[str, str]:
    """The environment in which Python finds this checkout's modules, wherever it is started."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "client"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**os.environ, "PYTHONPATH": path}


def start_up(
    *arguments: str, port: int | None = None, waits: bool = True, folder: Path = ROOT, program: Path | None = None
) -> Stack:
    """Run `millrace up` in a folder and wait until it runs, or has ended; without `waits`, for nothing.

    `program` is a command `millrace` that is installed elsewhere, with what it imports. Without `--jobs` there are
    none: they would be this user's. Without `--apis` and `--workers` there is one of each, however large the machine.
    """
    port = port or free_port()
    grpc = free_port()
    command = [str(program)] if program else [sys.executable, "-P", "-m", "millrace"]
    command += ["up", "--port", str(port), "--grpc-port", str(grpc), *arguments]
    for option, number in (("--jobs", "0"), ("--apis", "1"), ("--workers", "1")):
        command += [] if any(each.startswith(option) for each in arguments) else [option, number]
    environment = our_environment()
    if program:
        del environment["PYTHONPATH"]
    with tempfile.NamedTemporaryFile("wb", prefix="millrace-up-", suffix=".log", delete=False) as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    stack = Stack(f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc}", process, Path(log.name))
    if waits:
        until(stack.is_settled, 120, "millrace up")
    return stack


@contextlib.contextmanager
def ended(program: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    """The program, which is ended afterwards: asked first, then killed."""
    try:
        yield program
    finally:
        program.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(5)
        program.kill()
        program.wait()


class Parts:
    """A Redis, API processes and workers, each of which a test may break and start again. A context manager.

    `folder` takes the Redis socket and the log; `settings` are environment variables for the programs; without `waits`
    nothing is waited for.
    """

    def __init__(
        self, folder: Path, models: Path, *, apis: int = 1, workers: int = 1, waits: bool = True, **settings: str
    ) -> None:
        self.redis = RedisServer(folder / "redis.sock")
        self.ports = [free_port() for _ in range(apis)]
        self.grpc_ports = [free_port() for _ in range(apis)]
        self.apis: list[subprocess.Popen[bytes]] = []
        self.workers: list[subprocess.Popen[bytes]] = []
        self.log = folder / "log"
        self._worker_count = workers
        self._waits = waits
        self._environment = os.environ | {
            "MILLRACE_REDIS_URL": self.redis.url,
            "MILLRACE_LOG_LEVEL": "error",
            "MILLRACE_SERVING_PROCESSES": "1",
            "MILLRACE_WORKER_MODELS": str(models),
            **settings,
        }

    def __enter__(self) -> "Parts":
        self.redis.start()
        try:
            self.apis = [self._start_api(number) for number in range(len(self.ports))]
            self.workers = [self._start("worker") for _ in range(self._worker_count)]
            if self._waits:
                self.until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.apis, *self.workers):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in (*self.apis, *self.workers):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()
        self.redis.kill()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where the API processes listen."""
        return [("127.0.0.1", port) for port in self.ports]

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def until_ready(self) -> None:
        """Wait until every API process knows of all workers that run, each with all its models, and of no other."""

        def is_ready() -> bool:
            count = sum(process.poll() is None for process in self.workers)
            return all(self._counts(url) == {float(count)} for url in self.urls)

        until(is_ready, 60, "the stack to be ready")

    def restart_worker(self, number: int) -> None:
        """Start a worker in the place of one that has ended; `until_ready` waits for it."""
        assert self.workers[number].poll() is not None
        self.workers[number] = self._start("worker")

    def restart_api(self, number: int) -> None:
        """Start an API process in the place of one that has ended; `until_ready` waits for it."""
        assert self.apis[number].poll() is not None
        self.apis[number] = self._start_api(number)

    @contextlib.contextmanager
    def another_worker(self, models: Path) -> Iterator["subprocess.Popen[bytes]"]:
        """One more worker, with a repository of its own."""
        with ended(self._start("worker", "--models", str(models))) as worker:
            yield worker

    def _start_api(self, number: int) -> "subprocess.Popen[bytes]":
        return self._start("serving", "--port", str(self.ports[number]), "--grpc-port", str(self.grpc_ports[number]))

    def _start(self, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", program, *arguments]
            return subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=log, stderr=subprocess.STDOUT)

    def _counts(self, url: str) -> set[float]:
        """The numbers of live workers that an API process states, one for each model."""
        with contextlib.suppress(httpx.TransportError):
            lines = httpx.get(f"{url}/metrics", timeout=5).text.splitlines()
            return {float(line.split()[-1]) for line in lines if line.startswith("millrace_workers{")}
        return set()
