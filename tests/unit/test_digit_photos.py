"""A digit photographed under uneven light, on ruled paper or in a form's box becomes the pixels that it is alone."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from millrace.artifacts.components import components
from millrace.artifacts.images import read_digit
from millrace.protocol.errors import InvalidRequest

HEIGHT, WIDTH = 300, 260
ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH] / np.array([[[HEIGHT]], [[WIDTH]]])
PAPER = np.full((HEIGHT, WIDTH), 235.0)


def _ruled(image: Image.Image, *, rows: bool = True, columns: bool = False) -> None:
    for place in range(17, max(image.size), 45):
        if rows:
            ImageDraw.Draw(image).line([(0, place), (WIDTH, place + 6)], fill=120, width=2)
        if columns:
            ImageDraw.Draw(image).line([(place, 0), (place - 7, HEIGHT)], fill=120, width=2)


def _seven(image: Image.Image) -> Image.Image:
    ImageDraw.Draw(image).line([(90, 90), (165, 92), (120, 210)], fill=40, width=11, joint="curve")
    return image


def _lit(light: np.ndarray) -> Image.Image:
    return Image.fromarray((np.asarray(_seven(Image.fromarray(PAPER)), float) * light).astype(np.uint8))


def _on(kind: str) -> Image.Image:
    sheet = Image.fromarray(PAPER.astype(np.uint8))
    if kind == "box":
        ImageDraw.Draw(sheet).rectangle((60, 60, 200, 240), outline=60, width=4)
    elif kind == "specks":
        for x, y in ((20, 30), (240, 280), (33, 250)):
            ImageDraw.Draw(sheet).rectangle((x, y, x + 4, y + 4), fill=20)
    elif kind == "dark table":
        ImageDraw.Draw(sheet).rectangle((0, 0, 22, HEIGHT), fill=50)
    else:
        _ruled(sheet, columns=kind == "squared")
    return _seven(sheet)


def _file(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.convert("L").save(out, "PNG")
    return out.getvalue()


PHOTOS = {
    "shadow": lambda: _lit(np.where(COLUMNS + 0.4 * ROWS > 0.7, 0.4, 1.0)),
    "vignette": lambda: _lit(1 - 0.7 * np.hypot(ROWS - 0.5, COLUMNS - 0.5)),
} | {kind: lambda kind=kind: _on(kind) for kind in ("lined", "squared", "box", "specks", "dark table")}


@pytest.mark.parametrize("kind", PHOTOS)
def test_what_is_beside_a_digit_is_not_read_with_it(kind: str) -> None:
    alone = read_digit(_file(_seven(Image.fromarray(PAPER.astype(np.uint8)))))

    found = read_digit(_file(PHOTOS[kind]()))

    assert np.abs(found - alone).mean() < 15  # of 255; with lines or a shadow read along it is 20 and more


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_of_50_megapixels_is_read(mode: str) -> None:
    photo = _seven(Image.fromarray(PAPER.astype(np.uint8))).resize((7072, 7072)).convert(mode)
    out = io.BytesIO()
    photo.save(out, "JPEG")

    assert read_digit(out.getvalue()).max() > 200


def test_parts_touch_at_corners_and_however_they_wind() -> None:
    picture = ["##...#.", "..#..#.", "...###.", "#......", "#.###..", "#.#.#.#", "###.#.#"]
    mask = np.array([[pixel == "#" for pixel in row] for row in picture])

    found = components(mask)

    assert sorted(found.area.tolist()) == [2, 8, 12]
    assert ((found.of > 0) == mask).all()
    largest = int(found.area.argmax())
    assert (found.mask(np.arange(len(found)) == largest).sum()) == found.area[largest]


@pytest.mark.parametrize("darkest", [0.3, 0.6])
@pytest.mark.parametrize("place", [(0.5, 0.5), (0.2, 0.7)])
@pytest.mark.parametrize(
    "turn", [lambda light: light, lambda light: 1.2 - light], ids=["to the edges", "to the middle"]
)
def test_light_that_falls_off_is_no_ink(darkest: float, place: tuple[float, float], turn: Callable[..., Any]) -> None:
    away = np.hypot(ROWS - place[0], COLUMNS - place[1])
    light = turn(1 - (1 - darkest) * (away / away.max()) ** 2).clip(0, 1)

    with pytest.raises(InvalidRequest, match="shows no digit"):
        read_digit(_file(Image.fromarray((PAPER * light).astype(np.uint8))))
