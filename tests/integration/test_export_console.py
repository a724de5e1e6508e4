"""What `millrace doctor` and `millrace export` print and leave behind: nothing that is not theirs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.running import ROOT

pytest.importorskip("tensorflow")


def _run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A shell command with `millrace` as a program of this checkout; its temporary folder is `folder`."""
    program = f"{sys.executable} -c 'from millrace.__main__ import main; raise SystemExit(main())'"
    variables = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    variables.pop("TF_CPP_MIN_LOG_LEVEL", None)
    shell = ["bash", "-o", "pipefail", "-c", command.replace("millrace", program, 1)]
    return subprocess.run(shell, env=variables, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("module", ["training.doctor", "training.export_command"])
def test_the_help_does_without_tensorflow(module: str) -> None:
    code = f"import sys, {module} as command\ntry:\n    command.main(['--help'])\nfinally:\n    print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "--outputs" in found.stdout
    assert "tensorflow" not in found.stdout.splitlines()[-1].split()


@pytest.mark.slow
def test_a_model_that_is_not_there_is_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    found = _run("millrace doctor nowhere.keras", tmp_path)

    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith("millrace doctor: nowhere.keras is no .keras file")
    assert len(found.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_first_line_is_doctors_own_and_a_reader_may_go(tmp_path: Path) -> None:
    import keras

    given = keras.layers.Input((4,), name="x")
    keras.Model(given, keras.layers.Dense(2)(given)).save(tmp_path / "mine.keras")
    (tmp_path / "scratch").mkdir()

    found = _run(f"millrace doctor {tmp_path}/mine.keras | head -n 1", tmp_path / "scratch")

    assert found.stdout == "works    SavedModel (savedmodel)\n"
    assert found.stderr == ""
    assert list((tmp_path / "scratch").iterdir()) == []
