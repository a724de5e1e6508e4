"""A manifest's steps inside a SavedModel's graph: for callers that send image files or texts to TensorFlow Serving.

The rules of `millrace.artifacts.images` and `millrace.artifacts.vocabulary`, in TensorFlow's operators. They are
signatures of their own beside `serving_default`, which keeps the graph's tensors: these operators run in TensorFlow
only.
"""

from dataclasses import replace
from typing import Any

import tensorflow as tf

from millrace.artifacts import images
from millrace.artifacts.imagefiles import MAX_PIXELS
from millrace.artifacts.manifest import DecodeImage, Manifest, Tokenize
from millrace.artifacts.vocabulary import Vocabulary
from training.export.model import Exports, traced

FROM_IMAGE, FROM_TEXT = "serving_image", "serving_text"
_PNG = b"\x89PNG\r\n\x1a\n"
_BEFORE, _AFTER = "\x01", "\x02"  # marks around a word


def with_raw_inputs(exports: Exports, description: Manifest, vocabulary: Vocabulary | None) -> Exports:
    """The exports with one more signature of the SavedModel for each step of the manifest that graphs can take.

    `serving_image` takes encoded PNG or JPEG files (strings [n]), `serving_text` texts in UTF-8 (strings [n]).
    """
    signatures, tables = dict(exports.more_signatures), []
    for step in description.preprocessing:
        if isinstance(step, DecodeImage) and step.is_bare:
            signatures[FROM_IMAGE] = _prepared(exports, step.input, step.input, read_digits)
        if isinstance(step, Tokenize) and not step.tokenizer and vocabulary is not None:
            table = word_table(vocabulary)
            tables.append(table)
            signatures[FROM_TEXT] = _prepared(exports, step.input, step.output, Tokenizer(step, table))
    return replace(exports, variables=[*exports.variables, *tables], more_signatures=signatures)


def _prepared(exports: Exports, raw: str, graph_input: str, prepare: Any) -> Any:
    def serve(**tensors: Any) -> Any:
        return exports.function(**{graph_input: prepare(tensors[raw])})

    return traced(serve, {raw: tf.TensorSpec((None,), tf.string)})


# Texts


def word_table(vocabulary: Vocabulary) -> Any:
    """A look-up table from words to ids; other words are 1."""
    entries = list(vocabulary.entries)
    rows = tf.lookup.KeyValueTensorInitializer(entries, list(range(len(entries))), tf.string, tf.int64)
    return tf.lookup.StaticHashTable(rows, default_value=1)


class Tokenizer:
    """Texts (strings [n]) to word ids (int32 [n, length of the longest]), as `Vocabulary.encode` makes them."""

    def __init__(self, step: Tokenize, table: Any) -> None:
        self._step, self._table = step, table

    def __call__(self, texts: Any) -> Any:
        """The ids; 0 fills up the rows of shorter texts."""
        kept = self._step.max_length
        found = self._table.lookup(_words(texts))
        found = found[:, :kept] if self._step.keep == "start" else found[:, -kept:]
        lengths = found.row_lengths()
        ids = tf.cast(found.to_tensor(shape=(None, None)), tf.int32)
        # A text without words is the unknown word; the column is there even where no text of the batch has one.
        ids = tf.pad(ids, [[0, 0], [0, tf.cast(tf.equal(tf.shape(ids)[1], 0), tf.int32)]])
        first = tf.where(lengths == 0, 1, ids[:, 0])
        return tf.concat([first[:, tf.newaxis], ids[:, 1:]], axis=1)


def _words(texts: Any) -> Any:
    """The words of each text, ragged; RE2 finds no list of matches, so words are marked and the rest is cut away."""
    substitute = tf.strings.regex_replace
    plain = substitute(texts, r"[\x00-\x02]", " ")  # NUL would end the text in TensorFlow's lower()
    plain = tf.strings.lower(substitute(plain, "<[^<>]{1,20}>", " "), encoding="utf-8")
    plain = substitute(plain, "\u2019", "'")
    marked = substitute(plain, "([a-z0-9]+(?:'[a-z]+)?|[!?])", f"{_BEFORE}\\1{_AFTER}")
    between = substitute(marked, f"(^|{_AFTER})[^{_BEFORE}{_AFTER}]*({_BEFORE}|$)", " ")
    return tf.strings.split(between)


# Images


def read_digits(files: Any) -> Any:
    """Encoded images (strings [n]) to pixels [n, 28, 28, 1], as `images.read_digit` makes them.

    But for two things: how a camera was held, which some files say (EXIF), is not looked at; and there have to be no
    shadows, lines or other ink beside the digit, which only `images.read_digit` leaves out.
    """
    form = tf.TensorSpec((images.SIDE, images.SIDE, 1), tf.float32)
    return tf.map_fn(_read_digit, files, fn_output_signature=form)


