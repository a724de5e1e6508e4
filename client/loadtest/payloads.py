"""The requests of the load test, made once and always the same, and how an answer is compared with the right one.

Right is what the server answers to the same request when it is alone, once that has passed the payload's own check
(a seven is a seven). Floats may differ by `TOLERANCE`: a batch of another size may add them up in another order.
"""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

TOLERANCE = 1e-3
SIDE = 28
_SEED = 7

# With the label's index where any model worth serving agrees (0 negative, 1 positive), else None.
_REVIEWS: list[tuple[str, int | None]] = [
    ("a dull, lifeless film", 0),
    ("a wonderful and moving film with a superb cast", 1),
    ("the plot makes no sense and the acting is terrible", 0),
    ("one of the best films of the year", 1),
    ("it starts slowly", None),
    ("two hours long and set in Vienna", None),
    ("", None),
    ("long " * 200, None),
]
# Words to add, words to take away, and a word that has to be among the neighbours.
_WORDS: list[tuple[list[str], list[str], str | None]] = [
    (["king", "woman"], ["man"], "queen"),
    (["paris", "germany"], ["france"], None),
    (["water"], [], None),
    (["brother", "woman"], ["man"], None),
    (["three", "four"], [], None),
]


@dataclass(frozen=True, slots=True)
class Payload:
    """A request, and whether an answer (a JSON document) is right as far as that is known beforehand."""

    path: str
    body: bytes
    is_plausible: Callable[[Any], bool]


def digits(example: Path, count: int = 15) -> list[Payload]:
    """The example file, which shows a seven, and `count` images of strokes, in TensorFlow Serving's row form."""
    path = "/v1/models/digits:predict"
    images = [strokes(_SEED + i)[..., None].tolist() for i in range(count)]
    made = [Payload(path, _json({"instances": [image]}), lambda answer: _row_length(answer) == 10) for image in images]
    return [Payload(path, example.read_bytes(), lambda answer: _best(_first_row(answer)) == 7), *made]


def sentiment() -> list[Payload]:
    """Reviews, in the Open Inference form."""

    def payload(text: str, label: int | None) -> Payload:
        tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}
        body = _json({"inputs": [tensor]})
        return Payload(
            "/v2/models/sentiment/infer",
            body,
            lambda answer: label in (None, _best(_output(answer, "probabilities"))),
        )

    return [payload(text, label) for text, label in _REVIEWS]


def word2vec() -> list[Payload]:
    """Sums of words, in the Open Inference form; the vector itself is not asked for."""

    def payload(plus: list[str], minus: list[str], neighbour: str | None) -> Payload:
        shape, weights = [1, len(plus + minus)], [1.0] * len(plus) + [-1.0] * len(minus)
        document = {
            "inputs": [
                {"name": "tokens", "datatype": "BYTES", "shape": shape, "data": plus + minus},
                {"name": "weights", "datatype": "FP32", "shape": shape, "data": weights},
            ],
            "outputs": [{"name": "neighbors"}, {"name": "similarities"}],
        }
        return Payload(
            "/v2/models/word2vec/infer",
            _json(document),
            lambda answer: neighbour is None or neighbour in _output(answer, "neighbors"),
        )

    return [payload(*words) for words in _WORDS]


def strokes(seed: int) -> npt.NDArray[np.int64]:
    """A 28x28 image, 0 to 255, of three thick strokes: the same one for the same seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    distance = np.full((SIDE, SIDE), np.inf)
    points = rng.uniform(6, 22, size=(4, 2))
    for start, end in itertools.pairwise(points):
        for t in np.linspace(0, 1, 20):
            py, px = start + t * (end - start)
            distance = np.minimum(distance, np.hypot(y - py, x - px))
    return np.rint(255 * np.clip(2.0 - distance, 0, 1)).astype(np.int64)


def is_same(expected: Any, answer: Any) -> bool:
    """Whether two JSON documents are equal, floats within `TOLERANCE`."""
    if isinstance(expected, dict) and isinstance(answer, dict):
        return expected.keys() == answer.keys() and all(is_same(expected[key], answer[key]) for key in expected)
    if isinstance(expected, list) and isinstance(answer, list):
        return len(expected) == len(answer) and all(map(is_same, expected, answer))
    if _is_number(expected) and _is_number(answer):
        return math.isclose(expected, answer, rel_tol=0, abs_tol=TOLERANCE) or (
            math.isnan(expected) and math.isnan(answer)
        )
    return bool(expected == answer)


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()


def _first_row(answer: Any) -> list[float]:
    rows: list[list[float]] = answer["predictions"] if "predictions" in answer else answer["outputs"]
    return rows[0]


def _row_length(answer: Any) -> int:
    return len(_first_row(answer))


def _best(row: list[float]) -> int:
    return max(range(len(row)), key=row.__getitem__)


def _output(answer: Any, name: str) -> list[Any]:
    data: list[Any] = next(output["data"] for output in answer["outputs"] if output["name"] == name)
    return data
