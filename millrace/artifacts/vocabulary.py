"""Text to word ids, the same in training and in serving.

A vocabulary is a text file with one word a line; a word's id is its line's number, from 0. Vocabularies for running
text begin with the two special lines `<pad>` (id 0) and `<unk>` (id 1).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

PAD, UNKNOWN = "<pad>", "<unk>"
_MARKUP = re.compile(r"<[^<>]{1,20}>")
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[!?]")
# Behind it a text can be cut without cutting a word or a tag in two: what may end a tag, or what is no part of a longer
# word and far from any tag's beginning.
_CUT = re.compile(r">|[^\w'\u2019<](?<=[^<]{23})")
_PER_WORD = 8  # characters to look at for each word that is still missing


def words(text: str) -> list[str]:
    """The words of a text: lower case, short tags such as `<br />` dropped, contractions whole, `!` and `?` kept."""
    return _WORD.findall(_MARKUP.sub(" ", text).lower().replace("\u2019", "'"))


def first_words(text: str, count: int) -> list[str]:
    """The first words of `words(text)`, without a look at the rest of a long text."""
    found: list[str] = []
    start = 0
    while start < len(text) and len(found) < count:
        end = _cut_after(text, start + _PER_WORD * (count - len(found)) + len(found))
        found += words(text[start:end])
        start = end
    return found[:count]


def last_words(text: str, count: int) -> list[str]:
    """The last words of `words(text)`, without a look at the beginning of a long text."""
    found: list[str] = []
    end = len(text)
    while end > 0 and len(found) < count:
        start = _cut_before(text, end - _PER_WORD * (count - len(found)) - len(found))
        found = words(text[start:end]) + found
        end = start
    return found[-count:]


def _cut_after(text: str, place: int) -> int:
    """The first cut from that place on; the end where there is none."""
    found = _CUT.search(text, place)
    return found.end() if found else len(text)


def _cut_before(text: str, place: int) -> int:
    """The last cut up to that place; 0 where there is none."""
    step = 256
    while place > 0:
        start = max(0, place - step)
        if cuts := [found.end() for found in _CUT.finditer(text, start, place)]:
            return cuts[-1]
        place, step = start, 2 * step
    return 0


class Vocabulary:
    """The words of one model, each with its id."""

    def __init__(self, entries: Sequence[str]) -> None:
        self.entries = tuple(entries)
        self._ids = {word: index for index, word in enumerate(self.entries)}

    @classmethod
    def read(cls, path: Path) -> "Vocabulary":
        """The vocabulary in a file. Raises `OSError`."""
        return cls(path.read_text(encoding="utf-8").splitlines())

    def write(self, path: Path) -> None:
        """Write the file that `read` reads."""
        path.write_text(self.text(), encoding="utf-8")

    def text(self) -> str:
        """The file's text, a word a line."""
        return "".join(f"{word}\n" for word in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def find(self, word: str) -> int | None:
        """The word's id, None where the vocabulary lacks it."""
        return self._ids.get(word)

    def encode(self, text: str, max_length: int, keep: Literal["start", "end"] = "start") -> list[int]:
        """The ids of a text's first, or last, `max_length` words, as `keep` says.

        An unknown word is id 1, and a text without any word is that id alone.
        """
        kept = first_words(text, max_length) if keep == "start" else last_words(text, max_length)
        return [self._ids.get(word, 1) for word in kept] or [1]
