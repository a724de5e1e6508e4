"""Each installed runtime on the same CNN, by batch size: what a row costs, through the worker's own backends.

    .venv/bin/python -m benchmarks.micro.backends

Where TensorFlow is installed, the digits network is exported, untrained, in all three formats; else the bundled ONNX
model is taken.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.micro.timing import calls, compare
from millrace.protocol.tensors import DEFAULT_SIGNATURE
from worker import backends
from worker.backends.base import Device

SIZES = (1, 16, 64)
ROWS = 256  # for each round, at least


def main() -> None:
    """All runtimes at each batch size."""
    with model() as folder:
        loaded = {
            name: backends.load(folder, Device(), name)
            for name, (file, _, runtime) in backends.FORMATS.items()
            if find_spec(runtime) and (folder / file).exists()
        }
        for rows in SIZES:
            inputs = {"image": np.zeros((rows, 28, 28, 1), np.float32)}
            compare(
                f"a row in a batch of {rows}",
                {
                    name: calls(partial(backend.run, DEFAULT_SIGNATURE, inputs), max(3, ROWS // rows), rows)
                    for name, backend in loaded.items()
                },
            )


@contextmanager
def model() -> Iterator[Path]:
    """A version's folder with the digits network in as many formats as can be written here."""
    if not find_spec("tensorflow"):
        yield Path("models/digits/1")
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from training import digits, export
    from training.export import lite
    from training.export.saved_model import write_saved_model

    exports = export.exports_of(digits.build(digits.Settings()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_saved_model(exports, folder)
        export.write_onnx(export.onnx_of(exports), folder / "model.onnx")
        (folder / "model.tflite").write_bytes(lite.convert(exports, "float32", ()))
        yield folder


if __name__ == "__main__":
    main()
