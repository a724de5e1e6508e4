"""Graphs in float32: models trained in mixed precision compute in 16 bits, and some in 64; other formats do not."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from training.export.model import traced

HALF = frozenset({tf.float16, tf.bfloat16})
WIDE = HALF | {tf.float64}
_UNCHANGED = ("ReadVariableOp", "VarHandleOp", "LookupTableFindV2")


def narrow(definition: Any, types: frozenset[Any]) -> None:
    """Make every tensor of those types a float32, in the graph and in its functions."""
    numbers = {tf.as_dtype(kind).as_datatype_enum for kind in types}
    for node in _nodes(definition):
        if node.op in _UNCHANGED:
            continue
        for value in node.attr.values():
            _narrow_attribute(value, numbers)
    for function in definition.library.function:
        for argument in (*function.signature.input_arg, *function.signature.output_arg):
            if argument.type in numbers:
                argument.type = tf.float32.as_datatype_enum


def at_the_ends(function: Any, kinds: Mapping[Any, Any]) -> Any:
    """The `tf.function` with inputs and outputs of other types, for formats that take fewer."""
    specs = {spec.name: spec for spec in function.input_signature}

    def call(**tensors: Any) -> dict[str, Any]:
        found = function(*(tf.cast(tensor, specs[name].dtype) for name, tensor in tensors.items()))
        return {name: tf.cast(tensor, kinds.get(tensor.dtype, tensor.dtype)) for name, tensor in found.items()}

    return traced(call, {n: tf.TensorSpec(spec.shape, kinds.get(spec.dtype, spec.dtype)) for n, spec in specs.items()})


def entered(tensor: Any, types: frozenset[Any]) -> Any:
    """The tensor as a narrowed graph takes it."""
    return tf.cast(tensor, tf.float32) if tensor.dtype in types else tensor


def _narrow_attribute(value: Any, numbers: set[int]) -> None:
    if value.HasField("type") and value.type in numbers:
        value.type = tf.float32.as_datatype_enum
    if value.HasField("list"):
        value.list.type[:] = [tf.float32.as_datatype_enum if kind in numbers else kind for kind in value.list.type]
    if value.HasField("tensor") and value.tensor.dtype in numbers:
        array = np.asarray(tf.make_ndarray(value.tensor), np.float32)
        value.tensor.CopyFrom(tf.make_tensor_proto(array))


def _nodes(definition: Any) -> Iterator[Any]:
    yield from definition.node
    for function in definition.library.function:
        yield from function.node_def
