"""Image files become the pixels that a manifest declares: those of Pillow and NumPy, written out here."""

import io
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from millrace.artifacts.images import read_digit
from millrace.artifacts.manifest import DecodeImage, ManifestError
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import TensorSpec
from worker.preprocessing.pixels import reader

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PHOTOGRAPH = Image.fromarray(np.random.default_rng(1).integers(0, 255, (30, 41, 3), np.uint8)).resize((410, 300))
IMAGENET = {"fit": "crop", "shorter_side": 256, "scale": "1/255", "mean": MEAN, "std": STD}


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def spec(*shape: int, datatype: str = "FP32") -> TensorSpec:
    return TensorSpec(name="x", datatype=datatype, shape=shape)


def pixels(declared: dict[str, Any], given: TensorSpec, file: bytes) -> Any:
    """What a step written as JSON makes of a file."""
    step = msgspec.convert({"kind": "decode_image", "input": "x"} | declared, DecodeImage)
    return reader(step, given).read(file)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_the_settings_of_imagenet_are_those_of_torchvision(kind: str) -> None:
    """`Resize(256)`, `CenterCrop(224)`, `ToTensor()` and `Normalize(MEAN, STD)`, on images of Pillow's."""
    file = encoded(PHOTOGRAPH, kind)

    image = Image.open(io.BytesIO(file)).convert("RGB")
    image = image.resize((int(256 * 410 / 300), 256), Image.Resampling.BILINEAR)
    left, top = round((image.width - 224) / 2.0), round((image.height - 224) / 2.0)
    scaled = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    expected = (scaled - np.array(MEAN, np.float32)) / np.array(STD, np.float32)

    found = pixels(IMAGENET, spec(-1, 3, 224, 224), file)
    assert (found.dtype, found.shape, found.flags.c_contiguous) == (np.float32, (3, 224, 224), True)
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))


def test_the_settings_of_keras_are_those_of_its_three_modes() -> None:
    file = encoded(PHOTOGRAPH)
    stretched = np.asarray(PHOTOGRAPH.resize((64, 48), Image.Resampling.NEAREST), np.float32)

    tf = pixels({"interpolation": "nearest", "scale": "1/127.5", "mean": 1}, spec(-1, 48, 64, 3), file)
    caffe = {"interpolation": "nearest", "colour": "BGR", "scale": 1, "mean": [103.939, 116.779, 123.68]}
    np.testing.assert_array_equal(tf, stretched / np.float32(127.5) - 1)
    np.testing.assert_array_equal(
        pixels(caffe, spec(-1, 48, 64, 3), file), stretched[..., ::-1] - np.array([103.939, 116.779, 123.68], "f4")
    )


def test_a_letterbox_is_filled_around_the_image() -> None:
    wide = Image.new("RGB", (200, 100), (10, 20, 30))
    found = pixels(
        {"fit": "pad", "fill": [1, 2, 3], "colour": "BGR"}, spec(1, 64, 64, 3, datatype="UINT8"), encoded(wide)
    )
    expected = np.full((64, 64, 3), (1, 2, 3), np.uint8)
    expected[16:48] = (30, 20, 10)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("declared", "shape", "size"),
    [
        ({"size": 32}, (-1, -1, -1, 3), (32, 32, 3)),
        ({"size": [32, 40]}, (-1, 3, -1, -1), (3, 32, 40)),
        ({"size": [32, 40], "layout": "NCHW"}, (-1, -1, -1, -1), (3, 32, 40)),
        ({"layout": "NHW"}, (-1, 20, 30), (20, 30)),
        ({"colour": "gray"}, (-1, 1, 20, 30), (1, 20, 30)),
        ({"fit": "crop"}, (-1, 20, 64, 3), (20, 64, 3)),
        ({"fit": "crop", "size": [64, 20]}, (-1, -1, -1, 3), (64, 20, 3)),
    ],
)
def test_what_a_manifest_leaves_out_the_graph_says(
    declared: dict[str, Any], shape: tuple[int, ...], size: tuple[int, ...]
) -> None:
    assert pixels(declared | {"scale": 1}, spec(*shape), encoded(PHOTOGRAPH)).shape == size


def test_whole_numbers_are_rounded_and_kept_in_range() -> None:
    file = encoded(Image.fromarray(np.array([[0, 1, 127, 128, 255]], np.uint8)))
    signed = pixels({"mean": 128, "layout": "NHWC"}, spec(1, 1, 5, 1, datatype="INT8"), file)
    assert signed.ravel().tolist() == [-128, -127, -1, 0, 127]
    halved = pixels({"scale": 2, "mean": 10.5, "layout": "NHWC"}, spec(1, 1, 5, 1, datatype="UINT8"), file)
    assert halved.ravel().tolist() == [0, 0, 244, 246, 255]


