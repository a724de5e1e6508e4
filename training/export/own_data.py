"""The data of the models that come with Millrace, to score their formats and to calibrate full int8."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.artifacts.manifest import DecodeImage, LookUpWords, Tokenize
from millrace.artifacts.vocabulary import Vocabulary
from training import data, parity
from training.export.model import ExportError, Trained

_CALIBRATED, _TOGETHER = 200, 64
_COMPARED = (1, 3, 32, 164)

Tested = list[tuple[parity.Arrays, npt.NDArray[Any]]]


def with_own_data(trained: Trained, folder: data.DataFolder, limit: int | None) -> Trained:
    """The same, scored on its test set and calibrated on its training set, both from a data folder.

    Word vectors are calibrated on words drawn at random: their training set is running text.
    At most `limit` test examples are used, evenly spread over the set. Raises `ExportError` for a model of other data,
    `DataError` for data that are not there.
    """
    for step in trained.description.preprocessing:
        match step:
            case DecodeImage() if step.is_bare:
                return _digits(trained, step.input, folder, limit)
            case Tokenize() if not step.tokenizer:
                return _reviews(trained, step, folder, limit)
            case LookUpWords():
                return _analogies(trained, step, folder, limit)
    raise ExportError(f"{trained.description.name} was not trained on Millrace's data; give yours with --data FILE.npz")


def _digits(trained: Trained, name: str, folder: data.DataFolder, limit: int | None) -> Trained:
    images, labels = data.mnist(folder, data.MNIST_TEST)
    chosen = _spread(len(images), limit)
    rows = images[chosen].astype(np.float32)
    known, _ = data.mnist(folder, data.MNIST_TRAIN)
    starts = np.cumsum((0, *_COMPARED))
    return replace(
        trained,
        batches=[{name: rows[i : i + n]} for i, n in zip(starts, _COMPARED, strict=False) if i < len(rows)],
        compared_on="MNIST test images",
        tested=[({name: rows[i : i + 256]}, labels[chosen][i : i + 256]) for i in range(0, len(rows), 256)],
        representative=[{name: image[None].astype(np.float32)} for image in known[:_CALIBRATED]],
        representative_from=f"{min(_CALIBRATED, len(known))} MNIST training images",
    )


def _reviews(trained: Trained, step: Tokenize, folder: data.DataFolder, limit: int | None) -> Trained:
    reviews = data.imdb(folder, data.IMDB_TEST)
    reviews = [reviews[place] for place in _spread(len(reviews), limit)]
    ids = [_ids(review.text, step, trained.vocabulary) for review in reviews]
    labels = np.array([review.label for review in reviews])
    order = np.argsort([len(row) for row in ids])  # texts of about the same length together
    parts = [order[start : start + _TOGETHER] for start in range(0, len(order), _TOGETHER)]
    starts = np.cumsum((0, 1, 3))
    known = data.imdb(folder, data.IMDB_TRAIN)
    known = [known[place] for place in _spread(len(known), _CALIBRATED)]
    return replace(
        trained,
        batches=[
            {step.output: _padded(ids[i : i + n])} for i, n in zip(starts, (1, 3, 32), strict=True) if i < len(ids)
        ],
        compared_on="IMDB test reviews",
        tested=[({step.output: _padded([ids[place] for place in part])}, labels[part]) for part in parts],
        representative=[
            {step.output: np.array([_ids(review.text, step, trained.vocabulary)], np.int32)} for review in known
        ],
        representative_from=f"{len(known)} IMDB training reviews",
    )


def _analogies(trained: Trained, step: LookUpWords, folder: data.DataFolder, limit: int | None) -> Trained:
    from training.word2vec import ANALOGIES

    vocabulary = _needed(trained.vocabulary)
    text = folder.file(ANALOGIES).read_text(encoding="utf-8")
    lines = [line.lower().split() for line in text.splitlines() if not line.startswith(":")]
    found = [[vocabulary.find(word) for word in line] for line in lines]
    known = np.array([ids for ids in found if None not in ids], np.int32)
    known = known[_spread(len(known), limit)]
    weights = np.array([-1, 1, 1], np.float32)  # a is to b as c is to b - a + c

    def rows(start: int, count: int) -> parity.Arrays:
        ids = known[start : start + count, :3]
        return {step.output: ids, step.weights: np.tile(weights, (len(ids), 1))}

    return replace(
        trained,
        batches=[rows(0, 1), rows(1, 3), rows(4, 32)],
        compared_on="analogies",
        tested=[(rows(i, 32), known[i : i + 32, 3]) for i in range(0, len(known), 32)],
    )


def _needed(vocabulary: Vocabulary | None) -> Vocabulary:
    if vocabulary is None:
        raise ExportError("the version's folder has no vocabulary.txt")
    return vocabulary


def _spread(count: int, limit: int | None) -> npt.NDArray[np.int64]:
    """The places of at most `limit` of `count` examples, evenly spread: sets may be sorted by label."""
    return np.linspace(0, count - 1, min(count, limit or count)).round().astype(np.int64)


def _ids(text: str, step: Tokenize, vocabulary: Vocabulary | None) -> list[int]:
    return _needed(vocabulary).encode(text, step.max_length, step.keep)


def _padded(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    filled = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for line, row in zip(filled, rows, strict=True):
        line[: len(row)] = row
    return filled
