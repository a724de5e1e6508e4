"""Python code as a model, 1: scikit-learn tells irises apart.

    python examples/sklearn_iris.py models
    millrace up --models models --allow-code
    curl localhost:8000/v1/models/iris:predict -d '{"instances": [[5.1, 3.5, 1.4, 0.2]]}'

The file is both: run as a program it trains on scikit-learn's own data in a second, and puts the result and a copy of
itself, as `model.py`, into a model repository. Served, only the class `Model` counts.
"""

import shutil
import sys
from pathlib import Path
from typing import Any, ClassVar

import joblib

from millrace.artifacts.repository import ModelRepository
from millrace.model import InvalidRequest

NAMES = ("setosa", "versicolor", "virginica")


class Model:
    """Takes up to 64 rows at once: their answers do not depend on one another."""

    inputs: ClassVar[Any] = {"x": ("FP32", (-1, 4))}
    outputs: ClassVar[Any] = {"label": ("STRING", (-1,)), "probabilities": ("FP32", (-1, 3))}
    labels = NAMES
    max_batch_size = 64

    def load(self, folder: Path) -> None:
        """Read what was trained; a pickle, so load only your own."""
        self.classifier = joblib.load(folder / "iris.joblib")

    def predict(self, x: Any) -> dict[str, Any]:
        """Each row's label, and what speaks for each of them."""
        if (x < 0).any():
            raise InvalidRequest("a length is negative")
        probabilities = self.classifier.predict_proba(x)
        return {"label": [NAMES[best] for best in probabilities.argmax(axis=1)], "probabilities": probabilities}


def publish(root: Path) -> None:
    """Train, and put version 1 into the repository."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    x, y = load_iris(return_X_y=True)
    with ModelRepository(root).publishing("iris", 1) as folder:
        joblib.dump(LogisticRegression(max_iter=1000).fit(x, y), folder / "iris.joblib")
        (folder / "requirements.txt").write_text("scikit-learn>=1.6\n")
        shutil.copy(__file__, folder / "model.py")


if __name__ == "__main__":
    publish(Path(sys.argv[1]))
