"""Examples in, classes and values out: what TensorFlow Serving's classify and regress mean, over REST and gRPC alike.

TensorFlow Serving runs these verbs on signatures that were exported for them: their one input is called `inputs` and
takes serialized examples, their outputs are called `classes` and `scores`, or `outputs`. Here they also run on a plain
signature: each input takes the feature of its name, the one output with a score for each class is what classifies, and
the manifest's labels name the classes. The classification extension of the Open Inference Protocol is here too.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from millrace import rpc
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import (
    BYTES,
    DTYPES,
    Signature,
    Tensor,
    TensorSpec,
    concatenate_rows,
    encode_strings,
    string_tensor,
)
from serving.protocols import json_tensors
from serving.protocols.limits import MAX_CLASSES, check_count

Values = list[int] | list[float] | list[bytes]
Example = Mapping[str, Values]

_MAX_CONTEXT_BYTES, _NUMBER_BYTES, _FEATURE_BYTES = 16 * 2**20, 8, 64
_FLOATS = ("FP16", "FP32", "FP64")
_MAX_CLASSIFIED = 1_000_000  # values of which the largest are named, as in Triton
_SLICE_VALUES = 1 << 18  # as many are sorted at a time: 2 MB of indices


def with_context(context: Example, examples: Sequence[Example]) -> list[Example]:
    """The examples, each with the features of the context that it lacks.

    Raises `InvalidRequest` where a small request would become large by that.
    """
    values = itertools.chain.from_iterable(context.values())
    size = sum(len(value) if isinstance(value, bytes) else _NUMBER_BYTES for value in values)
    size += len(context) * _FEATURE_BYTES
    if size * len(examples) > _MAX_CONTEXT_BYTES:
        raise InvalidRequest(
            f"a context of {size} bytes is too large for {len(examples)} examples: together they may have at most "
            f"{_MAX_CONTEXT_BYTES}"
        )
    return [{**context, **example} for example in examples]


def inputs_of(examples: Sequence[Example], signature: Signature) -> dict[str, Tensor]:
    """The signature's inputs, a row for each example; features that it does not take are passed over.

    A feature's values fill one row of its input, in row-major order. Whole numbers are taken for floats too. A
    signature whose one input is a string called `inputs` or `examples`, which no example has as a feature, takes the
    examples serialized. Raises `InvalidRequest`, in the words of TensorFlow's own parser of examples.
    """
    if not examples:
        raise InvalidRequest("Input is empty.")
    name = signature.examples_input
    if name and not any(name in example for example in examples):
        return {name: Tensor(BYTES, (len(examples),), encode_strings(map(_serialized, examples)))}
    columns = {}
    for spec in signature.inputs:
        values = [example.get(spec.name, []) for example in examples]
        if not spec.optional or any(values):
            columns[spec.name] = _column(spec, values)
    return columns


def _serialized(example: Example) -> bytes:
    """The example as a `tensorflow.Example`."""
    message = rpc.message("tensorflow.Example")()
    try:
        for name, values in example.items():
            kinds = {type(value) for value in values}
            kind = "bytes_list" if bytes in kinds else "float_list" if float in kinds else "int64_list"
            getattr(message.features.feature[name], kind).value.extend(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"Feature: {name} cannot be put into an example: {error}") from None
    written: bytes = message.SerializeToString(deterministic=True)
    return written


def _column(spec: TensorSpec, rows: list[Values]) -> Tensor:
    if not all(rows):
        raise InvalidRequest(f"Feature: {spec.name} (data type: {_word(spec)}) is required but could not be found.")
    distinct = list({id(row): row for row in rows}.values())  # what examples have of their context is one for all
    flat = list(itertools.chain.from_iterable(distinct))
    if spec.media and isinstance(flat[0], bytes):
        spec = TensorSpec(name=spec.name, datatype=BYTES, shape=(-1,))
    shape = _row_shape(spec, distinct)
    places = {id(row): place for place, row in enumerate(distinct)}
    order = [places[id(row)] for row in rows]
    if spec.datatype == BYTES:
        if not all(isinstance(value, bytes) for value in flat):
            raise _mismatch(spec)
        encoded = [encode_strings(row) for row in distinct]  # type: ignore[arg-type]  # checked above
        return Tensor(BYTES, (len(rows), *shape), b"".join([encoded[place] for place in order]))
    return Tensor.from_numpy(_numbers(spec, flat).reshape(len(distinct), *shape)[order])


def _row_shape(spec: TensorSpec, rows: list[Values]) -> tuple[int, ...]:
    """The shape of one row, in which one size may be for the values to tell. All rows have as many values."""
    shape, sizes = spec.shape[1:], {len(row) for row in rows}
    unknown, fixed = shape.count(-1), abs(math.prod(shape))
    (size,) = sizes if len(sizes) == 1 else (-1,)
    if unknown > 1 or size < 0 or (size % (fixed or size + 1) if unknown else size != fixed):
        raise InvalidRequest(
            f"Key: {spec.name}. Number of {_word(spec)} values != expected. "
            f"values size: {', '.join(map(str, sorted(sizes)))} but output shape: {list(shape)}"
        )
    return tuple(size // fixed if n < 0 else n for n in shape)


def _numbers(spec: TensorSpec, flat: list[Any]) -> npt.NDArray[Any]:
    dtype = DTYPES[spec.datatype]
    kinds = (int, float) if dtype.kind == "f" else (int,)
    if not all(isinstance(value, kinds) for value in flat):
        raise _mismatch(spec)
    least, most = (0, 1) if dtype.kind == "b" else (-math.inf, math.inf)
    if dtype.kind in "iu":
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    if dtype.kind != "f" and not all(least <= value <= most for value in flat):
        raise InvalidRequest(f"Key: {spec.name}. A value is out of the range of {_word(spec)}")
    try:
        with np.errstate(over="ignore"):  # beyond FP32 is Infinity
            return np.array(flat, np.float64 if dtype.kind == "f" else dtype).astype(dtype)
    except OverflowError:  # a whole number beyond FP64
        raise InvalidRequest(f"Key: {spec.name}. A value is out of the range of {_word(spec)}") from None


def _word(spec: TensorSpec) -> str:
    return json_tensors.TYPE_WORDS[spec.datatype]


def _mismatch(spec: TensorSpec) -> InvalidRequest:
    return InvalidRequest(f"Key: {spec.name}. Data types don't match. Expected type: {_word(spec)}")


class ScoredClasses(NamedTuple):
    """Classes and their scores: `scores` has a row for each example, `names` those of one row, or of all of them."""

    names: list[str]
    scores: npt.NDArray[Any]

    def names_of(self, row: int) -> list[str]:
        """The names of a row's classes."""
        count = self.scores.shape[1]
        return self.names if len(self.names) == count else self.names[row * count : (row + 1) * count]


