"""Sentences of the reviews in which praise denies a word of blame, or blame a word of praise; and made ones like them.

"There isn't a dull scene" in a review that praises tells what its words, each by itself, do not. The reviews hold a few
thousand such sentences. More are made: another word that is used like "dull", of blame or of praise, takes its place,
and the label follows. The words that speak for one side are those that SST-2 labels as phrases and that reviews of that
side hold more often.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from millrace.artifacts.vocabulary import words
from training.data import Review

_NEGATORS = frozenset(
    [
        "not",
        "no",
        "never",
        "nothing",
        "none",
        "nobody",
        "nowhere",
        "without",
        "hardly",
        "barely",
        "neither",
        "nor",
        "cannot",
    ]
)
_NOT_DENYING = re.compile(
    r"\b(not only|not just|not merely|not simply|no wonder|no doubt|nothing but|can't help|cannot help|couldn't help"
    r"|not to mention|never been (so|more|such)|never seen (so|such|a more|anything (so|more))|couldn't be (more|any)"
    r"|could not be more|if not|why not|whether or not|no matter|no less|no longer|than)\b"
)
_REACH = 5  # words that a negator reaches
_APART = 3  # words that are too far from it to be denied, where they stand before it
_KNOWN = 8  # reviews that a word has to be in, to speak for a side
_SPEAKS = 0.35  # how much likelier it is in the reviews of its side: the logarithm
_SHORTEST, _LONGEST, _LONGEST_PATTERN = 3, 24, 16  # words of a sentence
_END = re.compile(
    r"(?<=[.!?;])\s+|<br />|, but | but |--| because | although | though | when "  # where another thought begins
)
_AROUND = 150  # commonest words, by which is told how a word is used
_USED = 8  # times that a word has to be used, to be compared
_ALIKE = 20  # words of each side that can stand for a word
_REPLACED = 0.7  # how often a word is replaced by one of its own side

Sides = Mapping[str, int]  # the label of each word that speaks for a side


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """The words of a sentence, the places of those that speak for a side, which one, and whether it is denied."""

    said: tuple[str, ...]
    places: tuple[int, ...]
    side: int
    denies: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The reviews' own sentences, those as patterns, and what they were found by.

    `alike` are the words of both sides that are used as a word is.
    """

    sentences: list[Review]
    patterns: list[Pattern]
    sides: Sides
    alike: Mapping[str, tuple[list[str], list[str]]]


def find(reviews: Sequence[Review], phrases: Sequence[Review]) -> Found:
    """What the reviews hold, by the words that the phrases label; nothing where there are no phrases."""
    sides = _sides(reviews, phrases)
    own = list(_own(reviews, sides))
    return Found(
        sentences=[sentence for sentence, _ in own],
        patterns=[pattern for _, pattern in own],
        sides=sides,
        alike=_alike(reviews, sides),
    )


def sentences_in(reviews: Sequence[Review], found: Found) -> list[Review]:
    """The sentences of other reviews, by the words that were found."""
    return [sentence for sentence, _ in _own(reviews, found.sides)]


def _own(reviews: Sequence[Review], sides: Sides) -> Iterator[tuple[Review, Pattern]]:
    for review in reviews:
        for part in _END.split(review.text):
            if pattern := _pattern(part, review.label, sides):
                yield Review(text=part.strip(), label=review.label), pattern


def varied(found: Found, count: int, seed: int) -> list[Review]:
    """So many sentences made of the patterns; none where there are no patterns. The same seed makes the same ones."""
    random = np.random.default_rng(seed)
    usable = [
        pattern
        for pattern in found.patterns
        if len(pattern.said) <= _LONGEST_PATTERN and all(pattern.said[place] in found.alike for place in pattern.places)
    ]
    denying = [pattern for pattern in usable if pattern.denies]
    others = [pattern for pattern in usable if not pattern.denies]
    if not denying or not others:
        return []
    return [
        _vary(chosen[int(random.integers(len(chosen)))], found.alike, random)
        for chosen in (others if number % 4 == 0 else denying for number in range(count))
    ]


