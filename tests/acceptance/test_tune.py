"""`millrace tune` on a stack that it starts itself."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.running import our_environment

pytestmark = pytest.mark.slow


@pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="locust is not installed")
def test_settings_are_measured_and_published(make_onnx: Callable[..., Path], tmp_path: Path) -> None:
    version = make_onnx(tmp_path / "models")
    (version / "manifest.json").write_text('{"batching": {"max_batch_size": 4, "max_queue_delay_ms": 1.0}}')
    code = "import sys; from millrace_client.load.tunecommand import main; sys.exit(main(sys.argv[1:]))"
    options = ["--models", str(tmp_path / "models"), "--budget", "60s", "--for", "1s", "--warm-up", "500ms"]
    options += ["--p99-ms", "5000", "--write", "--json", str(tmp_path / "tried.json")]
    command = [sys.executable, "-c", code, "tiny", *options]
    done = subprocess.run(command, env=our_environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((tmp_path / "tried.json").read_text())
    assert len(document["tried"]) > 1
    assert document["tried"][0]["measured"][0]["ok_per_s"] > 0
    assert document["tried"][0]["measured"][0]["cpu_s"] > 0
    best = document["best"]["max_batch_size"]
    assert re.search(rf'"batching": {{"max_batch_size": {best}}}', done.stdout)
    published = json.loads((version.with_name("2") / "manifest.json").read_text())
    assert published["batching"] == {"max_batch_size": best, "max_queue_delay_ms": 1.0}
    assert (version.with_name("2") / "model.onnx").read_bytes() == (version / "model.onnx").read_bytes()
