"""An image file that shows no digit is refused by the models of digits; what shows one is read as before."""

import io
import string
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from millrace.artifacts import manifest
from millrace.artifacts.detector import Detector
from millrace.artifacts.manifest import DecodeImage, Manifest, ManifestError
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import TensorSpec
from tests.support.running import ROOT
from worker.preprocessing import preparation

MODELS = ("digits", "digits-student")
IMAGE = {"image": TensorSpec(name="image", datatype="FP32", shape=(-1, 28, 28, 1))}


def prepared(name: str) -> preparation.Preparation:
    folder = ROOT / "models" / name / "1"
    return preparation.load(folder, manifest.read(folder), IMAGE)


def encoded(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def row(file: bytes) -> dict[str, np.ndarray]:
    return {"image": np.array([file], object)}


def written(text: str) -> Image.Image:
    paper = Image.new("L", (60 + 50 * len(text), 130), 250)
    ImageDraw.Draw(paper).text((30, 20), text, fill=30, font=ImageFont.load_default(80))
    return paper


def is_refused(model: preparation.Preparation, image: Image.Image) -> bool:
    try:
        model.before(row(encoded(image)))
    except InvalidRequest as error:
        return "the image shows no digit" in str(error)
    return False


@pytest.mark.parametrize("name", MODELS)
def test_printed_digits_are_read_and_most_letters_refused(name: str) -> None:
    model = prepared(name)

    assert [digit for digit in string.digits if is_refused(model, written(digit))] == []
    clear = [letter for letter in string.ascii_letters if letter not in "OoIliSsZzqbDgQBJ"]
    refused = [letter for letter in clear if is_refused(model, written(letter))]
    assert len(refused) >= 0.85 * len(clear)
    assert is_refused(model, written("42"))


def test_noise_and_a_scribble_are_refused() -> None:
    model, random = prepared("digits"), np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 255, (28, 28), np.uint8))
    scribble = Image.new("L", (200, 200), 250)
    zigzag = [(20 + 16 * step, 40 if step % 2 else 160) for step in range(11)]
    ImageDraw.Draw(scribble).line(zigzag, fill=20, width=8)

    assert is_refused(model, noise)
    assert is_refused(model, scribble)


def test_numbers_are_never_refused() -> None:
    pixels = {"image": np.random.default_rng(0).uniform(0, 255, (1, 28, 28, 1)).astype(np.float32)}

    assert prepared("digits").before(dict(pixels))["image"] is pixels["image"]


def test_without_a_detector_every_ink_is_read(tmp_path: Path) -> None:
    model = preparation.load(tmp_path, Manifest(preprocessing=(DecodeImage(input="image"),)), IMAGE)

    assert model.before(row(encoded(written("W"))))["image"].shape == (1, 28, 28, 1)


def test_a_detector_is_the_same_when_it_was_written_and_read(tmp_path: Path) -> None:
    detector = Detector.read(ROOT / "models" / "digits" / "1" / "detector.npz")

    detector.write(tmp_path / "detector.npz")

    pixels = np.random.default_rng(0).uniform(0, 255, (28, 28, 1)).astype(np.float32)
    again = Detector.read(tmp_path / "detector.npz")
    assert (again.evidence(pixels), again.threshold) == (detector.evidence(pixels), detector.threshold)


def test_a_file_that_is_no_detector_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", first_kernel=np.zeros((5, 5, 1, 16)))
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("other.npz", "text.npz"):
        with pytest.raises(ManifestError, match="is no detector"):
            Detector.read(tmp_path / name)
    declared = Manifest(preprocessing=(DecodeImage(input="image", detector="../detector.npz"),))
    with pytest.raises(ManifestError, match="must be a file beside the manifest"):
        preparation.load(tmp_path, declared, IMAGE)


def test_a_detector_goes_with_images_in_the_form_of_mnist_only(tmp_path: Path) -> None:
    with pytest.raises(msgspec.ValidationError, match="in the form of MNIST"):
        msgspec.convert({"kind": "decode_image", "detector": "detector.npz", "scale": "1/255"}, DecodeImage)
    declared = Manifest(preprocessing=(DecodeImage(input="image", detector="detector.npz"),))
    larger = {"image": TensorSpec(name="image", datatype="FP32", shape=(-1, 224, 224, 3))}
    with pytest.raises(ManifestError, match="the detector of input 'image' needs"):
        preparation.load(tmp_path, declared, larger)
