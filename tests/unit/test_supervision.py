"""What `millrace up` is made of: when a process is started again, when a stack is ready, how long stopping takes."""

import re
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from millrace.child_process import ChildProcess, start_program
from millrace.restarts import RestartDelays
from millrace.stopping import AFTER_DRAIN_S
from ops.options import parser
from ops.readiness import SILENCE_S, ModelState, Readiness
from ops.stopping import stop_timeouts
from serving.settings import ServingSettings
from tests.support.running import ROOT, until
from worker.settings import WorkerSettings

AVAILABLE, LOADING = ModelState("AVAILABLE"), ModelState("LOADING")
FAILED, SILENT = ModelState("END", "no such operator"), ModelState("END")


# Restarts


def test_each_restart_waits_twice_as_long_up_to_half_a_minute() -> None:
    delays = RestartDelays()
    found = []
    for now in range(12):
        delays.started(now)
        found.append(delays.ended(now))
    assert found[:5] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert found[8:] == [25.6, 30.0, 30.0, 30.0]


def test_a_quiet_minute_makes_the_delay_short_again() -> None:
    delays = RestartDelays()
    for _ in range(5):
        delays.started(0.0)
        delays.ended(0.0)
    delays.started(10.0)
    assert delays.ended(69.9) == 3.2
    delays.started(100.0)
    assert delays.ended(160.0) == 0.1
    delays.started(161.0)
    assert delays.ended(161.0) == 0.2


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    """A file with a line for each start of `ending`."""
    return tmp_path / "starts"


def starting(counts: Path, then: str) -> ChildProcess:
    """A process that notes its start and then does what the code says."""
    code = f"open({str(counts)!r}, 'a').write('started\\n'); {then}"
    return ChildProcess("worker 1", partial(start_program, [sys.executable, "-S", "-c", code], {}))


def starts(counts: Path) -> int:
    return len(counts.read_text().splitlines()) if counts.exists() else 0


def test_a_process_that_ended_is_started_again_when_its_delay_is_over_and_not_before(counts: Path) -> None:
    process = starting(counts, "raise SystemExit(3)")
    process.start(now=0.0)
    until(lambda: process.end)
    assert process.revive(now=5.0) == "worker 1 ended with status 3; starting it again in 0.1 s"
    assert process.revive(now=5.09) == ""
    assert process.end
    assert process.revive(now=5.11) == ""
    until(lambda: process.end)
    assert starts(counts) == 2
    assert process.revive(now=6.0) == "worker 1 ended with status 3; starting it again in 0.2 s"


def test_a_process_that_runs_is_left_alone_and_a_killed_one_is_named(counts: Path) -> None:
    process = starting(counts, "import os, signal; signal.pause()")
    process.start(now=0.0)
    until(lambda: starts(counts) == 1)
    assert process.revive(now=1000.0) == ""
    process.kill()
    assert process.end == f"was killed by {signal.SIGKILL.name}"


def test_a_process_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 7\n")
    program.chmod(0o755)
    process = ChildProcess("worker 1", partial(start_program, [str(program)], {}))
    process.start(now=0.0)
    until(lambda: process.end)
    program.rename(tmp_path / "elsewhere")
    assert process.revive(now=1.0) == "worker 1 ended with status 7; starting it again in 0.1 s"
    assert process.revive(now=2.0) == ""
    assert process.revive(now=2.0) == "worker 1 could not be started; starting it again in 0.2 s"
    (tmp_path / "elsewhere").rename(program)
    assert process.revive(now=3.0) == ""
    until(lambda: process.end == "ended with status 7")


# Readiness


def test_a_stack_is_settled_when_each_model_is_available_or_says_why_not() -> None:
    readiness = Readiness(["a", "b"])
    assert not readiness.is_settled({}, now=0.0)
    assert not readiness.is_settled({"a": AVAILABLE}, now=1.0)
    assert not readiness.is_settled({"a": AVAILABLE, "b": LOADING}, now=2.0)
    assert readiness.is_settled({"a": AVAILABLE, "b": FAILED}, now=3.0)
    assert (readiness.available, readiness.missing) == (["a"], {"b": "no such operator"})


def test_a_model_whose_worker_is_silent_while_it_loads_is_waited_for() -> None:
    readiness = Readiness(["a"])
    assert not readiness.is_settled({"a": LOADING}, now=0.0)
    assert not readiness.is_settled({"a": SILENT}, now=4.0)
    assert not readiness.is_settled({"a": SILENT}, now=100.0)
    assert readiness.missing == {"a": "no worker reports it"}
    assert readiness.is_settled({"a": AVAILABLE}, now=101.0)


def test_a_silent_model_holds_the_others_up_for_some_seconds_only() -> None:
    readiness = Readiness(["a", "b"])
    assert not readiness.is_settled({"a": AVAILABLE, "b": SILENT}, now=1.0)
    assert not readiness.is_settled({"b": SILENT}, now=0.9 + SILENCE_S)
    assert not readiness.is_settled({"b": LOADING}, now=1.1 + SILENCE_S)
    assert not readiness.is_settled({"b": SILENT}, now=1.2 + SILENCE_S)
    assert readiness.is_settled({"b": SILENT}, now=1.2 + 2 * SILENCE_S)
    assert readiness.missing == {"b": "no worker reports it"}


def test_why_models_are_missing_is_never_empty() -> None:
    readiness = Readiness(["a", "b", "c", "d"])
    readiness.is_settled({"a": SILENT, "b": LOADING, "c": FAILED}, now=0.0)
    assert all(readiness.missing.values())


# Stopping


def test_times_to_stop_add_up() -> None:
    """Each program drains within what its parent waits, under the supervisor and in Compose."""
    drains = {"api": ServingSettings().drain_timeout_s, "worker": WorkerSettings().drain_timeout_s}
    allowed = stop_timeouts({})
    assert list(allowed) == ["api", "worker", "jobs", "redis"]
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    program_s, proxy_s, standby_s = map(float, re.findall(r"stop_grace_period: (\d+)s", compose))
    for role, drain_s in drains.items():
        assert drain_s + AFTER_DRAIN_S <= allowed[role] <= min(program_s, proxy_s)
    assert sum(allowed.values()) <= standby_s  # it is a stack of its own
    assert sum(allowed.values()) <= 90  # the time that systemd gives a service by default
    assert f"{sum(allowed.values()):g} s" in parser({}).format_help()


def test_a_longer_drain_is_waited_for() -> None:
    raised = {"MILLRACE_SERVING_DRAIN_TIMEOUT_S": "120", "MILLRACE_WORKER_DRAIN_TIMEOUT_S": "no number"}
    assert stop_timeouts(raised)["api"] == 120 + AFTER_DRAIN_S
    assert stop_timeouts(raised)["worker"] == stop_timeouts({})["worker"]


# Messages
