"""Nothing phones home: a program with an empty home leaves no file in it, and talks to this machine alone."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.running import ROOT, free_port, until

# Outside of these a call reaches beyond this machine, or asks a name server, which may be on it.
_CALL = re.compile(r'sa_family=AF_INET6?, .*?_port=htons\((\d+)\).*?"([^"]+)"')
_OURS = re.compile(r"127\..*|::1|::ffff:127\..*|0\.0\.0\.0|::")
# Matplotlib's list of this machine's fonts, which Keras has it make.
_ALLOWED = re.compile(r"\.cache/matplotlib/fontlist-.*|\.config/matplotlib/.*")


def _traced(folder: Path) -> list[str]:
    """The command that traces another; the test is skipped where there is none."""
    trace = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-e", "signal=none"]
    command = [*trace, "-o", str(folder / "calls")]
    if not shutil.which("strace") or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("there is no strace, or it may not trace")
    return command


def _environment(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return kept | {"HOME": str(home), "TF_CPP_MIN_LOG_LEVEL": "3"}  # without CI, which silences some libraries


def _calls_beyond(folder: Path) -> list[str]:
    found = [(call, line) for line in (folder / "calls").read_text().splitlines() if (call := _CALL.search(line))]
    return [line for call, line in found if call[1] == "53" or not _OURS.fullmatch(call[2])]


def _files(home: Path) -> list[str]:
    found = [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
    return [path for path in found if not _ALLOWED.fullmatch(path)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_the_stack_and_its_model_processes_are_silent(
    make_onnx: Callable[..., Path], home: Path, tmp_path: Path
) -> None:
    make_onnx(tmp_path / "models")
    port = free_port()
    up = [sys.executable, "-m", "millrace", "up", "--models", str(tmp_path / "models"), "--grpc-port", "0"]
    environment = _environment(home) | {"MILLRACE_JOBS_FOLDER": str(tmp_path / "jobs")}
    with (tmp_path / "log").open("wb") as log:
        command = [*_traced(tmp_path), *up, "--port", str(port)]
        stack = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    until(lambda: "Stop it with" in (tmp_path / "log").read_text() or stack.poll() is not None, 120)
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/models/tiny:predict", json={"instances": [[1, 2, 3]]})
    psutil.Process(stack.pid).children()[0].terminate()
    stack.wait(60)
    assert answer.status_code == 200
    assert _calls_beyond(tmp_path) == []
    assert _files(home) == []


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import worker.backends.onnx.backend", id="onnxruntime"),
        pytest.param("import training.parity, onnxruntime, tensorflow", id="training", marks=pytest.mark.slow),
        pytest.param("import training.export.source, keras", id="keras", marks=pytest.mark.slow),
        pytest.param("import training.export.coreml", id="coremltools", marks=pytest.mark.slow),
        pytest.param("import benchmarks.cnn", id="benchmarks"),
        pytest.param("import worker.backends.tflite.backend, ai_edge_litert.interpreter", id="litert"),
    ],
)
def test_what_a_program_imports_is_silent(code: str, home: Path, tmp_path: Path) -> None:
    command = [*_traced(tmp_path), sys.executable, "-W", "ignore", "-c", code]
    subprocess.run(command, cwd=ROOT, env=_environment(home), check=True, timeout=300)
    assert _calls_beyond(tmp_path) == []
    assert _files(home) == []


@pytest.mark.slow
def test_doctor_is_silent(make_onnx: Callable[..., Path], home: Path, tmp_path: Path) -> None:
    model = make_onnx(tmp_path / "models") / "model.onnx"
    command = [*_traced(tmp_path), sys.executable, "-m", "millrace", "doctor", str(model)]
    subprocess.run(command, cwd=ROOT, env=_environment(home), check=False, timeout=300)
    assert _calls_beyond(tmp_path) == []
    assert _files(home) == []


def test_a_load_test_is_silent(home: Path, tmp_path: Path) -> None:
    (tmp_path / "locustfile.py").write_text(
        "import locust\n\n"
        "class Idle(locust.User):\n"
        "    @locust.task\n"
        "    def rest(self): self.environment.runner.quit()\n"
    )
    command = [
        *_traced(tmp_path),
        sys.executable,
        "-m",
        "locust",
        "--headless",
        "--only-summary",
        "-f",
        str(tmp_path / "locustfile.py"),
    ]
    subprocess.run(
        [*command, "--users", "1", "--run-time", "1s"], cwd=ROOT, env=_environment(home), check=True, timeout=120
    )
    assert _calls_beyond(tmp_path) == []
    assert _files(home) == []


def test_the_trace_sees_what_would_leave(tmp_path: Path, home: Path) -> None:
    code = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.1', 9))"
    subprocess.run([*_traced(tmp_path), sys.executable, "-c", code], env=_environment(home), check=False, timeout=60)
    assert len(_calls_beyond(tmp_path)) == 1
