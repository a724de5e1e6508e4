"""What stands in for TensorFlow's operators that a format lacks: the same from operators that every format has.

A replacement looks at an operator and says what computes the same and from which tensors (places of its inputs, or
tensors); or None, where the operator may stay.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

Computation = tuple[Callable[..., Any], tuple[Any, ...]]
Replacement = Callable[["Node"], Computation | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """An operator in its graph. `captured` are the values from outside of the graph, by their tensors' names."""

    operation: Any
    captured: Mapping[str, Any]

    def known(self, place: int) -> Any:
        """An input's value as an array, or None where it depends on the data."""
        tensor = self.operation.inputs[place]
        outer = self.captured.get(tensor.name)
        if outer is not None:
            return None if outer.dtype in (tf.resource, tf.variant) else outer.numpy()
        return tf.get_static_value(tensor)

    def attribute(self, name: str) -> Any:
        """An attribute's value."""
        return self.operation.get_attr(name)

    def table(self) -> tuple[Any, Any, Any] | None:
        """Keys, values and the value for other keys of the look-up table that is read; None where it is not known."""
        handle, default = self.captured.get(self.operation.inputs[0].name), self.known(2)
        if handle is None or default is None:
            return None
        keys, values = tf.raw_ops.LookupTableExportV2(
            table_handle=handle, Tkeys=self.attribute("Tin"), Tvalues=self.attribute("Tout")
        )
        return keys.numpy(), values.numpy(), default


def _computed(compute: Callable[..., Any], *places: Any) -> Replacement:
    return lambda _: (compute, places)


def _looked_up(node: Node) -> Computation | None:
    """Whole numbers in a table by binary search; tables of text stay, for which formats have operators."""
    if node.attribute("Tin") == tf.string or node.attribute("Tout") == tf.string or (rows := node.table()) is None:
        return None
    keys, values, default = rows
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]

    def compute(wanted: Any) -> Any:
        place = _last_not_above(keys, wanted)
        is_known = tf.equal(tf.gather(tf.constant(keys), place), wanted)
        return tf.where(is_known, tf.gather(tf.constant(values), place), tf.constant(default))

    return compute, (1,)


def _last_not_above(keys: Any, wanted: Any) -> Any:
    """For each number the place of the last of the sorted keys that is not above it; 0 where there is none."""
    place = tf.zeros_like(wanted, tf.int32)
    for bit in reversed(range(max(len(keys) - 1, 0).bit_length())):
        later = tf.minimum(place + (1 << bit), len(keys) - 1)
        place = tf.where(tf.gather(tf.constant(keys), later) <= wanted, later, place)
    return place


def _bucketize(node: Node) -> Computation:
    boundaries = node.attribute("boundaries")

    def compute(numbers: Any) -> Any:
        is_above = tf.expand_dims(tf.cast(numbers, tf.float32), -1) >= tf.constant(boundaries, tf.float32)
        return tf.reduce_sum(tf.cast(is_above, tf.int32), axis=-1)

    return compute, (0,)


def _bincount(node: Node) -> Computation | None:
    rank, weights = node.operation.inputs[0].shape.rank, node.operation.inputs[2].shape
    if rank not in (1, 2) or weights.num_elements() != 0:
        return None
    kind, is_binary = node.attribute("T"), node.attribute("binary_output")

    def compute(numbers: Any, size: Any) -> Any:
        is_found = tf.equal(tf.expand_dims(numbers, -1), tf.range(size))
        counts = tf.reduce_sum(tf.cast(is_found, tf.float32), axis=-2)
        return tf.cast(tf.minimum(counts, 1.0) if is_binary else counts, kind)

    return compute, (0, 1)


def _sign_bit(node: Node) -> Computation | None:
    """`keras.ops.argmax` looks at the sign bit, to tell -0 from 0."""
    producer = node.operation.inputs[0].op
    if producer.type != "Bitcast" or producer.inputs[0].dtype != tf.float32 or node.known(1) != tf.int32.min:
        return None

    def compute(numbers: Any) -> Any:
        is_negative = (numbers < 0) | (1 / numbers < 0)
        return tf.where(is_negative, tf.constant(tf.int32.min), tf.constant(0))

    return compute, (producer.inputs[0],)


