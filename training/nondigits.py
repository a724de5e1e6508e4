"""Images that show no digit, in MNIST's form: what the detector learns to tell from digits.

Letters and signs of the fonts that come with Matplotlib, in five scripts; digits of MNIST mirrored, turned or put
together, which look like another hand's letters; scribbles of several kinds; noise and shapes. Left out is what even
people take for digits: O, l, S, Z, b, q and their like.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from millrace.artifacts.images import SIDE, boxed
from training.robustness import FONTS, smoothed

_LIKE_DIGITS = {*"0123456789OoIliSsZzqbDgQ|1lJ!-_'`,./\\"} | {
    *"\u039f\u03bf\u0399\u041e\u043e\u0406\u0456\u0405\u0455\u0417\u0437\u042d\u044d\u0431\u0412\u0392\u0555\u0585\u0398\u03b8"
}
_LETTERS = [chr(code) for start, end in ((0x41, 0x5B), (0x61, 0x7B)) for code in range(start, end)]
_SIGNS = [  # Latin with accents, Greek, Cyrillic, Armenian, Georgian; operators and arrows
    chr(code)
    for start, end in (
        *((0x21, 0x30), (0x3A, 0x41), (0x5B, 0x61), (0xC0, 0x180), (0x386, 0x3CE), (0x410, 0x450), (0x531, 0x557)),
        *((0x561, 0x587), (0x10D0, 0x10F1), (0x2200, 0x2270), (0x2190, 0x21B0)),
    )
    for code in range(start, end)
]
_CANVAS = 112
# Digits that are none when they are so: mirrored, upside down, along the diagonal, a quarter turned.
_TURNS: tuple[tuple[tuple[int, ...], Callable[[npt.NDArray[Any]], npt.NDArray[Any]]], ...] = (
    ((3, 4, 6, 7, 9), lambda image: image[:, ::-1]),
    ((4, 6, 7, 9), lambda image: image[::-1]),
    ((2, 3, 4, 5, 7), lambda image: image.T),
    ((2, 3, 4, 5, 6, 7, 9), lambda image: np.rot90(image)),
)

Images = npt.NDArray[np.uint8]
Random = np.random.Generator


def pools(images: Images, labels: npt.NDArray[np.integer], random: Random) -> list[tuple[Images, float]]:
    """Images [n, 28, 28] of each kind, and what part of all that shows no digit they are to be.

    `images` [n, 28, 28] are digits of MNIST.
    """
    some = random.permutation(len(images))[:24_000]
    return [
        (glyphs(FONTS, _LETTERS), 0.25),
        (glyphs(FONTS[:7], _SIGNS), 0.2),
        (_pool(turned(images[some], labels[some])), 0.27),
        (_pool(scribble(random) for _ in range(14_000)), 0.15),
        (_pool(joined(images, random) for _ in range(10_000)), 0.09),
        (_pool(noise(random) for _ in range(5_000)), 0.04),
    ]


def _pool(made: Iterator[npt.NDArray[Any]]) -> Images:
    found = np.stack([boxed(image.astype(np.float32)) for image in made if image.max() > 0])
    rounded: Images = found.round().astype(np.uint8)
    return rounded


def glyphs(fonts: Sequence[str], characters: Sequence[str]) -> Images:
    """The characters in each of Matplotlib's fonts that has them, but for those that look like digits."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"

    def drawn() -> Iterator[npt.NDArray[Any]]:
        for name in fonts:
            font = ImageFont.truetype(str(folder / f"{name}.ttf"), 40)
            missing = bytes(font.getmask("\uffff"))
            for character in characters:
                if character not in _LIKE_DIGITS and bytes(font.getmask(character)) != missing:
                    paper = Image.new("L", (90, 90))
                    ImageDraw.Draw(paper).text((20, 15), character, fill=255, font=font)
                    yield np.asarray(paper)

    return _pool(drawn())


def turned(images: Images, labels: npt.NDArray[np.integer]) -> Iterator[Images]:
    """Digits in positions in which they are none."""
    for digits, turn in _TURNS:
        for image in images[np.isin(labels, digits)]:
            yield turn(image)


def joined(images: Images, random: Random) -> Images:
    """Two digits beside, above, or over one another."""
    one, other = images[random.integers(0, len(images), 2)]
    kind = random.integers(0, 3)
    if kind == 0:
        return np.concatenate([one[:, 4:24], other[:, 4:24]], axis=1)
    if kind == 1:
        return np.concatenate([one[3:25], other[3:25]], axis=0)
    over: Images = np.maximum(one, np.roll(other, random.integers(-4, 5, 2), (0, 1)))
    return over


