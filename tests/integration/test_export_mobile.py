"""The Python program of docs/howto/mobile.md, run as it stands there where neither TensorFlow nor Millrace is."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.artifacts.manifest import DecodeImage, Manifest, Tokenize
from millrace.artifacts.repository import ModelRepository
from millrace.artifacts.vocabulary import Vocabulary
from millrace.protocol.tensors import Signature, TensorSpec

keras = pytest.importorskip("keras")
from training import export, parity  # noqa: E402 - after the skip where TensorFlow is not installed

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "howto" / "mobile.md"
VOCABULARY = Vocabulary(["<pad>", "<unk>", "a", "film", "good", "bad", "don't", "!"])
L = keras.layers

ALONE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras", "millrace", "training", "worker"):
            raise ModuleNotFoundError(f"{name} is not installed on a phone")

sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"), {"__name__": "__main__"})
"""


def _manifest(name: str, step: Any, given: TensorSpec, labels: tuple[str, ...]) -> Manifest:
    outputs = (TensorSpec(name="probabilities", datatype="FP32", shape=(-1, len(labels))),)
    signatures = {"serving_default": Signature(inputs=(given,), outputs=outputs)}
    return Manifest(name=name, version=1, signatures=signatures, preprocessing=(step,), labels=labels)


def _digits() -> tuple[Any, Manifest]:
    image = L.Input((28, 28, 1), name="image")
    scores = L.Dense(10, activation="softmax", name="probabilities")(L.Flatten()(L.Rescaling(1 / 255)(image)))
    given = TensorSpec(name="image", datatype="FP32", shape=(-1, 28, 28, 1), media="image")
    return keras.Model(image, scores), _manifest("digits", DecodeImage(input="image"), given, tuple("0123456789"))


def _sentiment() -> tuple[Any, Manifest]:
    ids = L.Input((None,), dtype="int32", name="ids")
    state = L.LSTM(6)(L.Embedding(len(VOCABULARY), 4, embeddings_initializer="normal")(ids))
    step = Tokenize(input="text", output="ids", max_length=5, keep="end")
    given = TensorSpec(name="text", datatype="BYTES", shape=(-1,))
    scores = L.Dense(2, activation="softmax", name="probabilities")(state)
    return keras.Model(ids, scores), _manifest("sentiment", step, given, ("negative", "positive"))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    """Tiny models of the bundled ones' form, not trained."""
    keras.utils.set_random_seed(7)
    repository, random = ModelRepository(tmp_path_factory.mktemp("models")), np.random.default_rng(0)
    batches: dict[str, Any] = {
        "digits": {"image": random.uniform(0, 255, (3, 28, 28, 1)).astype(np.float32)},
        "sentiment": {"ids": random.integers(1, 8, (3, 6)).astype(np.int32)},
    }
    for model, description in (_digits(), _sentiment()):
        export.publish(
            export.Target(repository=repository, version=1),
            description,
            export.exports_of(model),
            export.answers_of(model),
            [batches[description.name]],
            VOCABULARY if description.name == "sentiment" else None,
        )
    return repository


def _program(tmp_path: Path) -> Path:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "phone.py").write_text(code)
    return tmp_path / "phone.py"


def _said(published: ModelRepository, tmp_path: Path, text: str) -> list[str]:
    files = [str(published.folder(name, 1) / "model.tflite") for name in ("digits", "sentiment")]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(_program(tmp_path)), *files, str(ROOT / "examples" / "seven.json"), text],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _expected(published: ModelRepository, text: str) -> list[str]:
    image = np.array(json.loads((ROOT / "examples" / "seven.json").read_text())["instances"], np.float32)
    digit = parity.onnx(published.folder("digits", 1) / "model.onnx")({"image": image.reshape(1, 28, 28, 1)})
    ids = np.array([VOCABULARY.encode(text, 5, "end")], np.int32)
    mood = parity.onnx(published.folder("sentiment", 1) / "model.onnx")({"ids": ids})
    found = []
    for name, labels, scores in (
        ("digit", "0123456789", digit["probabilities"][0]),
        ("text", ("negative", "positive"), mood["probabilities"][0]),
    ):
        found.append(f"{name}: {labels[scores.argmax()]} ({scores.max():.4f})")
    return found


@pytest.mark.parametrize("text", ["A good film!", "Don\u2019t<br />a bad film bad bad good zzz", "", "good " * 9])
def test_the_pages_program_answers_as_the_served_models_do(
    published: ModelRepository, tmp_path: Path, text: str
) -> None:
    assert _said(published, tmp_path, text) == _expected(published, text)


def test_the_program_runs_where_the_blocked_modules_are_missing(tmp_path: Path) -> None:
    (tmp_path / "imports.py").write_text("import tensorflow\n")

    done = subprocess.run([sys.executable, "-c", ALONE, str(tmp_path / "imports.py")], capture_output=True, text=True)

    assert "not installed on a phone" in done.stderr
