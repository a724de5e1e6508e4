"""What the published models promise, and what they reach on the real test sets, each as it is served.

    python -m training scores

takes about three minutes on two cores. The models are run by ONNX Runtime, or by LiteRT where the promise is about a
TFLite file; texts and images go through the preprocessing that their manifest names. The command fails where a
promise is not kept. `PROMISES`, below, is the only place where they are written down.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.artifacts import manifest
from millrace.artifacts.detector import FILE_NAME as DETECTOR
from millrace.artifacts.detector import Detector
from millrace.artifacts.manifest import Tokenize
from millrace.artifacts.vocabulary import Vocabulary
from training import calibration, data, negated, parity, robustness, word2vec

_BATCH = 64
_BUNDLED = ("README.md", DETECTOR, "manifest.json", "model.int8.tflite", "model.keras", "model.onnx", "vocabulary.txt")

Floats = npt.NDArray[np.float32]


class Published:
    """A model version in a repository, with its manifest; its files are opened when they are asked for."""

    def __init__(self, repository: Path, name: str, version: int = 1) -> None:
        self.folder = repository / name / str(version)
        found = manifest.read(self.folder)
        if found is None:
            raise data.DataError(f"{self.folder} holds no published model")
        self.manifest = found

    def run(self, file: str = "model.onnx") -> parity.Run:
        """The model, in the runtime of that file."""
        return (parity.onnx if file.endswith(".onnx") else parity.tflite)(self.folder / file)

    def vocabulary(self) -> Vocabulary:
        """Its words."""
        return Vocabulary.read(self.folder / "vocabulary.txt")

    def read_images(self, images: npt.NDArray[Any], file: str = "model.onnx") -> Floats:
        """The probabilities of images [n, 28, 28, 1]."""
        run, pixels = self.run(file), images.astype(np.float32)
        return np.concatenate(
            [run({"image": pixels[at : at + _BATCH]})["probabilities"] for at in range(0, len(pixels), _BATCH)]
        )

    def read_texts(self, texts: Sequence[str]) -> Floats:
        """The probabilities of texts, in batches of about the same length."""
        (step,) = self.manifest.preprocessing
        if not isinstance(step, Tokenize) or step.tokenizer:
            raise data.DataError(f"{self.folder} takes no texts")
        vocabulary, run = self.vocabulary(), self.run()
        ids = [vocabulary.encode(text, step.max_length, step.keep) for text in texts]
        order = np.argsort([len(text) for text in ids])
        found = np.empty((len(ids), len(self.manifest.labels)), np.float32)
        for rows in (order[start : start + _BATCH] for start in range(0, len(order), _BATCH)):
            padded = np.zeros((len(rows), max(len(ids[row]) for row in rows)), np.int32)
            for line, row in zip(padded, rows, strict=True):
                line[: len(ids[row])] = ids[row]
            found[rows] = run({step.output: padded})["probabilities"]
        return found

    def word_vectors(self) -> tuple[Floats, Vocabulary]:
        """The vector of every word, as the model answers it, with the words."""
        vocabulary, run = self.vocabulary(), self.run()
        ids = np.arange(len(vocabulary), dtype=np.int32)[:, None]
        batches = (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))
        vectors = [run({"ids": batch, "weights": np.ones(batch.shape, np.float32)})["vector"] for batch in batches]
        return np.concatenate(vectors), vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """Where the models and the test sets are."""

    repository: Path
    folder: data.DataFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One promise of one model: a measure that is at least, or with `is_limit` at most, `bound`."""

    model: str
    about: str
    bound: float
    measure: Callable[[Exam], float]
    is_limit: bool = False

    def is_kept(self, measured: float) -> bool:
        """Whether that is good enough."""
        return measured <= self.bound if self.is_limit else measured >= self.bound


# How each is measured


def _mnist_accuracy(name: str, file: str = "model.onnx") -> Callable[[Exam], float]:
    def measure(exam: Exam) -> float:
        images, labels = data.mnist(exam.folder, data.MNIST_TEST)
        probabilities = Published(exam.repository, name).read_images(images, file)
        return float((probabilities.argmax(1) == labels).mean())

    return measure


def _mnist_calibration(exam: Exam) -> float:
    images, labels = data.mnist(exam.folder, data.MNIST_TEST)
    return calibration.expected_calibration_error(Published(exam.repository, "digits").read_images(images), labels)


