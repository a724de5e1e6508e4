"""Handwritten digits: a small convolutional network, trained on MNIST.

    python -m training digits

takes about five minutes on two idle cores and reaches 99.6 % on the 10,000 test images.
Training images are changed at random (see `augmentation`), so that digits of other hands, pens and scanners are read
too; how well, on what no training image came from, is among the scores (see `robustness`). A part of the training
images is held out, for the learning curve and for choosing between settings; the test images are read once, at the
end. Pixels (0 to 255) are scaled inside the graph.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from millrace.artifacts.manifest import Batching, DecodeImage, Manifest
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec
from training import data, export, fitting, plots, robustness
from training.augmentation import Distortions, distorted
from training.calibration import expected_calibration_error
from training.runs import Run

NAME = "digits"
LABELS = tuple("0123456789")
LIMITS = (
    "One digit an image: a number of several digits has to be cut into its digits first.",
    "Image files without a digit are refused, but for some letters and scribbles that look like one. Numbers never are:"
    " whatever they show is read as some digit.",
    "Print beside the digit has to be cropped away, and where the model runs without Millrace also shadows and lines.",
)

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Distortions):
    """Hyper-parameters; each is a flag of the command."""

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 3e-3  # the peak, after half an epoch; it then falls to 0 along a cosine
    weight_decay: float = 1e-4
    dropout: float = 0.3
    held_out: int = 2_000  # training images that are not trained on
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """MNIST in its three parts: to train on, to choose by, to score with."""

    images: Images  # [n, 28, 28, 1]
    labels: Labels
    held_out_images: Images
    held_out_labels: Labels
    test_images: Images
    test_labels: Labels


def train(settings: Settings, folder: data.DataFolder, target: export.Target, run: Run) -> None:
    """Train, evaluate, export and publish; the steps below in their order."""
    digits = read(folder, settings.held_out)
    model = fit(lambda: build(settings), settings, digits, run)
    if run.cluster.is_chief:
        about = "Handwritten digits, 0 to 9; a convolutional network trained on MNIST"
        publish(model, target, manifest(NAME, about, evaluate(model, digits), digits, folder, run), digits, run)


# Data


def read(folder: data.DataFolder, held_out: int) -> Digits:
    """The digits; the last `held_out` of the training images are set apart. Raises `DataError`."""
    images, labels = data.mnist(folder, data.MNIST_TRAIN)
    test_images, test_labels = data.mnist(folder, data.MNIST_TEST)
    cut = len(images) - held_out
    if cut <= 0:
        raise data.DataError(f"of {len(images)} training images {held_out} cannot be held out")
    return Digits(
        images=images[:cut],
        labels=labels[:cut],
        held_out_images=images[cut:],
        held_out_labels=labels[cut:],
        test_images=test_images,
        test_labels=test_labels,
    )


def batches(digits: Digits, settings: Settings, run: Run) -> fitting.Batches:
    """This process' share of the batches of an epoch: all images in a new order, newly distorted."""
    images, labels = tf.constant(digits.images), tf.constant(digits.labels)
    size = min(settings.batch_size, len(digits.images))
    share = run.cluster.share(size)

    def load(seed: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return distorted(tf.gather(images, rows), settings, seed, size, share), tf.gather(labels, rows)

    def epoch(number: int) -> Iterable[tuple[tf.Tensor, tf.Tensor]]:
        random = np.random.default_rng((settings.seed, number))
        order = random.permutation(len(digits.images))
        rows = order[: len(order) // size * size].reshape(-1, size)[:, share]
        seeds = random.integers(0, 2**31, (len(rows), 2), np.int32)
        loaded = tf.data.Dataset.from_tensor_slices((seeds, rows)).map(load, num_parallel_calls=2)
        result: Iterable[tuple[tf.Tensor, tf.Tensor]] = loaded.prefetch(2)
        return result

    return epoch


# Model


def build(settings: Settings) -> keras.Model:
    """Pixels [n, 28, 28, 1], 0 to 255, to the ten digits' probabilities."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((28, 28, 1), name="image"),
            layers.Rescaling(1 / 255),
            *convolution(16),
            layers.MaxPooling2D(),
            *convolution(32),
            *convolution(32),
            layers.MaxPooling2D(),
            *convolution(64),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(settings.dropout),
            layers.Dense(96, activation="relu"),
            layers.Dropout(settings.dropout),
            layers.Dense(10, activation="softmax", name="probabilities"),
        ]
    )


def convolution(filters: int) -> list[keras.Layer]:
    """The layers of one 3 by 3 convolution, normalised over all processes that train together."""
    return [
        keras.layers.Conv2D(filters, 3, padding="same", use_bias=False),
        keras.layers.BatchNormalization(momentum=0.98, synchronized=True),
        keras.layers.ReLU(),
    ]


# Fit and evaluate


def fit(
    build: Callable[[], keras.Model],
    settings: Settings,
    digits: Digits,
    run: Run,
    each_epoch: fitting.Batches | None = None,
    loss: fitting.Loss = keras.losses.sparse_categorical_crossentropy,
) -> keras.Model:
    """The model after all epochs, each of `batches` unless others are given.

    The held-out images are read after each epoch, but choose nothing.
    """
    steps = len(digits.images) // min(settings.batch_size, len(digits.images))

    def make() -> tuple[keras.Model, keras.Optimizer]:
        optimizer = fitting.cosine_adamw(
            settings.learning_rate, settings.weight_decay, settings.epochs * steps, warm_up_steps=steps // 2
        )
        return build(), optimizer

    def validate(model: keras.Model) -> dict[str, float]:
        probabilities, labels = predict(model, digits.held_out_images), digits.held_out_labels
        return {
            "held_out_loss": cross_entropy(probabilities, labels),
            "held_out_accuracy": accuracy(probabilities, labels),
        }

    held_out = validate if len(digits.held_out_images) else None
    each_epoch = each_epoch or batches(digits, settings, run)
    return fitting.fit(make, loss, each_epoch, run, epochs=settings.epochs, steps=steps, validate=held_out)


def predict(model: keras.Model, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The probabilities [n, 10] of images [n, 28, 28, 1]."""
    found: npt.NDArray[np.float32] = model.predict(images.astype(np.float32), batch_size=500, verbose=0)
    return found


def accuracy(probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.integer]) -> float:
    """The part of the images that are read rightly."""
    return float((probabilities.argmax(1) == labels).mean())


def cross_entropy(probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.integer]) -> float:
    """The mean loss: how little the right answers were expected."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-7)).mean())


def evaluate(model: keras.Model, digits: Digits) -> dict[str, float]:
    """Accuracy and calibration on the test images, and accuracy on each set of `robustness`."""
    probabilities = predict(model, digits.test_images)
    scores = {
        "mnist_test_accuracy": accuracy(probabilities, digits.test_labels),
        "mnist_test_calibration_error": expected_calibration_error(probabilities, digits.test_labels),
    }
    for name, made in robustness.digit_sets(digits.held_out_images, digits.held_out_labels).items():
        digit_set = made()
        scores[f"{name}_accuracy"] = accuracy(predict(model, digit_set.images), digit_set.labels)
    for name, score in scores.items():
        print(f"{name.replace('_', ' ')}: {score:.4f}")
    return scores


# Export


def manifest(
    name: str, description: str, scores: dict[str, float], digits: Digits, folder: data.DataFolder, run: Run
) -> Manifest:
    """What the model says of itself; the example is the first test image, a seven."""
    return Manifest(
        name=name,
        version=1,
        description=description,
        signatures={
            DEFAULT_SIGNATURE: Signature(
                inputs=(TensorSpec(name="image", datatype="FP32", shape=(-1, 28, 28, 1), media="image"),),
                outputs=(TensorSpec(name="probabilities", datatype="FP32", shape=(-1, 10)),),
            )
        },
        preprocessing=(DecodeImage(input="image"),),
        batching=Batching(max_batch_size=64),
        labels=LABELS,
        example={"instances": [digits.test_images[0].tolist()]},
        scores=scores,
        limits=LIMITS,
        training=run.hyper_parameters,
        data=folder.hashes,
        licences=folder.licences,
    )


def publish(
    model: keras.Model,
    target: export.Target,
    description: Manifest,
    digits: Digits,
    run: Run,
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Write the formats, compare each with the trained model, publish with plots and what is to be `beside` them."""

    batches = [
        {"image": digits.test_images[start : start + count].astype(np.float32)}
        for start, count in ((0, 1), (1, 3), (4, 32), (36, 500))
    ]
    batches = [batch for batch in batches if len(batch["image"])]
    probabilities = predict(model, digits.test_images)
    pictures = plots.of_classifier(run.history, probabilities, digits.test_labels, LABELS, digits.test_images)
    files = {**pictures, **(beside or {})}
    export.publish(target, description, export.exports_of(model), export.answers_of(model), batches, beside=files)
