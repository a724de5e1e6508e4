"""Data of one's own for the bundled trainers: digits from a folder of images or a CSV, texts from a CSV.

    images/0/a.png …           one folder for each digit; any images that `millrace.artifacts.images` reads
    digits.csv                 `label`, and 784 columns of pixels, 0 background to 255 ink
    texts.csv                  `text` (or `review`) and `label` (or `sentiment`): 0 or 1, negative or positive

Every tenth example of each label is for testing, the others are for training; their order is that of their names, or
of the lines.
"""

import csv
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.artifacts import images
from millrace.protocol.errors import MillraceError

_TENTH = 10
_SIDE = images.SIDE
_LABELS = {"0": 0, "1": 1, "negative": 0, "positive": 1, "neg": 0, "pos": 1}
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}

Digits = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]


class OwnSetError(Exception):
    """Data of one's own cannot be read; the message names the file, and the line where there is one."""


def digest(path: Path) -> str:
    """The SHA-256 of a file, or of the names and contents of all files in a folder."""
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            found.update(file.relative_to(path).as_posix().encode() + b"\0" + file.read_bytes())
    return found.hexdigest()


def digits(path: Path, *, is_test: bool) -> Digits:
    """Images [n, 28, 28, 1] and their labels [n], of the part for testing or of the other. Raises `OwnSetError`."""
    examples = _of_folder(path, is_test=is_test) if path.is_dir() else _of_csv(path, is_test=is_test)
    pixels, labels = [], []
    for image, label in examples:
        pixels.append(image)
        labels.append(label)
    if not pixels:
        raise OwnSetError(f"{path} has too few digits: folders 0 to 9 with ten images or more each are wanted")
    return np.stack(pixels).reshape(-1, _SIDE, _SIDE, 1).astype(np.uint8), np.array(labels, np.int32)


def texts(path: Path, *, is_test: bool) -> list[tuple[str, int]]:
    """Texts with their labels, 0 or 1, likewise. Raises `OwnSetError`."""
    found = []
    for line, row in _lines(path):
        text = row.get("text") or row.get("review")
        label = _LABELS.get((row.get("label") or row.get("sentiment") or "").strip().lower())
        if not text or label is None:
            raise OwnSetError(f"{path}, line {line}: `text` and `label` (0 or 1, negative or positive) are wanted")
        found.append((text, label))
    chosen = _part(found, [label for _, label in found], is_test=is_test)
    if not chosen:
        raise OwnSetError(f"{path} has too few texts: ten or more of each label are wanted")
    return chosen


def _of_folder(path: Path, *, is_test: bool) -> Iterator[tuple[Any, int]]:
    files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in _SUFFIXES]
    for file in files:
        if file.parent.name not in set("0123456789"):
            raise OwnSetError(f"{file}: its folder is to be called as the digit is, 0 to 9")
    for file in _part(files, [int(file.parent.name) for file in files], is_test=is_test):
        try:
            yield images.read_digit(file.read_bytes()), int(file.parent.name)
        except (OSError, MillraceError) as error:
            raise OwnSetError(f"{file} cannot be read: {error}") from error


def _of_csv(path: Path, *, is_test: bool) -> Iterator[tuple[Any, int]]:
    found = []
    for line, row in _lines(path):
        label = (row.pop("label", "") or "").strip()
        try:
            pixels = np.array([float(value) for value in row.values()])
        except (TypeError, ValueError) as error:
            raise OwnSetError(f"{path}, line {line}: a pixel is no number") from error
        if label not in set("0123456789") or len(pixels) != _SIDE**2 or pixels.min() < 0 or pixels.max() > 255:
            raise OwnSetError(f"{path}, line {line}: a `label` from 0 to 9 and {_SIDE**2} pixels, 0 to 255, are wanted")
        found.append((pixels, int(label)))
    yield from _part(found, [label for _, label in found], is_test=is_test)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a CSV by their columns' names in small letters, with the number of the line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            head = [name.strip().lower() for name in next(rows, [])]
            for row in rows:
                yield rows.line_num, dict(zip(head, row, strict=False))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise OwnSetError(f"{path} cannot be read as a CSV file: {error}") from error


def _part(examples: Sequence[Any], labels: Iterable[int], *, is_test: bool) -> list[Any]:
    """Every tenth of each label, or the others."""
    counts: dict[int, int] = {}
    chosen = []
    for example, label in zip(examples, labels, strict=True):
        counts[label] = counts.get(label, 0) + 1
        if (counts[label] % _TENTH == 0) == is_test:
            chosen.append(example)
    return chosen
