"""Parity: what an exported model answers, in the runtime that will serve it, against what the trained model answers.

Every output is compared, by its kind; see `outputs`, where the bounds are. The score on a test set is compared too,
where there is one: a format that rounds weights is refused for a score that the sample shows to be lower.
"""

import atexit
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.artifacts.manifest import Parity
from training import confidence, outputs
from training.console import quiet, quiet_from_here
from training.outputs import Kind, Seen

SCORE_POINTS = 0.3  # what a format with rounded weights may lose of the score, in points of a hundred
OF_SPREAD = {"tflite-fp16": outputs.OF_SPREAD_16}  # by format, where it is not `outputs.OF_SPREAD`

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Run = Callable[[Arrays], dict[str, Array]]
Kinds = Mapping[str, Kind]  # of outputs by their names; the others' are guessed
Rights = npt.NDArray[np.bool_]  # which of the test examples got their label


class ParityError(Exception):
    """An exported model does not answer as the trained one does; the message names the format and the difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One output of an exported model beside the trained model's.

    `relative_error` is that of the worst column, beside the spread of its values; `same_answers` is the part of the
    answers that are the trained model's, None where the values are numbers; `nans` of the `values` are NaN in the
    trained model.
    """

    name: str
    kind: Kind
    max_abs_difference: float
    relative_error: float | None
    same_answers: float | None
    nans: int
    values: int
    missed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How an exported model answered, beside the trained one, on the same examples."""

    seen: Sequence[Seen]
    kinds: Kinds
    examples: int

    @property
    def max_abs_difference(self) -> float:
        """The largest difference of two floats; NaN where one model has a number and the other has none."""
        return max((np.nan if seen.other_finiteness else seen.max_abs_difference for seen in self.seen), default=0.0)

    @property
    def same_answers(self) -> float | None:
        """The part of the answers that are the trained model's, of the output where it is the least."""
        found = [seen.same_answers(self.kinds[seen.name]) for seen in self.seen]
        return min((same for same in found if same is not None), default=None)

    def judged(self, *, exact: bool, of_spread: float = outputs.OF_SPREAD) -> list[Judged]:
        """Every output in the trained model's order. An `exact` format keeps the weights' 32 bits."""
        return [
            Judged(
                name=seen.name,
                kind=(kind := self.kinds[seen.name]),
                max_abs_difference=seen.max_abs_difference,
                relative_error=seen.relative_error(),
                same_answers=seen.same_answers(kind),
                nans=seen.nans,
                values=seen.values,
                missed=seen.missed(kind, is_exact=exact, of_spread=of_spread),
            )
            for seen in self.seen
        ]

    def missed(self, *, exact: bool, of_spread: float = outputs.OF_SPREAD) -> str:
        """What is wrong, in a sentence for each output; empty where the model may be published."""
        return "; ".join(judged.missed for judged in self.judged(exact=exact, of_spread=of_spread) if judged.missed)


def measure(name: str, trained: Run, exported: Run, batches: Sequence[Arrays], kinds: Kinds | None = None) -> Measured:
    """Run both models on the batches. Raises `ParityError` where names, shapes or types are not the same.

    `name` is the format's, for the message. `kinds` says of outputs what their values are for.
    """
    seen: dict[str, Seen] = {}
    for batch in batches:
        expected, found = trained(batch), exported(batch)
        _check_form(name, expected, found)
        ranked = _ranked(expected)
        for output, wanted in expected.items():
            one = seen.setdefault(output, Seen(output))
            one.is_ranked = output in ranked
            one.add(wanted, found[output])
    if unknown := (kinds or {}).keys() - seen.keys():
        raise ParityError(f"there is no output {', '.join(sorted(unknown))}; there are {', '.join(seen)}")
    return Measured(
        seen=list(seen.values()),
        kinds={name: one.fitting((kinds or {}).get(name, one.kind())) for name, one in seen.items()},
        examples=sum(_rows(batch) for batch in batches),
    )


