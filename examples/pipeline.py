"""Python code as a model, 3: a pipeline of two models. `digits` reads a digit, `word2vec` finds words like its name.

    python examples/pipeline.py models
    millrace up --models models --allow-code
    millrace predict digit-words examples/seven.png

answers with 7, "seven", and "eight", "six" … Both models are asked through the queue: their workers batch the steps of
all callers, wherever they run. The request's deadline goes along, and so does the error of a step: a file that is no
image is the caller's 400.
"""

import shutil
import sys
from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np

from millrace.artifacts.repository import ModelRepository
from millrace.model import Models

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Answer(TypedDict):
    """What is answered to each image."""

    digit: int
    name: str
    similar: Annotated[np.ndarray, "BYTES", (-1, -1)]


class Model:
    """Takes images one by one, eight at a time: it only waits, and is `async`."""

    def load(self, models: Models) -> None:
        """Remember the models of both steps; they may be loaded later than this one."""
        self.digits, self.words = models["digits"], models["word2vec"]

    async def predict(self, image: bytes) -> Answer:
        """The digit in a PNG or JPEG, its name, and the words that are most like it."""
        read = await self.digits.predict_async(image=[image])
        digit = int(read["probabilities"][0].argmax())
        found = await self.words.predict_async(tokens=[[NAMES[digit]]])
        return {"digit": digit, "name": NAMES[digit], "similar": found["neighbors"]}


def publish(root: Path) -> None:
    """Put version 1 into the repository; there is nothing to train."""
    with ModelRepository(root).publishing("digit-words", 1) as folder:
        shutil.copy(__file__, folder / "model.py")


if __name__ == "__main__":
    publish(Path(sys.argv[1]))
