"""The bundled models, exported again from what is in their folders alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.artifacts import manifest
from millrace.artifacts.manifest import Tokenize
from millrace.artifacts.vocabulary import Vocabulary

pytestmark = pytest.mark.slow

tf = pytest.importorskip("tensorflow")
from training import parity  # noqa: E402 - after the skip where TensorFlow is not installed
from training.export import lite, metadata  # noqa: E402
from training.export_command import main  # noqa: E402
from worker.backends.base import Device  # noqa: E402
from worker.loading import model as workers  # noqa: E402

ROOT = Path(__file__).parents[2]
NAMES = ("digits", "digits-student", "sentiment", "word2vec")


@pytest.fixture(scope="module", params=NAMES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A bundled model's name and the folder of its export."""
    out = tmp_path_factory.mktemp("exported") / request.param / "1"
    flags = ["--models", str(ROOT / "models"), "--to", "savedmodel,onnx,tflite", "--out", str(out)]
    assert main([request.param, *flags]) == 0
    return str(request.param), out


def test_a_bundled_model_answers_as_its_bundled_file_does(exported: tuple[str, Path]) -> None:
    name, out = exported
    random = np.random.default_rng(1)
    ids = random.integers(2, 5000, (3, 9)).astype(np.int32)
    batches: dict[str, dict[str, Any]] = {
        "digits": {"image": random.uniform(0, 255, (3, 28, 28, 1)).astype(np.float32)},
        "digits-student": {"image": random.uniform(0, 255, (3, 28, 28, 1)).astype(np.float32)},
        "sentiment": {"ids": ids},
        "word2vec": {"ids": ids[:, :2], "weights": np.ones((3, 2), np.float32)},
    }

    bundled = parity.onnx(ROOT / "models" / name / "1" / "model.onnx")

    for run in (parity.saved_model(out), parity.onnx(out / "model.onnx"), parity.tflite(out / "model.tflite")):
        parity.compare(name, bundled, run, [batches[name]])


def test_its_tflite_file_has_builtin_operators_only_and_carries_what_an_app_needs(exported: tuple[str, Path]) -> None:
    name, out = exported
    content = (out / "model.tflite").read_bytes()

    files = metadata.unpack(content)

    assert not {"WHILE", "CUSTOM"} & set(lite.operators(content))
    described = manifest.read(ROOT / "models" / name / "1")
    assert described is not None
    assert json.loads(files["millrace.json"])["name"] == name
    assert files.get("labels.txt", "").splitlines() == list(described.labels)
    if name in ("sentiment", "word2vec"):
        written = (ROOT / "models" / name / "1" / "vocabulary.txt").read_text(encoding="utf-8")
        assert files["vocabulary.txt"] == written


def test_the_worker_serves_its_saved_model_and_tflite_file(exported: tuple[str, Path]) -> None:
    name, out = exported
    for backend in ("savedmodel", "tflite"):
        loaded = workers.load(out, name, 1, device=Device(kind="cpu", threads=1), backend=backend, max_batch_size=8)

        assert loaded.announcement.state == "AVAILABLE"


def test_raw_inputs_have_signatures_of_their_own(exported: tuple[str, Path]) -> None:
    name, out = exported
    signatures = tf.saved_model.load(str(out)).signatures
    raw = {"sentiment": "serving_text", "word2vec": ""}.get(name, "serving_image")

    assert set(signatures) == {"serving_default"} | ({raw} if raw else set())
    if raw == "serving_image":
        file = (ROOT / "examples" / "seven.png").read_bytes()
        assert signatures[raw](image=tf.constant([file]))["probabilities"].numpy().argmax() == 7
    if name == "sentiment":
        description = manifest.read(out)
        assert description
        (step,) = description.preprocessing
        assert isinstance(step, Tokenize)
        texts = ["What a wonderful film!", "A dull, lifeless film."]
        found = signatures[raw](text=tf.constant(texts))["probabilities"].numpy()
        vocabulary = Vocabulary.read(out / "vocabulary.txt")
        for text, answer in zip(texts, found, strict=True):
            ids = np.array([vocabulary.encode(text, step.max_length, step.keep)], np.int32)
            expected = signatures["serving_default"](ids=tf.constant(ids))["probabilities"].numpy()[0]
            np.testing.assert_allclose(answer, expected, atol=1e-6)
