"""Whether an answer is right: its tensors' names, types and shapes always; their values where they are known."""

import numpy as np

from millrace_client.errors import MillraceError
from millrace_client.exchange import Response
from millrace_client.inputs import Array
from millrace_client.load.targets import Question
from millrace_client.models import DTYPES, TensorSpec
from millrace_client.protocol import InferenceResult

TOLERANCE = 1e-3  # a batch of another size may add floats up in another order
_REMEMBERED = 256  # bodies that were right, so that they need no second look


class Judge:
    """Judges the answers to one question; `expected` is its answer without load."""

    def __init__(self, question: Question, expected: InferenceResult | None = None) -> None:
        self._question, self._expected = question, expected
        self._right: set[bytes] = set()

    def fault(self, response: Response) -> str | None:
        """What is wrong with a successful answer; None when it is right."""
        if response.body in self._right:
            return None
        try:
            result = self._question.read(response)
        except MillraceError as error:
            return str(error)
        fault = _unlike_declared(result, self._question.outputs) or _unlike(result, self._expected)
        if fault is None and len(self._right) < _REMEMBERED:
            self._right.add(response.body)
        return fault


def _unlike_declared(result: InferenceResult, outputs: tuple[TensorSpec, ...]) -> str | None:
    for spec in outputs:
        array = result.outputs.get(spec.name)
        if array is None:
            return f"output {spec.name} is missing"
        if (dtype := DTYPES.get(spec.datatype)) is not None and array.dtype != dtype:
            return f"output {spec.name} is {array.dtype}, not {spec.datatype}"
        fits = len(array.shape) == len(spec.shape) and all(
            want in (-1, size) for want, size in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            return f"output {spec} has the shape {list(array.shape)}"
    return None


def _unlike(result: InferenceResult, expected: InferenceResult | None) -> str | None:
    if expected is None:
        return None
    if result.outputs.keys() != expected.outputs.keys():
        return "not the outputs that the request gets alone"
    same = all(_is_same(expected.outputs[name], array) for name, array in result.outputs.items())
    return None if same else "not the answer that the request gets alone"


def _is_same(expected: Array, array: Array) -> bool:
    if expected.shape != array.shape:
        return False
    if expected.dtype.kind == "f":
        return bool(np.allclose(expected, array, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))
    return bool(np.array_equal(expected, array))
