"""Layers: products, convolutions, pools and LSTMs of ONNX in MIL."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from coremltools.converters.mil import Builder as mb  # noqa: N813 - its own name everywhere

from training.export.mil import Attributes, NotInMil, Value, node


@node("MatMul")
def _matmul(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.matmul(x=inputs[0], y=inputs[1])


@node("Gemm")
def _gemm(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    transposes = {"transpose_x": bool(attributes.get("transA", 0)), "transpose_y": bool(attributes.get("transB", 0))}
    product = mb.matmul(x=inputs[0], y=inputs[1], **transposes)
    if (alpha := attributes.get("alpha", 1.0)) != 1:
        product = mb.mul(x=product, y=np.float32(alpha))
    if len(inputs) < 3:
        return product
    return mb.add(x=product, y=mb.mul(x=inputs[2], y=np.float32(attributes.get("beta", 1.0))))


def _windows(attributes: Attributes, dimensions: int) -> dict[str, Any]:
    """Strides and padding of convolutions and pools."""
    auto = attributes.get("auto_pad", b"NOTSET")
    found: dict[str, Any] = {"strides": list(attributes.get("strides", [1] * dimensions))}
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        return found | {"pad_type": "same" if auto == b"SAME_UPPER" else "same_lower"}
    pads = np.array(attributes.get("pads", [0] * (2 * dimensions))).reshape(2, -1)
    return found | {"pad_type": "custom", "pad": pads.T.ravel().tolist()}


@node("Conv")
def _conv(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    dimensions = inputs[0].rank - 2
    bias = {"bias": inputs[2]} if len(inputs) > 2 and inputs[2] is not None else {}
    return mb.conv(
        x=inputs[0],
        weight=inputs[1],
        dilations=list(attributes.get("dilations", [1] * dimensions)),
        groups=attributes.get("group", 1),
        **_windows(attributes, dimensions),
        **bias,
    )


@node("ConvTranspose")
def _conv_transpose(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    dimensions = inputs[0].rank - 2
    if any(attributes.get("output_padding", ())) or "output_shape" in attributes:
        raise NotInMil("its output's size is not the usual one")
    if not isinstance(inputs[1], np.ndarray):
        raise NotInMil("its weights depend on the data")
    bias = {"bias": inputs[2]} if len(inputs) > 2 and inputs[2] is not None else {}
    return mb.conv_transpose(
        x=inputs[0],
        weight=inputs[1],
        dilations=list(attributes.get("dilations", [1] * dimensions)),
        groups=attributes.get("group", 1),
        **_windows(attributes, dimensions),
        **bias,
    )


@node("MaxPool")
def _max_pool(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    kernel = list(attributes["kernel_shape"])
    ceil = bool(attributes.get("ceil_mode", 0))
    return mb.max_pool(x=inputs[0], kernel_sizes=kernel, ceil_mode=ceil, **_windows(attributes, len(kernel)))


@node("AveragePool")
def _average_pool(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    kernel = list(attributes["kernel_shape"])
    return mb.avg_pool(
        x=inputs[0],
        kernel_sizes=kernel,
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
        exclude_padding_from_average=not attributes.get("count_include_pad", 0),
        **_windows(attributes, len(kernel)),
    )


@node("GlobalAveragePool")
def _global_average_pool(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.reduce_mean(x=inputs[0], axes=list(range(2, inputs[0].rank)), keep_dims=True)


@node("GlobalMaxPool")
def _global_max_pool(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.reduce_max(x=inputs[0], axes=list(range(2, inputs[0].rank)), keep_dims=True)


@node("BatchNormalization")
def _batch_normalization(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    value, scale, bias, mean, variance = inputs
    epsilon = np.float32(attributes.get("epsilon", 1e-5))
    return mb.batch_norm(x=value, mean=mean, variance=variance, gamma=scale, beta=bias, epsilon=epsilon)


_ACTIVATIONS = {b"Relu": "relu", b"Sigmoid": "sigmoid", b"Tanh": "tanh"}
_PLACES = ("recurrent_activation", "cell_activation", "activation")  # in ONNX's order


@node("LSTM")
def _lstm(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    """Sequences [steps, rows, size] to states [steps, directions, rows, units], and the last ones.

    MIL puts both directions' units side by side and knows no lengths. Where there are any, each direction is a layer of
    its own: backwards, rows are turned around within their lengths before and after it. States after a row's end are
    zeroed, as ONNX says, and the last ones cannot be had.
    """
    value, kernel, recurrent, bias, lengths, hidden, cell = [*inputs, *[None] * 5][:7]
    units, direction = attributes["hidden_size"], attributes.get("direction", b"forward").decode()
    activations = _activations(attributes)
    if set(activations) - _ACTIVATIONS.keys() or activations[:3] != activations[-3:]:
        raise NotInMil(f"its activations are {', '.join(name.decode() for name in activations)}")
    if lengths is not None and direction != "forward":
        return _each_way(attributes, inputs, direction), None, None
    if direction == "reverse":
        value = mb.reverse(x=value, axes=[0])
    sides = len(kernel)
    rows = mb.slice_by_size(x=mb.shape(x=value), begin=[1], size=[1])
    zero = mb.fill(shape=mb.concat(values=[rows, np.array([sides * units], np.int32)], axis=0), value=np.float32(0))
    weights = {}
    for side, suffix in zip(range(sides), ("", "_back"), strict=False):
        weights[f"weight_ih{suffix}"] = _gates(kernel[side])
        weights[f"weight_hh{suffix}"] = _gates(recurrent[side])
        if bias is not None:
            weights[f"bias{suffix}"] = _gates(bias[side].reshape(2, -1).sum(axis=0))
    states, *last = mb.lstm(
        x=value,
        initial_h=zero if hidden is None else _side_by_side(hidden, sides),
        initial_c=zero if cell is None else _side_by_side(cell, sides),
        direction="bidirectional" if sides > 1 else "forward",
        output_sequence=True,
        **dict(zip(_PLACES, (_ACTIVATIONS[name] for name in activations[:3]), strict=True)),
        **weights,
    )
    if direction == "reverse":
        states = mb.reverse(x=states, axes=[0])
    if lengths is not None:
        return _by_direction(_zeroed(states, lengths), sides, axis=1), None, None
    return (_by_direction(states, sides, axis=1), *(_by_direction(state, sides, axis=0) for state in last))


def _each_way(attributes: Attributes, inputs: Sequence[Value], direction: str) -> Value:
    """The states of rows of their own length, where a direction is backwards: one layer forwards for each of both."""
    value, kernel, recurrent, bias, lengths, hidden, cell = [*inputs, *[None] * 5][:7]
    found = []
    for side in range(len(kernel)):
        is_backwards = direction == "reverse" or side == 1
        of_side = [None if part is None else part[side : side + 1] for part in (kernel, recurrent, bias)]
        first = [_of_side(state, side) for state in (hidden, cell)]
        one = {**attributes, "direction": b"forward", "activations": _activations(attributes)[:3]}
        given = _turned(value, lengths) if is_backwards else value
        states, _, _ = _lstm(one, [given, *of_side, lengths, *first])
        states = mb.squeeze(x=states, axes=[1])
        found.append(_turned(states, lengths) if is_backwards else states)
    return mb.stack(values=found, axis=1)


def _turned(value: Value, lengths: Value) -> Value:
    """Sequences [steps, rows, size] from the last step of each row to its first; what is behind it stays."""
    return mb.reverse_sequence(x=value, lengths=lengths, seq_axis=0, batch_axis=1)


def _of_side(state: Value, side: int) -> Value:
    """One direction of a state [directions, rows, units]."""
    if state is None or isinstance(state, np.ndarray):
        return None if state is None else state[side : side + 1]
    return mb.slice_by_index(x=state, begin=[side, 0, 0], end=[side + 1, 0, 0], end_mask=[False, True, True])


def _activations(attributes: Attributes) -> list[bytes]:
    return list(attributes.get("activations", [b"Sigmoid", b"Tanh", b"Tanh"]))


def _gates(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rows of gates in the order i, o, f, c, as ONNX has them, in MIL's: i, f, o, c."""
    entered, shown, kept, candidate = np.split(array, 4)
    return np.concatenate([entered, kept, shown, candidate])


def _side_by_side(state: Value, sides: int) -> Value:
    """A state [directions, rows, units] as MIL wants it: [rows, directions * units]."""
    parts = mb.split(x=state, num_splits=sides, axis=0) if sides > 1 else [state]
    return mb.squeeze(x=mb.concat(values=parts, axis=2), axes=[0])


def _by_direction(states: Value, sides: int, axis: int) -> Value:
    """States with both directions side by side in the last axis, as ONNX has them: in an axis of their own."""
    if sides == 1:
        return mb.expand_dims(x=states, axes=[axis])
    return mb.stack(values=mb.split(x=states, num_splits=2, axis=-1), axis=axis)


def _zeroed(states: Value, lengths: Value) -> Value:
    """States [steps, rows, units], zero from each row's length on."""
    steps = mb.squeeze(x=mb.slice_by_size(x=mb.shape(x=states), begin=[0], size=[1]), axes=[0])
    numbers = mb.expand_dims(x=mb.range_1d(start=0, end=steps, step=1), axes=[1])
    within = mb.cast(x=mb.less(x=numbers, y=mb.expand_dims(x=lengths, axes=[0])), dtype="fp32")
    return mb.mul(x=states, y=mb.expand_dims(x=within, axes=[2]))
