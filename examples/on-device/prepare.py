"""Put the models' files and Python's answers into files/, for the page.

    python examples/on-device/prepare.py [FOLDER]

FOLDER is what `make release-assets` writes, or where a release's files are [build/models]. Python's answers are those
of the ONNX files, run by ONNX Runtime.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime

from millrace.artifacts.images import read_digit
from millrace.artifacts.manifest import DecodeImage, LookUpWords, Manifest, Tokenize
from millrace.artifacts.vocabulary import Vocabulary

HERE = Path(__file__).parent
RUNTIMES = {"onnx": "ONNX Runtime Web", "tflite-compiled": "LiteRT.js"}  # by the formats that they run
TEXTS = ("What a wonderful film!", "A dull, lifeless film.", "Not a dull moment.", "It was good. " * 40)

Arrays = dict[str, npt.NDArray[Any]]


def prepare(assets: Path, out: Path) -> None:
    """Copy what the page runs and write `cases.json`: a list of a file, its runtime, and examples with the answers."""
    out.mkdir(parents=True, exist_ok=True)
    cases = []
    for asset in json.loads((assets / "MODELS.json").read_bytes()):
        if asset["format"] in RUNTIMES:
            shutil.copyfile(assets / asset["file"], out / asset["file"])
            stem = f"{asset['model']}-{asset['version']}"
            cases.append(
                {
                    "model": asset["model"],
                    "file": asset["file"],
                    "runtime": RUNTIMES[asset["format"]],
                    "labels": _labels(assets, stem),
                    "filling": _filling(_described(assets, stem)),
                    "examples": _answered(assets, stem),
                }
            )
    (out / "cases.json").write_text(json.dumps(cases))


def _described(assets: Path, stem: str) -> Manifest:
    return msgspec.json.decode((assets / f"{stem}.manifest.json").read_bytes(), type=Manifest)


def _labels(assets: Path, stem: str) -> Sequence[str]:
    """What the model's numbers stand for: classes, or words."""
    described = _described(assets, stem)
    return described.labels or Vocabulary.read(assets / f"{stem}.vocabulary.txt").entries


def _filling(described: Manifest) -> dict[str, str]:
    """What shorter rows are filled up with in a file of fixed sizes: 0, or the row's last number."""
    (step,) = described.preprocessing
    if isinstance(step, Tokenize):
        return {step.output: "0"}
    return {step.output: "last", step.weights: "0"} if isinstance(step, LookUpWords) else {}


def _answered(assets: Path, stem: str) -> list[dict[str, Any]]:
    """The examples of a model, each with the answer of its ONNX file."""
    session = onnxruntime.InferenceSession(assets / f"{stem}.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [
        {
            "name": name,
            "inputs": _as_json(inputs),
            "answers": _as_json(dict(zip(names, session.run(None, inputs), strict=True))),
        }
        for name, inputs in _examples(assets, stem).items()
    ]


def _examples(assets: Path, stem: str) -> dict[str, Arrays]:
    """The model's inputs by the examples' names, prepared as its manifest says."""
    described = _described(assets, stem)
    (step,) = described.preprocessing
    if isinstance(step, DecodeImage):
        seven = read_digit((HERE.parent / "seven.png").read_bytes())
        upper = np.where(np.arange(len(seven))[:, None, None] < 14, seven, 0)
        return {name: {step.input: pixels[None]} for name, pixels in (("seven.png", seven), ("its upper half", upper))}
    vocabulary = Vocabulary.read(assets / f"{stem}.vocabulary.txt")
    if isinstance(step, Tokenize):
        ids = {text: vocabulary.encode(text, step.max_length, step.keep) for text in TEXTS}
        return {text[:40]: {step.output: np.array([row], np.int32)} for text, row in ids.items()}
    return _words(described, step, vocabulary)


def _words(described: Manifest, step: LookUpWords, vocabulary: Vocabulary) -> dict[str, Arrays]:
    (given,) = described.example["instances"]
    ids = np.array([[vocabulary.find(word) for word in given["tokens"]]], np.int32)
    name = " ".join(f"{weight:+.0f} {word}" for word, weight in zip(given["tokens"], given["weights"], strict=True))
    return {name: {step.output: ids, step.weights: np.array([given["weights"]], np.float32)}}


def _as_json(arrays: Arrays) -> dict[str, Any]:
    return {
        name: {"type": array.dtype.name, "shape": array.shape, "data": array.ravel().tolist()}
        for name, array in arrays.items()
    }


if __name__ == "__main__":
    prepare(Path(*sys.argv[1:2] or ["build/models"]), HERE / "files")