def _other_digits(name: str) -> Callable[[Exam], float]:
    def measure(exam: Exam) -> float:
        images, labels = data.mnist(exam.folder, data.MNIST_TEST)
        found = robustness.digit_sets(images, labels)[name]()
        probabilities = Published(exam.repository, "digits").read_images(found.images)
        return float((probabilities.argmax(1) == found.labels).mean())

    return measure


def _digits_refused(exam: Exam) -> float:
    images, _ = data.mnist(exam.folder, data.MNIST_TEST)
    return _refused(exam, images.astype(np.float32))


def _letters_refused(exam: Exam) -> float:
    return _refused(exam, robustness.letters())


def _refused(exam: Exam, images: Floats) -> float:
    """The part of images [n, 28, 28, 1] on which the detector sees no digit."""
    detector = Detector.read(Published(exam.repository, "digits").folder / DETECTOR)
    return float(np.mean([not detector.sees_digit(image) for image in images]))


def _parameters(name: str) -> Callable[[Exam], float]:
    def measure(exam: Exam) -> float:
        import onnx

        graph = onnx.load(Published(exam.repository, name).folder / "model.onnx").graph
        return float(sum(np.prod(weights.dims) for weights in graph.initializer))

    return measure


def _kilobytes(name: str, file: str) -> Callable[[Exam], float]:
    return lambda exam: (Published(exam.repository, name).folder / file).stat().st_size / 1000


_Reviews = Callable[[data.DataFolder], Sequence[data.Review]]


def _imdb_test(folder: data.DataFolder) -> Sequence[data.Review]:
    return data.imdb(folder, data.IMDB_TEST)


def _sst2_dev(folder: data.DataFolder) -> Sequence[data.Review]:
    return data.read_tsv(folder.file(data.SST2_DEV))


def _negated(_: data.DataFolder) -> Sequence[data.Review]:
    return negated.MEASURED


def _blame_denied(part: Sequence[data.Review]) -> _Reviews:
    """The sentences of a set that say that nothing is wrong."""
    return lambda _: [review for review in part if review.label == 1]


def _text_accuracy(reviews: _Reviews) -> Callable[[Exam], float]:
    def measure(exam: Exam) -> float:
        probabilities, labels = _texts_read(exam, reviews)
        return float((probabilities.argmax(1) == labels).mean())

    return measure


def _text_calibration(reviews: _Reviews) -> Callable[[Exam], float]:
    return lambda exam: calibration.expected_calibration_error(*_texts_read(exam, reviews))


def _texts_read(exam: Exam, reviews: _Reviews) -> tuple[Floats, npt.NDArray[np.integer]]:
    """The sentiment model's probabilities of those texts, and their labels."""
    found = reviews(exam.folder)
    probabilities = Published(exam.repository, "sentiment").read_texts([review.text for review in found])
    return probabilities, np.array([review.label for review in found])


def _analogies(exam: Exam) -> float:
    vectors, vocabulary = Published(exam.repository, "word2vec").word_vectors()
    return word2vec.analogies(vectors, vocabulary, exam.folder.file(word2vec.ANALOGIES))


def _similarities(exam: Exam) -> float:
    vectors, vocabulary = Published(exam.repository, "word2vec").word_vectors()
    return word2vec.rank_correlation(vectors, vocabulary, exam.folder.file(word2vec.SIMILARITIES))


def _megabytes(exam: Exam) -> float:
    files = (path for path in exam.repository.rglob("*") if path.name in _BUNDLED or path.suffix == ".png")
    return sum(path.stat().st_size for path in files) / 1e6


# What is promised

