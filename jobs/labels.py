"""The best classes of each row: their names and their scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.outputs import numbers
from jobs.rows import Answer
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import Signature

BEST = ("label", "top_labels", "top_scores")  # the columns of `best_columns`


def scores_of(signature: Signature, names: Sequence[str], labels: Sequence[str], wanted: str = "") -> str:
    """The output that has a score for each class: floats of one dimension a row. Raises `InvalidRequest`."""
    found = [
        spec.name
        for spec in signature.outputs
        if spec.name in names and len(spec.shape) == 2 and spec.datatype in ("FP16", "FP32", "FP64")
    ]
    if wanted:
        found = [name for name in found if name == wanted]
    if len(found) > 1:
        sizes = {spec.name: spec.shape[1] for spec in signature.outputs}
        found = [name for name in found if sizes[name] == len(labels)]
    if len(found) != 1:
        raise InvalidRequest("outputs: name the one output that has a score for each class (floats, [-1, classes])")
    return found[0]


def label_of(labels: Sequence[str], number: int) -> str:
    """A class by its name, or by its number where it has none."""
    return labels[number] if number < len(labels) else str(number)


def best_columns(
    answers: Sequence[Answer], scores: str, labels: Sequence[str], rows: int, *, has_label: bool, top_k: int | None
) -> dict[str, Any]:
    """`label`, and `top_labels` with `top_scores`, the best first; of two that are equal the lower number comes first.

    A row without an answer has none of them.
    """
    by_row = numbers(answers, scores)
    order = {row: np.argsort(-array, kind="stable")[: max(1, top_k or 1)] for row, array in by_row.items()}
    columns: dict[str, Any] = {}
    if has_label:
        best = [label_of(labels, int(order[row][0])) if len(order.get(row, ())) else None for row in range(rows)]
        columns["label"] = pa.array(best, pa.string())
    if top_k:
        names = [[label_of(labels, int(each)) for each in order[row]] if row in order else None for row in range(rows)]
        values = [by_row[row][order[row]].tolist() if row in order else None for row in range(rows)]
        columns["top_labels"] = pa.array(names, pa.list_(pa.string()))
        columns["top_scores"] = pa.array(values, pa.list_(pa.float64()))
    return columns
