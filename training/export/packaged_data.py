"""Examples for the models that come with Millrace, from packages and from this repository: they need no data folder.

Digits are scikit-learn's, which 43 people wrote and no model was trained on; texts are the sentences of `negation`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.artifacts.manifest import DecodeImage, Tokenize
from millrace.artifacts.vocabulary import Vocabulary
from training import negation, robustness
from training.export.model import Trained

_CALIBRATED, _TOGETHER = 200, 64
_COMPARED = (1, 3, 32, 164)
_SENTENCES = (1, 4, 16, 40)  # that are joined to texts of several lengths

Rows = npt.NDArray[Any]


def with_packaged_data(trained: Trained) -> Trained:
    """The same, compared and scored on those examples; as it is where its manifest says that it takes neither."""
    for step in trained.description.preprocessing:
        match step:
            case DecodeImage() if step.is_bare:
                return _digits(trained, step.input)
            case Tokenize() if not step.tokenizer and trained.vocabulary is not None:
                return _texts(trained, step, trained.vocabulary)
    return trained


def _digits(trained: Trained, name: str) -> Trained:
    found = robustness.digit_sets(np.zeros((0, 28, 28, 1), np.uint8), np.zeros(0, np.int64))["scikit_learn"]()
    order = np.random.default_rng(0).permutation(len(found.images))
    calibrated, others = order[:_CALIBRATED], order[_CALIBRATED:]
    starts = np.cumsum((0, *_COMPARED))
    parts = [others[start : start + _TOGETHER] for start in range(0, len(others), _TOGETHER)]
    return replace(
        trained,
        batches=[{name: found.images[others[i : i + n]]} for i, n in zip(starts, _COMPARED, strict=False)],
        compared_on="scikit-learn's handwritten digits",
        tested=[({name: found.images[part]}, found.labels[part]) for part in parts],
        representative=[{name: found.images[place : place + 1]} for place in calibrated],
        representative_from=f"{_CALIBRATED} other digits of scikit-learn's",
    )


def _texts(trained: Trained, step: Tokenize, vocabulary: Vocabulary) -> Trained:
    def encoded(text: str) -> list[int]:
        return vocabulary.encode(text, step.max_length, step.keep)

    texts = [review.text for review in negation.MEASURED]
    rows = [encoded(text) for text in texts]
    long = [
        encoded(" ".join(texts[start : start + count])) for count in _SENTENCES for start in range(0, len(texts), count)
    ]
    labels = np.array([review.label for review in negation.MEASURED])
    return replace(
        trained,
        batches=[{step.output: _padded(rows[:3])}, *({step.output: _padded([row])} for row in long)],
        compared_on="eighty negated sentences, alone and joined to texts",
        tested=[({step.output: _padded([row])}, label[None]) for row, label in zip(rows, labels, strict=True)],
        representative=[{step.output: _padded([row])} for row in long],
        representative_from="the same sentences",
    )


def _padded(rows: Sequence[Sequence[int]]) -> Rows:
    filled = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for line, row in zip(filled, rows, strict=True):
        line[: len(row)] = row
    return filled
