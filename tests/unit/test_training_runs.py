"""Checkpoints, progress bars, calibration and model cards: what every training shares."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from millrace.artifacts.manifest import Manifest, Parity
from millrace.protocol.tensors import Signature, TensorSpec
from training import calibration, cards, checkpoints, progress
from training.checkpoints import Checkpoint, CheckpointError


def _checkpoint() -> Checkpoint:
    values: list[npt.NDArray[Any]] = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7, np.int64)]
    return Checkpoint(origin={"epochs": 3, "data": "abc"}, history=[{"loss": 0.5}], values=values)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoint.npz"

    _checkpoint().write(path)
    found = checkpoints.read(path)

    assert found is not None
    assert (found.origin, found.history) == ({"epochs": 3, "data": "abc"}, [{"loss": 0.5}])
    for value, wanted in zip(found.values, _checkpoint().values, strict=True):
        np.testing.assert_array_equal(value, wanted)
        assert value.dtype == wanted.dtype
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.npz"]


def test_where_there_is_no_checkpoint_none_is_read(tmp_path: Path) -> None:
    assert checkpoints.read(tmp_path / "checkpoint.npz") is None


@pytest.mark.parametrize("kept_bytes", [0, 100, -30])
def test_a_damaged_checkpoint_is_refused_by_its_path(tmp_path: Path, kept_bytes: int) -> None:
    path = tmp_path / "checkpoint.npz"
    _checkpoint().write(path)
    path.write_bytes(path.read_bytes()[:kept_bytes])

    with pytest.raises(CheckpointError, match=r"checkpoint\.npz is not a checkpoint"):
        checkpoints.read(path)


def test_an_array_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "checkpoint.npz", other=np.zeros(3))

    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        checkpoints.read(tmp_path / "checkpoint.npz")


def test_a_checkpoint_of_other_settings_or_data_is_refused_naming_them() -> None:
    found, wanted = {"epochs": 3, "seed": 1, "a.gz": "abc"}, {"epochs": 4, "seed": 1, "a.gz": "abd"}

    checkpoints.check_origin(Path("x.npz"), found, dict(found))
    with pytest.raises(CheckpointError, match=r"epochs was 3 and is 4, a\.gz was 'abc' and is 'abd'"):
        checkpoints.check_origin(Path("x.npz"), found, wanted)


def test_a_bar_says_how_far_it_is_and_how_long_it_will_take() -> None:
    assert progress.bar("epoch 1/2", 15, 60, elapsed_s=5.0) == f"epoch 1/2 |{'█' * 7}{' ' * 23}| 15/60, 15 s left"
    assert progress.bar("epoch 1/2", 61, 60, elapsed_s=5.0).endswith("| 61/61, 0 s left")


def test_items_pass_a_progress_bar_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.shown(iter("abc"), 3, "letters")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""  # which is no terminal here


def test_calibration_error_is_the_distance_of_confidence_and_accuracy() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    labels = np.array([0] * 9 + [1] + [1] * 4 + [0] * 6)  # 0.9 is right in 9 of 10, 0.6 in 4 of 10

    found = calibration.bins(probabilities, labels)

    assert [(each.count, round(each.accuracy, 6)) for each in found] == [(10, 0.4), (10, 0.9)]
    assert calibration.expected_calibration_error(probabilities, labels) == pytest.approx(0.1)


def test_a_card_holds_what_the_manifest_says(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"x" * 1234)
    (tmp_path / "plots" / "word-map.png").write_bytes(b"png")
    specs = (
        (TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),),
        (TensorSpec(name="y", datatype="FP32", shape=(-1, 2)),),
    )
    manifest = Manifest(
        name="doubler",
        version=3,
        description="Doubles",
        signatures={"serving_default": Signature(inputs=specs[0], outputs=specs[1])},
        labels=("no", "yes"),
        scores={"test_accuracy": 0.98765},
        limits=("Knows only numbers.",),
        training={"epochs": 5},
        parity={"onnx": Parity(max_abs_difference=2e-7, top1_agreement=1.0, examples=36)},
        data={"numbers.gz": "abcd"},
        licences={"numbers": "CC BY 4.0"},
    )

    cards.write(tmp_path, manifest)

    lines = (tmp_path / "README.md").read_text().splitlines()
    assert lines[0] == "# doubler, version 3"
    for line in (
        "| test accuracy | 0.9877 |",
        "- Knows only numbers.",
        "| `numbers.gz` | `abcd` |",
        "- numbers: CC BY 4.0",
        "- `serving_default` takes `x`: FP32 [-1, 2]",
        "- labels, in the order of the columns: no, yes",
        "| `model.onnx` | 1,234 |",
        "| onnx | 2.0e-07 | 1.0000 | 36 |",
        "| `epochs` | 5 |",
        "![word map](plots/word-map.png)",
    ):
        assert line in lines
