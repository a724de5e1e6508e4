"""Ruled lines and frames: thin straight lines, nearly level or upright, that go through an image or around a digit.

Lines are found as in a Hough transform: the pixels of the mask are counted along all lines of a few slopes. A line's
pixels are removed where the ink is as thin as the line; where a stroke crosses it, the stroke stays.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

_SLOPES = np.linspace(-0.1, 0.1, 41)
_SPANNING = 0.7  # of the image's width is ink along a ruled line
_FRAMING = 0.75  # of its ink's width is ink along a side of a frame
_FRAME_SHAPE = 0.3  # of its longer side is a frame's shorter one
_APART = 0.45  # of its ink's height is between two sides of a frame
_END = 0.03  # of the image's width at either end: a ruled line gets there
_THICKEST = 0.045  # of the image's longer side


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lines:
    """The nearly level lines of one slope: at which row each crosses the middle column."""

    slope: float
    rows: npt.NDArray[np.int64]


_NONE = _Lines(slope=0.0, rows=np.zeros(0, np.int64))


def without_lines(mask: Mask) -> Mask:
    """The mask without ruled lines and frames; the mask itself where there are none."""
    level, upright = _spanning(mask), _spanning(mask.T)
    if len(level.rows) or len(upright.rows):
        mask = mask & ~_thin_along(mask, level) & ~_thin_along(mask.T, upright).T
    level, upright = _framing(mask), _framing(mask.T)
    if len(level.rows) and len(upright.rows):
        mask = mask & ~_thin_along(mask, level) & ~_thin_along(mask.T, upright).T
    return mask


def _counts(mask: Mask) -> tuple[float, npt.NDArray[np.int64]]:
    """The slope along which ink gathers most in few lines, and in how many columns each line of it meets ink's edge."""
    rows, columns = np.nonzero(mask & ~np.pad(mask, ((1, 0), (0, 0)))[:-1])  # however thick a line is, it counts once
    height, width = mask.shape
    places = columns - width / 2
    margin = int(np.ceil(width * 0.05)) + 1
    best, most = (0.0, np.zeros(height + 2 * margin, np.int64)), -1.0
    for slope in _SLOPES:
        counts = np.bincount(np.rint(rows - slope * places).astype(int) + margin, minlength=height + 2 * margin)
        counts = np.convolve(counts, (1, 1, 1), "same")
        gathered = float((counts.astype(float) ** 4).sum())
        if gathered > most:
            best, most = (float(slope), counts), gathered
    return best[0], best[1][margin : margin + height]


def _spanning(mask: Mask) -> _Lines:
    end = max(1, round(_END * mask.shape[1]))
    if not mask[:, :end].any() or not mask[:, -end:].any():
        return _NONE
    slope, counts = _counts(mask)
    return _Lines(slope=slope, rows=np.flatnonzero(counts > _SPANNING * mask.shape[1]))


def _framing(mask: Mask) -> _Lines:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return _NONE
    within = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if min(within.shape) < _FRAME_SHAPE * max(within.shape):
        return _NONE
    side = -(-len(within) // 4)
    if min(half.any(axis=0).mean() for half in (within[:side], within[-side:])) < _FRAMING:
        return _NONE
    slope, counts = _counts(mask)
    found = np.flatnonzero(counts > _FRAMING * within.shape[1])
    return _Lines(slope=slope, rows=found) if len(found) and found[-1] - found[0] > _APART * len(within) else _NONE


def _thin_along(mask: Mask, lines: _Lines) -> Mask:
    """The pixels on those lines whose ink is thin across the line."""
    if len(lines.rows) == 0:
        return np.zeros_like(mask)
    height, width = mask.shape
    shift = np.rint(lines.slope * (np.arange(width) - width / 2)).astype(int)
    near = np.zeros(height, bool)
    for away in (-2, -1, 0, 1, 2):
        near[np.clip(lines.rows + away, 0, height - 1)] = True
    at = np.arange(height)[:, np.newaxis] - shift
    band = near[np.clip(at, 0, height - 1)] & (at >= 0) & (at < height)
    lengths = _lengths(mask)
    on = lengths[band & mask]
    thickness = np.median(on) if len(on) else 0
    if thickness > max(2, _THICKEST * max(mask.shape)):
        return np.zeros_like(mask)
    thin: Mask = band & mask & (lengths <= 1.5 * thickness + 1)
    return thin


def _lengths(mask: Mask) -> npt.NDArray[np.int64]:
    """For each pixel of the mask, how long the run of pixels in its column is."""
    edges = np.diff(np.pad(mask.T, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    lengths = np.zeros(mask.shape[::-1], np.int64)
    starts, ends = np.nonzero(edges == 1)[1], np.nonzero(edges == -1)[1]
    lengths[mask.T] = np.repeat(ends - starts, ends - starts)
    return lengths.T