def _vary(pattern: Pattern, alike: Mapping[str, tuple[list[str], list[str]]], random: np.random.Generator) -> Review:
    side = int(random.integers(2))
    said = list(pattern.said)
    for place in pattern.places:
        if side != pattern.side or random.random() < _REPLACED:
            choices = alike[said[place]][side]
            said[place] = choices[int(random.integers(len(choices)))]
    return Review(text=" ".join(said), label=1 - side if pattern.denies else side)


def _pattern(part: str, label: int, sides: Sides) -> Pattern | None:
    """The sentence as a pattern where it has one negator, words of one side, and the review's label explains both."""
    said = tuple(words(part))
    if not _SHORTEST <= len(said) <= _LONGEST:
        return None
    places = tuple(place for place, word in enumerate(said) if word in sides)
    negators = [place for place, word in enumerate(said) if is_negator(word)]
    found = {sides[said[place]] for place in places}
    if len(found) != 1 or not negators:
        return None
    (side,) = found
    if _NOT_DENYING.search(part.lower()):
        denies = False
    elif len(negators) > 1:
        return None
    else:
        reached = [0 < place - negators[0] <= _REACH for place in places]
        denies = all(reached)
        if not denies and (any(reached) or min(abs(place - negators[0]) for place in places) < _APART):
            return None
    if denies == (label == side):
        return None
    return Pattern(said=said, places=places, side=side, denies=denies)


def is_negator(word: str) -> bool:
    """Whether the word denies what comes after it."""
    return word in _NEGATORS or word.endswith("n't")


def _sides(reviews: Sequence[Review], phrases: Sequence[Review]) -> Sides:
    """The words that speak for a side: labelled alone, and commoner in the reviews of that label."""
    labels = defaultdict[str, set[int]](set)
    for phrase in phrases:
        if len(said := words(phrase.text)) == 1:
            labels[said[0]].add(phrase.label)
    counts = (Counter[str](), Counter[str]())
    for review in reviews:
        counts[review.label].update(set(words(review.text)))
    of_label = [max(1, sum(review.label == label for review in reviews)) for label in (0, 1)]

    def speaks(word: str, label: int) -> bool:
        ratio = math.log((counts[1][word] + 5) / of_label[1]) - math.log((counts[0][word] + 5) / of_label[0])
        known = counts[0][word] + counts[1][word] >= _KNOWN
        return known and not is_negator(word) and (ratio if label else -ratio) > _SPEAKS

    return {word: max(found) for word, found in labels.items() if len(found) == 1 and speaks(word, max(found))}


def _alike(reviews: Sequence[Review], sides: Sides) -> dict[str, tuple[list[str], list[str]]]:
    """For each word that speaks for a side, those of each side that have the same words around them."""
    if not sides:
        return {}
    names, used = _uses(reviews, sides)
    closeness = used @ used.T
    found = {}
    for row, word in enumerate(names):
        near = [names[column] for column in np.argsort(-closeness[row]) if column != row]
        both = tuple([other for other in near if sides[other] == side][:_ALIKE] for side in (0, 1))
        if all(both):
            found[word] = (both[0], both[1])
    return found


def _uses(reviews: Sequence[Review], names: Collection[str]) -> tuple[list[str], np.ndarray]:
    """The names that are used often enough, and how often each of the commonest words stands before and after them."""
    counts = Counter(word for review in reviews for word in words(review.text))
    common = {word: place for place, (word, _) in enumerate(counts.most_common(_AROUND))}
    rows = {name: row for row, name in enumerate(sorted(names))}
    uses = np.zeros((len(rows), 2, _AROUND + 1))
    for before, word, after in _threes(reviews):
        if (row := rows.get(word)) is not None:
            uses[row, 0, common.get(before, _AROUND)] += 1
            uses[row, 1, common.get(after, _AROUND)] += 1
    flat = np.sqrt(uses.reshape(len(rows), -1))
    enough = (flat**2).sum(axis=1) >= 2 * _USED
    flat = flat[enough]
    return [name for name, row in rows.items() if enough[row]], flat / np.linalg.norm(flat, axis=1, keepdims=True)


def _threes(reviews: Sequence[Review]) -> Iterator[tuple[str, str, str]]:
    """Each word of the reviews between its neighbours; "" at the ends."""
    for review in reviews:
        said = ["", *words(review.text), ""]
        yield from zip(said, said[1:], said[2:], strict=False)
