"""Which values an input's whole numbers can have, read from the graph: the places of the tables that they look up."""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import handle_data_util  # the shape of a variable is nowhere else in a graph

_KEEPING = {  # operators whose results are values of their inputs, in another order, place or type
    *("Identity", "StopGradient", "Cast", "Reshape", "ExpandDims", "Squeeze", "Transpose", "Slice", "StridedSlice"),
    *("ConcatV2", "Pack", "Unpack", "Split", "SplitV", "Select", "SelectV2", "BroadcastTo", "Tile", "Pad", "PadV2"),
    *("ReverseV2", "ReverseSequence", "Maximum", "Minimum"),
}
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}


def sizes(function: Any) -> dict[str, int]:
    """By the name of each input of a `tf.function` that is looked up in tables: how many places the smallest has."""
    graph = function.get_concrete_function().graph
    found = {}
    for spec in function.input_signature:
        if spec.dtype.is_integer or spec.dtype.is_floating:
            start = graph.get_tensor_by_name(f"{spec.name}:0")
            rows = list(_rows(start, set()))
            if rows:
                found[spec.name] = min(rows)
    return found


def _rows(start: Any, met: set[Any]) -> Iterator[int]:
    """The sizes of the tables that values of the tensor `start` reach unchanged."""
    waiting = [start]
    while waiting:
        tensor = waiting.pop()
        if tensor.ref() in met:
            continue
        met.add(tensor.ref())
        for operation in tensor.consumers():
            if operation.type in _KEEPING:
                waiting += operation.outputs
            elif operation.type in _CALLS:
                yield from _in_called(operation, tensor, met)
            elif (size := _size(operation, tensor)) is not None:
                yield size


def _in_called(operation: Any, tensor: Any, met: set[Any]) -> Iterator[int]:
    called = operation.graph._get_function(operation.get_attr("f").name)
    if called is None:
        return
    for place, given in enumerate(operation.inputs):
        if given is tensor:
            yield from _rows(called.graph.inputs[place], met)


def _size(operation: Any, tensor: Any) -> int | None:
    """How many places the table has that the operator looks up the tensor in; None where it is no such operator."""
    if operation.type == "GatherV2" and operation.inputs[1] is tensor:
        table, axis = operation.inputs[0].shape, tf.get_static_value(operation.inputs[2])
        return None if table.rank is None or axis is None else table[int(axis)]
    if operation.type == "ResourceGather" and operation.inputs[1] is tensor:
        held = handle_data_util.get_resource_handle_data(operation.inputs[0]).shape_and_type
        return int(held[0].shape.dim[0].size) if len(held) and held[0].shape.dim else None
    if operation.type == "OneHot" and operation.inputs[0] is tensor:
        depth = tf.get_static_value(operation.inputs[1])
        return None if depth is None else int(depth)
    return None