def classifications(outputs: Mapping[str, Tensor], signature: Signature, labels: Sequence[str]) -> ScoredClasses:
    """For each row its classes and their scores, in the model's order.

    Of outputs `classes` and `scores`, either may be missing: the label is then "", the score 0. On a plain signature
    the labels name the classes, or their numbers where there are not as many labels. Raises `InvalidRequest` where no
    output, or more than one, could be meant.
    """
    if "classes" in outputs or "scores" in outputs:
        return _named_classes(outputs.get("classes"), outputs.get("scores"))
    scores = outputs[_scores(signature, len(labels))].to_numpy()
    count = scores.shape[-1]
    return ScoredClasses([*labels] if len(labels) == count else [str(i) for i in range(count)], scores)


def _named_classes(classes: Tensor | None, scores: Tensor | None) -> ScoredClasses:
    if classes and classes.datatype != BYTES:
        raise InvalidRequest("Expected classes Tensor of DT_STRING")
    if scores and scores.datatype not in _FLOATS:
        raise InvalidRequest("Expected scores Tensor of DT_FLOAT")
    shape = (classes or scores).shape  # type: ignore[union-attr]  # one of them is there
    if len(shape) != 2 or (classes and scores and classes.shape != scores.shape):
        raise InvalidRequest("Expected Tensor shape: [batch_size num_classes] of both classes and scores")
    names = [""] * shape[1]
    if classes:
        names = [name.decode("utf-8", "replace") for name in classes.to_numpy().ravel().tolist()]
    return ScoredClasses(names, scores.to_numpy() if scores else np.zeros(shape, np.float32))


