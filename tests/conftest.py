"""What tests share: a real Redis, tiny models made on the spot, and the real stack as processes."""

import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from millrace.supervisor import UpError, _redis_server

ROOT = Path(__file__).parent.parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "compose: needs a Docker engine with Compose v2")


@dataclass
class RedisServer:
    """A Redis of the test's own, on a Unix socket."""

    path: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def start(self) -> None:
        quiet = ["--save", "", "--appendonly", "no", "--loglevel", "warning"]
        command = [
            _redis_server(),
            "--port",
            "0",
            "--unixsocket",
            str(self.path),
            "--dir",
            str(self.path.parent),
            *quiet,
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
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


@pytest.fixture(name="until", scope="session")
def _until() -> Callable[..., None]:
    return until


@pytest.fixture(scope="session")
def _session_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    try:
        _redis_server()
    except UpError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    server = RedisServer(tmp_path_factory.mktemp("redis") / "redis.sock")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_server(_session_redis: RedisServer) -> Iterator[RedisServer]:
    """A running, empty Redis."""
    with redis.Redis.from_url(_session_redis.url) as client:
        client.flushall()
    yield _session_redis
    if not _session_redis.answers():
        _session_redis.start()


@pytest.fixture
def own_redis(tmp_path: Path, _session_redis: RedisServer) -> Iterator[RedisServer]:
    """A running Redis that the test may break."""
    server = RedisServer(tmp_path / "redis.sock")
    server.start()
    yield server
    server.kill()


@dataclass
class Stack:
    """`millrace up` as a process."""

    url: str
    process: "subprocess.Popen[str]"
    output: list[str]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tell it to stop; its exit status."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=60)
        self.output += rest.splitlines()
        return self.process.returncode


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def start_up(*arguments: str, port: int | None = None, wait: bool = True) -> Stack:
    """Run `millrace up` and wait until it says that it is ready, or has ended."""
    port = port or free_port()
    command = [sys.executable, "-m", "millrace", "up", "--port", str(port), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    stack = Stack(f"http://127.0.0.1:{port}", process, [])
    assert process.stdout
    while wait and (line := process.stdout.readline()):
        stack.output.append(line.rstrip())
        if re.search(r"Stop it with Ctrl-C", line):
            break
    return stack


@pytest.fixture
def up() -> Iterator[Callable[..., Stack]]:
    """Starts stacks that end with the test."""
    stacks: list[Stack] = []

    def start(*arguments: str, **options: object) -> Stack:
        stacks.append(start_up(*arguments, **options))  # type: ignore[arg-type]
        return stacks[-1]

    yield start
    for stack in stacks:
        if stack.process.poll() is None:
            stack.stop()


@pytest.fixture(scope="session")
def bundled_models() -> Path:
    """The model repository that comes with the project."""
    return ROOT / "models"


@pytest.fixture
def make_onnx() -> Callable[..., Path]:
    """Makes a version folder with a tiny ONNX model: `scores` = `x` times a constant, row by row.

    `x` is FP32 [-1, 3] and `scores` FP32 [-1, 2], or with `batched=False` FP32 [3] and [2].
    """
    return _make_onnx


def _make_onnx(root: Path, name: str = "tiny", version: int = 1, *, batched: bool = True) -> Path:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    batch = ["batch"] if batched else []
    weights = numpy_helper.from_array(np.array([[1, 10], [2, 20], [3, 30]], np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["scores"])],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*batch, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [*batch, 2])],
        [weights],
    )
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return folder
