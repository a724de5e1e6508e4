"""Digits that no training image came from: how well they are read when they arrive as image files, as users send them.

Every set goes through `artifacts.images`, as in serving. Some are made of held-out images of MNIST, put on paper in
another way or photographed (see `photos`); others owe MNIST nothing: digits drawn stroke by stroke as with a mouse, the
digits of the fonts that come with Matplotlib, and those of scikit-learn, which 43 people wrote and which are 8 x 8
pixels (Alpaydin and Kaynak, "Optical recognition of handwritten digits", 1998).
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from sklearn.datasets import load_digits

from millrace.artifacts.images import read_digit
from millrace.protocol.errors import InvalidRequest
from training import photos

REFUSED = -1  # the label of an image on which serving sees no digit
_MADE, _PHOTOS = 500, 100  # images of each set at most
FONTS = tuple(
    f"{family}{style}"
    for family, styles in (
        ("DejaVuSans", ("", "-Bold", "-Oblique")),
        ("DejaVuSerif", ("", "-Italic")),
        ("DejaVuSansMono", ("",)),
        ("STIXGeneral", ("", "Italic", "Bol")),
        ("cm", ("r10", "ti10", "ss10", "tt10", "b10")),
    )
    for style in styles
)

Pixels = npt.NDArray[np.float32]
Random = np.random.Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitSet:
    """Images in the training form, [n, 28, 28, 1] from 0 to 255, and which digits they are [n]."""

    images: Pixels
    labels: npt.NDArray[np.integer]


def digit_sets(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer]) -> dict[str, Callable[[], DigitSet]]:
    """What makes each set, by its name; `images` [n, 28, 28, 1] are of MNIST and were not trained on; none will do."""
    by_change = {name: partial(changed, change, images[:_MADE], labels[:_MADE]) for name, change in CHANGES.items()}
    taken = {
        name: partial(changed, change, images[:_PHOTOS], labels[:_PHOTOS]) for name, change in photos.CHANGES.items()
    }
    of_mnist = {**by_change, **taken} if len(images) else {}
    return {**of_mnist, "drawn": drawn, "fonts": printed, "scikit_learn": _scikit_learn}


def changed(
    change: Callable[[Image.Image, Random], bytes], images: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer]
) -> DigitSet:
    """The images [n, 28, 28, 1] of MNIST as that change puts them on paper, read again."""
    random = np.random.default_rng(0)
    return _read([change(Image.fromarray(image[..., 0]), random) for image in images], labels)


def _read(files: Sequence[bytes], labels: Sequence[int] | npt.NDArray[np.integer]) -> DigitSet:
    """The files as a server reads them; one that it refuses is empty and `REFUSED`, so no answer to it is right."""
    images, known = [], np.array(labels)
    for number, file in enumerate(files):
        try:
            images.append(read_digit(file))
        except InvalidRequest:
            images.append(np.zeros((28, 28, 1), np.float32))
            known[number] = REFUSED
    return DigitSet(images=np.stack(images), labels=known)


def _file(image: Image.Image, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.convert("L").save(out, form)
    return out.getvalue()


# Held-out digits of MNIST (light on dark, 28 x 28) as other files.


def _placed(image: Image.Image, side: int, random: Random) -> Image.Image:
    """The image somewhere on a larger black square."""
    paper = Image.new("L", (side, side))
    left, top = (int(random.integers(0, side - length + 1)) for length in image.size)
    paper.paste(image, (left, top))
    return paper


def _sheared(image: Image.Image, slant: float) -> Image.Image:
    large = _enlarged(image, 4)
    side = large.width
    return large.transform(
        large.size, Image.Transform.AFFINE, (1, slant, -slant * side / 2, 0, 1, 0), Image.Resampling.BILINEAR
    )


def _enlarged(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def _shifted(image: Image.Image, random: Random) -> bytes:
    return _file(_placed(image, 64, random))


def _slanted(image: Image.Image, random: Random) -> bytes:
    return _file(_sheared(image, float(random.choice([-0.4, 0.4]))))


def _turned(image: Image.Image, random: Random) -> bytes:
    return _file(_enlarged(image, 4).rotate(float(random.choice([-17, 17])), Image.Resampling.BILINEAR))


def _thick(image: Image.Image, _: Random) -> bytes:
    return _file(_enlarged(image, 4).filter(ImageFilter.MaxFilter(7)))


def _thin(image: Image.Image, _: Random) -> bytes:
    return _file(_enlarged(image, 4).filter(ImageFilter.MinFilter(5)))


def _inverted(image: Image.Image, random: Random) -> bytes:
    return _file(ImageChops.invert(_placed(_enlarged(image, 3), 140, random)))


def _scanned(image: Image.Image, random: Random) -> bytes:
    """Grey ink on paper that is not white, lit from one side, with the noise of a camera, as JPEG."""
    ink = np.asarray(_placed(_enlarged(image, 6), 260, random), np.float32) / 255
    light = np.linspace(200, 200 + float(random.uniform(0, 40)), ink.shape[1])
    paper = light - 0.75 * ink * light + random.normal(0, 4, ink.shape)
    return _file(Image.fromarray(np.clip(paper, 0, 255).astype(np.uint8)), "JPEG")


CHANGES: dict[str, Callable[[Image.Image, Random], bytes]] = {
    "shifted": _shifted,
    "slanted": _slanted,
    "turned": _turned,
    "thick": _thick,
    "thin": _thin,
    "inverted": _inverted,
    "scanned": _scanned,
}


# Digits that are not of MNIST.

_STROKES: tuple[tuple[tuple[tuple[float, float], ...], ...], ...] = (
    (((0.5, 0), (0.2, 0.15), (0.1, 0.5), (0.2, 0.85), (0.5, 1), (0.8, 0.85), (0.9, 0.5), (0.8, 0.15), (0.5, 0)),),
    (((0.35, 0.2), (0.55, 0), (0.55, 1)),),
    (((0.15, 0.25), (0.3, 0.03), (0.65, 0), (0.85, 0.2), (0.75, 0.45), (0.15, 1), (0.9, 1)),),
    (((0.15, 0.1), (0.5, 0), (0.8, 0.15), (0.75, 0.4), (0.4, 0.48), (0.8, 0.6), (0.85, 0.85), (0.5, 1), (0.1, 0.9)),),
    (((0.5, 0), (0.1, 0.65), (0.95, 0.65)), ((0.7, 0.35), (0.65, 1))),
    (((0.85, 0), (0.25, 0), (0.2, 0.42), (0.6, 0.4), (0.88, 0.65), (0.7, 0.95), (0.4, 1), (0.12, 0.9)),),
    (((0.75, 0), (0.35, 0.3), (0.15, 0.7), (0.4, 1), (0.75, 0.95), (0.85, 0.7), (0.6, 0.52), (0.2, 0.68)),),
    (((0.1, 0), (0.9, 0), (0.6, 0.45), (0.4, 1)),),
    (
        ((0.5, 0.46), (0.2, 0.3), (0.25, 0.08), (0.5, 0), (0.75, 0.08), (0.8, 0.3), (0.5, 0.46)),
        ((0.5, 0.46), (0.15, 0.7), (0.25, 0.94), (0.5, 1), (0.75, 0.94), (0.85, 0.7), (0.5, 0.46)),
    ),
    (((0.85, 0.25), (0.6, 0), (0.25, 0.1), (0.2, 0.4), (0.55, 0.5), (0.85, 0.25), (0.8, 0.6), (0.7, 1)),),
)


def drawn(count: int = _MADE, random: Random | None = None) -> DigitSet:
    """Black lines of 3 to 18 pixels on a white canvas of 280 x 280, by an unsteady hand."""
    random = random or np.random.default_rng(0)
    labels = np.arange(count) % 10
    return _read([_by_mouse(int(label), random) for label in labels], labels)


def _by_mouse(digit: int, random: Random) -> bytes:
    canvas = Image.new("L", (280, 280), 255)
    width, height = random.uniform(60, 110), random.uniform(110, 180)
    slant, left, top = random.uniform(-0.25, 0.25), random.uniform(50, 120), random.uniform(15, 85)
    pen = int(random.integers(3, 19))
    for stroke in _STROKES[digit]:
        points = smoothed(np.array(stroke) + random.normal(0, 0.025, (len(stroke), 2)))
        x = left + points[:, 0] * width + slant * (0.5 - points[:, 1]) * height
        line = list(zip(x.tolist(), (top + points[:, 1] * height).tolist(), strict=True))
        ImageDraw.Draw(canvas).line(line, fill=0, width=pen, joint="curve")
    return _file(canvas)


def smoothed(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A line's points with its corners cut twice (Chaikin's algorithm)."""
    for _ in range(2):
        before, after = points[:-1], points[1:]
        cut = np.stack([0.75 * before + 0.25 * after, 0.25 * before + 0.75 * after], axis=1).reshape(-1, 2)
        points = np.concatenate([points[:1], cut, points[-1:]])
    return points


