"""Calibration: whether a classifier that says "90 %" is right nine times in ten.

Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", 2017: answers are put into bins by their
confidence, and in each bin the mean confidence is compared with the part that is right.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_BINS = 15

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """The answers of about one confidence: the mean of it, the part of them that is right, and how many they are."""

    confidence: float
    accuracy: float
    count: int


def bins(probabilities: Floats, labels: Labels) -> list[Bin]:
    """The answers [n, classes] in 15 bins of equal width by their largest probability; empty ones are left out."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    number = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    return [
        Bin(confidence=float(confidence[inside].mean()), accuracy=float(right[inside].mean()), count=int(inside.sum()))
        for index in range(_BINS)
        if (inside := number == index).any()
    ]


def expected_calibration_error(probabilities: Floats, labels: Labels) -> float:
    """How far confidence and accuracy are apart, over the bins, weighted by their answers; 0 is perfect."""
    found = bins(probabilities, labels)
    apart = sum(each.count * abs(each.confidence - each.accuracy) for each in found)
    return apart / len(labels)
