"""Negated sentences: those made for training, and those written to measure with."""

import re

from millrace.artifacts.vocabulary import words
from training import negated, negation

WRITTEN = negated.ALL


def test_made_sentences_are_the_same_for_a_seed_and_half_of_them_positive() -> None:
    made = negation.sentences(400, seed=1)

    assert made == negation.sentences(400, seed=1)
    assert made != negation.sentences(400, seed=2)
    assert sum(review.label for review in made) == 200
    assert not any("{" in review.text for review in made)


def test_a_made_sentence_has_one_label() -> None:
    labels: dict[str, set[int]] = {}
    for review in negation.sentences(10_000, seed=1):
        labels.setdefault(review.text, set()).add(review.label)

    assert {text for text, found in labels.items() if len(found) > 1} == set()


def test_words_of_praise_and_blame_are_made_in_both_labels() -> None:
    made = negation.sentences(8_000, seed=1)

    for word in ("good", "bad", "boring", "dull"):
        found = [review.label for review in made if word in words(review.text)]
        assert 0.25 < sum(found) / len(found) < 0.75


def test_negation_turns_the_label_round() -> None:
    made = negation.sentences(20_000, seed=1)

    def labels(*starts: str) -> set[int]:
        return {review.label for review in made if review.text.startswith(starts)}

    assert labels("not bad", "not dull", "not a dull", "without a flaw", "it never drags") == {1}
    assert labels("not good", "not funny", "not a good", "without a surprise", "it never surprises") == {0}


def test_no_measured_sentence_is_made() -> None:
    measured = {tuple(words(review.text)) for review in WRITTEN}

    made = {
        tuple(words(part)) for review in negation.sentences(20_000, seed=3) for part in re.split(r"[.,;] ", review.text)
    }

    assert measured.isdisjoint(made)
    assert len(measured) == len(WRITTEN)
    assert sum(review.label for review in negated.MEASURED) == len(negated.MEASURED) / 2
    assert all(sum(review.label for review in part) == 44 for part in (negated.DENIED, negated.LATER))
    assert [sum(review.label == label for review in negated.FRESH) for label in (0, 1)] == [30, 60]
    assert [sum(review.label == label for review in negated.UNSEEN) for label in (0, 1)] == [42, 76]
    assert [sum(review.label == label for review in negated.PLAIN) for label in (0, 1)] == [10, 10]
