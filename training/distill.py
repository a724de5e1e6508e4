"""Handwritten digits on small devices: a student of 30 KB that learns from the published `digits` model.

    python -m training digits-student

takes up to a quarter of an hour on two cores and reaches 99.5 % on the 10,000 test images. It needs its teacher:
`--teacher` is the ONNX file of any published digits model. The student learns from the label and from all ten
probabilities that the teacher gives for the same distorted image, both softened by a temperature T (Hinton, Vinyals and
Dean, "Distilling the knowledge in a neural network", 2015):

    loss = alpha * T² * KL(teacher at T || student at T) + (1 - alpha) * cross-entropy(label, student)

The factor T² keeps the gradients of the soft part as large as they are at T = 1.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from millrace.artifacts.manifest import file_hash
from training import data, digits, export, fitting, parity
from training.export import lite, metadata
from training.runs import Run

NAME = "digits-student"
_REPRESENTATIVE = 300  # images that tell the ranges of 8-bit numbers
_SMALLEST = 1e-30  # of a probability whose logarithm is taken

Teacher = Any  # from images [n, 28, 28, 1] to probabilities [n, 10], as arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(digits.Settings):
    """Hyper-parameters; each is a flag of the command."""

    epochs: int = 30
    learning_rate: float = 6e-3
    dropout: float = 0.0
    temperature: float = 4.0
    alpha: float = 0.9
    teacher: str = "models/digits/1/model.onnx"


def train(settings: Settings, folder: data.DataFolder, target: export.Target, run: Run) -> None:
    """Train, evaluate, export and publish."""
    teacher = read_teacher(Path(settings.teacher))
    folder.hashes[settings.teacher] = file_hash(Path(settings.teacher))
    found = digits.read(folder, settings.held_out)
    model = fit(settings, found, teacher, run)
    if run.cluster.is_chief:
        small = int8(model, found.images)
        scores = {
            "mnist_test_accuracy_as_int8_tflite": digits.accuracy(answers(small, found.test_images), found.test_labels)
        }
        scores |= digits.evaluate(model, found)
        taught = teacher(found.test_images.astype(np.float32))
        scores["same_answer_as_teacher"] = digits.accuracy(digits.predict(model, found.test_images), taught.argmax(1))
        about = "Handwritten digits, 0 to 9; a small convolutional network taught by the larger one"
        description = digits.manifest(NAME, about, scores, found, folder, run)
        packed = metadata.pack(small, metadata.files_of(description, None))
        digits.publish(model, target, description, found, run, {"model.int8.tflite": packed})


def read_teacher(path: Path) -> Teacher:
    """A published digits model as a function of images. Raises `DataError` where there is none."""
    import onnxruntime

    if not path.is_file():
        raise data.DataError(
            f"{path} is missing: train the teacher first (python -m training digits), or name --teacher"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the student learns beside it
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def probabilities(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = session.run(["probabilities"], {"image": images})[0]
        return found

    return probabilities


# Model


def build(settings: Settings) -> keras.Model:
    """Pixels [n, 28, 28, 1], 0 to 255, to the ten digits' probabilities, with 19,000 parameters."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((28, 28, 1), name="image"),
            layers.Rescaling(1 / 255),
            *digits.convolution(12),
            layers.MaxPooling2D(),
            *digits.convolution(28),
            layers.MaxPooling2D(),
            *digits.convolution(46),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(settings.dropout),
            layers.Dense(10, activation="softmax", name="probabilities"),
        ]
    )


# Fit


def fit(settings: Settings, found: digits.Digits, teacher: Teacher, run: Run) -> keras.Model:
    """The student after all epochs, taught by the teacher's answers to the same distorted images."""
    undistilled = digits.batches(found, settings, run)

    def taught(number: int) -> Iterable[tuple[Any, Any]]:
        for images, labels in undistilled(number):
            yield images, (labels, tf.constant(teacher(images.numpy())))

    return digits.fit(lambda: build(settings), settings, found, run, taught, loss(settings.temperature, settings.alpha))


def loss(temperature: float, alpha: float) -> fitting.Loss:
    """The loss of each example; the targets are the labels [n] and the teacher's probabilities [n, 10]."""

    def each(targets: Any, outputs: tf.Tensor) -> tf.Tensor:
        labels, taught = targets
        soft_teacher, soft_student = softened(taught, temperature), softened(outputs, temperature)
        distillation = keras.losses.kl_divergence(soft_teacher, soft_student)
        hard = keras.losses.sparse_categorical_crossentropy(labels, outputs)
        return alpha * temperature**2 * distillation + (1 - alpha) * hard

    return each


def softened(probabilities: tf.Tensor, temperature: float) -> tf.Tensor:
    """The probabilities at a higher temperature: their logarithms are the logits, but for a constant of the row."""
    return tf.nn.softmax(tf.math.log(probabilities + _SMALLEST) / temperature)


# Export in 8 bits


def int8(model: keras.Model, images: digits.Images) -> bytes:
    """The model as a TFLite file that computes in 8-bit integers, whose ranges are those met on some of the images."""
    representative = [{"image": image[None].astype(np.float32)} for image in images[:_REPRESENTATIVE]]
    return lite.convert(export.exports_of(model), "int8", representative)


def answers(content: bytes, images: digits.Images) -> npt.NDArray[np.float32]:
    """The probabilities [n, 10] that a TFLite file gives for the images."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        run = parity.tflite(path)
        return np.concatenate(
            [
                run({"image": images[start : start + 500].astype(np.float32)})["probabilities"]
                for start in range(0, len(images), 500)
            ]
        )
