"""Parity: what an exported model answers, in the runtime that will serve it, against what the trained model answers.

Formats that keep the weights' 32 bits are *exact*: floats may differ by `TOLERANCE`. Integers (ids of neighbours) must
be the same in the first column, but for one row in a hundred: two candidates whose floats differ by less than the
tolerance may change places. Formats that round weights are judged by what becomes of the answers: see
`Measured.missed`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.artifacts.manifest import Parity

TOLERANCE = 1e-4
SCORE_POINTS = 0.3  # what a format with rounded weights may lose of the score, in points of a hundred
_SAME_ANSWERS = (
    1 - SCORE_POINTS / 100
)  # where there is no score: the part of the examples with the trained model's answer
_OF_RANGE = 0.01  # where answers are no classes either: the largest difference, as a part of the outputs' range
_SAME_IDS = 0.99

Arrays = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Arrays], dict[str, npt.NDArray[Any]]]


class ParityError(Exception):
    """An exported model does not answer as the trained one does; the message names the format and the difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How an exported model answered, beside the trained one, on the same examples.

    `furthest` is the output with the largest difference, `spread` the range of the trained model's floats.
    `same_answers` is the part of the examples whose class, or first id, is the trained model's; None where outputs are
    neither.
    """

    furthest: str
    max_abs_difference: float
    spread: float
    same_answers: float | None
    same_ids: float
    examples: int

    def missed(self, *, exact: bool, points_lost: float | None = None) -> str:
        """What is wrong, in a sentence; empty where the model may be published.

        `exact` formats differ by at most `TOLERANCE`. The others may lose `SCORE_POINTS` of the score on a test set;
        without one, as many of the examples may get another class, or, where the answers are no classes, numbers may
        differ by 1 % of their range.
        """
        if exact:
            other_ids = f"only {self.same_ids:.1%} of the rows give the trained model's ids"
            return self._beyond(TOLERANCE) or (other_ids if self.same_ids < _SAME_IDS else "")
        if np.isnan(self.max_abs_difference):
            return self._beyond(0.0)
        if points_lost is not None:
            lower = f"the score is {points_lost:.2f} points lower; {SCORE_POINTS} are allowed"
            return lower if points_lost > SCORE_POINTS else ""
        if self.same_answers is None:
            return self._beyond(_OF_RANGE * self.spread)
        fewer = f"only {self.same_answers:.1%} of the answers are the trained model's; {_SAME_ANSWERS:.1%} are needed"
        return fewer if self.same_answers < _SAME_ANSWERS else ""

    def _beyond(self, allowed: float) -> str:
        if self.max_abs_difference <= allowed:  # false for NaN
            return ""
        return (
            f"output '{self.furthest}' differs from the trained model by {self.max_abs_difference:.2g}; at most"
            f" {allowed:.2g} is allowed"
        )


def measure(name: str, trained: Run, exported: Run, batches: Sequence[Arrays]) -> Measured:
    """Run both models on the batches. Raises `ParityError` where names, shapes or types are not the same.

    `name` is the format's, for the message.
    """
    difference, furthest, same, ids, floats = 0.0, "", [], [], [np.zeros(0)]
    for batch in batches:
        expected, found = trained(batch), exported(batch)
        _check_form(name, expected, found)
        for output, wanted in expected.items():
            if wanted.dtype.kind == "f" and wanted.size:
                largest = float(np.abs(wanted - found[output]).max())
                furthest = furthest or output
                if largest > difference or np.isnan(largest):
                    difference, furthest = largest, output
                floats.append(np.array([wanted.min(), wanted.max()]))
            elif wanted.dtype.kind in "iu":
                ids.append(wanted[..., 0].ravel() == found[output][..., 0].ravel())
        answers = classes(expected), classes(found)
        if answers[0] is not None and answers[1] is not None:
            same.append(answers[0] == answers[1])
    return Measured(
        furthest=furthest,
        max_abs_difference=difference,
        spread=float(np.ptp(np.concatenate(floats))) if len(floats) > 1 else 0.0,
        same_answers=float(np.concatenate(same).mean()) if same else None,
        same_ids=float(np.concatenate(ids).mean()) if ids else 1.0,
        examples=sum(len(next(iter(batch.values()))) for batch in batches),
    )


def _check_form(name: str, expected: Arrays, found: Arrays) -> None:
    if set(expected) != set(found):
        raise ParityError(f"{name}: the outputs are {sorted(found)}, expected {sorted(expected)}")
    for output, wanted in expected.items():
        got = found[output]
        if got.shape != wanted.shape or got.dtype.kind != wanted.dtype.kind:
            raise ParityError(
                f"{name}: output '{output}' is {got.dtype} {got.shape}, expected {wanted.dtype} {wanted.shape}"
            )


def classes(outputs: Arrays) -> npt.NDArray[Any] | None:
    """The answer for each row: the first id where ids come out, else the largest column, or which side of one half.

    None where the first output of floats is neither a row of scores nor a probability.
    """
    for output in outputs.values():
        if output.dtype.kind in "iu" and output.ndim == 2:
            ids: npt.NDArray[Any] = output[:, 0]
            return ids
    first = next((output for _, output in sorted(outputs.items()) if output.dtype.kind == "f"), None)
    if first is None or first.ndim not in (1, 2):
        return None
    if first.ndim == 2 and first.shape[1] > 1:
        columns: npt.NDArray[Any] = first.argmax(axis=1)
        return columns
    return first.ravel() > 0.5 if ((first >= 0) & (first <= 1)).all() else None


def score(run: Run, tested: Sequence[tuple[Arrays, npt.NDArray[Any]]]) -> float:
    """The part of the test examples that get their label. Raises `ParityError` where the answers are no classes."""
    right = []
    for batch, labels in tested:
        answers = classes(run(batch))
        if answers is None:
            raise ParityError("the model's answers are no classes, so they cannot be scored with labels")
        right.append(answers == labels)
    return float(np.concatenate(right).mean())


def compare(name: str, trained: Run, exported: Run, batches: Sequence[Arrays]) -> Parity:
    """How far apart an exact format's answers to the batches are. Raises `ParityError` when that is too far."""
    found = measure(name, trained, exported, batches)
    if missed := found.missed(exact=True):
        raise ParityError(f"{name}: {missed}")
    return Parity(
        max_abs_difference=found.max_abs_difference, top1_agreement=found.same_answers, examples=found.examples
    )


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
