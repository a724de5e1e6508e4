"""`make gpu`: what it says without a GPU, and that its measuring works, on the CPU."""

import json
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as benchmark
from benchmarks.gpu import machine


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if machine.gpus():
        pytest.skip("this machine has a GPU")
    assert benchmark.main(["--out", str(tmp_path)]) == 2
    assert "make gpu: CUDA was asked for, and there is no NVIDIA driver" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_its_parts_measure_on_a_cpu_and_their_answers_are_right(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--small", "--seconds", "0.2", "--apis", "2", "--parts", "answers,stack"]
    assert benchmark.main([*options, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert not found["missing"]
    assert {each["model"] for each in found["parts"]["answers"]} >= {"digits", "word2vec", "texts", "images"}
    assert all(each["checked"] and not each["wrong"] + each["errors"] for each in found["parts"]["stack"])
    assert found["parts"]["stack"][0]["answered_again_s"] > 0
    assert "## The whole stack" in (tmp_path / "gpu.md").read_text()
