"""From a photograph to a digit in the graph itself: for exports that run where no preprocessing of ours does.

The photograph is a tensor of one size, [n, height, width, 1 or 3] from 0 to 255, of dark ink on lighter paper or the
other way round. The steps are those of `millrace.artifacts.images`, in operators that ONNX and TFLite have and with
shapes that are known beforehand: grey levels; paper that is lit unevenly made flat; the ink cropped, scaled to 20 x 20
and moved to its centre of mass, all three by one matrix for the rows and one for the columns.

What needs connected parts is not here: ruled lines, frames, edges and specks beside the digit are read with it, and
nothing is refused.
"""

import io
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import tensorflow as tf
from PIL import Image

from millrace.artifacts import images
from millrace.artifacts.background import DARKEST, DIMMEST, UNEVEN, WIDEST
from millrace.artifacts.manifest import DecodeImage
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec
from training import parity, photos, robustness
from training.export.model import ExportError, Trained, traced
from training.export.onnx_graph import onnx_from_tensorflow

INPUT = "photo"
SMALLEST, LARGEST = 56, 1024  # pixels of a photograph's side
_FAINT = 0.3  # of the darkest ink: what is fainter is no part of the digit
_CROWD = 0.004  # of the longer side and more is ink in rows and columns that count: less are specks
_GREY = (0.299, 0.587, 0.114)


def taking_photos(trained: Trained, size: tuple[int, int, int]) -> Trained:
    """The same model with the input `photo`, FP32 [-1, height, width, channels] of that size, in place of its image.

    Formats are compared on photographs of drawn digits. Raises `ExportError` for a model that takes no images in
    MNIST's form, and for a size that no digit can be read from.
    """
    steps = [step for step in trained.description.preprocessing if isinstance(step, DecodeImage) and step.is_bare]
    if len(steps) != 1 or len(trained.exports.function.input_signature) != 1:
        raise ExportError("--photo is for models of images in MNIST's form, such as digits")
    if size[2] not in (1, 3) or not SMALLEST <= min(size[:2]) <= max(size[:2]) <= LARGEST:
        raise ExportError(f"--photo takes sides of {SMALLEST} to {LARGEST} pixels, and 1 or 3 channels, not {size}")
    image, model = steps[0].input, trained.exports.function
    function = traced(
        lambda **tensors: model(**{image: pixels_of(tensors[INPUT])}), {INPUT: tf.TensorSpec((None, *size), tf.float32)}
    )

    def answer(batch: parity.Arrays) -> dict[str, Any]:
        return trained.answer({image: pixels_of(tf.constant(batch[INPUT])).numpy()})

    signature = trained.description.signatures[DEFAULT_SIGNATURE]
    taken = TensorSpec(name=INPUT, datatype="FP32", shape=(-1, *size))
    return replace(
        trained,
        description=msgspec.structs.replace(
            trained.description,
            signatures={DEFAULT_SIGNATURE: Signature(inputs=(taken,), outputs=signature.outputs)},
            preprocessing=(),
            example={},
        ),
        exports=replace(
            trained.exports,
            function=function,
            onnx_model=lambda: onnx_from_tensorflow(function),
            lite_function=None,
            keras_model=None,
            more_signatures={},
        ),
        answer=answer,
        batches=[{INPUT: batch} for batch in np.split(_examples(size), (1, 4))],
        compared_on="photographs of drawn digits",
        tested=[],
        representative=[],
    )


def _examples(size: tuple[int, int, int]) -> Any:
    """Photographs of drawn digits [n, height, width, channels]."""
    random = np.random.default_rng(0)
    drawn = robustness.drawn(20, random).images[..., 0].astype(np.uint8)
    changes = [photos.CHANGES[name] for name in ("shadow", "vignette", "lamp")]
    files = [changes[number % 3](Image.fromarray(image), random) for number, image in enumerate(drawn)]
    return np.stack([photo_of(file, size) for file in files])


