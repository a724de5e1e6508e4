"""Models that break their process: real processes, a real Redis, and neighbours that must not notice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from millrace.broker.keys import GROUP, Queue
from millrace.protocol.errors import DeadlineExceeded, ModelFailed
from tests.support import breaking, exact
from tests.support.breaking import CRASHES, EATS, EXITS, GRABBED_S, GRABS, HIDES, LEAVES, LOOPS, RAISES
from tests.support.processes import LEASE_MS, Api, Running, asking, ready, running
from tests.support.running import ROOT, RedisServer, is_alive, until
from worker.processes.host import Parking


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("m", "other"):
        breaking.make(tmp_path / "models", name)
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("value", "timeout_s", "error", "text", "options"),
    [
        pytest.param(EXITS, 20, ModelFailed, "model 'm' failed: SystemExit: bye", {}, id="sys.exit"),
        pytest.param(RAISES, 20, ModelFailed, "model 'm' failed: _Ends: enough", {}, id="BaseException"),
        pytest.param(LEAVES, 20, ModelFailed, "ended its process on this request (exit status 3)", {}, id="os._exit"),
        pytest.param(CRASHES, 20, ModelFailed, "on this request (SIGSEGV, a wrong access to memory)", {}, id="SIGSEGV"),
        pytest.param(EATS, 20, ModelFailed, "MemoryError", {"model_memory_mb": 200}, id="memory"),
        pytest.param(HIDES, 20, ModelFailed, "it took more than 200 MB", {"model_memory_mb": 200}, id="shared memory"),
        pytest.param(LOOPS, 1, DeadlineExceeded, "no answer within", {}, id="endless loop"),
    ],
)
def test_a_model_that_breaks_fails_its_own_request_and_no_other(
    redis_server: RedisServer,
    api: Api,
    repository: Path,
    value: int,
    timeout_s: float,
    error: type[Exception],
    text: str,
    options: dict[str, int],
) -> None:
    with running(redis_server.url, repository, **options) as worker:
        ready(api, "m", "other")
        with asking(api) as took:
            (broken,) = api.ask(value, timeout_s=timeout_s)
            with pytest.raises(error) as raised:
                broken.result(30)
            assert text in str(raised.value)
            (after,) = api.ask(5.0)
            assert after.result(30) == [10.0]
            until(lambda: len(took) > 20)
            ends = 0 if value in (EXITS, RAISES, EATS) else 1
            until(lambda: worker.host.usage().ends == ends, what="the end of the process")
        assert not worker.worker.has_failed
        assert worker.host.usage().ends == ends
        assert api.announced()["m"].state == "AVAILABLE"


@pytest.mark.skipif(not exact.IS_KILLABLE, reason="only x86 processors stop the process at that division")
def test_a_division_that_stops_the_processor_ends_one_process_of_one_model(
    redis_server: RedisServer, api: Api, repository: Path
) -> None:
    exact.make(repository)
    with running(redis_server.url, repository) as worker:
        ready(api, "exact", "other")
        with asking(api):
            for number in range(4):
                killing, fine = api.ask(exact.KILLS, number, model="exact")
                with pytest.raises(ModelFailed, match=r"model 'exact' ended its process on this request \(SIGFPE"):
                    killing.result(30)
                assert fine.result(30) == [exact.answer(number)]
        assert worker.host.usage().ends <= 8


def test_neighbours_in_the_block_of_killing_requests_are_answered(
    redis_server: RedisServer, api: Api, repository: Path
) -> None:
    """They come together, so they lie in one block or two; none but the killing ones goes without its answer.

    No lease runs out meanwhile: what a process held that ended can be claimed at once.
    """
    with running(redis_server.url, repository, instances=2, lease_ms=120_000) as worker:
        ready(api, "m", "other")
        values = [1.0, CRASHES, 2.0, 3.0, LEAVES, 4.0, CRASHES, 5.0]
        answers = api.ask(*values)
        for value, answer in zip(values, answers, strict=True):
            if value in (CRASHES, LEAVES):
                with pytest.raises(ModelFailed, match="ended its process on this request"):
                    answer.result(60)
            else:
                assert answer.result(60) == [2 * value]
        assert worker.host.usage().ends <= 2 * 3
        with redis.Redis.from_url(redis_server.url) as client:
            assert client.xlen(Queue("m", 1).dead) == 0


def test_heartbeats_and_leases_go_on_while_a_model_keeps_the_interpreter(
    redis_server: RedisServer, api: Api, repository: Path
) -> None:
    """It sits in C for many leases, beside a worker that would take over what is not renewed."""
    assert GRABBED_S * 1000 > 5 * LEASE_MS
    with running(redis_server.url, repository), running(redis_server.url, repository):
        ready(api, "m", "other")
        seen: set[tuple[bytes, int]] = set()
        with asking(api), redis.Redis.from_url(redis_server.url) as client:
            (grabbing,) = api.ask(GRABS)
            while not grabbing.done():
                pending = client.xpending_range(Queue("m", 1).requests("normal"), GROUP, "-", "+", 10)
                seen |= {(entry["consumer"], entry["times_delivered"]) for entry in pending}
                assert len(api.producer.workers) == 2
        assert grabbing.result() == [2.0 * GRABS]
        assert [times for _, times in seen] == [1]


def test_a_model_that_crashes_while_it_is_loaded_is_said_to(
    redis_server: RedisServer, api: Api, repository: Path
) -> None:
    breaking.make(repository, "unloadable", str(CRASHES))
    with running(redis_server.url, repository, model_processes=1):
        ready(api, "m", "other")
        until(lambda: "SIGSEGV" in api.announced()["unloadable"].error)
        assert api.announced()["unloadable"].state == "END"
        assert [future.result(30) for future in api.ask(1.0)] == [[2.0]]


@pytest.mark.parametrize(
    ("how", "text", "options"),
    [
        (CRASHES, "its process ended in its first runs (SIGSEGV", {}),
        (LEAVES, "exit status 3", {}),
        (EATS, "MemoryError", {"model_memory_mb": 200}),
        (HIDES, "it took more than 200 MB", {"model_memory_mb": 200}),
        (LOOPS, "its first run took too long", {"warmup_timeout_s": 0.5}),
    ],
    ids=["SIGSEGV", "os._exit", "memory", "shared memory", "endless loop"],
)
def test_a_model_that_breaks_in_its_first_runs_is_served_without_them(
    redis_server: RedisServer, api: Api, repository: Path, how: int, text: str, options: dict[str, Any]
) -> None:
    breaking.make(repository, "shy", first_run=str(how))
    with running(redis_server.url, repository, model_processes=3, **options):
        ready(api, "shy", "m")
        announced = api.announced()["shy"]
        assert (announced.warmed, announced.max_batch_size) == (False, 0)
        assert any("not warmed up" in note and text in note for note in announced.notes)
        assert [future.result(30) for future in api.ask(1.0, 2.0, model="shy")] == [[2.0], [4.0]]


def test_when_what_starts_the_processes_ends_all_starts_again(
    redis_server: RedisServer, api: Api, repository: Path
) -> None:
    with running(redis_server.url, repository) as worker:
        ready(api, "m", "other")
        before = worker.processes
        (server,) = worker.servers
        server.kill()
        (answer,) = api.ask(1.0)
        assert answer.result(30) == [2.0]
        psutil.wait_procs(before, 10)
        assert not any(map(is_alive, before))
        assert not worker.worker.has_failed


def test_model_processes_are_forked_from_one_without_threads(
    redis_server: RedisServer, api: Api, repository: Path
) -> None:
    with running(redis_server.url, repository) as worker:
        ready(api, "m", "other")
        (server,) = worker.servers
        assert server.num_threads() == 1
        assert {tuple(process.cmdline()) for process in worker.processes} == {tuple(server.cmdline())}
        adjusted = [int(Path(f"/proc/{process.pid}/oom_score_adj").read_text()) for process in worker.processes]
        assert min(adjusted) > int(Path("/proc/self/oom_score_adj").read_text())


def test_where_forking_is_not_safe_each_model_process_is_a_new_interpreter(
    redis_server: RedisServer, api: Api, make_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    make_onnx(tmp_path / "models")
    with running(redis_server.url, tmp_path / "models", modules=("tests.support.threaded",)) as worker:
        ready(api, "tiny")
        (process,) = worker.processes
        assert "worker.processes.child" in process.cmdline()
        assert [future.result(30) for future in api.ask(1.0, model="tiny")] == [[6.0, 60.0]]
        process.kill()
        until(lambda: worker.processes not in ([], [process]), what="the next process")
        assert [future.result(30) for future in api.ask(1.0, model="tiny")] == [[6.0, 60.0]]
        children = worker.processes
    psutil.wait_procs(children, 10)
    assert not any(map(is_alive, children))


def test_no_model_process_outlives_its_worker(own_redis: RedisServer, api: Api, repository: Path) -> None:
    environment = os.environ | {"MILLRACE_REDIS_URL": own_redis.url, "MILLRACE_WORKER_MODELS": str(ROOT / "models")}
    worker = subprocess.Popen([sys.executable, "-m", "worker"], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    children: list[psutil.Process] = []

    def look() -> bool:
        children[:] = psutil.Process(worker.pid).children(recursive=True)
        return len(children) >= 5 and children[-1].name() == "millrace-model"  # no more the fork that it began as

    until(look)
    children[-1].suspend()
    worker.kill()
    worker.wait()
    _, alive = psutil.wait_procs(children, 10)
    assert alive == []


def test_a_model_that_hangs_is_ended_with_the_drain_and_its_requests_are_anothers(
    redis_server: RedisServer, api: Api, repository: Path
) -> None:
    first = Running(redis_server.url, repository, drain_timeout_s=1.0, lease_ms=60_000)
    ready(api, "m", "other")
    loops, _ = api.ask(LOOPS, 1.0, timeout_s=3.0)

    def is_in_work() -> bool:
        with redis.Redis.from_url(redis_server.url) as client:
            return bool(client.xpending_range(Queue("m", 1).requests("normal"), GROUP, "-", "+", 10))

    until(is_in_work)
    children = first.processes
    started = time.monotonic()
    first.stop()
    assert time.monotonic() - started < 10
    assert first.worker.has_failed
    psutil.wait_procs(children, 10)
    assert not any(map(is_alive, children))
    with redis.Redis.from_url(redis_server.url) as client:
        pending = client.xpending_range(Queue("m", 1).requests("normal"), GROUP, "-", "+", 10)
    assert {entry["consumer"] for entry in pending} == {b"released"}
    with pytest.raises(DeadlineExceeded):
        loops.result(30)


def test_many_versions_share_threads_and_connections_until_they_are_asked(
    redis_server: RedisServer, api: Api, make_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    count, parking = 60, Parking(beyond=4, idle_s=0.5)
    for number in range(count):
        make_onnx(tmp_path / "models", f"tiny{number}")
    with running(redis_server.url, tmp_path / "models", parking=parking, model_processes=3) as worker:
        names = [f"tiny{number}" for number in range(count)]
        ready(api, *names)

        def instances() -> int:
            return worker.host.usage().instances

        def connections() -> int:
            with redis.Redis.from_url(redis_server.url) as client:
                return len(client.client_list(_type="normal"))

        until(lambda: instances() == 0, what="all versions to be parked")
        assert len(worker.processes) == 3
        assert connections() < count / 3
        assert sum(process.num_threads() for process in worker.processes) < count / 3
        for name in (names[7], names[50]):
            (answer,) = api.ask(1.0, model=name)
            assert answer.result(20) == [6.0, 60.0]
        assert 0 < instances() <= 4
        until(lambda: instances() == 0, what="all versions to be parked again")
        everyone = [future for name in names for future in api.ask(1.0, model=name)]
        assert all(future.result(30) == [6.0, 60.0] for future in everyone)
        until(lambda: instances() == 0, what="all versions to be parked in the end")


def test_few_versions_keep_their_instances(redis_server: RedisServer, api: Api, repository: Path) -> None:
    with running(redis_server.url, repository, parking=Parking(beyond=2, idle_s=0.05), instances=2) as worker:
        ready(api, "m", "other")
        ends = time.monotonic() + 1
        until(lambda: worker.host.usage().instances != 4 or time.monotonic() > ends)
        assert worker.host.usage().instances == 4


def test_a_version_that_is_unloaded_takes_its_process_along(
    redis_server: RedisServer, api: Api, repository: Path
) -> None:
    with running(redis_server.url, repository) as worker:
        ready(api, "m", "other")
        assert len(worker.processes) == 2
        (repository / "m" / "1" / breaking.FILE).unlink()
        (repository / "m" / "1").rmdir()
        (repository / "m").rmdir()
        until(lambda: len(worker.processes) == 1)
        assert "m" not in api.announced() or api.announced()["m"].state != "AVAILABLE"
        assert [future.result(30) for future in api.ask(1.0, model="other")] == [[2.0]]
        assert worker.host.usage().ends == 0


def test_the_signals_of_a_terminal_do_not_reach_the_models(
    redis_server: RedisServer, api: Api, repository: Path
) -> None:
    with running(redis_server.url, repository) as worker:
        ready(api, "m", "other")
        for process in worker.processes:
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGTERM)
        assert [future.result(30) for future in api.ask(1.0, 2.0)] == [[2.0], [4.0]]
        assert worker.host.usage().ends == 0