def _sliced(node: Node) -> Computation | None:
    """Slices with an ellipsis or new axes, written out: first the slice, then the new axes."""
    begin, end, strides = (node.known(place) for place in (1, 2, 3))
    rank = node.operation.inputs[0].shape.rank
    masks = {name: node.attribute(f"{name}_mask") for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    is_plain = not masks["ellipsis"] and not masks["new_axis"]
    if is_plain or rank is None or any(part is None for part in (begin, end, strides)):
        return None
    new = masks["new_axis"] & ~masks["shrink_axis"]
    named = sum(1 for place in range(len(begin)) if not (masks["ellipsis"] | new) & 1 << place)
    index: list[Any] = []
    axes, after = [], 0
    for place in range(len(begin)):
        bit = 1 << place
        if masks["ellipsis"] & bit:
            index += [slice(None)] * (rank - named)
            after += rank - named
        elif new & bit:
            axes.append(after)
            after += 1
        elif masks["shrink_axis"] & bit:
            index.append(int(begin[place]))
        else:
            first = None if masks["begin"] & bit else int(begin[place])
            last = None if masks["end"] & bit else int(end[place])
            index.append(slice(first, last, int(strides[place])))
            after += 1

    def compute(value: Any) -> Any:
        if any(part != slice(None, None, 1) and part != slice(None) for part in index):
            value = value[tuple(index)]
        for axis in axes:
            value = tf.expand_dims(value, axis)
        return value

    return compute, (0,)


def _reshaped(node: Node) -> Computation | None:
    """Shapes that depend on the data keep what is known of them."""
    shape = node.operation.outputs[0].shape
    if node.known(1) is not None or shape.rank is None or not any(shape.as_list()):
        return None

    def compute(value: Any, sizes: Any) -> Any:
        known = [sizes[place] if size is None else size for place, size in enumerate(shape)]
        return tf.reshape(value, tf.stack(known))

    return compute, (0, 1)


def _biased(node: Node) -> Computation | None:
    """Keras adds whole numbers of known shapes as a bias, which TFLite does with floats only."""
    if node.attribute("T").is_floating or node.attribute("data_format") != b"NHWC":
        return None
    return lambda value, bias: value + bias, (0, 1)


def _rolled(node: Node) -> Computation | None:
    shift, axis = node.known(1), node.known(2)
    if shift is None or axis is None:
        return None

    def compute(value: Any) -> Any:
        for places, along in zip(np.ravel(shift), np.ravel(axis), strict=True):
            size = value.shape[along] or tf.shape(value)[along]
            cut = -int(places) % size
            rows = tf.gather(value, (tf.range(size) + cut) % size, axis=int(along))
            value = rows
        return value

    return compute, (0,)


def _pooled_3d(pool: Callable[..., Any]) -> Replacement:
    """Pools over three axes: over two of them, then over the first."""

    def replacement(node: Node) -> Computation | None:
        shape = node.operation.inputs[0].shape
        if node.attribute("data_format") != b"NDHWC" or None in shape[1:]:
            return None
        sizes, steps, padding = node.attribute("ksize"), node.attribute("strides"), node.attribute("padding").decode()
        depth, height, width, channels = shape[1:]

        def compute(value: Any) -> Any:
            flat = tf.reshape(value, (-1, height, width, channels))
            flat = pool(flat, sizes[2:4], steps[2:4], padding)
            rows, columns = flat.shape[1:3]
            deep = tf.reshape(flat, (-1, depth, rows * columns, channels))
            deep = pool(deep, (sizes[1], 1), (steps[1], 1), padding)
            return tf.reshape(deep, (-1, deep.shape[1], rows, columns, channels))

        return compute, (0,)

    return replacement


_EVERYWHERE: Mapping[str, Replacement] = {
    "BitwiseAnd": _sign_bit,
    "DenseBincount": _bincount,
    "LookupTableFindV2": _looked_up,
    "StridedSlice": _sliced,
}
FOR_ONNX: Mapping[str, Replacement] = {
    **_EVERYWHERE,
    "Bucketize": _bucketize,
    "Erfc": _computed(lambda x: 1 - tf.math.erf(x), 0),
    "Expm1": _computed(lambda x: tf.exp(x) - 1, 0),
    "Log1p": _computed(lambda x: tf.math.log(1 + x), 0),
    "Roll": _rolled,
}
FOR_TFLITE: Mapping[str, Replacement] = {
    **_EVERYWHERE,
    "AvgPool3D": _pooled_3d(tf.nn.avg_pool2d),
    "BiasAdd": _biased,
    "MaxPool3D": _pooled_3d(tf.nn.max_pool2d),
    "Reshape": _reshaped,
    "Roll": _rolled,
}