def photo_of(file: bytes, size: tuple[int, int, int]) -> Any:
    """The tensor [height, width, channels] of an image file, stretched to that size."""
    with Image.open(io.BytesIO(file)) as image:
        picture = image.convert("L" if size[2] == 1 else "RGB").resize(size[1::-1], Image.Resampling.BOX)
    return np.asarray(picture, np.float32).reshape(size)


def pixels_of(photo: Any) -> Any:
    """Photographs [n, height, width, 1 or 3] to pixels in MNIST's form [n, 28, 28, 1]; the sizes are known."""
    grey = tf.cast(photo, tf.float32)
    if grey.shape[-1] == 3:
        grey = tf.reduce_sum(grey * tf.constant(_GREY), axis=-1, keepdims=True)
    return _placed(_ink(grey)[..., 0])[..., tf.newaxis]


def _ink(grey: Any) -> Any:
    """How dark each pixel is beside its paper, 0 to 255, [n, height, width, 1]."""
    border = _sorted(_border(grey))
    median, low, high = (_at(border, part) for part in (0.5, 0.1, 0.9))
    lighter, darker = tf.nn.relu(grey - median), tf.nn.relu(median - grey)
    even = _less_noise(_either(_energy(lighter) > _energy(darker), lighter, darker))
    is_uneven = high - low > UNEVEN * tf.maximum(_most(lighter), _most(darker))
    light = _either(_is_dark_ink(grey), grey, 255 - grey)
    return _either(is_uneven, _flat(light), even)


