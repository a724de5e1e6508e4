"""A model of your own, 1: an autoencoder that takes the noise from handwritten digits.

    python -m training examples/autoencoder.py --data-dir .data
    millrace up --models models
    curl localhost:8000/v1/models/denoise:predict -d '{"instances": [...]}'      # 28 x 28 pixels with noise in them

takes about two minutes on two cores; the model card says how much the noise fell.
A script needs a `NAME`, a frozen dataclass `Settings` with `epochs` and `seed`, and `train`. All else, from flags to
checkpoints, export, comparison of the formats and the model card, is what the models of the repository have.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from millrace.artifacts.manifest import Manifest
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec
from training import data, export, fitting, plots
from training.runs import Run

NAME = "denoise"

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hyper-parameters; each is a flag of the command."""

    epochs: int = 5
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-5
    filters: int = 16
    noise: float = 0.3  # standard deviation, of pixels from 0 to 1
    seed: int = 1


def train(settings: Settings, folder: data.DataFolder, target: export.Target, run: Run) -> None:
    """Train, evaluate, export and publish."""
    images = data.mnist(folder, data.MNIST_TRAIN)[0].astype(np.float32)
    clean = data.mnist(folder, data.MNIST_TEST)[0].astype(np.float32)
    model = fit(settings, images, run)
    if not run.cluster.is_chief:
        return
    noisy = with_noise(clean, settings.noise, np.random.default_rng(0))
    scores = {
        "error_of_the_noisy_pixels": error(noisy, clean),
        "error_of_the_denoised_pixels": error(255 * model.predict(noisy, verbose=0), clean),
    }
    batches = [{"image": noisy[start : start + count]} for start, count in ((0, 1), (1, 3), (4, 32))]
    export.publish(
        target,
        manifest(noisy, scores, folder, run),
        export.exports_of(model),
        export.answers_of(model),
        [batch for batch in batches if len(batch["image"])],
        beside={"plots/learning-curves.png": plots.learning_curves(run.history)},
    )


def with_noise(images: Pixels, deviation: float, random: np.random.Generator) -> Pixels:
    """The images, 0 to 255, with noise added to every pixel."""
    noise = 255 * deviation * random.standard_normal(images.shape, np.float32)
    return np.clip(images + noise, 0, 255)


def build(settings: Settings) -> keras.Model:
    """Pixels [n, 28, 28, 1], 0 to 255, to the same without noise, 0 to 1."""
    layers = keras.layers

    def convolution(filters: int, stride: int = 1) -> Any:
        return layers.Conv2D(filters, 3, stride, padding="same", activation="relu")

    return keras.Sequential(
        [
            layers.Input((28, 28, 1), name="image"),
            layers.Rescaling(1 / 255),
            convolution(settings.filters, 2),
            convolution(2 * settings.filters, 2),
            convolution(2 * settings.filters),
            layers.UpSampling2D(interpolation="bilinear"),
            convolution(settings.filters),
            layers.UpSampling2D(interpolation="bilinear"),
            layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="clean"),
        ]
    )


def fit(settings: Settings, images: Pixels, run: Run) -> keras.Model:
    """The model after all epochs; the noise is new in each."""
    size = min(settings.batch_size, len(images))
    steps = len(images) // size
    share = run.cluster.share(size)

    def make() -> tuple[keras.Model, keras.Optimizer]:
        optimizer = fitting.cosine_adamw(settings.learning_rate, settings.weight_decay, settings.epochs * steps, 0)
        return build(settings), optimizer

    def batches(epoch: int) -> Iterator[tuple[Any, Any]]:
        random = np.random.default_rng((settings.seed, epoch))
        for rows in random.permutation(len(images))[: steps * size].reshape(steps, size):
            noisy = with_noise(images[rows], settings.noise, random)
            yield tf.constant(noisy[share]), tf.constant(images[rows][share] / 255)

    def loss(clean: Any, answer: Any) -> Any:
        return keras.ops.mean(keras.ops.square(clean - answer), axis=(1, 2, 3))

    return fitting.fit(make, loss, batches, run, epochs=settings.epochs, steps=steps)


def error(pixels: Pixels, clean: Pixels) -> float:
    """The mean distance of a pixel, 0 to 255, from what it should be."""
    return float(np.abs(pixels - clean).mean())


def manifest(noisy: Pixels, scores: dict[str, float], folder: data.DataFolder, run: Run) -> Manifest:
    """What the model says of itself."""
    return Manifest(
        name=NAME,
        version=1,
        description="Takes the noise from a handwritten digit; an autoencoder trained on MNIST",
        signatures={
            DEFAULT_SIGNATURE: Signature(
                inputs=(TensorSpec(name="image", datatype="FP32", shape=(-1, 28, 28, 1)),),
                outputs=(TensorSpec(name="clean", datatype="FP32", shape=(-1, 28, 28, 1)),),
            )
        },
        example={"instances": [noisy[0].round().tolist()]},
        scores=scores,
        limits=("It has seen digits only, and makes strokes of anything else.",),
        training=run.hyper_parameters,
        data=folder.hashes,
        licences=folder.licences,
    )
