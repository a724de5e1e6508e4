"""Digits of MNIST as phones and forms send them: uneven light, ruled paper, a form's box, JPEG and noise."""

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

_SIDE, _DIGIT = 320, 170  # pixels of the photograph, and of the digit's 28

Floats = npt.NDArray[np.float64]
Random = np.random.Generator
_ROWS, _COLUMNS = np.mgrid[:_SIDE, :_SIDE] / _SIDE


def _ink(image: Image.Image, random: Random) -> Floats:
    """How much of the paper's light the digit takes [side, side], 0 to 1, the digit about the middle."""
    large = np.asarray(image.resize((_DIGIT, _DIGIT), Image.Resampling.BICUBIC), float) / 255
    ink = np.zeros((_SIDE, _SIDE))
    top, left = ((_SIDE - _DIGIT) // 2 + random.integers(-24, 25, 2)).tolist()
    ink[top : top + _DIGIT, left : left + _DIGIT] = np.clip(2 * (large - 0.25), 0, 1)
    return ink * random.uniform(0.65, 0.9)


def _file(light: Floats, random: Random, turn: float = 0.0) -> bytes:
    """The photograph of paper that reflects so much light, 0 to 1; turned by that many degrees at most."""
    grey = random.uniform(200, 245) * light + random.normal(0, 3, light.shape)
    photo = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    if turn:
        margin = int(_SIDE * np.sin(np.deg2rad(turn))) + 2
        photo = photo.rotate(random.uniform(-turn, turn), Image.Resampling.BICUBIC)
        photo = photo.crop((margin, margin, _SIDE - margin, _SIDE - margin))
    out = io.BytesIO()
    photo.save(out, "JPEG", quality=int(random.integers(75, 95)))
    return out.getvalue()


def _shadow(image: Image.Image, random: Random) -> bytes:
    """The edge of a hand's or a phone's shadow across the paper, hard or soft."""
    angle, soft = random.uniform(0, 2 * np.pi), random.choice([0.004, 0.02, 0.08])
    place = (_COLUMNS - 0.5) * np.cos(angle) + (_ROWS - 0.5) * np.sin(angle) - random.uniform(-0.25, 0.25)
    light = 1 - random.uniform(0.4, 0.7) / (1 + np.exp(-np.clip(place / soft, -50, 50)))
    return _file(light * (1 - _ink(image, random)), random)


def _vignette(image: Image.Image, random: Random) -> bytes:
    away = np.hypot(_COLUMNS - 0.5, _ROWS - 0.5) / 0.707
    light = 1 - random.uniform(0.5, 0.85) * away ** random.uniform(1.5, 3)
    return _file(light * (1 - _ink(image, random)), random)


def _lamp(image: Image.Image, random: Random) -> bytes:
    row, column = random.uniform(0, 1, 2)
    away = np.hypot(_COLUMNS - column, _ROWS - row)
    light = np.clip(0.25 + 0.8 * np.exp(-(away**2) / random.uniform(0.15, 0.4)), 0, 1)
    return _file(light * (1 - _ink(image, random)), random)


def _lines(gap: float, random: Random) -> Floats:
    """Level lines [side, side], 1 where they are."""
    width, start = random.integers(2, 5), random.uniform(0, gap)
    return ((np.arange(_SIDE) - start) % gap < width)[:, None] * np.ones((1, _SIDE))


def _lined(image: Image.Image, random: Random) -> bytes:
    lines = _lines(_DIGIT * random.uniform(0.4, 0.9), random)
    return _file(1 - np.maximum(_ink(image, random), random.uniform(0.3, 0.7) * lines), random, turn=4)


def _squared(image: Image.Image, random: Random) -> bytes:
    gap = _DIGIT * random.uniform(0.25, 0.7)
    lines = np.maximum(_lines(gap, random), _lines(gap, random).T)
    return _file(1 - np.maximum(_ink(image, random), random.uniform(0.3, 0.7) * lines), random, turn=4)


def _box(image: Image.Image, random: Random) -> bytes:
    """A form's box around the digit."""
    ink = _ink(image, random)
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    middle = np.array([rows[0] + rows[-1], columns[0] + columns[-1]]) / 2
    half = _DIGIT * random.uniform(0.42, 0.52) * np.array([1, random.uniform(0.85, 1.1)])
    width = random.integers(2, 6)
    away = np.abs(np.mgrid[:_SIDE, :_SIDE] - middle[:, None, None]) - half[:, None, None]
    frame = np.abs(away.max(axis=0)) < width / 2
    return _file(1 - np.maximum(ink, random.uniform(0.5, 0.95) * frame), random, turn=3)


CHANGES: dict[str, Callable[[Image.Image, Random], bytes]] = {
    "shadow": _shadow,
    "vignette": _vignette,
    "lamp": _lamp,
    "lined_paper": _lined,
    "squared_paper": _squared,
    "box": _box,
}
