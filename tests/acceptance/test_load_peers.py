"""`millrace load` against another server, which the environment names; docs/howto/load-test.md has what was tried.

TEST_LOAD_HTTP=http://127.0.0.1:8000 TEST_LOAD_GRPC=127.0.0.1:8001 TEST_LOAD_MODEL=cnn
TEST_LOAD_PROTOCOLS="oip-json oip-binary oip-grpc"   # those that the server speaks
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from millrace_client.load.targets import PROTOCOLS

from tests.support.running import our_environment

HTTP, GRPC, MODEL = (os.environ.get(f"TEST_LOAD_{name}", "") for name in ("HTTP", "GRPC", "MODEL"))
SPOKEN = os.environ.get("TEST_LOAD_PROTOCOLS", "").split()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="locust is not installed"),
    pytest.mark.skipif(not SPOKEN, reason="TEST_LOAD_PROTOCOLS and its neighbours name no server"),
]


def load(file: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "millrace_client.load", MODEL, "--json", str(file), "--warm-up", "1s", *arguments]
    done = subprocess.run(command, env=our_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(file.read_text())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_answer_is_right_in_an_open_loop(tmp_path: Path, protocol: str) -> None:
    if protocol not in SPOKEN:
        pytest.skip("the server does not speak it")
    host = GRPC if protocol.endswith("grpc") else HTTP
    run = load(
        tmp_path / "run.json", "--host", host, "--protocol", protocol, "--server-counts", HTTP, "--check",
        "--rate", "50", "--for", "3s", "--max-send-lag", "1000",
    )  # fmt: skip
    assert run["ok"] == run["requests"] > 100
    waited = run["stages_ms"]["client"]["wait"]["mean"]
    stages = run["stages_ms"]["server"]
    assert all(0 <= stage["mean"] < waited for stage in stages.values()), stages


def test_its_capacity_is_found(tmp_path: Path) -> None:
    host = GRPC if SPOKEN[0].endswith("grpc") else HTTP
    found = load(
        tmp_path / "curve.json", "--host", host, "--protocol", SPOKEN[0], "--find-capacity", "--rate", "500",
        "--p99-ms", "200", "--for", "3s", "--max-send-lag", "50",
    )  # fmt: skip
    assert found["capacity"]["rate"] > 0
    assert found["capacity"]["confirmed_by"] >= 2
