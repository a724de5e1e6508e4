"""Which of an image's ink is the digit: not the ruled lines, frames, specks, shadows and neighbours around it."""

import numpy as np
import numpy.typing as npt

from millrace.artifacts.components import Components, components
from millrace.artifacts.ruled import without_lines

GRID = 256  # pixels at most along a side of the mask that is judged
_COARSE, _EDGE, _STEEP = 48, 2, 0.5  # ink that has an edge becomes this part darker within two of 48 pixels
_NOISE = 5.0  # standard deviations of the paper's noise: what is darker is ink
_FAINTEST = 30.0  # of 255
_SEEN = 0.15  # of the darkest ink: what is fainter changes nothing
_SMALLEST = 0.12  # of the shorter side: a digit is at least as tall or as wide
_AT_BORDER, _SPANNING, _FRAME = 0.3, 0.1, 0.02  # what ink there weighs beside ink that may be a digit
_SPAN = 0.95  # of the image's height or width: what is longer is more likely an edge or a line
_SPECK, _REST_OF_A_LINE = 0.01, 0.08  # of the digit's area: what is smaller is no part of it, beside lines the second
_DOT = 16  # pixels of the grid, with those around them: what is smaller is a speck, whatever the digit is
_NEAR = 0.2  # of the digit's longer side: what is farther away is no part of it

Pixels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def of_the_digit(ink: Pixels) -> Pixels:
    """The ink with all set to 0 that is not the digit's; all 0 where there is no ink that could be one."""
    if not _has_edges(ink):
        return np.zeros_like(ink)
    factor = -(-max(ink.shape) // GRID)
    small = _reduced(ink, factor)
    mask = _mask(small)
    kept = _chosen(mask)
    near = _enlarged(_grown(_grown(_grown(kept))), factor, ink.shape)
    digit = np.where(near, ink, 0)
    is_alone = np.where(near, 0, ink).max() < _SEEN * digit.max()
    return ink if is_alone else digit


def _has_edges(ink: Pixels) -> bool:
    """Whether any of the ink begins within a few pixels, as strokes do; light that falls off has no edge anywhere."""
    small = _reduced(ink, max(1, -(-max(ink.shape) // _COARSE)))
    if min(small.shape) <= _EDGE:
        return True  # too small to tell
    steps = (small[_EDGE:] - small[:-_EDGE], small[:, _EDGE:] - small[:, :-_EDGE])
    steepest = max(float(np.abs(step).max()) for step in steps)
    return steepest > _STEEP * float(small.max())


def _reduced(ink: Pixels, factor: int) -> Pixels:
    if factor == 1:
        return ink
    height, width = (-(-side // factor) for side in ink.shape)
    filled = np.pad(ink, ((0, height * factor - ink.shape[0]), (0, width * factor - ink.shape[1])), "edge")
    small: Pixels = filled.reshape(height, factor, width, factor).mean(axis=(1, 3))
    return small


def _mask(ink: Pixels) -> Mask:
    noise = 1.4826 * np.median(np.abs(ink - np.median(ink)))
    mask: Mask = ink > max(_threshold(ink), _NOISE * noise, _FAINTEST)
    return mask


def _threshold(ink: Pixels) -> float:
    """Between paper and ink by Otsu's method."""
    counts = np.bincount(np.clip(ink, 0, 255).astype(np.uint8).ravel(), minlength=256).astype(float)
    below = np.cumsum(counts)
    total, sums = below[-1], np.cumsum(counts * np.arange(256))
    above = total - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(np.nanargmax(np.where(np.isfinite(between), between, 0)))


def _chosen(mask: Mask) -> Mask:
    """The pixels of the mask that are the digit's."""
    lineless = without_lines(mask)
    found = components(_grown(lineless))
    speck = _SPECK if lineless is mask else _REST_OF_A_LINE
    return found.mask(_group(found, mask.shape, speck)) & lineless


def _group(found: Components, shape: tuple[int, ...], speck: float) -> Mask:
    height, width = shape
    tall = np.maximum(found.bottom - found.top, found.right - found.left)
    inside = (found.top > 1) & (found.left > 1) & (found.bottom < height - 1) & (found.right < width - 1)
    spans = (found.bottom - found.top > _SPAN * height) | (found.right - found.left > _SPAN * width)
    off = np.hypot((found.top + found.bottom) / height - 1, (found.left + found.right) / width - 1)
    frames = _frames(found)
    weight = found.area * np.exp(-2 * off * off) * np.where(inside, 1, _AT_BORDER) * np.where(spans, _SPANNING, 1)
    weight = np.where(tall < _SMALLEST * min(shape), 0, weight * np.where(frames, _FRAME, 1))
    if not weight.any():
        return np.zeros(len(found), bool)
    main = int(np.argmax(weight))
    return _with_parts(found, main, (inside | ~inside[main]) & ~frames, speck)


def _with_parts(found: Components, main: int, allowed: Mask, speck: float) -> Mask:
    chosen = np.zeros(len(found), bool)
    chosen[main] = True
    big = (found.area >= max(_DOT, speck * found.area[main])) & allowed
    while True:
        top, left = found.top[chosen].min(), found.left[chosen].min()
        bottom, right = found.bottom[chosen].max(), found.right[chosen].max()
        reach = _NEAR * max(bottom - top, right - left)
        near = (found.top <= bottom + reach) & (found.bottom >= top - reach)
        near &= (found.left <= right + reach) & (found.right >= left - reach)
        more = chosen | (near & big)
        if (more == chosen).all():
            return chosen
        chosen = more


def _frames(found: Components) -> Mask:
    """Which parts are hollow and have another part of some size within."""
    height, width = found.bottom - found.top, found.right - found.left
    frames = np.zeros(len(found), bool)
    for number in np.flatnonzero(found.area < 0.45 * height * width):
        within = (found.top > found.top[number]) & (found.bottom < found.bottom[number])
        within &= (found.left > found.left[number]) & (found.right < found.right[number])
        within &= (found.bottom - found.top >= 0.3 * height[number]) & (found.area > 0.1 * found.area[number])
        frames[number] = within.any()
    return frames


def _grown(mask: Mask) -> Mask:
    """The mask and the pixels around it."""
    padded = np.pad(mask, 1)
    across = padded[:, :-2] | padded[:, 1:-1] | padded[:, 2:]
    grown: Mask = across[:-2] | across[1:-1] | across[2:]
    return grown


def _enlarged(mask: Mask, factor: int, shape: tuple[int, ...]) -> Mask:
    return mask.repeat(factor, axis=0).repeat(factor, axis=1)[: shape[0], : shape[1]]
