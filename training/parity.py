"""Parity: what an exported model answers, in the runtime that will serve it, against what the trained model answers.

Floats may differ by `TOLERANCE`. Integers (ids of neighbours) must be the same in the first column, but for one row in
a hundred: two candidates whose floats differ by less than the tolerance may change places.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.artifacts.manifest import Parity

TOLERANCE = 1e-4
_SAME_IDS = 0.99

Arrays = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Arrays], dict[str, npt.NDArray[Any]]]


class ParityError(Exception):
    """An exported model does not answer as the trained one does; the message names the format and the difference."""


def compare(name: str, trained: Run, exported: Run, batches: Sequence[Arrays]) -> Parity:
    """How far apart the two models' answers to the same batches are. Raises `ParityError` when that is too far.

    `name` is the format's, for the message. Top-1 agreement is of the first output: of its largest column where it
    holds floats, of its first column where it holds ids.
    """
    difference, top1, ids = 0.0, [], []
    for batch in batches:
        expected, found = trained(batch), exported(batch)
        if set(expected) != set(found):
            raise ParityError(f"{name}: the outputs are {sorted(found)}, expected {sorted(expected)}")
        for output, wanted in expected.items():
            got = found[output]
            if got.shape != wanted.shape or got.dtype.kind != wanted.dtype.kind:
                raise ParityError(
                    f"{name}: output '{output}' is {got.dtype} {got.shape}, expected {wanted.dtype} {wanted.shape}"
                )
            if wanted.dtype.kind == "f":
                difference = max(difference, _largest_difference(name, output, wanted, got))
                top1.append(wanted.argmax(-1) == got.argmax(-1))
            else:
                ids.append(wanted[..., 0] == got[..., 0])
    same_ids = float(np.concatenate(ids).mean()) if ids else 1.0
    if same_ids < _SAME_IDS:
        raise ParityError(f"{name}: only {same_ids:.1%} of the rows give the trained model's ids")
    agreement = same_ids if ids else float(np.concatenate(top1).mean())
    examples = sum(len(next(iter(batch.values()))) for batch in batches)
    return Parity(max_abs_difference=difference, top1_agreement=agreement, examples=examples)


def _largest_difference(name: str, output: str, wanted: npt.NDArray[Any], got: npt.NDArray[Any]) -> float:
    difference = float(np.abs(wanted - got).max())
    if not difference <= TOLERANCE:  # so that NaN fails too
        raise ParityError(
            f"{name}: output '{output}' differs from the trained model by {difference:.2g}; at most {TOLERANCE:g} is"
            " allowed"
        )
    return difference


def saved_model(folder: Path) -> Run:
    """The `serving_default` signature of a SavedModel, run by TensorFlow."""
    import tensorflow as tf

    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]

    def run(batch: Arrays) -> dict[str, npt.NDArray[Any]]:
        outputs = signature(**{name: tf.constant(array) for name, array in batch.items()})
        return {name: output.numpy() for name, output in outputs.items()}

    return run


def onnx(path: Path) -> Run:
    """An ONNX model, run by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(batch: Arrays) -> dict[str, npt.NDArray[Any]]:
        return dict(zip(names, session.run(names, dict(batch)), strict=True))

    return run


def tflite(path: Path) -> Run:
    """The `serving_default` signature of a TFLite model, run by LiteRT.

    Its inputs are resized to each batch, or run row by row where the file says one row.
    """
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path), num_threads=1).get_signature_runner("serving_default")
    one_row = all(details["shape_signature"][:1] == [1] for details in runner.get_input_details().values())

    def run(batch: Arrays) -> dict[str, npt.NDArray[Any]]:
        rows = len(next(iter(batch.values())))
        if not one_row or rows == 1:
            return {name: np.array(output) for name, output in runner(**batch).items()}
        answers = [run({name: array[row : row + 1] for name, array in batch.items()}) for row in range(rows)]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    return run