def _rows(batch: Arrays) -> int:
    first = next(iter(batch.values()))
    return len(first) if first.ndim else 1


def _ranked(expected: Arrays) -> set[str]:
    """The outputs of ids that have falling scores beside them, in an output of the same shape: a top-k's."""
    falling = [
        scores.shape
        for scores in expected.values()
        if scores.dtype.kind == "f" and scores.ndim > 1 and scores.shape[-1] > 1 and (np.diff(scores) <= 0).all()
    ]
    return {name for name, array in expected.items() if array.dtype.kind in "iu" and array.shape in falling}


def _check_form(name: str, expected: Arrays, found: Arrays) -> None:
    if set(expected) != set(found):
        raise ParityError(f"{name}: the outputs are {sorted(found)}, expected {sorted(expected)}")
    for output, wanted in expected.items():
        got = found[output]
        if got.shape != wanted.shape or got.dtype.kind != wanted.dtype.kind:
            raise ParityError(
                f"{name}: output '{output}' is {got.dtype} {got.shape}, expected {wanted.dtype} {wanted.shape}"
            )


def rights(run: Run, tested: Sequence[tuple[Arrays, Array]], kinds: Kinds | None = None) -> Rights:
    """Which of the labels are the model's answer: [examples], or [examples, labels] where each has several.

    Raises `ParityError` where no output can be scored with such labels; see `scored`.
    """
    right = []
    for batch, labels in tested:
        found = run(batch)
        right.append(_answer(found[scored(found, labels, kinds or {})], labels) == labels)
    return np.concatenate(right)


def scored(found: Arrays, labels: Array, kinds: Kinds) -> str:
    """The output that labels are compared with: one that is said to hold answers, else the first that can.

    Ids come first, then distributions. Raises `ParityError` where there is none.
    """
    said = [name for name in found if kinds.get(name) not in (None, Kind.NUMBERS)]
    guessed = sorted((name for name in found if name not in kinds), key=lambda name: _place(found[name]))
    for name in (*said, *guessed):
        answer = _answer(found[name], labels)
        if answer is not None and answer.shape == labels.shape:
            return name
    raise ParityError("no output is a class for each row, so the model cannot be scored with these labels")


def _place(array: Array) -> int:
    if array.dtype.kind in "iu":
        return 0
    return 1 if array.ndim == 2 and np.allclose(array.sum(axis=-1), 1, atol=1e-3) else 2


def _answer(array: Array, labels: Array) -> Array | None:
    """The answer for each label: an id, the largest column, or the side of one half; None where there is none."""
    if labels.ndim == 2:
        return array > 0.5 if array.shape == labels.shape else None
    if array.dtype.kind in "iu" and array.ndim in (1, 2) and array.size:
        return array if array.ndim == 1 else array[:, 0]
    if array.dtype.kind != "f" or array.ndim not in (1, 2):
        return None
    if array.ndim == 2 and array.shape[1] > 1:
        largest: Array = array.argmax(axis=1)
        return largest if labels.max(initial=0) < array.shape[1] else None
    side = array.ravel()
    return (side > 0.5).astype(np.int64) if ((side >= 0) & (side <= 1)).all() else None


def score_missed(trained: Rights, exported: Rights) -> str:
    """What is wrong with the score of a format with rounded weights; empty where its loss may be chance."""
    before, after = trained.ravel(), exported.ravel()
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    if confidence.least_loss(lost, won, len(before)) <= SCORE_POINTS / 100:
        return ""
    points = 100 * (lost - won) / len(before)
    return f"the score is {points:.2f} points lower on {len(before)} labels; {SCORE_POINTS} are allowed"


def score(run: Run, tested: Sequence[tuple[Arrays, Array]], kinds: Kinds | None = None) -> float:
    """The part of the test labels that are the model's answer. Raises `ParityError` where answers are no classes."""
    return float(rights(run, tested, kinds).mean())