_PHOTOS = {"shadow": 0.95, "vignette": 0.95, "lamp": 0.9, "lined_paper": 0.9, "squared_paper": 0.9, "box": 0.9}
PROMISES = (
    Promise(model="digits", about="accuracy, MNIST test", bound=0.996, measure=_mnist_accuracy("digits")),
    Promise(
        model="digits", about="calibration error, MNIST test", bound=0.01, measure=_mnist_calibration, is_limit=True
    ),
    Promise(model="digits", about="parameters", bound=400_000, measure=_parameters("digits"), is_limit=True),
    Promise(model="digits", about="accuracy, scanned", bound=0.985, measure=_other_digits("scanned")),
    Promise(model="digits", about="accuracy, drawn by mouse", bound=0.97, measure=_other_digits("drawn")),
    Promise(model="digits", about="accuracy, fonts", bound=0.97, measure=_other_digits("fonts")),
    Promise(model="digits", about="accuracy, scikit-learn's", bound=0.95, measure=_other_digits("scikit_learn")),
    Promise(model="digits", about="digits refused, MNIST test", bound=0.003, measure=_digits_refused, is_limit=True),
    Promise(model="digits", about="letters refused, of another font", bound=0.85, measure=_letters_refused),
    *(
        Promise(
            model="digits",
            about=f"accuracy, photos: {name.replace('_', ' ')}",
            bound=bound,
            measure=_other_digits(name),
        )
        for name, bound in _PHOTOS.items()
    ),
    Promise(
        model="digits-student",
        about="accuracy as int8 TFLite, MNIST test",
        bound=0.992,
        measure=_mnist_accuracy("digits-student", "model.int8.tflite"),
    ),
    Promise(
        model="digits-student",
        about="kB as int8 TFLite",
        bound=30,
        measure=_kilobytes("digits-student", "model.int8.tflite"),
        is_limit=True,
    ),
    Promise(model="sentiment", about="accuracy, IMDB test", bound=0.9, measure=_text_accuracy(_imdb_test)),
    Promise(model="sentiment", about="accuracy, SST-2 dev", bound=0.83, measure=_text_accuracy(_sst2_dev)),
    Promise(model="sentiment", about="accuracy, negated sentences", bound=0.85, measure=_text_accuracy(_negated)),
    *[
        Promise(model="sentiment", about=about, bound=bound, measure=_text_accuracy(_blame_denied(sentences)))
        for about, bound, sentences in (
            ("accuracy, blame denied", 0.85, negated.DENIED),
            ("accuracy, blame denied, written later", 0.85, negated.LATER),
            ("accuracy, blame denied, written last", 0.88, negated.FRESH),
            ("accuracy, blame denied, by somebody else", 0.88, negated.UNSEEN),
        )
    ],
    Promise(
        model="sentiment",
        about="accuracy, negators that deny nothing",
        bound=0.85,
        measure=_text_accuracy(lambda _: negated.PLAIN),
    ),
    Promise(
        model="sentiment",
        about="calibration error, IMDB test",
        bound=0.02,
        measure=_text_calibration(_imdb_test),
        is_limit=True,
    ),
    Promise(
        model="sentiment",
        about="calibration error, SST-2 dev",
        bound=0.05,
        measure=_text_calibration(_sst2_dev),
        is_limit=True,
    ),
    Promise(model="word2vec", about="analogies", bound=0.64, measure=_analogies),
    Promise(model="word2vec", about="WordSim-353, Spearman", bound=0.64, measure=_similarities),
    Promise(model="all bundled", about="MB", bound=12, measure=_megabytes, is_limit=True),
)


def main(argv: Sequence[str]) -> int:
    """Measure and print; returns 0 when every promise is kept, 1 otherwise or when data are missing."""
    parser = argparse.ArgumentParser(
        prog="python -m training scores", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, default=Path(".data"), help="the test sets; see docs/howto/train.md")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the model repository")
    parser.add_argument("--only", default="", help="the promises of this model only")
    options = parser.parse_args(argv)
    exam = Exam(repository=options.models, folder=data.DataFolder(options.data_dir))
    try:
        return int(not report([each for each in PROMISES if options.only in ("", each.model)], exam))
    except (data.DataError, manifest.ManifestError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1


def report(promises: Sequence[Promise], exam: Exam) -> bool:
    """Print what is promised and what is measured, a line each; whether all promises are kept."""
    print(f"{'model':<16} {'score':<38} {'promised':>10} {'measured':>10}")
    are_kept = True
    for promise in promises:
        measured = promise.measure(exam)
        bound = f"{'<=' if promise.is_limit else '>='} {promise.bound:g}"
        verdict = "" if promise.is_kept(measured) else "  SHORT"
        print(f"{promise.model:<16} {promise.about:<38} {bound:>10} {measured:>10.6g}{verdict}", flush=True)
        are_kept = are_kept and promise.is_kept(measured)
    return are_kept
