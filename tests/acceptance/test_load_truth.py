"""Whether the load generator tells the truth: beside what can be computed, and beside wrk.

What the server does is known, so it is known what has to be reported. docs/explanation/measuring.md explains the first
test.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.load_servers import paced_server
from tests.support.running import our_environment

pytestmark = [
    pytest.mark.alone,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="locust is not installed"),
]
STALL_S, EVERY_S, SECONDS = 0.5, 5.0, 10
DELAY_S, USERS = 0.02, 16
ROUNDS, ROUND_S = 3, 4


def measured(url: str, file: Path, *arguments: str, pinned: bool = False) -> dict[str, Any]:
    """What a run says of itself. A pinned one has the first core; at its limit it is invalid, and its rate counts."""
    command = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if pinned else []
    command += [sys.executable, "-m", "millrace_client.load", "image", "--host", url, "--protocol", "oip-binary"]
    command += ["--warm-up", "0s", "--for", f"{SECONDS}s", "--max-send-lag", "20", "--json", str(file), *arguments]
    done = subprocess.run(command, env=our_environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode in ((0, 3) if pinned else (0,)), done.stdout + done.stderr
    return json.loads(file.read_text())


def test_the_open_loop_reports_a_stall_that_a_closed_loop_hides(tmp_path: Path) -> None:
    """Requests are due at any time of a period with the same chance. Those due in a stall wait until its end: the p99
    of all is the time that one in a hundred waits or more, which is the stall less a hundredth of the period."""
    computed_ms = (STALL_S - EVERY_S / 100) * 1000
    with paced_server("--stall-s", str(STALL_S), "--every-s", str(EVERY_S)) as url:
        opened = measured(url, tmp_path / "open.json", "--rate", "300")
        closed = measured(url, tmp_path / "closed.json", "--users", "8")
    assert opened["latency_ms"]["p99"] == pytest.approx(computed_ms, rel=0.1)
    assert opened["latency_ms"]["max"] == pytest.approx(STALL_S * 1000, rel=0.1)
    assert closed["latency_ms"]["max"] == pytest.approx(STALL_S * 1000, rel=0.1)  # it saw the stall
    assert closed["latency_ms"]["p99"] < computed_ms / 10  # and its p99 does not tell


def test_a_closed_loop_measures_what_wrk_measures(tmp_path: Path) -> None:
    """The rounds alternate, and the best of each counts: whatever else the machine does only makes times longer."""
    if not shutil.which("wrk"):
        pytest.skip("there is no wrk")
    ours, wrks = [], []
    with paced_server("--delay-s", str(DELAY_S)) as url:
        for number in range(ROUNDS):
            run = measured(url, tmp_path / f"{number}.json", "--users", str(USERS), "--for", str(ROUND_S))
            ours.append((run["latency_ms"]["p50"], run["latency_ms"]["p99"]))
            wrks.append(wrk(url, tmp_path))
    for percentile in (0, 1):
        mine, theirs = (min(each[percentile] for each in runs) for runs in (ours, wrks))
        assert mine == pytest.approx(theirs, rel=0.1), (ours, wrks)


def wrk(url: str, folder: Path) -> tuple[float, float]:
    """Its p50 and p99 in ms."""
    script = folder / "post.lua"
    script.write_text('wrk.method = "POST"\nwrk.body = "{}"\n')
    command = [
        "wrk",
        "-t1",
        f"-c{USERS}",
        f"-d{ROUND_S}s",
        "--latency",
        "-s",
        str(script),
        f"{url}/v2/models/image/infer",
    ]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    units = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    found = {
        percent: float(number) * units[unit]
        for percent, number, unit in re.findall(r"(\d+)% +([\d.]+)(us|ms|s)", printed)
    }
    return found["50"], found["99"]


@pytest.mark.parametrize(("protocol", "at_least"), [("oip-binary", 5000), ("oip-json", 3000)])
def test_one_core_sends_enough(tmp_path: Path, protocol: str, at_least: int) -> None:
    """Of one image each, from a generator that has one core to itself; the server has the others."""
    if not shutil.which("taskset") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is no core for the generator alone")
    with paced_server() as url:
        run = measured(url, tmp_path / "run.json", "--protocol", protocol, "--users", "32", "--for", "5s", pinned=True)
    assert run["ok_per_s"] >= at_least, (run["ok_per_s"], run["generator_cpu"])