def compare(name: str, trained: Run, exported: Run, batches: Sequence[Arrays], kinds: Kinds | None = None) -> Parity:
    """How far apart an exact format's answers to the batches are. Raises `ParityError` when that is too far."""
    found = measure(name, trained, exported, batches, kinds)
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


def compiled(path: Path) -> Run:
    """The `serving_default` signature of a TFLite model of fixed sizes, run by LiteRT's CompiledModel.

    Android's LiteRT 2 and LiteRT.js have the same interface.
    """
    from ai_edge_litert.compiled_model import CompiledModel

    name = "serving_default"
    with quiet():  # it tells of accelerators that are not there
        model = CompiledModel.from_file(str(path), environment=_environment())
        inputs, outputs = model.get_input_tensor_details(name), model.get_output_tensor_details(name)
        given = {each: model.create_input_buffer_by_name(name, each) for each in inputs}
        found = {each: model.create_output_buffer_by_name(name, each) for each in outputs}
        for each, buffer in given.items():
            buffer.write(np.zeros(inputs[each]["shape"], inputs[each]["dtype"]))  # the first tells of them once more

    def run(batch: Arrays) -> dict[str, npt.NDArray[Any]]:
        for each, buffer in given.items():
            if list(batch[each].shape) != inputs[each]["shape"]:
                raise ValueError(f"'{each}' has shape {list(batch[each].shape)}, not {inputs[each]['shape']}")
            buffer.write(batch[each].astype(inputs[each]["dtype"]))  # of 32 bits
        model.run_by_name(name, given, found)
        return {each: _read(buffer, outputs[each]) for each, buffer in found.items()}

    return run


@cache
def _environment() -> Any:
    """LiteRT's accelerators, looked for once in a process, at whose end it tells of them again."""
    from ai_edge_litert.environment import Environment

    atexit.register(quiet_from_here)
    return Environment.create()


def _read(buffer: Any, details: Mapping[str, Any]) -> npt.NDArray[Any]:
    shape = tuple(details["shape"])
    return np.array(buffer.read(math.prod(shape), np.dtype(details["dtype"]))).reshape(shape)


def tflite(path: Path) -> Run:
    """The `serving_default` signature of a TFLite model, run by LiteRT.

    Its inputs are resized to each batch, or run row by row where the file says one row. Floats are rounded to the 8-bit
    integers that a file takes, and made of those that it gives, as its scales say.
    """
    return tflite_of(path.read_bytes())


def tflite_of(content: bytes) -> Run:
    """The same of a file's content."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet():  # it tells of its parts
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner("serving_default")
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    one_row = all(details["shape_signature"][:1] == [1] for details in inputs.values())

    def run(batch: Arrays) -> dict[str, npt.NDArray[Any]]:
        rows = len(next(iter(batch.values())))
        if not one_row or rows == 1:
            found = runner(**{name: _rounded(array, inputs[name]) for name, array in batch.items()})
            return {name: _scaled(np.array(output), outputs[name]) for name, output in found.items()}
        answers = [run({name: array[row : row + 1] for name, array in batch.items()}) for row in range(rows)]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    return run


def _rounded(array: Array, details: Mapping[str, Any]) -> Array:
    """Floats as the integers that an input of a quantised file takes; other values as they are."""
    scale, zero = details["quantization"]
    if not scale or array.dtype.kind != "f" or np.dtype(details["dtype"]).kind == "f":
        return array
    bounds = np.iinfo(details["dtype"])
    rounded: Array = np.clip(np.round(array / scale) + zero, bounds.min, bounds.max).astype(details["dtype"])
    return rounded


def _scaled(array: Array, details: Mapping[str, Any]) -> Array:
    """The floats that the integers of a quantised file's output stand for; other values as they are."""
    scale, zero = details["quantization"]
    if not scale or array.dtype.kind == "f":
        return array
    scaled: Array = ((array.astype(np.float32) - zero) * scale).astype(np.float32)
    return scaled
