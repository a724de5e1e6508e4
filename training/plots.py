"""Plots of a trained model, each as the bytes of a PNG file; they are published beside the model."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from training import calibration

_DPI = 80
_WORST = 24  # mistakes that are shown

Plots = dict[str, bytes]


def of_classifier(
    history: Sequence[Mapping[str, float]],
    probabilities: calibration.Floats,
    labels: calibration.Labels,
    names: Sequence[str],
    images: npt.NDArray[Any] | None = None,
) -> Plots:
    """Learning curves, confusion matrix and calibration curve; with `images` [n, height, width, 1] the worst mistakes.

    `probabilities` [n, classes] and `labels` [n] are those of the test set.
    """
    plots = {
        "plots/learning-curves.png": learning_curves(history),
        "plots/confusion-matrix.png": confusion_matrix(probabilities, labels, names),
        "plots/calibration.png": calibration_curve(probabilities, labels),
    }
    if images is not None:
        plots["plots/worst-mistakes.png"] = worst_mistakes(probabilities, labels, names, images)
    return plots


def learning_curves(history: Sequence[Mapping[str, float]]) -> bytes:
    """Every metric by epoch, each on axes of its own."""
    names = list(history[-1]) if history else []
    figure = Figure(figsize=(4.5 * max(1, len(names)), 3.5), layout="constrained")
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(1, len(names), place, xlabel="epoch", title=name.replace("_", " "))
        axes.plot(range(1, len(history) + 1), [metrics.get(name, np.nan) for metrics in history], marker=".")
        axes.grid(alpha=0.3)
    return png(figure)


def confusion_matrix(probabilities: calibration.Floats, labels: calibration.Labels, names: Sequence[str]) -> bytes:
    """How many examples of each label, a row each, got which answer."""
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    figure = Figure(figsize=(1.5 + 0.5 * len(names), 1 + 0.5 * len(names)), layout="constrained")
    axes = figure.add_subplot(xlabel="answer", ylabel="label")
    shade = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shade**0.3, cmap="Blues")  # so that a few mistakes show beside thousands
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shade[row, column] > 0.3 else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    return png(figure)


def worst_mistakes(
    probabilities: calibration.Floats, labels: calibration.Labels, names: Sequence[str], images: npt.NDArray[Any]
) -> bytes:
    """The images whose label was given the smallest probability of all that were read wrongly, the worst first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    worst = wrong[np.argsort(probabilities[wrong, labels[wrong]])][:_WORST]
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    for place, index in enumerate(worst, 1):
        answer = int(probabilities[index].argmax())
        axes = figure.add_subplot(4, 6, place)
        axes.imshow(images[index, ..., 0], cmap="gray_r")
        axes.set_title(f"{names[labels[index]]}, read as {names[answer]}", fontsize=8)
        axes.set_axis_off()
    return png(figure)


def calibration_curve(probabilities: calibration.Floats, labels: calibration.Labels) -> bytes:
    """The part that is right by confidence, beside the line on which a perfectly calibrated model lies."""
    found = calibration.bins(probabilities, labels)
    figure = Figure(figsize=(4.5, 4), layout="constrained")
    error = calibration.expected_calibration_error(probabilities, labels)
    axes = figure.add_subplot(xlabel="confidence", ylabel="part that is right", title=f"expected error {error:.4f}")
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--")
    sizes = [10 + 200 * each.count / len(labels) for each in found]
    axes.scatter([each.confidence for each in found], [each.accuracy for each in found], s=sizes)
    axes.plot([each.confidence for each in found], [each.accuracy for each in found])
    axes.grid(alpha=0.3)
    return png(figure)


def word_map(vectors: npt.NDArray[np.float32], words: Sequence[str]) -> bytes:
    """The words [n] where their vectors [n, size] lie along the two directions of most variance."""
    centred = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    places = centred @ directions[:2].T
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.add_subplot(title="word vectors, the first two principal components")
    axes.scatter(places[:, 0], places[:, 1], s=4)
    for word, (x, y) in zip(words, places, strict=True):
        axes.annotate(word, (x, y), fontsize=8)
    return png(figure)


def png(figure: Figure) -> bytes:
    """The figure as a file."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=_DPI, metadata={"Software": None})  # so that the same plot is the same file
    return out.getvalue()
