"""The wheel as a person installs it: in an environment of its own, and started from a folder of theirs."""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.running import ROOT, Stack

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def millrace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `millrace` of an environment with the wheel, and with the libraries of this one."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)], check=True
    )
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    wheels = [str(path) for path in folder.glob("*.whl")]
    subprocess.run([*PIP, "--python", str(python), "install", "--no-deps", "--no-index", *wheels], check=True)
    # Libraries alone: the links of editable installations are read from the environment's own folder only.
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True, capture_output=True
    ).stdout.decode()
    (Path(site.strip()) / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin" / "millrace"


def test_the_installed_wheel_serves_from_any_folder(
    millrace: Path, up: Callable[..., Stack], make_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    make_onnx(tmp_path / "models")
    (tmp_path / "worker").mkdir()
    for decoy in ("worker/__init__.py", "serving.py", "ops.py", "millrace.py"):
        (tmp_path / decoy).write_text("raise SystemExit('a decoy was started')")
    stack = up("--models", "models", folder=tmp_path, program=millrace)
    assert "Millrace is ready" in stack.output, stack.output
    answer = httpx.post(f"{stack.url}/v1/models/tiny:predict", json={"instances": [[1, 0, 0]]}, timeout=30)
    assert answer.json() == {"predictions": [[1.0, 10.0]]}
    page = httpx.get(stack.url, headers={"Accept": "text/html"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert httpx.get(f"{stack.url}/page/main.js").headers["content-type"] == "text/javascript; charset=utf-8"
    (worker,) = stack.programs("worker")
    assert Path(worker.cmdline()[0]).is_relative_to(millrace.parents[1])
    done = subprocess.run(
        [str(millrace), "check", "models", "--json"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [report["model"] for report in json.loads(done.stdout)] == ["tiny"]
