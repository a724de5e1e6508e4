"""The bundled ONNX models reach their promised scores on the real test sets, read as serving reads them.

The data are looked for in `../shared/data`, beside the repository; docs/howto/train.md says what is in that folder.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.artifacts import manifest
from millrace.artifacts.vocabulary import Vocabulary
from training import data

onnxruntime = pytest.importorskip("onnxruntime")
Image = pytest.importorskip("PIL.Image")
from millrace.artifacts.images import read_digit  # noqa: E402 - after the skip where Pillow is not installed

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the test sets are not in ../shared/data")


class Bundled:
    """A bundled model, its manifest and its vocabulary."""

    def __init__(self, name: str) -> None:
        self.folder = ROOT / "models" / name / "1"
        found = manifest.read(self.folder)
        assert found is not None
        self.manifest = found
        self.session = onnxruntime.InferenceSession(self.folder / "model.onnx", providers=["CPUExecutionProvider"])

    def vocabulary(self) -> Vocabulary:
        return Vocabulary.read(self.folder / "vocabulary.txt")

    def run(self, **inputs: Any) -> dict[str, Any]:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, inputs), strict=True))


class Reviewer:
    """The sentiment model, from texts to the probability that each is positive."""

    def __init__(self) -> None:
        self.model, self.vocabulary = Bundled("sentiment"), Bundled("sentiment").vocabulary()
        (step,) = self.model.manifest.preprocessing
        assert isinstance(step, manifest.Tokenize)
        assert step.keep == "end"
        self.max_length = step.max_length

    def positive(self, texts: Sequence[str]) -> Any:
        ids = [self.vocabulary.encode(text, self.max_length, "end") for text in texts]
        found = np.empty(len(ids), np.float32)
        for rows in _alike(ids):
            padded = np.zeros((len(rows), max(len(ids[row]) for row in rows)), np.int32)
            for line, row in zip(padded, rows, strict=True):
                line[: len(ids[row])] = ids[row]
            found[rows] = self.model.run(ids=padded)["probabilities"][:, 1]
        return found

    def accuracy(self, reviews: Sequence[data.Review]) -> float:
        positive = self.positive([review.text for review in reviews]) > 0.5
        return float((positive == [review.label for review in reviews]).mean())


def _alike(ids: Sequence[Sequence[int]]) -> Iterator[Any]:
    order = np.argsort([len(text) for text in ids])
    return (order[start : start + 64] for start in range(0, len(order), 64))


class Words:
    """The word2vec model, from words with weights to the nearest words."""

    def __init__(self) -> None:
        self.model, self.vocabulary = Bundled("word2vec"), Bundled("word2vec").vocabulary()

    def nearest(self, *words: str, weights: Sequence[float] = (1,)) -> list[str]:
        ids = np.array([[self.vocabulary.find(word) for word in words]], np.int32)
        found = self.model.run(ids=ids, weights=np.array([weights], np.float32))["neighbors"][0]
        return [self.vocabulary.entries[number] for number in found]


@pytest.fixture(scope="module")
def reviewer() -> Reviewer:
    return Reviewer()


@pytest.fixture(scope="module")
def words() -> Words:
    return Words()


@pytest.mark.parametrize("name", ["digits", "sentiment", "word2vec"])
def test_bundled_files_are_those_of_the_manifest_and_small(name: str) -> None:
    model = Bundled(name)

    manifest.verify(model.folder, model.manifest)
    files = [model.folder / file for file in ("model.onnx", "manifest.json", "vocabulary.txt")]
    assert all(file.stat().st_size < 4_000_000 for file in files if file.exists())
    assert set(model.manifest.parity) == {"saved_model", "onnx", "tflite"}


@needs_data
def test_digits_are_read_in_at_least_994_of_1000_test_images() -> None:
    images, labels = data.mnist(data.DataFolder(DATA), data.MNIST_TEST)

    probabilities = Bundled("digits").run(image=images.astype(np.float32))["probabilities"]

    assert (probabilities.argmax(axis=1) == labels).mean() >= 0.994


@needs_data
def test_digits_are_read_from_files_of_dark_ink_on_white_of_another_size() -> None:
    images, labels = data.mnist(data.DataFolder(DATA), data.MNIST_TEST)

    files = [_scanned(image[..., 0]) for image in images[:500]]
    probabilities = Bundled("digits").run(image=np.stack([read_digit(file) for file in files]))["probabilities"]

    assert (probabilities.argmax(axis=1) == labels[:500]).mean() >= 0.98


def _scanned(image: Any) -> bytes:
    picture, file = Image.new("L", (150, 120), 235), io.BytesIO()
    picture.paste(Image.fromarray(235 - (image * 0.85).astype(np.uint8)).resize((84, 84)), (10, 30))
    picture.save(file, "PNG")
    return file.getvalue()


def test_the_example_image_is_a_seven() -> None:
    pixels = read_digit((ROOT / "examples" / "seven.png").read_bytes())

    assert Bundled("digits").run(image=pixels[None])["probabilities"].argmax() == 7


@needs_data
def test_sentiment_is_right_for_at_least_86_of_100_reviews(reviewer: Reviewer) -> None:
    assert reviewer.accuracy(data.read_tsv(DATA / data.IMDB_TEST.path)) >= 0.86


@needs_data
def test_sentiment_is_right_for_at_least_80_of_100_single_sentences(reviewer: Reviewer) -> None:
    assert reviewer.accuracy(data.read_tsv(DATA / "sst2" / "dev.tsv.gz")) >= 0.80


@pytest.mark.parametrize("text", ["what a wonderful film", "I loved it", "great"])
def test_short_praise_is_positive(reviewer: Reviewer, text: str) -> None:
    assert reviewer.positive([text])[0] > 0.5


@pytest.mark.parametrize("text", ["a dull, lifeless film", "not good at all", "don't waste your time", "boring"])
def test_short_blame_is_negative(reviewer: Reviewer, text: str) -> None:
    assert reviewer.positive([text])[0] < 0.5


def test_a_review_is_judged_alike_beside_a_longer_one(reviewer: Reviewer) -> None:
    text = "what a wonderful film"

    together = reviewer.positive([text, "dull " * 300])

    assert together[0] == pytest.approx(reviewer.positive([text])[0], abs=1e-6)


def test_paris_and_london_are_near_each_other(words: Words) -> None:
    assert "london" in words.nearest("paris")
    assert "paris" in words.nearest("london")


def test_king_less_man_plus_woman_is_near_queen(words: Words) -> None:
    assert "queen" in words.nearest("king", "man", "woman", weights=(1, -1, 1))[:5]
