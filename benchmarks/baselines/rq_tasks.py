"""The job: an image's bytes to its scores."""

import cnn_session
import numpy as np


def predict(image: bytes) -> list[list[float]]:
    """The scores of a batch of 28x28 images, FP32."""
    scores: list[list[float]] = cnn_session.predict(np.frombuffer(image, np.float32).reshape(-1, 28, 28, 1)).tolist()
    return scores
