"""KServe's own Python client; beside it, `test_kserve.py` above acts out what it sends."""

import json
import os
import subprocess
from pathlib import Path

from tests.contract.suites import running, sources
from tests.support.running import Stack

pytestmark = sources.needs(sources.KSERVE)


def test_the_sdk(stack: Stack, tmp_path: Path) -> None:
    here, report = Path(__file__).parent, tmp_path / "report.json"
    command = [str(sources.place(sources.KSERVE)), str(here / "unittests.py"), str(report), str(here / "kserve_sdk.py")]
    where = {"STACK_URL": stack.url, "STACK_GRPC": stack.grpc, "PYTHONPATH": ""}
    ran = subprocess.run(
        command, env={**os.environ, **where}, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert report.exists(), ran.stdout + ran.stderr
    running.check(json.loads(report.read_text()), {})
