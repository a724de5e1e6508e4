"""The comparison of methods, on digits that anything can tell apart."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
from training import data
from training.__main__ import main

pytestmark = pytest.mark.slow


def _idx(array: Any) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">i4").tobytes()
    return gzip.compress(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Every digit is a bar of its own place, 20 times each."""
    labels = np.tile(np.arange(10), 20)
    images = np.zeros((200, 28, 28))
    for image, label in zip(images, labels, strict=True):
        image[4:24, 4 + 2 * label : 6 + 2 * label] = 255
    for part in (data.MNIST_TRAIN, data.MNIST_TEST):
        for source, array in zip(part, (images, labels), strict=True):
            path = tmp_path / "data" / source.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_idx(array))
    return tmp_path / "data"


def test_every_method_is_measured_and_written_as_table_json_and_plot(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data-dir", str(data_dir), "--accept-other-data", "--out", str(tmp_path / "out"), "--epochs", "1"]

    assert main(["compare-classical", *flags, "--sample", "150"]) == 0

    found = json.loads((tmp_path / "out" / "compare-classical.json").read_text())
    assert (found["about"]["training_images"], found["about"]["test_images"]) == (150, 200)
    by_method = {line["method"]: line for line in found["measured"]}
    assert [method.partition(",")[0] for method in by_method] == [
        "k-nearest neighbours",
        "decision tree",
        "logistic regression",
        "RBF SVM",
        "MLP",
        "CNN",
        "student of the CNN",
    ]
    for line in found["measured"][:4]:
        assert line["accuracy"] == 1.0
    for line in found["measured"]:
        assert min(line["size_bytes"], line["train_s"], line["predict_ms"]) > 0
    assert by_method["student of the CNN"]["size_bytes"] < by_method["CNN"]["size_bytes"]
    assert by_method["k-nearest neighbours, k = 3"]["size_bytes"] >= 150 * 784 * 4
    table = (tmp_path / "out" / "compare-classical.md").read_text()
    assert all(f"| {method} |" in table for method in by_method)
    assert (tmp_path / "out" / "compare-classical.png").read_bytes().startswith(b"\x89PNG")
    assert "| decision tree | 100.00% |" in capsys.readouterr().out


def test_without_the_digits_the_comparison_ends_with_a_message(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["compare-classical", "--data-dir", str(data_dir), "--out", str(tmp_path / "out")])

    assert code == 1
    assert "is not the expected file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
