"""An image file to the pixels that a graph's input takes, as a manifest's `decode_image` says.

Pillow does the decoding and the scaling, which is what torchvision and Keras do for images of Pillow's; with the same
settings the pixels are the same. Pillow's filters look at all pixels that a new one covers (antialias), as
torchvision's do by default, and OpenCV's and TensorFlow's do not. Both release the interpreter's lock.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from millrace.artifacts.detector import Detector
from millrace.artifacts.imagefiles import check_size, of_8_bits, opened
from millrace.artifacts.images import SIDE, read_digit
from millrace.artifacts.manifest import DecodeImage, ManifestError, each
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import BYTES, DTYPES, TensorSpec

Pixels = npt.NDArray[Any]
_MNIST_SHAPE = (SIDE, SIDE, 1)
_CHANNELS = {"RGB": 3, "BGR": 3, "gray": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """What a graph takes of an image: `size` is height and width, the numbers are one or one for each channel."""

    size: tuple[int, int]
    layout: str
    colour: str
    fit: str
    shorter_side: int | None
    fill: tuple[int, ...]
    resampling: Image.Resampling
    scale: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: np.dtype[Any]


class Reader(NamedTuple):
    """What makes one row of a graph's input, of `row_bytes` bytes, of an image file.

    `read` raises `InvalidRequest` for a wrong file.
    """

    read: Callable[[bytes], Pixels]
    row_bytes: int


MNIST = Reader(read_digit, SIDE * SIDE * np.dtype(np.float32).itemsize)


def reader(step: DecodeImage, spec: TensorSpec) -> Reader:
    """What makes the rows of an input, which `spec` describes as the model's file has it.

    Raises `ManifestError` where the step does not fit it.
    """
    if step.is_bare and spec.datatype == "FP32" and spec.shape[1:] == _MNIST_SHAPE:
        return MNIST
    if step.detector:
        raise ManifestError(f"the detector of input {spec.name!r} needs a graph that takes FP32 [-1, 28, 28, 1]")
    form = _form(step, spec)
    return Reader(lambda file: _read(file, form), math.prod(form.size) * _CHANNELS[form.colour] * form.dtype.itemsize)


def watched(found: Reader, detector: Detector) -> Reader:
    """The same, which refuses images on which the detector sees no digit."""

    def read(file: bytes) -> Pixels:
        pixels = found.read(file)
        if not detector.sees_digit(pixels):
            raise InvalidRequest("the image shows no digit: what is on it looks like none of the digits 0 to 9")
        return pixels

    return Reader(read, found.row_bytes)


def _form(step: DecodeImage, spec: TensorSpec) -> _Form:
    where = f"decode_image of input {spec.name!r}, which is {spec.datatype} {list(spec.shape)} in the model's file"
    if spec.datatype == BYTES:
        raise ManifestError(f"{where}: the graph decodes images itself; leave the step out")
    if step.scale is None and DTYPES[spec.datatype].kind == "f":
        raise ManifestError(
            f'{where}: say what range the pixels are to have: "scale": 1 for 0 to 255, or "1/255", perhaps with mean '
            "and std"
        )
    layout = step.layout or _layout(spec.shape)
    shape = (-1,) * len(layout) if spec.unknown_rank else spec.shape
    if not layout or len(layout) != len(shape):
        raise ManifestError(f'{where}: say its layout, "NHWC", "NCHW" or, without channels, "NHW"')
    sizes = dict(zip(layout, shape, strict=True))
    colour = step.colour or {1: "gray", 3: "RGB", -1: "RGB"}.get(sizes.get("C", 1), "")
    if sizes.get("C", 1) not in (-1, _CHANNELS.get(colour)):
        raise ManifestError(f"{where}: as {layout} it has {sizes.get('C', 1)} channels, not those of {colour or 'RGB'}")
    height, width = _size(step, (sizes["H"], sizes["W"]), where)
    if step.shorter_side is not None and step.shorter_side < max(height, width):
        raise ManifestError(f"{where}: a shorter_side of {step.shorter_side} does not cover {height} x {width}")
    for name, values in (("fill", each(step.fill)), ("mean", each(step.mean)), ("std", each(step.std))):
        if len(values) not in (1, _CHANNELS[colour]):
            raise ManifestError(f"{where}: {name} has {len(values)} numbers for {_CHANNELS[colour]} channels")
    return _Form(
        size=(height, width),
        layout=layout,
        colour=colour,
        fit=step.fit or "stretch",
        shorter_side=step.shorter_side,
        fill=each(step.fill),
        resampling=Image.Resampling[(step.interpolation or "bilinear").upper()],
        scale=step.fraction,
        mean=each(step.mean),
        std=each(step.std),
        dtype=DTYPES[spec.datatype],
    )


def _layout(shape: tuple[int, ...]) -> str:
    """Where the channels seem to be; "" where that is not clear."""
    if len(shape) != 4:
        return ""
    is_last, is_first = shape[3] in (1, 3), shape[1] in (1, 3)
    return "" if is_last == is_first else "NHWC" if is_last else "NCHW"


def _size(step: DecodeImage, declared: tuple[int, int], where: str) -> tuple[int, int]:
    wanted = declared if step.size is None else (step.size, step.size) if isinstance(step.size, int) else step.size
    if any(side < 0 for side in wanted):
        raise ManifestError(f"{where}: say to which size images are brought: height and width")
    if any(side not in (-1, given) for side, given in zip(declared, wanted, strict=True)):
        raise ManifestError(f"{where}: its images have {declared[0]} x {declared[1]} pixels, not {list(wanted)}")
    return wanted


def _read(file: bytes, form: _Form) -> Pixels:
    with opened(file) as image:
        picture = of_8_bits(image).convert("L" if form.colour == "gray" else "RGB")
    ImageOps.exif_transpose(picture, in_place=True)
    return _numbers(np.asarray(_fitted(picture, form)), form)


def _fitted(picture: Image.Image, form: _Form) -> Image.Image:
    height, width = form.size
    if form.fit == "stretch":
        return _resized(picture, (width, height), form)
    if form.fit == "crop":
        return _middle(_resized(picture, _covering(picture, form), form), width, height)
    return _padded(_resized(picture, _within(picture, width, height), form), form)


def _resized(picture: Image.Image, size: tuple[int, int], form: _Form) -> Image.Image:
    check_size(*size)  # of an image of a few rows, to cover a square takes many columns
    return picture.resize(size, form.resampling)


def _covering(picture: Image.Image, form: _Form) -> tuple[int, int]:
    """The smallest size, of the picture's shape, that covers the form; or that with the wanted shorter side."""
    (height, width), side = form.size, form.shorter_side
    if side is None and width * picture.height >= height * picture.width:
        return width, width * picture.height // picture.width
    if side is None:
        return height * picture.width // picture.height, height
    if picture.width <= picture.height:
        return side, side * picture.height // picture.width
    return side * picture.width // picture.height, side


