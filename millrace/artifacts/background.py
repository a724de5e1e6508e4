"""Ink on paper that is lit unevenly: what is darker, or lighter, than the paper around it.

The paper's brightness is found by a closing (the largest value around each pixel, then the smallest of those): it fills
strokes up, as they are narrower than its window, and leaves the edge of a shadow where it is. Ink is then how much of
the paper's light is missing, so that it weighs the same in a shadow as beside it.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

UNEVEN = 0.2  # of the contrast: a border whose values (10 % to 90 %) lie farther apart is no even paper
DARKEST = 0.3  # of the brightest paper: where it is darker, noise would pass for ink
DIMMEST = 80.0  # of 255: as above, where all of the paper is dark
_SMALL = 128  # pixels: the side of the image on which polarity is judged
_DARK = 8.0  # of 255: added, so that noise in the dark does not count as contrast
_NARROW = (5, 9, 17, 33)  # of those pixels: as wide as strokes may be
WIDEST = 5  # a stroke is at most this part of the image's longer side

Pixels = npt.NDArray[np.float32]


def flat_ink(grey: Pixels) -> Pixels:
    """Ink from 0 to 255 on a background of 0, of grey levels from 0 to 255 in either polarity."""
    light = grey if _ink_is_dark(grey) else 255 - grey
    paper = closed(_smooth(light), max(light.shape) // WIDEST | 1)
    paper = np.maximum(paper, max(DIMMEST, DARKEST * paper.max()))
    ink = (255 * np.clip(1 - light / paper, 0, 1)).astype(np.float32)
    flat: Pixels = np.clip(ink - np.median(ink), 0, None)
    return flat


def _ink_is_dark(grey: Pixels) -> bool:
    """Whether what is narrow is rather darker than what is around it, than lighter, on all scales together."""
    height, width = (max(1, round(side * min(1, _SMALL / max(grey.shape)))) for side in grey.shape)
    small = np.log(np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BOX)) + _DARK)
    verdict = 0.0
    for side in _NARROW:
        dark, light = (np.square(closed(pixels, side) - pixels).sum() for pixels in (small, -small))
        verdict += (dark - light) / max(dark + light, 1e-9)
    return bool(verdict > 0)


def _smooth(pixels: Pixels) -> Pixels:
    padded = np.pad(pixels, 1, "edge")
    across = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    smooth: Pixels = (across[:-2] + across[1:-1] + across[2:]) / 9
    return smooth


def closed(pixels: Pixels, side: int) -> Pixels:
    """Dark parts filled up that no square of that side fits into; `side` is odd."""
    reach = side // 2
    padded = np.pad(pixels, 2 * reach, "reflect", reflect_type="odd")  # light that falls off goes on falling
    largest = _largest(_largest(padded, side).T, side).T
    return -_largest(_largest(-largest, side).T, side).T


def _largest(pixels: Pixels, side: int) -> Pixels:
    """Along each column, the largest of each `side` values."""
    padded = pixels
    covered = 1
    while covered < side:
        step = min(covered, side - covered)
        padded = np.maximum(padded[: len(padded) - step], padded[step:])
        covered += step
    return padded
