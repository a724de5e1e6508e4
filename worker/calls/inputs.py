"""What code calls a model with, as the tensors that the model takes: nothing goes to the queue that would not fit."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from millrace.protocol.errors import InvalidRequest
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import BYTES, Signature, Tensor, TensorSpec
from worker.python.fitting import fitted


def tensors_of(model: ModelAnnouncement, signature: str, inputs: Mapping[str, Any]) -> tuple[dict[str, Tensor], int]:
    """The tensors, and how many rows they have. A model without batches has one row: a first dimension of 1.

    Raises `InvalidRequest`.
    """
    declared = _signature(model, signature)
    specs = {spec.name: spec for spec in declared.inputs}
    if unknown := inputs.keys() - specs.keys():
        raise InvalidRequest(f"unexpected inference input '{min(unknown)}' for model '{model.name}'")
    if missing := sorted(spec.name for spec in declared.inputs if not spec.optional and spec.name not in inputs):
        raise InvalidRequest(f"model '{model.name}' needs the input '{missing[0]}'")
    if not inputs:
        raise InvalidRequest(f"model '{model.name}' is called without an input")
    arrays = {name: _array(model.name, specs[name], value) for name, value in inputs.items()}
    if not model.max_batch_size:
        return {name: Tensor.from_numpy(array[np.newaxis]) for name, array in arrays.items()}, 1
    rows = {len(array) for array in arrays.values()}
    if len(rows) > 1:
        raise InvalidRequest(f"the inputs of model '{model.name}' have different numbers of rows: {sorted(rows)}")
    if rows == {0}:
        raise InvalidRequest(f"model '{model.name}' is called without a row")
    count = rows.pop()
    if model.has_whole_requests and count > model.max_batch_size:
        raise InvalidRequest(f"model '{model.name}' takes at most {model.max_batch_size} rows at once, got {count}")
    return {name: Tensor.from_numpy(array) for name, array in arrays.items()}, count


def _signature(model: ModelAnnouncement, name: str) -> Signature:
    try:
        return model.signatures[name]
    except KeyError:
        raise InvalidRequest(f"model '{model.name}' has no signature '{name}'") from None


def _array(model: str, spec: TensorSpec, value: Any) -> Any:
    """The value as the array that the model declares; for media, files in its place."""
    try:
        if spec.media and _holds_files(value):
            return fitted(value, BYTES, (-1,))
        array = fitted(value, spec.datatype, None if spec.unknown_rank else spec.shape)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"input '{spec.name}' for model '{model}' {error}") from error
    if spec.max_bytes and spec.datatype == BYTES and any(len(each) > spec.max_bytes for each in array.ravel()):
        raise InvalidRequest(f"input '{spec.name}' of model '{model}' takes at most {spec.max_bytes} bytes an element")
    return array


def _holds_files(value: Any) -> bool:
    """Whether these are files' contents: their bytes, in place of what is in them."""
    first = np.asarray(value, object).ravel()[:1].tolist()
    return bool(first) and isinstance(first[0], bytes | bytearray)