def printed() -> DigitSet:
    """The digits of Matplotlib's fonts."""
    folder, files, labels = Path(matplotlib.get_data_path()) / "fonts" / "ttf", [], []
    for name in FONTS:
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), 60)
        for digit in range(10):
            paper = Image.new("L", (90, 110), 255)
            ImageDraw.Draw(paper).text((25, 15), str(digit), fill=0, font=font)
            files.append(_file(paper))
            labels.append(digit)
    return _read(files, labels)


def letters() -> Pixels:
    """The letters of Pillow's own font [n, 28, 28, 1], but for those that look like digits."""
    font = ImageFont.load_default(60)
    files = []
    for letter in "ACEFGHKLMNPRTUVWXYacdefhjkmnprtuvwxy":
        paper = Image.new("L", (120, 120), 255)
        ImageDraw.Draw(paper).text((30, 20), letter, fill=0, font=font)
        files.append(_file(paper))
    return np.stack([read_digit(file) for file in files])


def _scikit_learn() -> DigitSet:
    found: Any = load_digits()
    files = []
    for image in found.images:
        paper = Image.new("L", (96, 96))
        paper.paste(_enlarged(Image.fromarray((image * 255 / 16).astype(np.uint8)), 8), (16, 16))
        files.append(_file(paper))
    return _read(files, found.target)
