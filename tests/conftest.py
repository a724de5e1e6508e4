"""What tests share: a real Redis, the stack as a process, and a tiny model made on the spot."""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
import redis

from millrace import logs
from millrace.broker.base import Broker
from millrace.broker.memory import MemoryBroker
from millrace.broker.redis import RedisBroker
from ops.errors import UpError
from tests.support import wheels
from tests.support.running import RedisServer, Stack, server_under_test, start_up
from tests.support.tls import Certificates
from tests.support.topologies import Cluster, Watched

# An example that takes long on a busy machine is no failure. `make test` draws the same examples each time, so that it
# judges a change and not a draw; whoever runs pytest otherwise, `make test-all` too, gets new ones.
hypothesis.settings.register_profile("millrace", deadline=None)
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("millrace")

# Programs that tests start: their jobs would wait for whatever else runs on the machine, other tests among it. Tests of
# who gives way say so themselves.
os.environ |= {"MILLRACE_JOBS_GIVES_WAY": "false", "MILLRACE_WORKER_BULK_PROCESS": "false"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-compatibility", action="store_true", help="write docs/reference/compatibility.md from what is proved"
    )
    parser.addoption("--write-screenshots", action="store_true", help="write the pictures of the page that docs/ shows")


# Cheap tests first: a fault is seen in seconds where it can be.
_ORDER = ("test_architecture.py", "unit", "integration", "contract", "acceptance", "chaos")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests by what they cost; within a folder they keep their order."""
    here = Path(__file__).parent
    items.sort(key=lambda item: _ORDER.index(item.path.relative_to(here).parts[0]))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Skip a module that imports a library which has no wheel here."""
    report = yield
    lacking = re.search(r"No module named '([\w.]+)'", str(report.longrepr)) if report.failed else None
    if lacking and (why := wheels.reason(lacking[1])):
        report.outcome, report.longrepr = "skipped", (str(collector.path), 0, f"Skipped: {why}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The same for a test, or a fixture of its."""
    report = yield
    error = call.excinfo.value if call.excinfo and report.failed else None
    if isinstance(error, ModuleNotFoundError) and (why := wheels.reason(error.name)):
        report.outcome, report.longrepr = "skipped", (str(item.path), item.location[1] or 0, f"Skipped: {why}")
    return report


@pytest.fixture(scope="session")
def _session_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    try:
        server_under_test()
    except UpError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    server = RedisServer(tmp_path_factory.mktemp("redis") / "redis.sock")
    server.start()
    yield server
    server.kill()


@pytest.fixture(name="redis_server")
def _redis(_session_redis: RedisServer) -> Iterator[RedisServer]:
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


@pytest.fixture(scope="session")
def _session_cluster(tmp_path_factory: pytest.TempPathFactory, _session_redis: RedisServer) -> Iterator[Cluster]:
    cluster = Cluster()
    cluster.start(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.kill()


@pytest.fixture
def redis_cluster(_session_cluster: Cluster) -> Cluster:
    """A running, empty Redis Cluster of three nodes."""
    _session_cluster.empty()
    return _session_cluster


@pytest.fixture(params=["memory", "redis"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """A queue, in memory and in Redis."""
    if request.param == "memory":
        return MemoryBroker()
    server: RedisServer = request.getfixturevalue("redis_server")
    return RedisBroker(server.url)


@pytest.fixture
def watched(tmp_path: Path, _session_redis: RedisServer) -> Iterator[Watched]:
    """A master and a replica that Sentinels watch."""
    made = Watched(tmp_path / "redis")
    try:
        made.start()
        yield made
    finally:
        made.kill()


@pytest.fixture
def record() -> Iterator[list[dict[str, str]]]:
    """The lines of the record of control actions."""
    lines: list[dict[str, str]] = []
    formatter = logs.JsonFormatter("serving")

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(formatter.format(record)))

    handler = Kept()
    logger = logging.getLogger("serving.access.audit")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if not shutil.which("openssl") and not os.environ.get("CI"):
        pytest.skip("there is no openssl to make certificates with")
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    made.make()
    return made


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
        stack.log.unlink()


@pytest.fixture(scope="session")
def make_onnx() -> Callable[..., Path]:
    """Makes a version folder with a tiny ONNX model: `scores` = `x` times a constant times the version, row by row.

    `x` is FP32 [-1, 3] and `scores` FP32 [-1, 2], or with `batched=False` FP32 [3] and [2].
    """
    return _make_onnx


def _make_onnx(root: Path, name: str = "tiny", version: int = 1, *, batched: bool = True) -> Path:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    batch = ["batch"] if batched else []
    weights = numpy_helper.from_array(np.array([[1, 10], [2, 20], [3, 30]], np.float32) * version, "weights")
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
    for path in (folder / "model.onnx", folder):  # or a worker would wait to see whether they stand still
        os.utime(path, (0, 0))
    return folder
