"""What SavedModels do with image files and texts inside the graph is what the worker does before the graph."""

import io
from typing import Any

import numpy as np
import pytest

from millrace.artifacts.manifest import Manifest, Tokenize
from millrace.artifacts.vocabulary import Vocabulary
from millrace.protocol.tensors import Signature, TensorSpec

tf = pytest.importorskip("tensorflow")
Image = pytest.importorskip("PIL.Image")
from millrace.artifacts.images import read_digit  # noqa: E402 - after the skip where Pillow is not installed
from training.export import Exports, preparation  # noqa: E402
from training.export.saved_model import write_saved_model  # noqa: E402

VOCABULARY = Vocabulary(["<pad>", "<unk>", "good", "film", "don't", "!", "?", "a", "not", "10", "it's", "i"])


@pytest.fixture(scope="module")
def read_digits() -> Any:
    return tf.function(preparation.read_digits, input_signature=[tf.TensorSpec((None,), tf.string)])


def _stroke(height: int, width: int, *, paper: int = 235, ink: int = 20) -> Any:
    """A slanted stroke with a foot, its edges smooth, on paper with some grain."""
    random = np.random.default_rng(height + width)
    rows, columns = np.mgrid[0:height, 0:width] / np.array([[[height]], [[width]]])
    distance = np.minimum(abs(columns - 0.6 + 0.3 * rows) * 12, abs(rows - 0.75) * 9 + 5 * (columns > 0.8))
    weight = np.clip(1.5 - distance, 0, 1) * (rows > 0.15) * (rows < 0.85)
    return (paper + (ink - paper) * weight + random.uniform(-3, 3, (height, width))).clip(0, 255).astype(np.uint8)


