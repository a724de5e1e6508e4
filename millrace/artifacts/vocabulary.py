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


def words(text: str) -> list[str]:
    """The words of a text: lower case, short tags such as `<br />` dropped, contractions whole, `!` and `?` kept."""
    return _WORD.findall(_MARKUP.sub(" ", text).lower().replace("\u2019", "'"))


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
        found = words(text)
        kept = found[:max_length] if keep == "start" else found[-max_length:]
        return [self._ids.get(word, 1) for word in kept] or [1]
