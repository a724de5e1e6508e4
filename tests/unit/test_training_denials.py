"""The reviews' own sentences that deny praise or blame, and those made like them."""

from training import denials
from training.data import Review

PHRASES = [Review(text=text, label=label) for label, text in ((0, "dull"), (0, "slow"), (1, "funny"), (1, "clever"))]


def _review(text: str, label: int) -> Review:
    return Review(text=text, label=label)


BLAME, PRAISE = (
    [_review(f"The {thing} is {word}. It was {word} and that is that.", label) for thing in "abcdefgh" for word in said]
    for label, said in ((0, ("dull", "slow")), (1, ("funny", "clever")))
)
DENYING = [
    _review("There is not a dull scene in it.", 1),
    _review("It is not funny in any way; the sea is blue.", 0),
    _review("It was dull and I did not see the rest of it.", 0),
    _review("It is funny where few others are and I do not know why.", 1),
]


def test_a_sentence_is_found_where_the_label_says_that_its_word_is_denied() -> None:
    found = denials.find([*BLAME, *PRAISE, *DENYING], PHRASES)

    assert {(review.text, review.label) for review in found.sentences} == {
        ("There is not a dull scene in it.", 1),
        ("It is not funny in any way;", 0),
        (DENYING[2].text, 0),
        (DENYING[3].text, 1),
    }
    assert [pattern.denies for pattern in found.patterns] == [True, True, False, False]


def test_a_sentence_whose_label_does_not_fit_is_not_found() -> None:
    against = [_review("There is not a dull scene in it.", 0), _review("It is not only dull.", 1)]

    assert denials.find([*BLAME, *PRAISE, *against], PHRASES).sentences == []


def test_other_reviews_are_searched_by_the_words_that_were_found() -> None:
    found = denials.find([*BLAME, *PRAISE], PHRASES)

    others = denials.sentences_in([_review("Not a slow scene. Not a red scene.", 1)], found)

    assert others == [_review("Not a slow scene.", 1)]


def test_made_sentences_turn_the_label_round_where_the_pattern_denies() -> None:
    found = denials.find([*BLAME, *PRAISE, *DENYING], PHRASES)

    made = denials.varied(found, 400, seed=1)

    assert made == denials.varied(found, 400, seed=1)
    assert len(made) == 400
    labels = {review.text: review.label for review in made}
    assert labels["there is not a slow scene in it"] == 1
    assert labels["there is not a clever scene in it"] == 0
    assert labels["it was clever and i did not see the rest of it"] == 1


def test_without_phrases_nothing_is_made() -> None:
    assert denials.varied(denials.find([*BLAME, *PRAISE, *DENYING], []), 10, seed=1) == []
