"""`millrace check`: real models, loaded by real probes."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import breaking
from tests.support.onnxmodels import FLOAT, info, node, save
from tests.support.running import ROOT
from worker.check import command

MakeModel = Callable[..., Path]
Checked = Callable[..., tuple[int, list[dict[str, Any]]]]


@pytest.fixture
def checked(capsys: pytest.CaptureFixture[str]) -> Checked:
    """The exit status and the reports of `millrace check --json`."""

    def run(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
        status = command.main([*arguments, "--json"])
        return status, json.loads(capsys.readouterr().out)

    return run


def test_a_model_is_loaded_as_a_worker_would_and_its_runs_are_measured(
    checked: Checked, make_onnx: MakeModel, tmp_path: Path
) -> None:
    folder = make_onnx(tmp_path, "m", 7)
    status, (report,) = checked(str(tmp_path / "m"))
    assert status == 0
    assert (report["model"], report["version"], report["folder"]) == ("m", 7, str(folder))
    assert report["announcement"]["platform"] == "onnxruntime_onnx"
    assert report["announcement"]["max_batch_size"] == 32
    assert report["batching"] == ("Rows are batched, up to 32: a trial showed that they do not depend on one another.")
    assert [runs["rows"] for runs in report["runs"]] == [1, 8, 32]
    assert all(runs["ms"] > 0 for runs in report["runs"])
    if sys.platform == "linux":
        assert all(runs["memory_mb"] > 0 for runs in report["runs"])
    assert [example["protocol"] for example in report["examples"]] == [
        "TensorFlow Serving, REST",
        "Open Inference Protocol, REST",
        "TensorFlow Serving, gRPC",
        "Open Inference Protocol, gRPC",
        "millrace_client",
    ]
    assert report["untried"] == ""


def test_what_is_printed_says_why_rows_are_not_batched_and_what_is_passed_over(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    softmax = [node("Softmax", ["x"], ["y"], axis=0)]
    save(tmp_path / "m" / "0002", softmax, [info("x", FLOAT, ("N", 2))], [info("y", FLOAT, ("N", 2))])
    (tmp_path / "m" / "v3").mkdir()
    (tmp_path / "m" / "v3" / "model.onnx").touch()
    assert command.main([str(tmp_path / "m"), "--url", "http://h:9/", "--grpc", "h:8"]) == 0
    printed = capsys.readouterr().out
    assert f"m, version 2 ({tmp_path}/m/0002) will be served" in printed
    assert "  Requests are not batched: " in printed
    assert "note: m/v3 is no version" in printed
    assert "takes x: FP32 [-1, 2]" in printed
    assert 'curl -s http://h:9/v1/models/m:predict -d \'{"inputs": {"x": ' in printed
    assert "grpcclient.InferenceServerClient('h:8')" in printed


@pytest.mark.parametrize(
    ("variable", "url", "grpc"),
    [
        ("", "http://localhost:8000", "localhost:8001"),
        ("https://h:9/", "https://h:9/", "localhost:8001"),
        ("grpc://h:8", "http://localhost:8000", "h:8"),
    ],
)
def test_a_variable_names_the_server_that_the_printed_requests_go_to(variable: str, url: str, grpc: str) -> None:
    found = command.parser({"MILLRACE_URL": variable}).parse_args(["m"])
    assert (found.url, found.grpc) == (url, grpc)
    assert command.parser({"MILLRACE_URL": variable}).parse_args(["m", "--url", "http://x"]).url == "http://x"


def test_a_report_may_be_long(checked: Checked, make_onnx: MakeModel, tmp_path: Path) -> None:
    folder = make_onnx(tmp_path, "m").parent
    (folder / "labels.txt").write_text("\n".join(f"label number {i}" for i in range(30_000)))
    output = 'name: "scores" data_type: TYPE_FP32 dims: [2] label_filename: "labels.txt"'
    (folder / "config.pbtxt").write_text(f"output [ {{ {output} }} ]")
    status, (report,) = checked(str(folder), "--timeout", "60")
    assert (status, len(report["announcement"]["labels"])) == (0, 30_000)


def test_a_whole_repository_is_checked_and_each_thing_that_cannot_be_served_is_named(
    checked: Checked, make_onnx: MakeModel, tmp_path: Path
) -> None:
    make_onnx(tmp_path, "good")
    (make_onnx(tmp_path, "broken") / "model.onnx").write_bytes(b"no model")
    (tmp_path / "torch" / "1").mkdir(parents=True)
    (tmp_path / "torch" / "1" / "best.pt").touch()
    (tmp_path / "stray.tflite").touch()
    status, reports = checked(str(tmp_path))
    errors = {report["model"]: report["error"] for report in reports}
    assert status == 1
    assert errors.keys() == {"good", "broken", "torch", "stray"}
    assert errors["good"] == ""
    assert "broken/1/model.onnx" in errors["broken"]
    assert "best.pt is PyTorch's format" in errors["torch"]
    assert "stray.tflite lies in the repository itself" in errors["stray"]


def test_a_file_that_is_no_model_and_a_path_that_is_none_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.keras").touch()
    (tmp_path / "empty").mkdir()
    for path, words in (
        (tmp_path / "a.keras", "is Keras' format"),
        (tmp_path / "nowhere", "is not a folder"),
        (tmp_path / "empty", "holds no model"),
    ):
        assert command.main([str(path)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("millrace check: ")
        assert words in line


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (breaking.CRASHES, f"its process ended while it was loaded: {signal.SIGSEGV.name}, a wrong access to memory"),
        (breaking.LEAVES, "its process ended while it was loaded: exit status 3"),
        (breaking.EXITS, "SystemExit: bye"),
    ],
)
def test_a_model_that_ends_its_process_is_a_line(
    checked: Checked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: int, words: str
) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text("import tests.support.breaking_format\n")
    for folder in (str(ROOT), str(tmp_path / "path")):
        monkeypatch.syspath_prepend(folder)
    breaking.make(tmp_path, "m", str(how))
    status, (report,) = checked(str(tmp_path / "m"))
    assert status == 1
    assert report["error"].startswith(words)


CODE = """
class Model:
    def predict(self, x: float) -> float:
        return 2 * x
