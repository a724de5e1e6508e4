"""`make bench` in its shortest form, on the real stack."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import load
from tests.support.running import ROOT, our_environment

pytestmark = pytest.mark.slow


def bench(out: Path, *arguments: str) -> dict[str, Any]:
    """The JSON that a short run writes; its other two files are looked at here."""
    command = [sys.executable, "-m", "benchmarks.bench", "--rounds", "1", "--seconds", "1", "--out", str(out)]
    run = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert run.returncode == 0, run.stderr
    data: dict[str, Any] = json.loads((out / "bench.json").read_text())
    assert "## Targets" in (out / "bench.md").read_text()
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")
    return data


def assert_sound(data: dict[str, Any]) -> None:
    assert data["machine"].keys() >= {"cpu", "cores", "memory_gb", "kernel", "python", "commit", "date", "command"}
    for row in data["rows"]:
        assert row["errors"] == row["wrong"] == 0, row
        assert row["checked"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["requests_per_s"] > 0
        assert row["cpu_ms"] > 0
        assert row["pss_mb"] > 0


@pytest.mark.skipif(not load.has_wrk(), reason="wrk is not installed")
def test_bench_with_wrk_reports_servers_scenarios_and_targets(tmp_path: Path) -> None:
    data = bench(tmp_path, "--servers", "millrace,flask", "--connections", "1,8", "--generator", "wrk")

    assert_sound(data)
    measured = {(row["server"], row["request"], row["connections"]) for row in data["rows"]}
    assert measured >= {
        (server, "instances", connections) for server in ("millrace", "flask") for connections in (1, 8)
    }
    ours = next(row for row in data["rows"] if row["server"] == "millrace")
    assert ours["ratio_to_flask"] > 0
    assert ours["ratio_to_rq"] is None
    assert {"serving", "worker", "valkey-server"} <= ours["cpu_ms_by_role"].keys()
    texts = data["scenarios"]["texts"]
    assert texts["ratio"] > 0
    assert texts["mixed"]["wrong"] == texts["mixed"]["errors"] == 0
    assert {"rows_per_s", "refused"} & data["scenarios"]["rows"].keys()
    assert data["scenarios"]["rows"].get("wrong", 0) == 0
    assert {target["met"] for target in data["targets"]} <= {True, False, None}


def test_bench_without_wrk_measures_too_and_leaves_the_committed_results_alone(tmp_path: Path) -> None:
    options = ["--rounds", "1", "--seconds", "1", "--servers", "millrace,rq", "--connections", "8"]
    command = [sys.executable, "-m", "benchmarks.bench", *options, "--generator", "own", "--no-scenarios"]
    run = subprocess.run(command, cwd=tmp_path, env=our_environment(), capture_output=True, text=True, timeout=180)
    assert run.returncode == 0, run.stderr
    data = json.loads((tmp_path / ".runs" / "bench" / "bench.json").read_text())

    assert_sound(data)
    assert {row["server"] for row in data["rows"]} == {"millrace", "rq"}
    assert all(row["paired"] == row["checked"] for row in data["rows"])
