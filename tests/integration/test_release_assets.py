"""The published models as files for a release: made from one set of weights, and shown to be."""

import hashlib
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from millrace.artifacts import manifest

pytestmark = pytest.mark.slow

pytest.importorskip("tensorflow")
import onnx  # noqa: E402 - after the skip where TensorFlow is not installed

from millrace.artifacts.images import read_digit  # noqa: E402
from training import assets, parity  # noqa: E402
from training.export.formats import FORMATS  # noqa: E402

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
SEVEN = {"image": read_digit((ROOT / "examples" / "seven.png").read_bytes())[None]}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the bundled digit models."""
    out = tmp_path_factory.mktemp("release") / "models"
    assert assets.main(["digits", "digits-student", "--models", str(MODELS), "--out", str(out)]) == 0
    return out


def test_the_onnx_file_is_the_published_one_and_the_sums_are_those_of_the_files(released: Path) -> None:
    for name in ("digits", "digits-student"):
        content = (released / f"{name}-1.onnx").read_bytes()

        assert content == (MODELS / name / "1" / "model.onnx").read_bytes()
        described = json.loads((released / f"{name}-1.manifest.json").read_bytes())
        assert described["files"]["model.onnx"] == hashlib.sha256(content).hexdigest()
        assert (released / f"{name}-1.card.md").read_text().startswith(f"# {name}, version 1")
    subprocess.run(["sha256sum", "--check", "--strict", assets.SUMS], cwd=released, check=True, capture_output=True)
    listed = {line.partition("  ")[2] for line in (released / assets.SUMS).read_text().splitlines()}
    assert listed == {path.name for path in released.iterdir()} - {assets.SUMS}


def test_every_format_answers_as_the_onnx_file_does(released: Path) -> None:
    index = json.loads((released / assets.INDEX).read_bytes())

    for name in ("digits", "digits-student"):
        expected = parity.onnx(released / f"{name}-1.onnx")(SEVEN)["probabilities"]
        files = {each["format"]: each for each in index if each["model"] == name}
        assert set(files) == {"onnx", *assets.MADE}
        for form in set(assets.MADE) - {"coreml"}:  # which runs on macOS only
            found = FORMATS[form].open(released / files[form]["file"])(SEVEN)["probabilities"]
            np.testing.assert_allclose(found, expected, atol=1e-5 if FORMATS[form].exact else 0.02)
            assert files[form]["score"] > 0.95


def test_core_ml_has_the_onnx_files_weights_byte_for_byte(released: Path) -> None:
    with zipfile.ZipFile(released / "digits-1.mlpackage.zip") as archive:
        names = archive.namelist()
        (place,) = [name for name in names if name.endswith("weight.bin")]
        weights = archive.read(place)

    assert "digits-1.mlpackage/Manifest.json" in names
    graph = onnx.load(released / "digits-1.onnx").graph
    kernels = [array for each in graph.initializer if (array := onnx.numpy_helper.to_array(each)).size > 64]
    assert len(kernels) > 5
    for array in kernels:  # products of matrices have theirs turned
        assert array.tobytes() in weights or np.ascontiguousarray(array.T).tobytes() in weights


def test_a_format_of_other_weights_than_the_onnx_files_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models" / "digits" / "1"
    folder.mkdir(parents=True)
    shutil.copyfile(MODELS / "digits" / "1" / "model.onnx", folder / "model.onnx")
    shutil.copyfile(MODELS / "digits-student" / "1" / "model.keras", folder / "model.keras")
    described = manifest.read(MODELS / "digits" / "1")
    assert described is not None
    manifest.write(folder, described)
    out = tmp_path / "out"

    flags = ["--models", str(tmp_path / "models"), "--out", str(out), "--formats", "tflite"]
    assert assets.main(["digits", *flags]) == 1

    assert "digits: TFLite: output 'probabilities' differs from the trained model by" in capsys.readouterr().err
    assert not out.exists()


def test_a_format_of_rounded_weights_that_answers_otherwise_is_left_out(tmp_path: Path) -> None:
    out = tmp_path / "out"

    flags = ["--models", str(MODELS), "--out", str(out), "--formats", "tflite-int8,coreml"]
    assert assets.main(["sentiment", *flags]) == 0

    assert {path.suffix for path in out.glob("sentiment-1.*")} == {".onnx", ".zip", ".json", ".md", ".txt"}
    assert "- tflite_int8: TFLite, full int8: the score is" in (out / "sentiment-1.card.md").read_text()
