"""A password in the queue's URL is in no program's output, wherever in the URL it stands and however wrong that is."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import ops.dead_letters
import ops.supervisor
import serving.__main__
import worker.__main__
import worker.health
from tests.support.running import ROOT, RedisServer, free_port, until

SECRET = "hunter2"
MALFORMED = [
    f"redis://user:{SECRET}@h:port",
    f"redis://user:{SECRET}@h:6379/name",
    f"redis://user:{SECRET}@h?no_such_option=1",
    f"redis://user:{SECRET}@h?socket_timeout=soon",
    f"redis://:{SECRET}@h?{SECRET}=1",
    f"redis://h/?password={SECRET}&no_such_option=1",
    f"redis://h/?passwort={SECRET}",
    f"redis://user:a/{SECRET}@h",
    f"redis://user:a?{SECRET}@h",
    f"redis://user:a#{SECRET}@h",
    f"redis://user:[{SECRET}@h",
    f"redis://user:{SECRET}",
    f"redis://:{SECRET}",
    f"redis://{SECRET}:x@h:99999",
    f"redis://us\u2100er:{SECRET}@h",
    f"redis:/user:{SECRET}@h",
    f"redsi://user:{SECRET}@h",
    f"user:{SECRET}@h",
    f"unix://user:{SECRET}@/a?db=x&no_such_option=1",
    f"redis+sentinel://user:{SECRET}@h:26379",
    f"redis+sentinel://h:{SECRET}/mill",
    f"redis+cluster://user:{SECRET}@h/3",
    f"redis+cluster://user:{SECRET}@",
    f"rediss://user:{SECRET}%40x@h?ssl_cert_reqs=none&ssl_{SECRET}=1",
]


@pytest.fixture(params=["variable", "flag", "mistyped flag"])
def given(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Gives a program a URL; returns its arguments."""

    def give(url: str) -> list[str]:
        if request.param == "variable":
            monkeypatch.setenv("MILLRACE_REDIS_URL", url)
            return []
        return ["--redis-url" if request.param == "flag" else "--redis_url", url]

    return give


@pytest.mark.parametrize("url", MALFORMED)
@pytest.mark.parametrize("program", ["serve", "work", "up", "dead-letters"])
def test_a_malformed_url_is_refused_without_its_password(
    program: str,
    url: str,
    given: Callable[[str], list[str]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    mains = {
        "serve": (serving.__main__.main, ["--port", "0", "--grpc-port", "0"]),
        "work": (worker.__main__.main, ["--models", str(tmp_path)]),
        "up": (ops.supervisor.main, ["--models", str(tmp_path), "--port", str(free_port()), "--grpc-port", "0"]),
        "dead-letters": (ops.dead_letters.main, []),
    }
    main, options = mains[program]
    try:
        status = main([*options, *given(url)])
    except SystemExit as end:  # what argparse raises
        status = end.code  # type: ignore[assignment]
    output = "".join(capfd.readouterr())
    assert status in (1, 2)
    assert f"millrace {program}: " in output
    assert SECRET not in output


def test_a_workers_health_says_what_is_wrong_without_the_password(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for url in MALFORMED:
        monkeypatch.setenv("MILLRACE_REDIS_URL", url)
        assert worker.health.main() == 1
    output = capfd.readouterr().err
    assert output.count("unhealthy: MILLRACE_REDIS_URL: ") == len(MALFORMED)
    assert SECRET not in output


@pytest.mark.parametrize("program", ["serving", "worker"])
@pytest.mark.parametrize("is_there", [False, True], ids=["no Redis", "a Redis that knows no such user"])
def test_programs_that_run_log_no_password_and_show_none_to_others(
    program: str, is_there: bool, tmp_path: Path, redis_server: RedisServer
) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    port = free_port()
    url = f"unix://user:{SECRET}@{redis_server.path}" if is_there else f"redis://user:{SECRET}@127.0.0.1:{port}/0"
    environment = os.environ | {
        "MILLRACE_REDIS_URL": url,
        "MILLRACE_SERVING_PORT": str(free_port()),
        "MILLRACE_SERVING_GRPC_PORT": "0",
        "MILLRACE_WORKER_MODELS": str(tmp_path),
        "MILLRACE_LOG_LEVEL": "debug",
    }
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", program], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    try:
        until(lambda: "the queue does not answer" in log.read_text() or process.poll() is not None)
        assert process.poll() is None
        assert SECRET not in " ".join(psutil.Process(process.pid).cmdline())
    finally:
        process.terminate()
        process.wait(30)
    assert SECRET not in log.read_text()


def test_a_stack_that_finds_no_redis_says_where_it_looked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    port = free_port()
    options = ["--models", str(tmp_path), "--port", str(free_port()), "--grpc-port", "0"]
    assert ops.supervisor.main([*options, "--redis-url", f"redis://user:{SECRET}@127.0.0.1:{port}/0"]) == 1
    output = capfd.readouterr().err
    assert f"no Redis answers at redis://127.0.0.1:{port}/0 (" in output
    assert SECRET not in output