def scribble(random: Random) -> npt.NDArray[Any]:
    """Lines of one pen: wandering, straight, zigzags, spirals and loops."""
    paper = Image.new("L", (_CANVAS, _CANVAS))
    pen = int(random.integers(4, 14))
    for line in _LINES[random.integers(0, len(_LINES))](random):
        points = line - line.min(axis=0)
        points = 10 + points * (_CANVAS - 20) / max(float(points.max()), 1.0) if len(line) > 4 else line
        ImageDraw.Draw(paper).line([(float(x), float(y)) for x, y in points], fill=255, width=pen, joint="curve")
    return np.asarray(paper)


def _points(random: Random, count: int) -> npt.NDArray[np.float64]:
    return random.uniform(10, _CANVAS - 10, (count, 2))


def _zigzag(random: Random) -> list[npt.NDArray[np.float64]]:
    count = int(random.integers(5, 12))
    high, low = random.uniform(10, 50), random.uniform(60, 102)
    across = np.where(np.arange(count) % 2, high, low) + random.normal(0, 6, count)
    points = np.stack([np.linspace(10, 102, count), across], axis=1)
    return [smoothed(points if random.random() < 0.5 else points[:, ::-1])]


def _spiral(random: Random) -> list[npt.NDArray[np.float64]]:
    angle = np.linspace(0, 2 * np.pi * random.uniform(1.6, 4), 80)
    radius = 10 + 40 * (angle / angle[-1]) ** random.uniform(0.2, 1)
    x = radius * np.cos(angle) * random.uniform(0.5, 1) + angle * random.uniform(-3, 3)
    return [np.stack([x, radius * np.sin(angle)], axis=1)]


def _loops(random: Random) -> list[npt.NDArray[np.float64]]:
    time, points = np.linspace(0, 2 * np.pi, 200)[:, None], np.zeros((200, 2))
    for wave in range(1, int(random.integers(3, 6))):
        speed, phase = random.uniform(0.6, 1.6, 2), random.uniform(0, 2 * np.pi, 2)
        points += np.sin(wave * time * speed + phase) * random.normal(0, 60, 2) / wave
    return [points]


_LINES: tuple[Callable[[Random], list[npt.NDArray[np.float64]]], ...] = (
    lambda random: [smoothed(_points(random, int(random.integers(5, 14))))],
    lambda random: [smoothed(_points(random, int(random.integers(2, 5)))) for _ in range(random.integers(2, 6))],
    lambda random: [_points(random, 2) for _ in range(random.integers(2, 7))],
    lambda random: [smoothed(np.cumsum(random.normal(0, 9, (int(random.integers(8, 30)), 2)), axis=0))],
    _zigzag,
    _spiral,
    _loops,
)


def noise(random: Random) -> npt.NDArray[Any]:
    """Grain, clouds, dots, blots or stripes."""
    return _NOISES[random.integers(0, len(_NOISES))](random)


def _clouds(random: Random) -> npt.NDArray[Any]:
    grain = random.uniform(0, 255, (int(random.integers(3, 12)),) * 2).astype(np.uint8)
    clouds = np.asarray(Image.fromarray(grain).resize((SIDE, SIDE), Image.Resampling.BICUBIC), float)
    return np.clip((clouds - 128) * random.uniform(1, 4) + 60, 0, 255)


def _blot(random: Random) -> npt.NDArray[Any]:
    height, width = random.integers(6, 21, 2)
    rows, columns = np.abs(np.mgrid[:SIDE, :SIDE] - SIDE / 2) / np.array([[[height]], [[width]]])
    inside = rows**2 + columns**2 < 0.25 if random.random() < 0.5 else np.maximum(rows, columns) < 0.5
    return np.where(inside, 255.0, 0.0)


def _stripes(random: Random) -> npt.NDArray[Any]:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    angle = random.uniform(0, np.pi)
    wave = np.sin((columns * np.cos(angle) + rows * np.sin(angle)) * random.uniform(0.4, 2))
    return np.where(wave > 0, 255.0, 0.0)


_NOISES: tuple[Callable[[Random], npt.NDArray[Any]], ...] = (
    lambda random: random.uniform(0, 255, (SIDE, SIDE)),
    lambda random: (random.random((SIDE, SIDE)) < random.uniform(0.02, 0.4)) * random.uniform(100, 255, (SIDE, SIDE)),
    _clouds,
    _blot,
    _stripes,
)
