"""An image file to the form that MNIST's digits have, following the recipe of MNIST's authors.

The page of the data set says: digits were size normalised to fit a 20x20 box keeping their aspect ratio, with grey
levels from anti-aliasing, and centred in a 28x28 image by their centre of mass. Here, in order: composite on white,
grey levels, light ink on dark (an image whose border is bright is inverted), contrast stretched, cropped to the ink,
scaled to fit 20x20, placed by centre of mass. An image that already is 28x28 with light ink on a black border is taken
as it is, so a file made from MNIST's own pixels gives those pixels.
"""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from millrace.protocol.errors import InvalidRequest

SIDE = 28
_BOX = 20
_INK = 0.2  # of the brightest pixel: what is darker counts as background when the ink's box is measured
_MAX_PIXELS = 20_000_000  # a decoded image of that size takes 80 MB for a moment
_WORKING_SIDE = 1024  # larger images are reduced to about this before anything is computed

Pixels = npt.NDArray[np.float32]


def read_digit(file: bytes) -> Pixels:
    """Pixels [28, 28, 1], float32, 0 (background) to 255 (ink), of an encoded image of any size and polarity.

    Raises `InvalidRequest` for bytes that are no PNG or JPEG, are damaged, or hold more than 20 million pixels.
    """
    try:
        with Image.open(io.BytesIO(file), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise InvalidRequest(f"an image of {image.width} x {image.height} pixels is too large")
            grey = _on_white(image)
    except InvalidRequest:
        raise
    except UnidentifiedImageError:
        raise InvalidRequest("the bytes are not a PNG or JPEG image") from None
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise InvalidRequest(f"the image cannot be decoded: {error}") from None
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if grey.shape == (SIDE, SIDE) and not border.any():
        return grey[..., None]
    return _centred(_light_on_dark(grey, float(np.median(border))))[..., None]


def _on_white(image: Image.Image) -> Pixels:
    image.draft("RGB", (_WORKING_SIDE, _WORKING_SIDE))  # a JPEG can be decoded small
    layer = image.convert("RGBA" if image.has_transparency_data else "L")
    if (factor := max(layer.size) // _WORKING_SIDE) > 1:
        layer = layer.reduce(factor)
    if layer.mode == "RGBA":
        layer = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("L")
    return np.asarray(layer, np.float32)


def _light_on_dark(grey: Pixels, background: float) -> Pixels:
    ink: Pixels = background - grey if background > 127 else grey - background
    ink = np.clip(ink, 0, None)
    return ink * (255 / peak) if (peak := float(ink.max())) > 0 else ink


def _centred(ink: Pixels) -> Pixels:
    out = np.zeros((SIDE, SIDE), np.float32)
    is_ink = ink > _INK * 255
    rows, columns = np.flatnonzero(is_ink.any(axis=1)), np.flatnonzero(is_ink.any(axis=0))
    if not rows.size:
        return out
    crop = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = _BOX / max(crop.shape)
    height, width = (max(1, round(side * scale)) for side in crop.shape)
    box = np.asarray(
        Image.fromarray(crop).resize((width, height), Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
    )
    mass = box.sum()
    centre_y = (box.sum(axis=1) * np.arange(height)).sum() / mass
    centre_x = (box.sum(axis=0) * np.arange(width)).sum() / mass
    top = int(np.clip(round(SIDE / 2 - centre_y - 0.5), 0, SIDE - height))
    left = int(np.clip(round(SIDE / 2 - centre_x - 0.5), 0, SIDE - width))
    out[top : top + height, left : left + width] = np.clip(box, 0, 255)
    return out
