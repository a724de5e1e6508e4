"""Negated sentences with their labels, made to train on; those to measure with are in `negated`.

Words of praise and blame far outweigh the small words that turn them round, and reviews show too few of the pairs
("funny", "not funny") for a small model to learn from. So pairs are made: a pattern, and a word of praise or blame in
it. What a pattern says is either what its word says or the opposite. Idioms ("can't beat it") are learned as a whole.
"""

from collections.abc import Sequence

import numpy as np

from millrace.artifacts.vocabulary import words
from training import negated
from training.data import Review
from training.negation_idioms import OF_BLAME, OF_PRAISE
from training.negation_patterns import REVERSED
from training.negation_plain import AFTER, BEFORE, KEPT
from training.negation_words import NEUTRAL, WORDS

IDIOMS = (OF_BLAME, OF_PRAISE)  # by label
_REVERSED_SHARE = 0.6  # of the sentences
_IDIOM_SHARE = 0.35  # of the others
_TWO_SHARE = 0.12  # that are followed by another one that says the same
_BEFORE_SHARE, _AFTER_SHARE = 0.12, 0.12  # that have words before or after them that say nothing
_THIRD_PERSON = ("breaks", "fails", "treats")  # of the verbs without an s
_BETWEEN = (". ", " and ", ", ", " ; ")


def sentences(count: int, seed: int) -> list[Review]:
    """So many made sentences, as many positive as negative; the same seed makes the same ones."""
    maker = _Maker(seed)
    return [Review(text=maker.text(number % 2), label=number % 2) for number in range(count)]


class _Maker:
    """Makes texts; what it chooses comes from the seed."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._measured = {tuple(words(review.text)) for review in negated.ALL}

    def text(self, label: int) -> str:
        """One sentence of that label, or two."""
        first = self._surrounded(label)
        if self._random.random() >= _TWO_SHARE:
            return first
        return first + self._one_of(_BETWEEN) + self._surrounded(label)

    def _surrounded(self, label: int) -> str:
        text = self._sentence(label)
        if self._random.random() < _BEFORE_SHARE:
            text = f"{self._filled(self._one_of(BEFORE), label)} {text}"
        if self._random.random() < _AFTER_SHARE:
            text = f"{text} {self._filled(self._one_of(AFTER), label)}"
        return text

    def _sentence(self, label: int) -> str:
        text = self._any_sentence(label)
        return self._sentence(label) if tuple(words(text)) in self._measured else text

    def _any_sentence(self, label: int) -> str:
        if self._random.random() < _REVERSED_SHARE:
            return self._filled(self._one_of(REVERSED), 1 - label)
        return self._filled(self._one_of(IDIOMS[label] if self._random.random() < _IDIOM_SHARE else KEPT), label)

    def _filled(self, text: str, said: int) -> str:
        while "{" in text:
            before, _, rest = text.partition("{")
            name, _, after = rest.partition("}")
            text = before + self._word(name, said) + after
        return text

    def _word(self, name: str, said: int) -> str:
        if name in _THIRD_PERSON:
            return _third_person(self._word(name.removesuffix("s"), said))
        return self._one_of((WORDS[name][said] if name in WORDS else NEUTRAL[name]).split("|"))

    def _one_of(self, choices: Sequence[str]) -> str:
        return choices[int(self._random.integers(len(choices)))]


def _third_person(verb: str) -> str:
    first, _, rest = verb.partition(" ")
    if first.endswith("y") and first[-2] not in "aeiou":
        first = f"{first[:-1]}ies"
    else:
        first += "es" if first.endswith(("s", "sh", "ch", "o")) else "s"
    return f"{first} {rest}".rstrip()
