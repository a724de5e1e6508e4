"""Python code as a model in operation: real workers, processes and Redis, and neighbours that must not notice."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from millrace.protocol.errors import DeadlineExceeded, InvalidRequest, ModelFailed
from tests.support import breaking
from tests.support.codemodels import write
from tests.support.processes import LEASE_MS, Api, asking, ready, running
from tests.support.running import ROOT, RedisServer, is_alive, until

EXITS, LEAVES, CRASHES, EATS, LOOPS, FLOODS, FORKS, GRABS = range(1001, 1009)
GRABBED_S = 1.5
BREAKS = f"""
import ctypes, os, sys

class Model:
    def predict(self, x: float) -> float:
        if x == {EXITS}: sys.exit("bye")
        if x == {LEAVES}: os._exit(3)
        if x == {CRASHES}: ctypes.string_at(0)
        if x == {EATS}: kept = [bytearray(10_000_000) for _ in range(10_000)]
        if x == {GRABS}: ctypes.PyDLL(None).usleep(int({GRABBED_S} * 1e6))  # with the interpreter in its hands
        if x == {FORKS} and not os.fork(): return 0.0
        while x == {LOOPS}: pass
        if x == {FLOODS}:
            for number in range(300_000): print("line", number)
        return 2 * x
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    breaking.make(tmp_path / "models", "other")
    return tmp_path / "models"


def asked(api: Api, value: float, timeout_s: float = 20.0) -> float:
    answer: float = api.call("m", {"x": [float(value)]}, timeout_s).result(60)["output"].item()
    return answer


