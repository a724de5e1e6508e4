"""Python code as a model, 2: a network of PyTorch's reads small digits.

    python examples/torch_digits.py models
    millrace up --models models --allow-code
    curl localhost:8000/v2/models/digits8/infer -d '{"inputs": [{"name": "image", "datatype": "FP32",
      "shape": [1, 8, 8], "data": [0,0,5,13,9,1,0,0, 0,0,13,15,10,15,5,0, 0,3,15,2,0,11,8,0, 0,4,12,0,0,8,8,0,
      0,5,8,0,0,9,8,0, 0,4,11,0,1,12,7,0, 0,2,14,5,10,12,0,0, 0,0,6,13,10,0,0,0]}]}'

Run as a program it trains for some seconds on the 1,797 images of 8x8 that come with scikit-learn, and publishes the
weights with a copy of itself. What such a network alone does is served faster as ONNX (docs/howto/export.md); this is
the way for what cannot be exported.
"""

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import nn

from millrace.artifacts.repository import ModelRepository

Images = Annotated[np.ndarray, "FP32", (-1, 8, 8)]
Scores = Annotated[np.ndarray, "FP32", (-1, 10)]


def network() -> Any:
    """Images [n, 8, 8] of 0 to 16 to the logits of ten classes."""
    convolution = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    return nn.Sequential(nn.Unflatten(1, (1, 8)), convolution, nn.Linear(256, 10))


class Model:
    """Takes up to 32 images at once."""

    max_batch_size = 32

    def load(self, folder: Path, device: str) -> None:
        """Read the weights; `device` is cpu or cuda, as `--device` says."""
        self.device = device
        self.network = network()
        self.network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
        self.network.to(device).eval()

    def predict(self, image: Images) -> Scores:
        """The probabilities of the ten digits; the tensor becomes an array."""
        with torch.inference_mode():
            scores: Scores = self.network(torch.from_numpy(image).to(self.device) / 16).softmax(1)
        return scores


def publish(root: Path, epochs: int = 20) -> None:
    """Train, and put version 1 into the repository."""
    from sklearn.datasets import load_digits

    torch.manual_seed(1)
    torch.set_num_threads(1)  # so small a network is quicker without waiting for others
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
    made = network()
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(made(images[rows]), labels[rows]).backward()
            optimizer.step()
    with ModelRepository(root).publishing("digits8", 1) as folder:
        torch.save(made.state_dict(), folder / "weights.pt")
        (folder / "requirements.txt").write_text("torch>=2.4\n")
        shutil.copy(__file__, folder / "model.py")


if __name__ == "__main__":
    publish(Path(sys.argv[1]))
