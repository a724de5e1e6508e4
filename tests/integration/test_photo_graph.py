"""A model of digits exported with its preprocessing reads photographs in every runtime, as the server reads them."""

import dataclasses
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from millrace.artifacts import manifest
from tests.support.running import ROOT

tf = pytest.importorskip("tensorflow")
from millrace.artifacts.images import read_digit  # noqa: E402 - after the skip where TensorFlow is not installed
from training import export_command, parity, photos, robustness  # noqa: E402
from training.export import photo_graph  # noqa: E402
from training.export.model import ExportError  # noqa: E402
from training.export.source import Source  # noqa: E402
from training.scores import Published  # noqa: E402

SIZE = (128, 128, 1)
MODEL = Published(ROOT / "models", "digits")


@pytest.fixture(scope="module")
def trained() -> Any:
    return Source(model=str(MODEL.folder)).open()


@pytest.fixture(scope="module")
def drawn() -> Any:
    return robustness.drawn(20, np.random.default_rng(3))


def _photographed(name: str, images: Any) -> list[bytes]:
    random = np.random.default_rng(1)
    change = (photos.CHANGES | robustness.CHANGES)[name]
    return [change(Image.fromarray(image[..., 0].astype(np.uint8)), random) for image in images]


@pytest.mark.parametrize("name", ["shadow", "vignette", "lamp", "scanned", "inverted"])
def test_photographs_are_read_in_the_graph(name: str, drawn: Any) -> None:
    files = _photographed(name, drawn.images)

    pixels = photo_graph.pixels_of(tf.constant(np.stack([photo_graph.photo_of(file, SIZE) for file in files]))).numpy()

    assert pixels.shape == (20, 28, 28, 1)
    assert (pixels.min(), pixels.max()) == (0, pytest.approx(255))
    assert (MODEL.read_images(pixels).argmax(axis=1) == drawn.labels).sum() >= 18
    assert (
        MODEL.read_images(np.stack([read_digit(file) for file in files])).argmax(axis=1) == drawn.labels
    ).sum() >= 18


def test_a_photograph_does_not_change_those_beside_it_and_colours_become_grey(drawn: Any) -> None:
    files = _photographed("shadow", drawn.images[:4])
    grey = np.stack([photo_graph.photo_of(file, SIZE) for file in files])

    together = photo_graph.pixels_of(tf.constant(grey)).numpy()

    np.testing.assert_allclose(photo_graph.pixels_of(tf.constant(grey[2:3])).numpy()[0], together[2], atol=1e-3)
    coloured = photo_graph.pixels_of(tf.constant(grey.repeat(3, axis=-1))).numpy()
    np.testing.assert_allclose(coloured, together, atol=0.5)


def test_a_photograph_without_contrast_gives_numbers(trained: Any) -> None:
    empty = np.stack([np.full(SIZE, value, np.float32) for value in (0, 128, 255)])

    assert np.isfinite(photo_graph.pixels_of(tf.constant(empty)).numpy()).all()


def test_only_models_of_digits_take_photographs_of_sizes_that_can_be_read(trained: Any) -> None:
    plain = dataclasses.replace(trained, description=msgspec.structs.replace(trained.description, preprocessing=()))
    with pytest.raises(ExportError, match="images in MNIST's form"):
        photo_graph.taking_photos(plain, SIZE)
    for size in ((20, 128, 1), (128, 4096, 1), (128, 128, 2)):
        with pytest.raises(ExportError, match="--photo takes sides of 56 to 1024 pixels"):
            photo_graph.taking_photos(trained, size)


@pytest.mark.slow
def test_the_exported_files_read_photographs_alone(tmp_path: Any, drawn: Any) -> None:
    out = tmp_path / "1"
    asked = [
        "digits",
        "--models",
        str(ROOT / "models"),
        "--photo",
        "96,128,3",
        "--to",
        "onnx,tflite",
        "--out",
        str(out),
    ]

    assert export_command.main(asked) == 0

    given = np.stack([photo_graph.photo_of(file, (96, 128, 3)) for file in _photographed("lamp", drawn.images)])
    for run in (parity.onnx(out / "model.onnx"), parity.tflite(out / "model.tflite")):
        found = run({"photo": given})["probabilities"]
        assert (found.argmax(axis=1) == drawn.labels).sum() >= 17


@pytest.mark.slow
def test_an_exported_model_keeps_its_detector(tmp_path: Any) -> None:
    out = tmp_path / "1"

    assert export_command.main(["digits", "--models", str(ROOT / "models"), "--to", "onnx", "--out", str(out)]) == 0

    assert (out / "detector.npz").read_bytes() == (MODEL.folder / "detector.npz").read_bytes()
    description = manifest.read(out)
    assert description is not None
    assert "detector.npz" in description.files