def _scores(signature: Signature, label_count: int) -> str:
    """The name of the output with a score for each class."""
    scores = [spec for spec in signature.outputs if spec.datatype in _FLOATS and len(spec.shape) == 2]
    if len(scores) > 1:
        scores = [spec for spec in scores if spec.shape[1] == label_count]
    if len(scores) != 1:
        raise InvalidRequest(
            "No classification outputs found in signature: it has no 'classes' or 'scores', and not exactly one "
            "output of floats of shape [batch_size num_classes]"
        )
    return scores[0].name


def regressions(outputs: Mapping[str, Tensor], signature: Signature) -> npt.NDArray[Any]:
    """For each row the value of the output `outputs`, or of the one output of floats with one value a row.

    Raises `InvalidRequest` where no output, or more than one, could be meant.
    """
    names = [spec.name for spec in signature.outputs if spec.datatype in _FLOATS and spec.shape[1:] in ((), (1,))]
    if "outputs" in outputs:
        names = ["outputs"]
    if len(names) != 1:
        raise InvalidRequest(
            "No regression outputs found in signature: it has no 'outputs', and not exactly one output of floats of "
            "shape [batch_size]"
        )
    values = outputs[names[0]]
    if values.datatype not in _FLOATS or values.shape[1:] not in ((), (1,)):
        raise InvalidRequest("Expected output Tensor shape: [batch_size] or [batch_size 1] of DT_FLOAT")
    column: npt.NDArray[Any] = values.to_numpy().reshape(-1)
    return column


def top_classes(tensor: Tensor, count: int, labels: Sequence[str], *, has_rows: bool) -> Tensor:
    """The `count` largest values of each row, or of the whole tensor, as Triton's classification extension words them.

    Each is "VALUE:INDEX" or "VALUE:INDEX:LABEL" in a BYTES tensor of shape [rows, count], or [count]; fewer where there
    are not as many values. Equal values are in the order of their index. Raises `InvalidRequest` for what is no number.
    """
    array = tensor.to_numpy()
    if array.dtype.kind not in "iuf":
        raise InvalidRequest(f"class result not available for output due to unsupported type '{tensor.datatype}'")
    rows = array.reshape(array.shape[0] if has_rows else 1, -1)
    size = rows.shape[1]
    if size > _MAX_CLASSIFIED:
        raise InvalidRequest("classification output tensor too large")
    shown = min(size, count)
    check_count("classes to name", len(rows) * shown, MAX_CLASSES)
    names = np.array([f":{label}" for label in labels] if len(labels) == size else [""] * size, object)
    form = "%f:%d%s" if array.dtype.kind == "f" else "%d:%d%s"
    parts: list[Tensor] = []
    step = max(1, _SLICE_VALUES // max(1, size))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        largest = _largest_first(some, shown)
        values = np.take_along_axis(some, largest, axis=1).ravel().tolist()
        described = zip(values, largest.ravel().tolist(), names[largest].ravel().tolist(), strict=True)
        parts.append(string_tensor(map(form.__mod__, described), (len(some), shown)))
    whole = concatenate_rows(parts)
    return whole if has_rows else Tensor(BYTES, (shown,), whole.data)


def _largest_first(rows: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """The indices of each row's largest values; of equal ones the first."""
    smallest_first = np.argsort(rows[:, ::-1], axis=1, kind="stable")
    largest: npt.NDArray[Any] = rows.shape[1] - 1 - smallest_first[:, ::-1][:, :count]
    return largest
