"""The texts of the last epochs of `sentiment`: parts of reviews, sentences, and many that deny blame or praise.

Whole reviews say little of what a "not" does to the words after it: a review with three denials is still a review that
praises. In short texts the denial decides. Each epoch has other parts and other made sentences.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from millrace.artifacts.vocabulary import words
from training import denials, negation
from training.data import Review

_SHORTEST, _LONGEST = 40, 90  # words of a review's part
_TIMES = 4  # that real sentences with a negator are shown, so that the made ones do not hide what they mostly say


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many texts of each kind an epoch has, besides the sentences that are labelled by hand."""

    reviews: int  # parts of them
    made: int  # see `negation`
    varied: int  # see `denials`


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the texts are made of."""

    reviews: Sequence[Review]
    sentences: Sequence[Review]
    found: denials.Found

    def texts(self, counts: Counts, seed: tuple[int, int]) -> list[Review]:
        """The texts of an epoch; the same seed and number of the epoch make the same ones."""
        random = np.random.default_rng(seed)
        chosen = random.permutation(len(self.reviews))[: counts.reviews]
        made_seed = int(random.integers(2**32))
        return [
            *(_part(self.reviews[index], random) for index in chosen),
            *self.sentences,
            *self.found.sentences,
            *(_TIMES - 1) * [sentence for sentence in self.sentences if _has_negator(sentence)],
            *negation.sentences(counts.made, made_seed),
            *denials.varied(self.found, counts.varied, made_seed),
        ]


def _has_negator(sentence: Review) -> bool:
    return any(denials.is_negator(word) for word in words(sentence.text))


def _part(review: Review, random: np.random.Generator) -> Review:
    said = review.text.split()
    length = int(random.integers(_SHORTEST, _LONGEST + 1))
    start = int(random.integers(0, max(0, len(said) - length) + 1))
    return Review(text=" ".join(said[start : start + length]), label=review.label)
