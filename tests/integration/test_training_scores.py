"""The bundled ONNX models reach their promised scores on the real test sets, read as serving reads them.

The data are looked for in `../shared/data`, beside the repository; docs/howto/train.md says what is in that folder.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.artifacts import manifest

pytest.importorskip("onnxruntime")
pytest.importorskip("sklearn")
Image = pytest.importorskip("PIL.Image")
from millrace.artifacts.images import read_digit  # noqa: E402 - after the skip where Pillow is not installed
from training import data, scores  # noqa: E402
from training.scores import Published  # noqa: E402

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the test sets are not in ../shared/data")


class Words:
    """The word2vec model, from words with weights to the nearest words."""

    def __init__(self) -> None:
        self.run, self.vocabulary = _bundled("word2vec").run(), _bundled("word2vec").vocabulary()

    def nearest(self, *words: str, weights: Sequence[float] = (1,)) -> list[str]:
        ids = np.array([[self.vocabulary.find(word) for word in words]], np.int32)
        found = self.run({"ids": ids, "weights": np.array([weights], np.float32)})["neighbors"][0]
        return [self.vocabulary.entries[number] for number in found]


def _bundled(name: str) -> Published:
    return Published(ROOT / "models", name)


@pytest.fixture(scope="module")
def words() -> Words:
    return Words()


@pytest.mark.parametrize("name", ["digits", "digits-student", "sentiment", "word2vec"])
def test_bundled_files_are_those_of_the_manifest_and_small(name: str) -> None:
    model = _bundled(name)

    manifest.verify(model.folder, model.manifest)
    files = [model.folder / file for file in ("model.onnx", "manifest.json", "vocabulary.txt")]
    assert all(file.stat().st_size < 4_000_000 for file in files if file.exists())
    assert set(model.manifest.parity) == {"saved_model", "onnx", "tflite"}


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("promise", scores.PROMISES, ids=lambda promise: f"{promise.model}: {promise.about}")
def test_promises_are_kept(promise: scores.Promise) -> None:
    exam = scores.Exam(repository=ROOT / "models", folder=data.DataFolder(DATA))

    assert promise.is_kept(promise.measure(exam))


@needs_data
def test_digits_are_read_from_files_of_dark_ink_on_white_of_another_size() -> None:
    images, labels = data.mnist(data.DataFolder(DATA), data.MNIST_TEST)

    pixels = np.stack([read_digit(_scanned(image[..., 0])) for image in images[:500]])

    assert (_bundled("digits").read_images(pixels).argmax(axis=1) == labels[:500]).mean() >= 0.98


def _scanned(image: Any) -> bytes:
    picture, file = Image.new("L", (150, 120), 235), io.BytesIO()
    picture.paste(Image.fromarray(235 - (image * 0.85).astype(np.uint8)).resize((84, 84)), (10, 30))
    picture.save(file, "PNG")
    return file.getvalue()


def test_the_example_image_is_a_seven() -> None:
    pixels = read_digit((ROOT / "examples" / "seven.png").read_bytes())

    assert _bundled("digits").read_images(pixels[None]).argmax() == 7


def _positive(texts: Sequence[str]) -> Any:
    return _bundled("sentiment").read_texts(texts)[:, 1]


@pytest.mark.parametrize("text", ["what a wonderful film", "I loved it", "great", "not bad at all"])
def test_short_praise_is_positive(text: str) -> None:
    assert _positive([text])[0] > 0.5


@pytest.mark.parametrize("text", ["a dull, lifeless film", "not good at all", "I did not like it", "boring"])
def test_short_blame_is_negative(text: str) -> None:
    assert _positive([text])[0] < 0.5


def test_a_review_is_judged_alike_beside_a_longer_one() -> None:
    text = "what a wonderful film"

    together = _positive([text, "dull " * 300])

    assert together[0] == pytest.approx(_positive([text])[0], abs=1e-6)


def test_paris_and_london_are_near_each_other(words: Words) -> None:
    assert "london" in words.nearest("paris")
    assert "paris" in words.nearest("london")


def test_king_less_man_plus_woman_is_near_queen(words: Words) -> None:
    assert "queen" in words.nearest("king", "man", "woman", weights=(1, -1, 1))[:5]