def _read_digit(file: Any) -> Any:
    grey = tf.cond(tf.io.is_jpeg(file), lambda: _jpeg(file), lambda: _png(file))
    ink = _light_on_dark(grey)

    def placed() -> Any:
        return tf.cond(_is_in_form(ink), lambda: ink, lambda: _boxed(_without_noise(ink)))

    pixels = tf.cond(tf.reduce_any(ink > 0), placed, lambda: tf.zeros((images.SIDE, images.SIDE)))
    return tf.ensure_shape(pixels, (images.SIDE, images.SIDE))[..., tf.newaxis]


def _jpeg(file: Any) -> Any:
    size = tf.io.extract_jpeg_shape(file)[:2]
    file = _of_bounded_size(file, size)
    smallest = tf.reduce_min(size // images.WORKING_SIDE)  # a JPEG can be decoded small

    def decode(ratio: int) -> Any:
        decoded = tf.io.decode_jpeg(file, channels=0, ratio=ratio, dct_method="INTEGER_ACCURATE")
        return _grey(_reduced(tf.cast(decoded, tf.float32)))

    branch = tf.reduce_sum(tf.cast(smallest >= [2, 4, 8], tf.int32))
    return tf.switch_case(branch, [lambda ratio=ratio: decode(ratio) for ratio in (1, 2, 4, 8)])


def _png(file: Any) -> Any:
    is_png = tf.strings.substr(file, 0, 8) == _PNG
    known = tf.debugging.assert_equal(is_png, True, "the bytes are not a PNG or JPEG image")
    with tf.control_dependencies([known]):
        file = tf.identity(file)
    file = _of_bounded_size(file, tf.io.decode_raw(tf.strings.substr(file, 16, 8), tf.int32, little_endian=False))
    pixels = tf.cast(tf.io.decode_png(file, channels=0), tf.float32)
    return tf.cond(tf.shape(pixels)[-1] % 2 == 0, lambda: _on_paper(pixels), lambda: _grey(_reduced(pixels)))


def _of_bounded_size(file: Any, size: Any) -> Any:
    """The file itself, once its size is known to be allowed: nothing decodes it before."""
    pixels = tf.reduce_prod(tf.cast(size, tf.int64))
    limit = tf.constant(MAX_PIXELS, tf.int64)
    with tf.control_dependencies([tf.debugging.assert_less_equal(pixels, limit, "the image is too large")]):
        return tf.identity(file)


def _on_paper(pixels: Any) -> Any:
    """Grey of colours or grey with an alpha channel last: light ink on black, other ink on white."""
    alpha = pixels[..., -1:]
    ink = _grey(_reduced(pixels[..., :-1] * alpha / 255, whole=False))  # each as much as it can be seen
    opacity = tf.floor(_reduced(alpha, whole=False)[..., 0] + 0.5)
    is_light = tf.reduce_sum(ink) * 255 > 127 * tf.reduce_sum(opacity)
    paper = tf.where(is_light & tf.equal(tf.reduce_min(opacity), 0), 0.0, 255.0)
    return tf.floor(ink + paper * (255 - opacity) / 255 + 0.5)


def _reduced(pixels: Any, *, whole: bool = True) -> Any:
    """Averages of squares of pixels, as large as it takes for the image to be about the working size."""
    height, width, channels = tf.unstack(tf.shape(pixels))
    factor = tf.maximum(tf.maximum(height, width) // images.WORKING_SIDE, 1)
    rows, columns = (height + factor - 1) // factor, (width + factor - 1) // factor

    def summed(values: Any) -> Any:
        filled = tf.pad(values, [[0, rows * factor - height], [0, columns * factor - width], [0, 0]])
        return tf.reduce_sum(tf.reshape(filled, tf.stack([rows, factor, columns, factor, -1])), axis=(1, 3))

    average = summed(pixels) / summed(tf.ones_like(pixels[..., :1]))
    average = tf.reshape(average, tf.stack([rows, columns, channels]))
    return tf.floor(average + 0.5) if whole else average


def _grey(pixels: Any) -> Any:
    """Luminance in whole steps by Pillow's weights (ITU-R 601), of grey or colours in the last axis."""
    weights = tf.constant([19595.0, 38470.0, 7471.0], tf.float64) / 65536

    def luminance() -> Any:
        mixed = tf.reduce_sum(tf.cast(pixels[..., :3], tf.float64) * weights, axis=-1)
        return tf.cast(tf.floor(mixed + 0.5), tf.float32)

    return tf.cond(tf.shape(pixels)[-1] >= 3, luminance, lambda: pixels[..., 0])


def _light_on_dark(grey: Any) -> Any:
    background = _percentile(_border(grey), 50.0)
    lighter, darker = tf.maximum(grey - background, 0), tf.maximum(background - grey, 0)
    is_light = tf.reduce_sum(tf.square(lighter)) > tf.reduce_sum(tf.square(darker))
    return tf.where(is_light, lighter, darker)


def _without_noise(ink: Any) -> Any:
    noise = tf.minimum(_percentile(_border(ink), 95.0), images.MOST_NOISE * tf.reduce_max(ink))
    return tf.maximum(ink - noise, 0)


def _border(pixels: Any) -> Any:
    return tf.concat([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]], axis=0)


def _percentile(values: Any, percent: float) -> Any:
    """The percentile, between two values in proportion."""
    ordered = tf.sort(values)
    place = percent / 100 * tf.cast(tf.size(values) - 1, tf.float32)
    below = tf.cast(tf.floor(place), tf.int32)
    above = tf.minimum(below + 1, tf.size(values) - 1)
    part = place - tf.floor(place)
    return ordered[below] * (1 - part) + ordered[above] * part


def _ink_box(ink: Any, threshold: Any) -> tuple[Any, Any]:
    """The first row and column with ink darker than that, and the sides of the box that holds it all."""
    is_ink = ink > threshold
    rows, columns = (tf.where(tf.reduce_any(is_ink, axis=axis))[:, 0] for axis in (1, 0))
    first, last = tf.stack([rows[0], columns[0]]), tf.stack([rows[-1], columns[-1]])
    return tf.cast(first, tf.int32), tf.cast(last - first, tf.int32) + 1


def _centre(ink: Any) -> Any:
    """Row and column of the centre of mass."""
    moments = []
    for axis in (0, 1):
        along = tf.reduce_sum(ink, axis=1 - axis)
        moments.append(tf.reduce_sum(along * tf.cast(tf.range(tf.size(along)), ink.dtype)))
    return tf.stack(moments) / tf.reduce_sum(ink)


def _is_in_form(ink: Any) -> Any:
    def is_placed() -> Any:
        _, sides = _ink_box(ink, 0.0)
        longest, away = tf.reduce_max(sides), tf.reduce_max(tf.abs(_centre(ink) - images.SIDE / 2))
        return (longest >= images.BOX - 1) & (longest <= images.BOX) & (away <= images.OFF_CENTRE)

    is_small = tf.reduce_all(tf.equal(tf.shape(ink), images.SIDE))
    return tf.cond(is_small, is_placed, lambda: False)


def _boxed(ink: Any) -> Any:
    first, sides = _ink_box(ink, images.INK * tf.reduce_max(ink))
    crop = tf.slice(ink, first, sides)
    scale = images.BOX / tf.reduce_max(tf.cast(sides, tf.float64))
    wanted = tf.maximum(tf.cast(tf.round(tf.cast(sides, tf.float64) * scale), tf.int32), 1)
    down, across = (_resampling(sides[axis], wanted[axis], is_smaller=scale < 1) for axis in (0, 1))
    box = tf.matmul(tf.matmul(down, tf.cast(crop, tf.float64)), across, transpose_b=True)
    start = tf.cast(tf.round(images.SIDE / 2 - _centre(box)), tf.int32)
    start = tf.clip_by_value(start, 0, images.SIDE - wanted)
    pixels = tf.cast(box * 255 / tf.reduce_max(box), tf.float32)
    return tf.pad(pixels, tf.stack([start, images.SIDE - wanted - start], axis=1))


def _resampling(size: Any, wanted: Any, *, is_smaller: Any) -> Any:
    """The matrix [wanted, size] of Pillow's resampling along one axis: a box filter to make it smaller, else bilinear.

    Each new pixel is the mean of those within the filter's reach of its centre, weighted by the filter.
    """
    scale = tf.cast(size, tf.float64) / tf.cast(wanted, tf.float64)
    reach_scale = tf.maximum(scale, 1)
    reach = tf.where(is_smaller, tf.constant(0.5, tf.float64), 1) * reach_scale
    centres = ((tf.cast(tf.range(wanted), tf.float64) + 0.5) * scale)[:, tf.newaxis]
    places = tf.cast(tf.range(size), tf.float64)[tf.newaxis]
    within = (places >= tf.floor(centres - reach + 0.5)) & (places < tf.floor(centres + reach + 0.5))
    distance = (places - centres + 0.5) / reach_scale
    box = tf.cast((distance > -0.5) & (distance <= 0.5), tf.float64)
    weights = tf.where(within, tf.where(is_smaller, box, tf.maximum(1 - tf.abs(distance), 0)), 0)
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)
