"""Handwritten digits once more: a multi-layer perceptron, to compare the convolutional network with.

    python -m training digits-mlp

takes about two minutes on two cores and reaches 99.0 % on the 10,000 test images. Data, distortions and scores are
those of `digits`; only the model differs.
"""

from dataclasses import dataclass

import keras

from training import data, digits, export
from training.runs import Run

NAME = "digits-mlp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(digits.Settings):
    """Hyper-parameters; each is a flag of the command."""

    epochs: int = 15
    learning_rate: float = 2e-3
    dropout: float = 0.1
    units: int = 384  # of the first hidden layer; the second has half as many


def train(settings: Settings, folder: data.DataFolder, target: export.Target, run: Run) -> None:
    """Train, evaluate, export and publish."""
    found = digits.read(folder, settings.held_out)
    model = digits.fit(lambda: build(settings), settings, found, run)
    if run.cluster.is_chief:
        about = "Handwritten digits, 0 to 9; a multi-layer perceptron trained on MNIST"
        scores = digits.evaluate(model, found)
        digits.publish(model, target, digits.manifest(NAME, about, scores, found, folder, run), found, run)


def build(settings: Settings) -> keras.Model:
    """Pixels [n, 28, 28, 1], 0 to 255, to the ten digits' probabilities."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((28, 28, 1), name="image"),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(settings.units, activation="relu"),
            layers.Dropout(settings.dropout),
            layers.Dense(settings.units // 2, activation="relu"),
            layers.Dropout(settings.dropout),
            layers.Dense(10, activation="softmax", name="probabilities"),
        ]
    )
