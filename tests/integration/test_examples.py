"""The scripts in `examples/`, from training to an answer over HTTP, on tiny data."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.running import ROOT, Stack, start_up

pytest.importorskip("tensorflow")
from millrace.artifacts import manifest
from millrace.artifacts.repository import ModelRepository
from training import data
from training.__main__ import main

pytestmark = pytest.mark.slow


def _idx(array: Any) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">i4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rings for digits, and sentences of two moods."""
    root = tmp_path_factory.mktemp("data")
    y, x = np.mgrid[:28, :28] - 13.5
    rings = np.stack([255 * (np.abs(np.hypot(y, x) - radius) < 2) for radius in np.linspace(4, 11, 256)])
    texts = "".join(
        f"{label}\t{'good fun' if label else 'bad bore'} {'film ' * (1 + number % 9)}\n"
        for number in range(64)
        for label in (0, 1)
    )
    files = {data.MNIST_TRAIN[0]: _idx(rings), data.MNIST_TEST[0]: _idx(rings[::8])}
    files |= {data.MNIST_TRAIN[1]: _idx(np.zeros(256)), data.MNIST_TEST[1]: _idx(np.zeros(32))}
    files |= {source: texts.encode() for source in (*data.SENTENCES, data.SST2_DEV)}
    for source, content in files.items():
        (root / source.path).parent.mkdir(parents=True, exist_ok=True)
        (root / source.path).write_bytes(gzip.compress(content))
    return root


@pytest.fixture(scope="module")
def models(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository that both scripts published in."""
    out = tmp_path_factory.mktemp("models")
    common = ["--data-dir", str(data_dir), "--accept-other-data", "--out", str(out)]
    common += ["--runs", str(tmp_path_factory.mktemp("runs")), "--batch-size", "16"]
    for script, epochs in (("autoencoder", "6"), ("transformer", "3")):
        assert main([str(ROOT / "examples" / f"{script}.py"), *common, "--epochs", epochs]) == 0
    return out


@pytest.fixture(scope="module")
def stack(models: Path) -> Iterator[Stack]:
    started = start_up("--models", str(models))
    yield started
    started.stop()


def test_both_examples_are_published_in_every_format_with_card_and_plots(models: Path) -> None:
    assert ModelRepository(models).models() == {"denoise": [1], "mood": [1]}
    for name in ("denoise", "mood"):
        folder = models / name / "1"
        found = manifest.read(folder)
        assert found is not None
        assert {"model.onnx", "model.tflite", "saved_model.pb", "README.md", "plots/learning-curves.png"} <= set(
            found.files
        )
        manifest.verify(folder, found)
        assert found.scores
        assert (folder / "README.md").read_text().startswith(f"# {name}, version 1\n")


def test_the_served_autoencoder_takes_noise_from_an_image(stack: Stack, models: Path) -> None:
    y, x = np.mgrid[:28, :28] - 13.5
    ring = (np.abs(np.hypot(y, x) - 7) < 2).astype(np.float32)
    noisy = np.clip(ring + 0.3 * np.random.default_rng(1).standard_normal(ring.shape), 0, 1)

    body = {"instances": [(255 * noisy[..., None]).tolist()]}
    answer = httpx.post(f"{stack.url}/v1/models/denoise:predict", json=body, timeout=30)

    assert answer.status_code == 200, answer.text
    clean = np.array(answer.json()["predictions"])[0, ..., 0]
    assert np.abs(clean - ring).mean() < np.abs(noisy - ring).mean()


def test_the_served_transformer_tells_moods_apart_alone_and_in_a_batch(stack: Stack) -> None:
    texts = ["good fun film", "bad bore film film film film film"]

    def ask(*asked: str) -> Any:
        answer = httpx.post(f"{stack.url}/v1/models/mood:predict", json={"instances": list(asked)}, timeout=30)
        assert answer.status_code == 200, answer.text
        return np.array(answer.json()["predictions"])

    together = ask(*texts)
    assert together.argmax(axis=1).tolist() == [1, 0]
    np.testing.assert_allclose(together, np.concatenate([ask(text) for text in texts]), atol=1e-5)