def test_pixels_of_bytes_need_nothing_said_and_real_numbers_need_their_range() -> None:
    file = encoded(PHOTOGRAPH)
    found = pixels({}, spec(-1, 30, 40, 3, datatype="UINT8"), file)
    np.testing.assert_array_equal(found, np.asarray(PHOTOGRAPH.resize((40, 30), Image.Resampling.BILINEAR)))
    assert pixels({"scale": 1}, spec(-1, 30, 40, 3, datatype="FP16"), file).dtype == np.float16
    with pytest.raises(ManifestError, match='say what range the pixels are to have: "scale": 1 for 0 to 255'):
        pixels({}, spec(-1, 30, 40, 3), file)


def test_the_bare_form_stays_that_of_mnist_for_its_shape_alone() -> None:
    file = encoded(PHOTOGRAPH)
    np.testing.assert_array_equal(pixels({}, spec(-1, 28, 28, 1), file), read_digit(file))
    plain = pixels({"scale": 1}, spec(-1, 28, 28, 1), file)
    np.testing.assert_array_equal(
        plain[..., 0], np.asarray(PHOTOGRAPH.convert("L").resize((28, 28), Image.Resampling.BILINEAR))
    )


@pytest.mark.parametrize(
    ("declared", "given", "reason"),
    [
        ({"scale": 1}, spec(-1, -1, -1, 3), "say to which size images are brought"),
        ({"scale": 1, "size": 32}, spec(-1, 224, 224, 3), r"its images have 224 x 224 pixels, not \[32, 32\]"),
        ({"scale": 1}, spec(-1, 1, 64, 3), "say its layout"),
        ({"scale": 1}, spec(-1, 64), "say its layout"),
        ({"scale": 1, "layout": "NCHW"}, spec(-1, 64, 64, 3), "as NCHW it has 64 channels, not those of RGB"),
        ({"scale": 1, "colour": "gray"}, spec(-1, 64, 64, 3), "as NHWC it has 3 channels, not those of gray"),
        ({"scale": 1, "mean": [1, 2]}, spec(-1, 64, 64, 3), "mean has 2 numbers for 3 channels"),
        ({"scale": 1, "fit": "crop", "shorter_side": 50}, spec(-1, 64, 64, 3), "a shorter_side of 50 does not cover"),
        ({}, spec(-1, datatype="BYTES"), "the graph decodes images itself; leave the step out"),
    ],
)
def test_what_does_not_fit_the_graph_is_named(declared: dict[str, Any], given: TensorSpec, reason: str) -> None:
    with pytest.raises(ManifestError, match=reason):
        pixels(declared, given, b"")


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ({"color": "RGB"}, "unknown field `color`"),
        ({"scale": "1:255"}, "scale must be a number or a fraction"),
        ({"scale": "1/0"}, "."),
        ({"std": [1, 0, 1]}, "scale and std not 0"),
        ({"mean": 1e999}, "."),
        ({"size": 0}, "from 1 to"),
        ({"fill": 256}, "from 0 to 255"),
        ({"shorter_side": 256}, 'is for "fit": "crop"'),
        ({"interpolation": "sinc"}, "Invalid enum value 'sinc'"),
    ],
)
def test_values_that_make_no_pixels_are_refused_with_the_manifest(declared: dict[str, Any], reason: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=reason):
        msgspec.convert({"kind": "decode_image", "input": "x"} | declared, DecodeImage)


def test_a_narrow_image_is_not_scaled_up_to_an_endless_one() -> None:
    with pytest.raises(InvalidRequest, match="is too large"):
        pixels(IMAGENET, spec(-1, 3, 224, 224), encoded(Image.new("L", (200_000, 1))))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_every_mode_of_pixels_is_read(mode: str) -> None:
    image = Image.new("RGB", (8, 8), "white")
    image = Image.fromarray(np.full((8, 8), 65535, np.uint16)) if mode == "I;16" else image.convert(mode)
    file = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    found = pixels({}, spec(1, 8, 8, 3, datatype="UINT8"), file)
    assert (found.shape, found.min()) == ((8, 8, 3), 255)


def test_a_photograph_is_turned_as_the_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = encoded(PHOTOGRAPH.rotate(90, expand=True), exif=exif)
    found = pixels({}, spec(1, 300, 410, 3, datatype="UINT8"), file)
    np.testing.assert_array_equal(found, np.asarray(PHOTOGRAPH))
