"""From what the caller has (arrays, lists, text, files) to the tensors that the model's metadata asks for.

A value may leave out the row dimension, and dimensions of size 1 at the end. Of the following readings, the first
that fits the declared shape is taken, and it is an error when none does:

    reading                        declared [-1,28,28,1]    declared [-1]      declared [-1,-1]
    1. as given                    [5,28,28,1]              ["a","b"]          [["king","man"]]
    2. one row                     [28,28,1]                                   ["king","man"]
    3. with 1s at the end          [5,28,28]
    4. one row, with 1s at the end [28,28]
    5. a single value              0                        "a"                "king"

A single value becomes a tensor with size 1 in every dimension. Where the server declares no inputs, tensors are sent as
given.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace_client.errors import InvalidRequest
from millrace_client.models import BYTES, DTYPES, ModelMetadata, TensorSpec

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A named array with its datatype on the wire; the elements of BYTES are `str` or `bytes`."""

    name: str
    datatype: str
    array: Array


def tensors_for(inputs: object, metadata: ModelMetadata) -> list[Tensor]:
    """The tensors of a request. `inputs` is a dict by input name, or the value of the one required input.

    Raises `InvalidRequest` for names, shapes and types that the model does not take, `OSError` for an unreadable file.
    """
    specs = {spec.name: spec for spec in metadata.inputs}
    named = inputs if isinstance(inputs, Mapping) else {_only_input(metadata): inputs}
    if not specs:
        return tensors_as_given(named)
    unknown = named.keys() - specs.keys()
    missing = {spec.name for spec in metadata.required_inputs} - named.keys()
    if unknown or missing:
        problem = f"no input {sorted(unknown)[0]!r}" if unknown else f"input {sorted(missing)[0]!r}, which is missing"
        raise InvalidRequest(f"model {metadata.name!r} has {problem}; its inputs are: {_list(metadata)}")
    return [_fitted(array_of(value), specs[name], metadata.name) for name, value in named.items()]


def tensors_as_given(named: Mapping[str, object]) -> list[Tensor]:
    """The tensors of a request to a model of which nothing is known: each keeps its own shape and type."""
    tensors = []
    for name, value in named.items():
        array = array_of(value)
        tensors.append(Tensor(name=name, datatype=_datatype_of(array.dtype, name), array=array))
    return tensors


def array_of(value: object) -> Array:
    """The value as an array; text and files become an array of `str` and `bytes` objects."""
    if isinstance(value, np.ndarray):
        array = value
    else:
        dtype = object if isinstance(_first_leaf(value), str | bytes | Path) else None
        try:
            array = np.array(value, dtype)
        except ValueError:
            raise InvalidRequest("the lists of an input differ in length") from None
    if array.dtype.kind in "biuf":
        return array
    if array.dtype.kind not in "OSU":
        raise InvalidRequest(f"an input of type {array.dtype} cannot be sent")
    elements = np.empty(array.size, object)
    elements[:] = [_element(item) for item in array.ravel().tolist()]
    return elements.reshape(array.shape)


def _first_leaf(value: object) -> object:
    while isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value):
        value = value[0]
    return value


def _element(item: object) -> str | bytes:
    if isinstance(item, Path):
        return item.read_bytes()
    if isinstance(item, str | bytes):
        return item
    raise InvalidRequest(f"an input holds {type(item).__name__} among text; are its lists equally long?")


def _fitted(array: Array, spec: TensorSpec, model: str) -> Tensor:
    """The array with the datatype and the shape that the model asks for."""
    datatype, shape, is_text = spec.datatype, spec.shape, array.dtype == object
    if is_text and spec.media and datatype != BYTES:
        if any(isinstance(item, str) for item in array.flat):
            raise InvalidRequest(f"model {model!r} takes {spec}, not text; give a file as pathlib.Path or bytes")
        datatype, shape = BYTES, (-1,)
    if is_text != (datatype == BYTES):
        raise InvalidRequest(
            f"model {model!r} takes {spec}, not {'text or files' if is_text else f'numbers ({array.dtype})'}"
        )
    for reading in _readings(array, shape):
        if _fits(reading.shape, shape):
            return Tensor(name=spec.name, datatype=datatype, array=_cast(reading, datatype, spec.name))
    raise InvalidRequest(f"model {model!r} takes {spec}, not shape {list(array.shape)}")


def _readings(array: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    if array.ndim == 0:
        yield array.reshape((1,) * len(shape))
        return
    for reading in (array, array[None]):
        yield reading
    for reading in (array, array[None]):
        if all(size == 1 for size in shape[reading.ndim :]):
            yield reading.reshape(*reading.shape, *shape[reading.ndim :])


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(want in (-1, size) for size, want in zip(shape, declared, strict=True))


def _cast(array: Array, datatype: str, name: str) -> Array:
    """The array in the declared type; an integer or BOOL type takes only values that it can hold."""
    dtype = DTYPES.get(datatype)
    if dtype is None or array.dtype == dtype:
        return array
    with np.errstate(invalid="ignore", over="ignore"):
        cast = array.astype(dtype)
    if dtype.kind in "biu" and not np.array_equal(cast, array):
        raise InvalidRequest(f"input {name!r} has values that {datatype} cannot hold")
    return cast


def _datatype_of(dtype: np.dtype[Any], name: str) -> str:
    for datatype, candidate in DTYPES.items():
        if candidate == dtype:
            return datatype
    raise InvalidRequest(f"input {name!r} is of type {dtype}, which cannot be sent")


def _only_input(metadata: ModelMetadata) -> str:
    required = metadata.required_inputs or metadata.inputs
    if len(required) != 1:
        raise InvalidRequest(
            f"model {metadata.name!r} needs a dict of inputs by name: {_list(metadata) or 'none are declared'}"
        )
    return required[0].name


def _list(metadata: ModelMetadata) -> str:
    return ", ".join(f"{spec} (optional)" if spec.is_optional else str(spec) for spec in metadata.inputs)
