"""The outputs of a model as columns: a scalar, or lists in lists; a row that was refused has none, and its error."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.rows import Answer
from millrace.protocol.errors import ModelFailed
from millrace.protocol.tensors import BYTES, DTYPES, Signature, TensorSpec

ERROR = "error"


def arrow_type(spec: TensorSpec) -> pa.DataType:
    """The type of an output's column."""
    found = pa.string() if spec.datatype == BYTES else pa.from_numpy_dtype(DTYPES[spec.datatype])
    for _ in spec.shape[1:]:
        found = pa.list_(found)
    return found


def output_columns(
    signature: Signature, answers: Iterable[Answer], rows: int, names: Mapping[str, str]
) -> dict[str, pa.Array]:
    """The columns for a batch of `rows` rows; `names` says for each output that is wanted what its column is called."""
    specs = {spec.name: spec for spec in signature.outputs}
    found: dict[str, list[pa.Array]] = {name: [] for name in names}
    order: list[int] = []
    for answer in answers:
        if answer.outputs is None:
            continue
        order += answer.rows
        for name in names:
            if name not in answer.outputs:
                raise ModelFailed(f"the model's answer has no output {name!r}")
            found[name].append(_column(answer.outputs[name].to_numpy(), arrow_type(specs[name])))
    places = _places(order, rows)
    return {
        names[name]: pa.concat_arrays([*arrays, pa.array([], arrow_type(specs[name]))]).take(places)
        for name, arrays in found.items()
    }


def error_column(errors: Mapping[int, str], rows: int) -> pa.Array:
    """Each row's error, null where it has none."""
    return pa.array([errors.get(row) for row in range(rows)], pa.string())


def numbers(answers: Iterable[Answer], name: str) -> dict[int, npt.NDArray[Any]]:
    """One output of each row that has one, by row."""
    return {
        row: array
        for answer in answers
        if answer.outputs is not None
        for row, array in zip(answer.rows, answer.outputs[name].to_numpy(), strict=True)
    }


def _places(order: Sequence[int], rows: int) -> pa.Array:
    """Where in the answers each row is, null for a row that is not there."""
    where = np.full(rows, -1, np.int64)
    where[np.asarray(order, np.int64)] = np.arange(len(order))
    return pa.array(where, pa.int64(), mask=where < 0)


def _column(array: npt.NDArray[Any], wanted: pa.DataType) -> pa.Array:
    flat = array.reshape(-1)
    if array.dtype == object:
        values = pa.array([each.decode("utf-8", "backslashreplace") for each in flat], pa.string())
    else:
        values = pa.array(flat)
    for axis in range(array.ndim - 1, 0, -1):
        count = int(np.prod(array.shape[:axis], dtype=np.int64))
        offsets = np.arange(count + 1, dtype=np.int32) * array.shape[axis]
        values = pa.ListArray.from_arrays(pa.array(offsets), values)
    if values.type != wanted:
        raise ModelFailed(f"the model answered {values.type} where its signature says {wanted}")
    return values