def _file(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _colour(height: int, width: int) -> Any:
    grey = _stroke(height, width)
    return Image.fromarray(np.stack([grey, grey // 2 + 100, 255 - (255 - grey) // 3], -1))


def _with_alpha(height: int, width: int, mode: str, ink: int = 30) -> Any:
    image = Image.fromarray(np.full((height, width), ink, np.uint8)).convert(mode)
    image.putalpha(Image.fromarray(255 - _stroke(height, width, paper=255, ink=0)))
    return image


def _mnist_form() -> Any:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 6:20] = 255 - _stroke(20, 14, paper=255, ink=0)
    return Image.fromarray(pixels)


FILES = {
    "grey": lambda: _file(Image.fromarray(_stroke(120, 90))),
    "light on dark": lambda: _file(Image.fromarray(_stroke(90, 120, paper=10, ink=240))),
    "colour": lambda: _file(_colour(77, 101)),
    "palette": lambda: _file(_colour(60, 60).quantize(16)),
    "two colours": lambda: _file(Image.fromarray(_stroke(50, 50)).convert("1", dither=Image.Dither.NONE)),
    "transparent": lambda: _file(_with_alpha(80, 60, "RGB")),
    "transparent grey": lambda: _file(_with_alpha(80, 60, "L")),
    "transparent, of light ink": lambda: _file(_with_alpha(80, 60, "RGB", ink=240)),
    "16 bits": lambda: _file(Image.fromarray(_stroke(70, 60).astype(np.uint16) * 257)),
    "smaller than the box": lambda: _file(Image.fromarray(_stroke(9, 7))),
    "MNIST's own form": lambda: _file(_mnist_form()),
    "large": lambda: _file(Image.fromarray(_stroke(2300, 3100))),
    "large and transparent": lambda: _file(_with_alpha(2100, 2200, "RGB")),
    "JPEG": lambda: _file(Image.fromarray(_stroke(150, 110)), "JPEG", quality=90),
    "colour JPEG": lambda: _file(_colour(150, 110), "JPEG", quality=85),
    "large JPEG": lambda: _file(_colour(2100, 2600), "JPEG", quality=85),
    "larger JPEG": lambda: _file(Image.fromarray(_stroke(4200, 4100)), "JPEG"),
}


@pytest.mark.parametrize("kind", FILES)
def test_an_image_becomes_the_same_pixels_in_the_graph(read_digits: Any, kind: str) -> None:
    file = FILES[kind]()

    found = read_digits(tf.constant([file]))[0].numpy()

    expected = read_digit(file)
    assert found.shape == (28, 28, 1)
    # Of 255: whole steps of grey may round the other way, and of a large image's grain the graph leaves some.
    if kind.startswith("large"):
        assert np.abs(found - expected).mean() < 1
    else:
        np.testing.assert_allclose(found, expected, atol=1.0)
    assert expected.any()


def test_an_empty_sheet_becomes_an_empty_image_in_the_graph(read_digits: Any) -> None:
    assert not read_digits(tf.constant([_file(Image.new("L", (40, 30), 255))])).numpy().any()


def test_a_batch_of_images_is_read_image_by_image(read_digits: Any) -> None:
    files = [FILES["grey"](), FILES["JPEG"]()]

    found = read_digits(tf.constant(files)).numpy()

    np.testing.assert_allclose(found, np.stack([read_digit(file) for file in files]), atol=1.0)


def test_other_bytes_are_refused_in_the_graph(read_digits: Any) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="not a PNG or JPEG"):
        read_digits(tf.constant([b"GIF89a"]))


def test_a_png_that_claims_too_many_pixels_is_refused_before_it_is_decoded(read_digits: Any) -> None:
    claim = (60_000).to_bytes(4, "big") * 2

    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
        read_digits(tf.constant([b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + claim]))


TEXTS = [
    "A good film!",
    "",
    "   ",
    "Don\u2019t: it's NOT good<br />film",
    "10/10 -- good-good?!",
    "zzz \u0130 \u212aelvin caf\u00e9 \u4f60\u597d film",
    "a <b>good</b> <not a tag because it is far too long> film",
    "it's'it's ''good'' 'film",
    "control \x01good\x02 film\x00good\nfilm\tgood",
    "good " * 30,
]


@pytest.mark.parametrize("keep", ["start", "end"])
def test_texts_become_the_same_ids_in_the_graph(keep: Any) -> None:
    step = Tokenize(input="text", output="ids", max_length=7, keep=keep)
    tokenize = tf.function(preparation.Tokenizer(step, preparation.word_table(VOCABULARY)))

    for batch in (TEXTS, [""], ["", "!"], ["good film"]):
        found = tokenize(tf.constant(batch)).numpy()

        rows = [VOCABULARY.encode(text, 7, keep) for text in batch]
        longest = max(map(len, rows))
        assert found.tolist() == [row + [0] * (longest - len(row)) for row in rows]


def _exports() -> Exports:
    factor = tf.Variable(2.0)
    one = tf.function(
        lambda ids: {"total": factor * tf.cast(tf.reduce_sum(ids, axis=1), tf.float32)},
        input_signature=[tf.TensorSpec((None, None), tf.int32, name="ids")],
    )
    return Exports(function=one, variables=[factor], onnx_model=lambda: None)


def test_a_saved_model_answers_texts_by_a_signature_of_its_own(tmp_path: Any) -> None:
    description = Manifest(
        name="sum",
        version=1,
        signatures={
            "serving_default": Signature(
                inputs=(TensorSpec(name="text", datatype="BYTES", shape=(-1,)),),
                outputs=(TensorSpec(name="total", datatype="FP32", shape=(-1,)),),
            )
        },
        preprocessing=(Tokenize(input="text", output="ids", max_length=10),),
    )

    write_saved_model(preparation.with_raw_inputs(_exports(), description, VOCABULARY), tmp_path)
    signatures = tf.saved_model.load(str(tmp_path)).signatures

    assert set(signatures) == {"serving_default", "serving_text"}
    assert signatures["serving_text"](text=tf.constant(["good film", "a"]))["total"].numpy().tolist() == [10.0, 14.0]
