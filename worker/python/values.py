"""From tensors to the values that a model's code is given, and from what it returns to tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.protocol.errors import InvalidRequest, MillraceError, ModelFailed, RowErrors
from worker.backends.base import Arrays
from worker.python.declaration import Field
from worker.python.fitting import fitted


def given(fields: Sequence[Field], inputs: Arrays) -> dict[str, Any]:
    """What `predict` is called with: of the fields, those that were sent.

    Arrays may be written to. Raises `RowErrors` for rows whose text is not UTF-8.
    """
    return {field.spec.name: _value(field, inputs[field.spec.name]) for field in fields if field.spec.name in inputs}


def _value(field: Field, array: npt.NDArray[Any]) -> Any:
    if field.is_text:
        array = _texts(field.spec.name, array)
    elif field.form == "array" and not array.flags.writeable:
        array = array.copy()
    if field.form == "array":
        return array
    return array.tolist() if field.form == "list" else array.item()


def _texts(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    texts = np.empty(array.size, object)
    bad: dict[int, MillraceError] = {}
    width = max(1, array.size // max(1, len(array))) if array.ndim else 1
    for place, raw in enumerate(array.ravel()):
        try:
            texts[place] = raw.decode()
        except UnicodeDecodeError as error:
            bad.setdefault(place // width, InvalidRequest(f"input '{name}' takes text as UTF-8: {error}"))
    if bad:
        raise RowErrors(bad)
    return texts.reshape(array.shape)


def returned(fields: Sequence[Field], value: Any, rows: int | None) -> Arrays:
    """The tensors that `predict` has returned, with so many rows; None where they have none.

    A single output may come without its name. Raises `ModelFailed` where they are not what is declared.
    """
    if len(fields) == 1 and not isinstance(value, Mapping):
        value = {fields[0].spec.name: value}
    if not isinstance(value, Mapping):
        names = ", ".join(field.spec.name for field in fields)
        raise ModelFailed(f"predict returned a {type(value).__name__}, where a dict with {names} is declared")
    if missing := [field.spec.name for field in fields if field.spec.name not in value]:
        raise ModelFailed(f"predict returned no {missing[0]!r}, which is declared")
    return {field.spec.name: _tensor(field, value[field.spec.name], rows) for field in fields}


def _tensor(field: Field, value: Any, rows: int | None) -> npt.NDArray[Any]:
    spec = field.spec
    shape = spec.shape if rows is None else (rows, *spec.shape[1:])
    try:
        if field.form != "scalar" or rows is None:
            return fitted(value, spec.datatype, shape)
        array = fitted(value, spec.datatype, None)  # the one row's value, or an array with it
        return fitted(array[np.newaxis] if array.ndim == 0 else array, spec.datatype, shape)
    except (ValueError, TypeError) as error:
        raise ModelFailed(f"predict returned an output {spec.name!r} that {error}") from error