def _middle(picture: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    return picture.crop((left, top, left + width, top + height))


def _within(picture: Image.Image, width: int, height: int) -> tuple[int, int]:
    """The largest size of the picture's shape that fits."""
    scale = min(width / picture.width, height / picture.height)
    return max(1, round(picture.width * scale)), max(1, round(picture.height * scale))


def _padded(picture: Image.Image, form: _Form) -> Image.Image:
    height, width = form.size
    fill = form.fill if len(form.fill) > 1 or form.colour == "gray" else form.fill * 3
    out = Image.new(picture.mode, (width, height), fill[::-1] if form.colour == "BGR" else fill)
    out.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    return out


def _numbers(pixels: Pixels, form: _Form) -> Pixels:
    """One row of the graph's input, of pixels [height, width] or [height, width, channels]."""
    if form.colour == "BGR":
        pixels = pixels[..., ::-1]
    if form.colour == "gray" and form.layout != "NHW":
        pixels = pixels[..., np.newaxis]
    numbers = _normalised(pixels, form)
    return np.ascontiguousarray(numbers.transpose(2, 0, 1) if form.layout == "NCHW" else numbers)


def _normalised(pixels: Pixels, form: _Form) -> Pixels:
    multiplied, divided = form.scale
    is_plain = (multiplied, divided, *set(form.mean), *set(form.std)) == (1, 1, 0, 1)
    if is_plain and form.dtype == pixels.dtype:
        return pixels
    numbers: npt.NDArray[np.floating[Any]] = pixels.astype(np.float64 if form.dtype == np.float64 else np.float32)
    if multiplied != 1:
        numbers = numbers * multiplied
    if divided != 1:
        numbers = numbers / divided
    if any(form.mean):
        numbers = numbers - np.array(form.mean, numbers.dtype)
    if set(form.std) != {1.0}:
        numbers = numbers / np.array(form.std, numbers.dtype)
    if form.dtype.kind in "iu":
        limits = np.iinfo(form.dtype)
        numbers = np.clip(np.rint(numbers), limits.min, limits.max)
    return numbers.astype(form.dtype, copy=False)
