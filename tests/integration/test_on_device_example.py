"""examples/on-device: the exported files in Chromium, beside Python's answers."""

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.browser import chromium

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "examples" / "on-device"


def test_the_lock_file_names_no_host() -> None:
    locked = json.loads((PROJECT / "package-lock.json").read_text())["packages"]

    assert all(package.get("integrity") for name, package in locked.items() if name)
    assert not [name for name, package in locked.items() if "resolved" in package]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with its packages and with the bundled models; skips the test where something is not there."""
    if shutil.which("node") is None:
        pytest.skip("there is no Node")
    if not (PROJECT / "node_modules").is_dir():
        pytest.skip("its packages are not installed (cd examples/on-device && npm ci --ignore-scripts)")
    pytest.importorskip("tensorflow")
    from training import assets

    folder = tmp_path_factory.mktemp("on-device")
    for path in PROJECT.iterdir():
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    (folder / "node_modules").symlink_to(PROJECT / "node_modules")
    released = tmp_path_factory.mktemp("released")
    assets.write(ROOT / "models", ["digits", "sentiment", "word2vec"], released, ["tflite-compiled"])
    spec = importlib.util.spec_from_file_location("prepare", PROJECT / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.prepare(released, folder / "files")
    return folder


def _checked(project: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", "check.js"],
        cwd=project,
        env=dict(os.environ, CHROMIUM=chromium()),
        capture_output=True,
        text=True,
        timeout=180,
    )


@pytest.mark.slow
def test_every_file_answers_in_a_browser_as_in_python(project: Path) -> None:
    done = _checked(project)

    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if " | " in line]
    ran = {(row[0], row[1]) for row in rows[1:]}
    runtimes = ("ONNX Runtime Web", "LiteRT.js")
    assert ran == {(model, runtime) for model in ("digits", "sentiment", "word2vec") for runtime in runtimes}
    assert "All answers of 6 files are Python's." in done.stdout


@pytest.mark.slow
def test_an_answer_that_is_not_pythons_fails_the_check(project: Path) -> None:
    place = project / "files" / "cases.json"
    cases = json.loads(place.read_text())
    cases[0]["examples"][0]["answers"]["probabilities"]["data"][3] += 0.01
    before = place.read_text()
    place.write_text(json.dumps(cases))
    try:
        done = _checked(project)
    finally:
        place.write_text(before)

    assert done.returncode == 1
    assert "Answers that are not Python's: 1." in done.stdout
