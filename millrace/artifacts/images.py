"""An image file to the form that MNIST's digits have, following the recipe of MNIST's authors.

The page of the data set says: digits were size normalised to fit a 20x20 box keeping their aspect ratio, with grey
levels from anti-aliasing, and centred in a 28x28 image by their centre of mass. Here, in order:

1. upright, as the camera says; what is transparent becomes paper, white behind dark ink and black behind light;
2. grey levels; ink is what differs from the border's median, to whichever side more does, less the border's noise; on
   paper that is lit unevenly, what differs from the paper around it (see `background`);
3. of the ink, the digit alone: no ruled lines, frames, specks, or what the image's edge cuts off (see `ink`);
4. cropped to the digit, scaled to fit 20x20 by area, so that edges are anti-aliased;
5. contrast stretched, so that thin lines do not fade;
6. placed so that the centre of mass is at pixel (14, 14), rounded, as in every image of MNIST.

An image that already is so (28x28, box and centre as in MNIST) keeps its pixels, in either polarity.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from millrace.artifacts.background import UNEVEN, flat_ink
from millrace.artifacts.imagefiles import of_8_bits, opened
from millrace.artifacts.ink import of_the_digit
from millrace.protocol.errors import InvalidRequest

SIDE = 28
BOX = 20
OFF_CENTRE = 0.55  # pixels that the centre of mass of a digit in MNIST's form may lie beside the middle
INK = 0.2  # of the brightest pixel: what is darker counts as background when the ink's box is measured
MOST_NOISE = 0.3  # of the brightest pixel: the border of a drawing that is cut off is no noise
WORKING_SIDE = 384  # larger images are reduced to about this before anything is computed

Pixels = npt.NDArray[np.float32]


def read_digit(file: bytes) -> Pixels:
    """Pixels [28, 28, 1], float32, 0 (background) to 255 (ink), of an encoded image of any size and polarity.

    Raises `InvalidRequest` as `imagefiles.opened` does, and for an image without ink.
    """
    with opened(file) as image:
        grey = _grey(image)
    ink = _light_on_dark(grey)
    if _is_in_form(ink):
        return ink[..., None]
    digit = of_the_digit(flat_ink(grey) if _is_uneven(grey, ink) else _without_noise(ink))
    if not digit.any():
        raise InvalidRequest("the image shows no digit: nothing on it stands out from the paper as ink")
    return boxed(digit)[..., None]


def _grey(image: Image.Image) -> Pixels:
    image.draft("RGB", (WORKING_SIDE, WORKING_SIDE))  # a JPEG can be decoded small
    layer = of_8_bits(image)
    layer = layer.convert("RGBA" if layer.has_transparency_data else "L")
    layer = ImageOps.exif_transpose(layer)
    if (factor := max(layer.size) // WORKING_SIDE) > 1:
        layer = layer.reduce(factor)
    if layer.mode == "RGBA":
        layer = _on_paper(layer)
    return np.asarray(layer, np.float32)


def _on_paper(layer: Image.Image) -> Image.Image:
    grey, opacity = np.asarray(layer.convert("L"), np.float32), np.asarray(layer.getchannel("A"), np.float32)
    is_light = (grey * opacity).sum() > 127 * opacity.sum()
    paper = Image.new("RGBA", layer.size, "black" if is_light and opacity.min() == 0 else "white")
    return Image.alpha_composite(paper, layer).convert("L")


def _is_uneven(grey: Pixels, ink: Pixels) -> bool:
    darker, lighter = np.percentile(_border(grey), (10, 90))
    return bool(lighter - darker > UNEVEN * ink.max())


def _light_on_dark(grey: Pixels) -> Pixels:
    background = np.median(_border(grey))
    lighter, darker = np.clip(grey - background, 0, None), np.clip(background - grey, 0, None)
    ink: Pixels = lighter if np.square(lighter).sum() > np.square(darker).sum() else darker
    return ink


def _without_noise(ink: Pixels) -> Pixels:
    noise = min(np.percentile(_border(ink), 95), MOST_NOISE * ink.max())
    cleaned: Pixels = np.clip(ink - noise, 0, None)
    return cleaned


def _border(pixels: Pixels) -> Pixels:
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _is_in_form(ink: Pixels) -> bool:
    if ink.shape != (SIDE, SIDE) or not ink.any():
        return False
    rows, columns = _ink_box(ink, 0)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    return max(height, width) in (BOX - 1, BOX) and bool(np.abs(_centre(ink) - SIDE / 2).max() <= OFF_CENTRE)


def boxed(ink: Pixels) -> Pixels:
    """Ink of any size, light on a background of 0 and not all 0, in MNIST's form [28, 28]: steps 4 to 6."""
    out = np.zeros((SIDE, SIDE), np.float32)
    crop = ink[_ink_box(ink, INK * float(ink.max()))]
    scale = BOX / max(crop.shape)
    height, width = (max(1, round(side * scale)) for side in crop.shape)
    resampling = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    box = np.asarray(Image.fromarray(crop).resize((width, height), resampling))
    top, left = np.clip(np.round(SIDE / 2 - _centre(box)).astype(int), 0, (SIDE - height, SIDE - width))
    out[top : top + height, left : left + width] = box * (255 / box.max())
    return out


def _ink_box(ink: Pixels, threshold: float) -> tuple[slice, slice]:
    """The rows and the columns that hold ink darker than that."""
    is_ink = ink > threshold
    rows, columns = np.flatnonzero(is_ink.any(axis=1)), np.flatnonzero(is_ink.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _centre(ink: Pixels) -> Pixels:
    """Row and column of the centre of mass."""
    height, width = ink.shape
    moments = [ink.sum(axis=1) @ np.arange(height), ink.sum(axis=0) @ np.arange(width)]
    centre: Pixels = np.array(moments, np.float32) / ink.sum()
    return centre