def _flat(light: Any) -> Any:
    smooth = tf.nn.avg_pool2d(_mirrored(light, 1), 3, 1, "VALID")
    paper = _closed(smooth, max(light.shape[1:3]) // WIDEST | 1)
    brightness = tf.maximum(paper, tf.maximum(DIMMEST, DARKEST * _most(paper)))
    return _less_noise(255 * tf.nn.relu(paper - light) / brightness)


def _less_noise(ink: Any) -> Any:
    border = _sorted(_border(ink))
    return tf.nn.relu(ink - tf.minimum(_at(border, 0.95), images.MOST_NOISE * _most(ink)))


def _closed(grey: Any, side: int) -> Any:
    """Dark parts filled up that no square of that side fits into."""
    reach = side // 2
    widened = _largest(_mirrored(grey, reach), side)
    return -_largest(-_mirrored(widened, reach), side)


def _largest(grey: Any, side: int) -> Any:
    """The largest value in each square of that side: along the columns, then along the rows."""
    return tf.nn.max_pool2d(tf.nn.max_pool2d(grey, (side, 1), 1, "VALID"), (1, side), 1, "VALID")


def _is_dark_ink(grey: Any) -> Any:
    """Whether what is narrow is rather darker than what is around it, than lighter."""
    verdict = 0.0
    for part in (40, 20, 10):
        side = max(3, max(grey.shape[1:3]) // part | 1)
        dark, light = (_energy(_closed(tone, side) - tone) for tone in (grey, -grey))
        verdict += (dark - light) / (dark + light + 1.0)
    return verdict > 0


def _placed(ink: Any) -> Any:
    """The ink [n, height, width] in MNIST's form [n, 28, 28]."""
    is_ink = tf.cast(ink > _FAINT * tf.reduce_max(ink, axis=(1, 2), keepdims=True), tf.float32)
    ink = ink * is_ink
    (top, bottom), (left, right) = (_extent(tf.reduce_sum(is_ink, axis=axis)) for axis in (2, 1))
    scale = tf.maximum(bottom - top, right - left) / images.BOX  # pixels of the photograph in one of MNIST's
    centres = [
        _centre(tf.reduce_sum(ink, axis=axis), first, last)
        for axis, first, last in ((2, top, bottom), (1, left, right))
    ]
    rows, columns = (
        _resampling(centre, scale, first, last, ink.shape[axis])
        for centre, first, last, axis in zip(centres, (top, left), (bottom, right), (1, 2), strict=True)
    )
    small = tf.matmul(tf.matmul(rows, ink), columns, transpose_b=True)
    return 255 * small / tf.maximum(tf.reduce_max(small, axis=(1, 2), keepdims=True), 1e-3)


def _extent(counts: Any) -> tuple[Any, Any]:
    """The first place with enough ink, and the place after the last, each [n, 1], of ink along an axis [n, size]."""
    size = counts.shape[1]
    has_ink = tf.cast(counts > max(1.0, _CROWD * size), tf.float32)
    places = tf.range(size, dtype=tf.float32)
    first = tf.reduce_min(places * has_ink + size * (1 - has_ink), axis=1, keepdims=True)
    last = tf.reduce_max((places + 1) * has_ink, axis=1, keepdims=True)
    return tf.minimum(first, size - 1.0), tf.maximum(last, tf.minimum(first, size - 1.0) + 1)


def _centre(mass: Any, first: Any, last: Any) -> Any:
    places = tf.range(mass.shape[1], dtype=tf.float32)
    inside = mass * _within(places, first, last)
    total = tf.reduce_sum(inside, axis=1, keepdims=True)
    return tf.reduce_sum(inside * (places + 0.5), axis=1, keepdims=True) / tf.maximum(total, 1e-3)


def _within(places: Any, first: Any, last: Any) -> Any:
    return tf.cast((places >= first) & (places < last), tf.float32)


def _resampling(centre: Any, scale: Any, first: Any, last: Any, size: int) -> Any:
    """The matrix [n, 28, size] that averages what each new pixel covers, the centre of mass at the middle pixel."""
    first, last, centre, scale = (value[..., tf.newaxis] for value in (first, last, centre, scale))
    middle = images.SIDE / 2 + 0.5  # the box stays inside: MNIST's do, and move their centre of mass for it
    start = middle + (first - centre) / scale
    end = start + (last - first) / scale
    middle = middle - tf.nn.relu(end - images.SIDE) + tf.nn.relu(-start)
    new = tf.reshape(tf.range(images.SIDE, dtype=tf.float32), (1, images.SIDE, 1))
    begin = centre + (new - middle) * scale
    places = tf.reshape(tf.range(size, dtype=tf.float32), (1, 1, size))
    covered = tf.nn.relu(tf.minimum(places + 1, begin + scale) - tf.maximum(places, begin))
    return covered * _within(places, first, last) / scale


def _border(grey: Any) -> Any:
    sides = (grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1])
    return tf.concat(sides, axis=1)[..., 0]


def _sorted(values: Any) -> Any:
    """From the largest to the smallest, along the last axis."""
    return tf.math.top_k(values, k=values.shape[-1]).values


def _at(falling: Any, part: float) -> Any:
    """The value that this part of the sorted values is below, [n, 1, 1, 1]."""
    place = round((1 - part) * (falling.shape[-1] - 1))
    return tf.reshape(falling[:, place : place + 1], (-1, 1, 1, 1))


def _most(values: Any) -> Any:
    return tf.reduce_max(values, axis=(1, 2, 3), keepdims=True)


def _energy(values: Any) -> Any:
    return tf.reduce_sum(tf.square(values), axis=(1, 2, 3), keepdims=True)


def _either(condition: Any, one: Any, other: Any) -> Any:
    """A choice for each image, as arithmetic: every runtime has that."""
    weight = tf.cast(condition, tf.float32)
    return weight * one + (1 - weight) * other


def _mirrored(grey: Any, reach: int) -> Any:
    """The image continued beyond its border, light going on as it falls off."""
    for axis in (1, 2):
        around = [[reach, reach] if each == axis else [0, 0] for each in range(4)]
        inner = tf.pad(grey, around, "REFLECT")
        first, last = (tf.gather(grey, [place], axis=axis) for place in (0, grey.shape[axis] - 1))
        size = grey.shape[axis]
        place = tf.reshape(tf.range(-reach, size + reach), [-1 if each == axis else 1 for each in range(4)])
        before, after = tf.cast(place < 0, tf.float32), tf.cast(place >= size, tf.float32)
        grey = inner * (1 - before - after) + before * (2 * first - inner) + after * (2 * last - inner)
    return grey
