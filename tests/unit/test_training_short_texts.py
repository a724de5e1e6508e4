"""The texts of the last epochs of `sentiment`."""

from training import denials, short_texts
from training.data import Review

REVIEWS = [Review(text=" ".join(f"w{number}" for number in range(length)), label=length % 2) for length in (30, 201)]
SENTENCE = Review(text="a sentence", label=1)
COUNTS = short_texts.Counts(reviews=2, made=6, varied=4)
NOTHING = denials.find([], [])


def _texts(seed: tuple[int, int]) -> list[Review]:
    return short_texts.Source(reviews=REVIEWS, sentences=[SENTENCE], found=NOTHING).texts(COUNTS, seed)


def test_an_epoch_has_parts_of_reviews_sentences_and_made_ones() -> None:
    parts, rest = _texts((1, 3))[:2], _texts((1, 3))[2:]

    assert {part.label for part in parts} == {0, 1}
    for part in parts:
        (whole,) = (review.text for review in REVIEWS if review.label == part.label)
        assert f" {part.text} " in f" {whole} "
        assert len(part.text.split()) == 30 or 40 <= len(part.text.split()) <= 90
    assert rest[0] == SENTENCE
    assert len(rest) == 1 + COUNTS.made


def test_each_epoch_has_its_own_texts_and_the_same_ones_again() -> None:
    assert _texts((1, 3)) == _texts((1, 3))
    assert _texts((1, 3)) != _texts((1, 4))


def test_an_epoch_holds_the_reviews_own_denials_as_they_are_and_varied() -> None:
    said = {"dull": 0, "slow": 0, "funny": 1, "clever": 1}
    phrases = [Review(text=text, label=label) for text, label in said.items()]
    reviews = [
        Review(text=f"The {thing} is {phrase.text} and so on. It is {phrase.text}.", label=phrase.label)
        for phrase in phrases
        for thing in "abcdefghi"
    ]
    denying = Review(text="There is not a dull scene in it.", label=1)
    plain = Review(text="It was dull and I did not see the rest of it.", label=0)
    found = denials.find([*reviews, denying, plain], phrases)

    source = short_texts.Source(reviews=[], sentences=[], found=found)
    texts = source.texts(short_texts.Counts(reviews=0, made=0, varied=40), (1, 0))

    assert texts[:2] == [denying, plain]
    assert Review(text="there is not a funny scene in it", label=0) in texts
