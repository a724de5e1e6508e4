"""Digits as other hands, pens and scanners would have made them: images of 28 x 28 pixels, changed at random.

An image is turned, scaled, slanted, shifted and bent (the elastic deformation of Simard, Steinkraus and Platt, "Best
practices for convolutional neural networks applied to visual document analysis", 2003) in one resampling, then its
strokes are made thicker or thinner, and some images are made as coarse as a low resolution would have left them.

All of it is drawn from a seed and nothing else, so that an epoch can be made again.
"""

from dataclasses import dataclass

import tensorflow as tf

SIDE = 28
_COARSE_SIDE = 11  # of the whole image, whose digit is then 8 pixels high
_BENDS = 5  # nodes of the elastic deformation along a side


@dataclass(frozen=True, slots=True, kw_only=True)
class Distortions:
    """How far each change goes at most; a training script's settings inherit these as flags."""

    rotation: float = 0.26  # radians, either way; 15 degrees keep a 6 from becoming a 9
    scale: float = 0.15  # natural logarithm
    shear: float = 0.2
    shift: float = 2.5  # pixels
    bend: float = 0.2  # pixels: standard deviation of the elastic deformation's nodes
    coarse: float = 0.05  # of the images are made coarse


def distorted(images: tf.Tensor, by: Distortions, seed: tf.Tensor, batch: int, share: slice) -> tf.Tensor:
    """The images [n, 28, 28, 1], each changed at random; float32, 0 to 255. `seed` is two integers.

    The images are the `share` of a batch of that size, and are changed as they would be with the whole of it.
    """
    of_place, of_bends = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    numbers = tf.random.stateless_uniform((batch, 9), of_place, -1, 1)[share]
    bends = by.bend * tf.random.stateless_normal((batch, _BENDS, _BENDS, 2), of_bends)[share]
    images = _resampled(tf.cast(images, tf.float32), *_sources(numbers, bends, by))
    images = _in_thickness(images, numbers[:, 7])
    is_coarse = _by_image(numbers[:, 8] < 2 * by.coarse - 1)
    coarse = tf.image.resize(tf.image.resize(images, (_COARSE_SIDE, _COARSE_SIDE), "area"), (SIDE, SIDE))
    return tf.where(is_coarse, coarse, images)


def _sources(numbers: tf.Tensor, bends: tf.Tensor, by: Distortions) -> tuple[tf.Tensor, tf.Tensor]:
    """Row and column [n, 28, 28] that each pixel is taken from: an affine map about the centre, and the bends."""
    angle, shear, down = by.rotation * numbers[:, 0], by.shear * numbers[:, 1], by.scale * numbers[:, 2]
    across = tf.exp(down + by.scale / 2 * numbers[:, 3])
    down = tf.exp(down)
    axis = tf.range(SIDE, dtype=tf.float32) - (SIDE - 1) / 2
    y, x = axis[None, :, None], axis[None, None, :]

    def each(values: tf.Tensor) -> tf.Tensor:
        return values[:, None, None]

    rows = each(down * tf.cos(angle)) * y + each(down * tf.sin(angle)) * x + each(by.shift * numbers[:, 4])
    columns = each(across * tf.cos(angle)) * x + each(across * (shear - tf.sin(angle))) * y
    columns += each(by.shift * numbers[:, 5])
    field = tf.image.resize(bends, (SIDE, SIDE), "bicubic") + (SIDE - 1) / 2
    return rows + field[..., 0], columns + field[..., 1]


def _resampled(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Each image at those places, by bilinear interpolation; outside of it is background."""
    side = SIDE + 2  # a border of background on every side
    flat = tf.reshape(tf.pad(images[..., 0], ((0, 0), (1, 1), (1, 1))), (-1, side * side))
    rows, columns = (tf.clip_by_value(places + 1, 0, side - 1.001) for places in (rows, columns))
    top, left = tf.floor(rows), tf.floor(columns)
    corner = tf.cast(top * side + left, tf.int32)
    down, right = rows - top, columns - left

    def at(offset: int) -> tf.Tensor:
        return tf.gather(flat, corner + offset, batch_dims=1)

    upper = at(0) * (1 - right) + at(1) * right
    lower = at(side) * (1 - right) + at(side + 1) * right
    return (upper * (1 - down) + lower * down)[..., None]


def _in_thickness(images: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Strokes grown by up to a pixel where the amount is near 1, thinned where it is near -1; half stay as they are."""
    thicker = tf.nn.max_pool2d(images, 2, 1, "SAME")
    thinner = -tf.nn.max_pool2d(-images, 2, 1, "SAME")
    amount = _by_image(tf.where(tf.abs(amounts) < 0.5, 0.0, amounts))
    return images + tf.nn.relu(amount) * (thicker - images) + 0.6 * tf.nn.relu(-amount) * (thinner - images)


def _by_image(values: tf.Tensor) -> tf.Tensor:
    return values[:, None, None, None]
