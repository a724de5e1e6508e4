"""The standby of the compose file: what is published, and when it makes way for a newer release."""

import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from millrace.broker.redis import RedisBroker
from millrace.protocol.messages import ModelAnnouncement, WorkerAnnouncement
from ops.standby import main, publish, run
from tests.support.running import RedisServer, until

HERE = f"{socket.gethostname()}-1"


def environment(folder: Path, release: str, program: str = "") -> Path:
    """A virtual environment in which that release is installed; its Python runs the program, whatever it is told."""
    record = folder / release / "lib" / "python3" / "site-packages" / "millrace.dist-info" / "RECORD"
    record.parent.mkdir(parents=True)
    record.write_text(f"millrace/__init__.py,sha256={release},1\n")
    python = folder / release / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!{sys.executable}\n{program}\n")
    python.chmod(0o755)
    return folder / release


def releases(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"current"}


def test_a_release_is_published_whole_and_the_last_one_stays_for_who_runs_it(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    published = []
    for number in range(3):
        published.append(publish(environment(tmp_path, f"r{number}"), folder))
        assert (folder / "current").readlink() == Path(published[-1])
        assert (folder / "current" / "bin" / "python").exists()
    assert len({*published}) == 3
    assert releases(folder) == {*published[1:]}


def test_what_is_published_already_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    old, new = environment(tmp_path, "old"), environment(tmp_path, "new")
    publish(old, folder)
    first = publish(new, folder)
    kept = (folder / first).stat().st_ino
    assert publish(new, folder) == first
    assert (folder / first).stat().st_ino == kept
    assert len(releases(folder)) == 2
    (folder / "half.part").mkdir()  # of a copy that was cut off
    publish(old, folder)
    assert len(releases(folder)) == 2


@pytest.fixture
def standby(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, threading.Event, "Future[int]"]]:
    """The folder of releases, what stops the standby, and its exit status. It runs a program that ends when told to."""
    monkeypatch.setenv("MILLRACE_REDIS_URL", redis_server.url)
    folder = tmp_path / "release"
    folder.mkdir()
    waits = (
        "import pathlib, signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        "pathlib.Path(__file__).with_name('running').touch()\n"
        "signal.pause()"
    )
    first = publish(environment(tmp_path, "old", waits), folder)
    stopping = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, folder, [], stopping)
        try:
            until(lambda: (folder / first / "bin" / "running").exists() or running.done())
            yield folder, stopping, running
        finally:
            stopping.set()


def announce(server: RedisServer, worker: str, state: str) -> None:
    model = ModelAnnouncement(name="m", version=1, state=state)
    announced = WorkerAnnouncement(worker=worker, expires_ms=2**50, models=(model,))
    RedisBroker(server.url).worker().announce(announced)


def test_it_makes_way_for_a_newer_release_when_others_serve_what_it_serves(
    standby: tuple[Path, threading.Event, "Future[int]"], redis_server: RedisServer, tmp_path: Path
) -> None:
    folder, _, running = standby
    announce(redis_server, HERE, "AVAILABLE")
    announce(redis_server, "elsewhere-1", "LOADING")
    publish(environment(tmp_path, "new"), folder)
    with pytest.raises(TimeoutError):
        running.result(1.5)  # three looks
    announce(redis_server, "elsewhere-1", "AVAILABLE")
    assert running.result(30) == 3


def test_it_stops_when_told_to(standby: tuple[Path, threading.Event, "Future[int]"]) -> None:
    _, stopping, running = standby
    stopping.set()
    assert running.result(30) == 3


def test_its_command_says_what_it_wants(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish"]) == 2
    assert "usage: ops.standby" in capsys.readouterr().err