def printed(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines that models have printed, by the worker's log."""
    return [record.__dict__["text"] for record in caplog.records if record.message == "a model printed"]


def test_code_that_breaks_harms_no_other_model_and_serves_on(
    redis_server: RedisServer, api: Api, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(repository, "m", BREAKS)
    caplog.set_level(logging.WARNING, "worker.processes.output")
    with running(redis_server.url, repository, allow_code=True, model_memory_mb=500) as worker:
        ready(api, "m", "other")
        with asking(api) as took:
            for value, words in (
                (EXITS, "model 'm' failed: SystemExit: bye"),
                (LEAVES, r"ended its process on this request \(exit status 3\)"),
                (CRASHES, r"on this request \(SIGSEGV, a wrong access to memory\)"),
                (EATS, "MemoryError|it took more than 500 MB"),  # whether Python or the worker sees it first
            ):
                with pytest.raises(ModelFailed, match=words):
                    asked(api, value)
                assert asked(api, 4) == 8
            with pytest.raises(DeadlineExceeded):
                asked(api, LOOPS, timeout_s=0.5)
            assert asked(api, FORKS) == 2 * FORKS
            assert asked(api, FLOODS) == 2 * FLOODS
            until(lambda: len(took) > 20)
        assert worker.host.usage().ends in (3, 4)
        assert not worker.worker.has_failed
    assert printed(caplog)[0] == "line 0"
    assert len(printed(caplog)) < 3000  # a hundred a second
    left_out = sum(record.__dict__.get("lines_left_out", 0) for record in caplog.records)
    assert left_out + len(printed(caplog)) == 300_000


def test_answers_of_others_leases_and_heartbeats_go_on_while_code_keeps_the_interpreter(
    redis_server: RedisServer, api: Api, repository: Path
) -> None:
    assert GRABBED_S * 1000 > 3 * LEASE_MS
    write(repository, "m", BREAKS)
    with running(redis_server.url, repository, allow_code=True) as worker:
        ready(api, "m", "other")
        with asking(api) as took:
            grabbing = api.call("m", {"x": [float(GRABS)]})
            while not grabbing.done():
                assert len(api.producer.workers) == 1
                time.sleep(0.01)
            assert grabbing.result()["output"].item() == 2 * GRABS
            assert len(took) > 10
        assert worker.host.usage().ends == 0


def test_code_has_a_new_interpreter_and_what_it_starts_ends_with_it(
    redis_server: RedisServer,
    api: Api,
    repository: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(
        repository,
        "m",
        """
        import logging, os, subprocess, sys
        from pathlib import Path

        class Model:
            def load(self, folder: Path) -> None:
                print("it prints", folder.name)
                os.write(2, b"and so does C")
                logging.getLogger("mine").warning("and it logs")
                self.child = subprocess.Popen(["sleep", "1000"])

            def predict(self, x: float) -> float:
                threads = int(os.environ["OMP_NUM_THREADS"])
                settings = len([name for name in os.environ if name.startswith("MILLRACE_")])
                return float({0: self.child.pid, 1: "onnxruntime" in sys.modules, 2: threads, 3: settings}[x])
        """,
    )
    monkeypatch.setenv("MILLRACE_REDIS_URL", "redis://:secret@localhost")
    with running(redis_server.url, repository, allow_code=True, threads=3) as worker:
        ready(api, "m", "other")
        child = psutil.Process(int(asked(api, 0)))
        assert (asked(api, 1), asked(api, 2), asked(api, 3)) == (0, 3, 0)
        (process,) = (each for each in worker.processes if "worker.processes.child" in each.cmdline())
        process.kill()
        until(lambda: not is_alive(child), what="the end of what the code has started")
        child = psutil.Process(int(asked(api, 0)))
    until(lambda: not is_alive(child), what="the end of what the code has started")
    assert printed(caplog)[:2] == ["it prints 1", "and so does C"]


def test_nothing_that_code_has_started_outlives_a_worker_that_is_killed(
    own_redis: RedisServer, repository: Path, tmp_path: Path
) -> None:
    write(
        repository,
        "m",
        f"""
        import subprocess
        from pathlib import Path

        child = subprocess.Popen(["sleep", "1000"])
        Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))

        class Model:
            def predict(self, x: float) -> float:
                return x
        """,
    )
    environment = os.environ | {"MILLRACE_REDIS_URL": own_redis.url, "MILLRACE_WORKER_MODELS": str(repository)}
    command = [sys.executable, "-m", "worker", "--allow-code"]
    worker = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", what="the code to run")
    children = psutil.Process(worker.pid).children(recursive=True)
    assert int((tmp_path / "pid").read_text()) in {child.pid for child in children}
    worker.kill()
    worker.wait()
    psutil.wait_procs(children, 10)
    assert not any(map(is_alive, children))


def test_code_that_is_stuck_while_it_is_loaded_is_ended_and_others_are_loaded(
    redis_server: RedisServer, api: Api, repository: Path
) -> None:
    write(repository, "stuck", "while True: pass")
    write(repository, "zzz", "class Model:\n  def predict(self, x: float) -> float: return x")
    with running(redis_server.url, repository, allow_code=True, load_timeout_s=0.5):
        ready(api, "zzz", "other")
        until(lambda: api.announced()["stuck"].error != "")
        assert (
            "its process ended while it was loaded (it was not loaded within 0.5 s)" in api.announced()["stuck"].error
        )


def test_code_does_not_run_unless_it_is_allowed_and_is_loaded_again_when_it_was_edited(
    redis_server: RedisServer, api: Api, repository: Path
) -> None:
    write(repository, "m", "raise ValueError('not yet')")
    with running(redis_server.url, repository) as worker:
        ready(api, "other")
        until(lambda: "m" in api.announced() and api.announced()["m"].state == "END")
        assert "m/1/model.py is Python code, which runs only where" in api.announced()["m"].error
        assert len(worker.processes) == 1
    with running(redis_server.url, repository, allow_code=True) as worker:
        until(lambda: "m" in api.announced() and "ValueError (model.py, line 1): not yet" in api.announced()["m"].error)
        write(repository, "m", "class Model:\n  def predict(self, x: float) -> float: return x + 1")
        ready(api, "m")
        assert asked(api, 1) == 2
        write(repository, "m", "class Model:\n  def predict(self, x: float) -> float: return x + 2", version=2)
        until(lambda: api.announced()["m"].version == 2 and api.announced()["m"].state == "AVAILABLE")
        until(lambda: asked(api, 1) == 3)
        until(lambda: len(worker.processes) == 2, what="the end of version 1's process")


CALLS = """
from typing import Annotated
import numpy as np
from millrace.model import InvalidRequest, Models

class Model:
    def load(self, models: Models) -> None:
        self.models = models

    def predict(self, x: float) -> float:
        if x < 0:
            raise InvalidRequest("only what is not negative")
        return self.models[NEXT].predict(x=FORM)[OUT].item() + 0.5
"""


def calls(name: str, form: str, out: str) -> str:
    return CALLS.replace("NEXT", repr(name)).replace("FORM", form).replace("OUT", repr(out))


def test_models_call_models_in_the_same_worker_and_never_in_a_circle(
    redis_server: RedisServer, api: Api, repository: Path
) -> None:
    write(repository, "first", calls("second", "[x]", "output"))
    write(repository, "second", calls("other", "[[x]]", "y"))
    write(repository, "circle", calls("back", "[x]", "output"))
    write(repository, "back", calls("circle", "[x]", "output"))
    with running(redis_server.url, repository, allow_code=True) as worker:
        ready(api, "first", "second", "other", "circle", "back")
        several = [api.call("first", {"x": [float(i)]}) for i in range(20)]
        assert [each.result(30)["output"].item() for each in several] == [2 * i + 1 for i in range(20)]
        with pytest.raises(InvalidRequest, match="only what is not negative"):
            api.call("first", {"x": [-1.0]}).result(30)
        started = time.monotonic()
        with pytest.raises(ModelFailed, match=r"models call in a circle, .*: circle/1 calls back/1 calls circle/1"):
            api.call("circle", {"x": [1.0]}).result(30)
        assert time.monotonic() - started < 5
        assert worker.host.usage().ends == 0