"""


def test_python_code_runs_where_that_is_allowed(checked: Checked, tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.py").write_text(CODE)
    status, (report,) = checked(str(tmp_path / "m"))
    assert status == 1
    assert "is Python code, which runs only where the operator allows it: start with --allow-code" in report["error"]
    status, (report,) = checked(str(tmp_path / "m"), "--allow-code")
    assert (status, report["error"], report["untried"]) == (0, "", "")
    assert report["announcement"]["platform"] == "python"


def test_a_model_that_takes_too_long_is_a_line(checked: Checked, tmp_path: Path, make_onnx: MakeModel) -> None:
    make_onnx(tmp_path, "m")
    status, (report,) = checked(str(tmp_path / "m"), "--timeout", "0.01")
    assert status == 1
    assert report["error"] == "its process ended while it was loaded: it took more than 0.01 s"


def test_images_and_texts_are_asked_for_as_callers_have_them(checked: Checked, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    script = ROOT / "examples" / "images_and_texts.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
    status, reports = checked(str(tmp_path))
    assert status == 0
    trial = "Rows are batched, up to 32: a trial showed that they do not depend on one another."
    assert [(report["model"], report["batching"], report["untried"]) for report in reports] == [
        ("colours", trial, ""),
        ("mood", trial, ""),
    ]
    sent = "curl -s --data-binary @image.jpg -H 'Content-Type: image/jpeg' "
    assert reports[0]["examples"][0]["text"] == sent + "http://localhost:8000/v1/models/colours:predict"
    assert '{"instances": [' in reports[1]["examples"][0]["text"]
