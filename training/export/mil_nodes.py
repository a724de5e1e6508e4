"""Element by element, shapes and reductions: ONNX's operators in MIL."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from coremltools.converters.mil import Builder as mb  # noqa: N813 - its own name everywhere
from coremltools.converters.mil.mil import types
from onnx import TensorProto, numpy_helper

from training.export.mil import (
    CASTS,
    NODES,
    Attributes,
    NotInMil,
    Translation,
    Value,
    axes_of,
    ints,
    is_of,
    known_shape,
    narrowed,
    node,
    number,
)

# Element by element

_UNARY = {
    "Abs": mb.abs,
    "Acos": mb.acos,
    "Asin": mb.asin,
    "Atan": mb.atan,
    "Atanh": mb.atanh,
    "Ceil": mb.ceil,
    "Cos": mb.cos,
    "Cosh": mb.cosh,
    "Erf": mb.erf,
    "Exp": mb.exp,
    "Floor": mb.floor,
    "Identity": mb.identity,
    "Log": mb.log,
    "Not": mb.logical_not,
    "Relu": mb.relu,
    "Round": mb.round,
    "Sigmoid": mb.sigmoid,
    "Sign": mb.sign,
    "Sin": mb.sin,
    "Sinh": mb.sinh,
    "Softplus": mb.softplus,
    "Softsign": mb.softsign,
    "Sqrt": mb.sqrt,
    "Tan": mb.tan,
    "Tanh": mb.tanh,
}
_BINARY = {
    "Add": mb.add,
    "And": mb.logical_and,
    "Equal": mb.equal,
    "Greater": mb.greater,
    "GreaterOrEqual": mb.greater_equal,
    "Less": mb.less,
    "LessOrEqual": mb.less_equal,
    "Max": mb.maximum,
    "Min": mb.minimum,
    "Mod": mb.mod,
    "Mul": mb.mul,
    "Or": mb.logical_or,
    "Pow": mb.pow,
    "Sub": mb.sub,
    "Xor": mb.logical_xor,
}


def _element_wise(operator: Any) -> Translation:
    def translate(attributes: Attributes, inputs: Sequence[Value]) -> Value:
        return operator(**dict(zip("xy", inputs, strict=False)))

    return translate


NODES.update({name: _element_wise(operator) for name, operator in (_UNARY | _BINARY).items()})


@node("Neg")
def _neg(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.mul(x=inputs[0], y=number(inputs[0], -1))


@node("Div")
def _div(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    """Whole numbers are divided towards zero, as ONNX says; MIL's own division of them rounds down."""
    whole = is_of(inputs[0], types.int32) and is_of(inputs[1], types.int32)
    if not whole:
        return mb.real_div(x=inputs[0], y=inputs[1])
    quotient = mb.real_div(x=mb.cast(x=inputs[0], dtype="fp32"), y=mb.cast(x=inputs[1], dtype="fp32"))
    return mb.cast(x=quotient, dtype="int32")


@node("Reciprocal")
def _reciprocal(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.real_div(x=np.float32(1), y=inputs[0])


@node("Elu")
def _elu(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.elu(x=inputs[0], alpha=np.float32(attributes.get("alpha", 1)))


@node("LeakyRelu")
def _leaky_relu(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.leaky_relu(x=inputs[0], alpha=np.float32(attributes.get("alpha", 0.01)))


@node("Selu")
def _selu(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    alpha, gamma = attributes.get("alpha", 1.6732632), attributes.get("gamma", 1.0507010)
    return mb.mul(x=mb.elu(x=inputs[0], alpha=np.float32(alpha)), y=np.float32(gamma))


@node("HardSigmoid")
def _hard_sigmoid(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    alpha, beta = np.float32(attributes.get("alpha", 0.2)), np.float32(attributes.get("beta", 0.5))
    return mb.sigmoid_hard(x=inputs[0], alpha=alpha, beta=beta)


@node("PRelu")
def _prelu(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    below = mb.mul(x=mb.minimum(x=inputs[0], y=np.float32(0)), y=inputs[1])
    return mb.add(x=mb.relu(x=inputs[0]), y=below)


@node("IsNaN")
def _is_nan(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.not_equal(x=inputs[0], y=inputs[0])


@node("IsInf")
def _is_inf(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.equal(x=mb.abs(x=inputs[0]), y=np.float32(np.inf))


@node("Sum")
def _sum(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    total = inputs[0]
    for value in inputs[1:]:
        total = mb.add(x=total, y=value)
    return total


@node("Clip")
def _clip(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    value, (low, high) = inputs[0], [*inputs[1:], None, None][:2]
    value = value if low is None else mb.maximum(x=value, y=low)
    return value if high is None else mb.minimum(x=value, y=high)


@node("Cast")
def _cast(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    if attributes["to"] not in CASTS:
        raise NotInMil(f"there is no type {TensorProto.DataType.Name(attributes['to'])}")
    return mb.cast(x=inputs[0], dtype=CASTS[attributes["to"]])


@node("Where")
def _where(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.select(cond=inputs[0], a=inputs[1], b=inputs[2])


# Shapes


@node("Shape")
def _shape_of(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    sizes = known_shape(inputs[0])
    if None not in sizes:
        return np.array(sizes, np.int32)
    return mb.shape(x=inputs[0])


@node("Reshape")
def _reshape(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    value, shape = inputs
    if isinstance(shape, np.ndarray) and (shape == 0).any():  # 0 keeps a size
        if (shape == 0).sum() == 1 and -1 not in shape and None in known_shape(value)[: len(shape)]:
            shape = np.where(shape == 0, -1, shape)
        else:
            kept = mb.shape(x=value)
            sizes = [
                mb.slice_by_size(x=kept, begin=[place], size=[1]) if size == 0 else np.array([size], np.int32)
                for place, size in enumerate(shape)
            ]
            shape = mb.concat(values=sizes, axis=0)
    return mb.reshape(x=value, shape=shape)


@node("Flatten")
def _flatten(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.flatten2d(x=inputs[0], axis=attributes.get("axis", 1))


@node("Transpose")
def _transpose(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.transpose(x=inputs[0], perm=attributes.get("perm", list(range(inputs[0].rank))[::-1]))


@node("Squeeze")
def _squeeze(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.squeeze(x=inputs[0], axes=axes_of(attributes, inputs))


@node("Unsqueeze")
def _unsqueeze(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.expand_dims(x=inputs[0], axes=axes_of(attributes, inputs))


@node("Concat")
def _concat(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.concat(values=list(inputs), axis=attributes["axis"])


@node("Split")
def _split(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    axis, count = attributes.get("axis", 0), attributes["outputs"]
    if count == 1:
        return mb.identity(x=inputs[0])
    sizes = {"split_sizes": ints(inputs[1], "sizes")} if len(inputs) > 1 else {"num_splits": count}
    return tuple(mb.split(x=inputs[0], axis=axis, **sizes))


@node("Slice")
def _slice(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    value, rank = inputs[0], len(inputs[0].shape)
    count = inputs[1].shape[0]
    axes = ints(inputs[3], "axes") if len(inputs) > 3 and inputs[3] is not None else list(range(count))
    steps = ints(inputs[4], "steps") if len(inputs) > 4 else [1] * count
    stride, sizes, axes = [1] * rank, known_shape(value), [axis % rank for axis in axes]
    for axis, step in zip(axes, steps, strict=True):
        stride[axis] = step
    if not isinstance(inputs[1], np.ndarray) or not isinstance(inputs[2], np.ndarray):
        begin, end = (_spread(ends, axes, rank, fill) for ends, fill in ((inputs[1], 0), (inputs[2], 2**31 - 1)))
        untouched = [axis not in axes for axis in range(rank)]
        return mb.slice_by_index(x=value, begin=begin, end=end, stride=stride, end_mask=untouched)
    starts, ends = ints(inputs[1], "starts"), ints(inputs[2], "ends")
    begin, end, to_the_end = [0] * rank, [0] * rank, [True] * rank
    for axis, start, stop, step in zip(axes, starts, ends, steps, strict=True):
        size = sizes[axis]
        begin[axis], end[axis] = start, stop
        to_the_end[axis] = stop >= (2**31 - 1 if size is None else size) if step > 0 else stop < -(2**30)
        if step < 0 and start >= 2**30:
            begin[axis] = -1
    return mb.slice_by_index(x=value, begin=begin, end=end, stride=stride, end_mask=to_the_end)


def _spread(ends: Value, axes: list[int], rank: int, fill: int) -> Value:
    """Ends of some axes, known or not, as ends of all."""
    parts = [np.array([fill], np.int32)] * rank
    for place, axis in enumerate(axes):
        parts[axis] = mb.slice_by_size(x=ends, begin=[place], size=[1])
    return mb.concat(values=parts, axis=0)


@node("Gather")
def _gather(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.gather(x=inputs[0], indices=inputs[1], axis=attributes.get("axis", 0))


@node("Size")
def _size(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.reduce_prod(x=mb.shape(x=inputs[0]), axes=[0], keep_dims=False)


@node("Expand")
def _expand(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    value, shape = inputs
    if is_of(value, types.bool):
        whole = mb.add(x=mb.cast(x=value, dtype="int32"), y=mb.fill(shape=shape, value=np.int32(0)))
        return mb.cast(x=whole, dtype="bool")
    return mb.add(x=value, y=mb.fill(shape=shape, value=number(value, 0)))


@node("ConstantOfShape")
def _constant_of_shape(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    given = numpy_helper.to_array(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
    value = narrowed(given).ravel()[0]
    if value.dtype == bool:
        return mb.cast(x=mb.fill(shape=inputs[0], value=np.int32(value)), dtype="bool")
    return mb.fill(shape=inputs[0], value=value)


@node("Range")
def _range(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    start, end, step = inputs
    return mb.range_1d(start=start, end=end, step=step)


@node("OneHot")
def _one_hot(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    """By comparing: numbers out of range have no hot place."""
    (depth,) = ints(inputs[1], "classes")
    rank = len(inputs[0].shape) + 1
    axis = attributes.get("axis", -1) % rank
    classes = np.arange(depth, dtype=np.int32).reshape([-1 if place == axis else 1 for place in range(rank)])
    is_hot = mb.equal(x=mb.expand_dims(x=mb.cast(x=inputs[0], dtype="int32"), axes=[axis]), y=classes)
    off, on = inputs[2][0], inputs[2][1]
    kind = "int32" if np.issubdtype(inputs[2].dtype, np.integer) else "fp32"
    scaled = mb.mul(x=mb.cast(x=is_hot, dtype=kind), y=np.asarray(on - off))
    return mb.add(x=scaled, y=np.asarray(off))


@node("GatherND")
def _gather_nd(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.gather_nd(x=inputs[0], indices=inputs[1], batch_dims=attributes.get("batch_dims", 0))


@node("GatherElements")
def _gather_elements(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.gather_along_axis(x=inputs[0], indices=inputs[1], axis=attributes.get("axis", 0))


@node("ReverseSequence")
def _reverse_sequence(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    """Rows read backwards, each as far as it goes; without lengths they go as far as the tensor."""
    time, batch = attributes.get("time_axis", 0), attributes.get("batch_axis", 1)
    if inputs[1] is None:
        return mb.reverse(x=inputs[0], axes=[time])
    return mb.reverse_sequence(x=inputs[0], lengths=inputs[1], seq_axis=time, batch_axis=batch)


@node("Tile")
def _tile(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.tile(x=inputs[0], reps=inputs[1])


@node("Pad")
def _pad(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    """What is added at either end; widths below 0, which MIL has not, are cut off."""
    mode = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate"}[attributes.get("mode", b"constant")]
    rank = len(inputs[0].shape)
    value = inputs[0]
    if isinstance(inputs[1], np.ndarray):
        widths = inputs[1].reshape(2, rank)  # first all in front, then all behind
        value = _cropped(value, np.minimum(widths, 0))
        widths = np.maximum(widths, 0)
        if is_of(value, types.int32) and mode == "constant":
            return _filled(value, widths, _fill(inputs))
        pads = widths.T.ravel()
    else:
        pads = mb.reshape(x=mb.transpose(x=mb.reshape(x=inputs[1], shape=[2, rank]), perm=[1, 0]), shape=[2 * rank])
    return mb.pad(x=value, pad=pads, mode=mode, constant_val=np.float32(_fill(inputs)))


def _fill(inputs: Sequence[Value]) -> Any:
    return inputs[2].ravel()[0] if len(inputs) > 2 and inputs[2] is not None else 0


def _filled(value: Value, widths: npt.NDArray[Any], fill: Any) -> Value:
    """Whole numbers with others in front and behind, which MIL's own operator does for floats only."""
    rank = widths.shape[1]
    for axis in np.flatnonzero(widths.any(axis=0)).tolist():
        along = np.eye(rank, dtype=np.int32)[axis]
        first = mb.slice_by_index(x=value, begin=[0] * rank, end=[1] * rank, end_mask=(along == 0).tolist())
        one = mb.add(x=mb.mul(x=first, y=np.int32(0)), y=np.int32(fill))
        before, behind = (
            [mb.tile(x=one, reps=np.where(along, count, 1).astype(np.int32))] if count else []
            for count in widths[:, axis]
        )
        value = mb.concat(values=[*before, value, *behind], axis=axis)
    return value


def _cropped(value: Value, widths: npt.NDArray[Any]) -> Value:
    """The value less what `widths` [2, rank] say, as numbers up to 0, in front and behind."""
    if not widths.any():
        return value
    begin, end = -widths[0], widths[1]
    return mb.slice_by_index(x=value, begin=begin, end=end, end_mask=(end == 0).tolist())


# Along axes

_REDUCE = {
    "ReduceL1": mb.reduce_l1_norm,
    "ReduceL2": mb.reduce_l2_norm,
    "ReduceLogSumExp": mb.reduce_log_sum_exp,
    "ReduceMax": mb.reduce_max,
    "ReduceMean": mb.reduce_mean,
    "ReduceMin": mb.reduce_min,
    "ReduceProd": mb.reduce_prod,
    "ReduceSum": mb.reduce_sum,
    "ReduceSumSquare": mb.reduce_sum_square,
}


def _reduce(operator: Any) -> Translation:
    def translate(attributes: Attributes, inputs: Sequence[Value]) -> Value:
        return operator(x=inputs[0], axes=axes_of(attributes, inputs), keep_dims=bool(attributes.get("keepdims", 1)))

    return translate


NODES.update({name: _reduce(operator) for name, operator in _REDUCE.items()})


@node("ArgMax")
def _argmax(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    keeps = bool(attributes.get("keepdims", 1))
    return mb.reduce_argmax(x=inputs[0], axis=attributes.get("axis", 0), keep_dims=keeps)


@node("ArgMin")
def _argmin(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    keeps = bool(attributes.get("keepdims", 1))
    return mb.reduce_argmin(x=inputs[0], axis=attributes.get("axis", 0), keep_dims=keeps)


@node("CumSum")
def _cumsum(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    (axis,) = ints(inputs[1], "axis")
    flags = {name: bool(attributes.get(name, 0)) for name in ("exclusive", "reverse")}
    if is_of(inputs[0], types.int32):
        return mb.cast(x=mb.cumsum(x=mb.cast(x=inputs[0], dtype="fp32"), axis=axis, **flags), dtype="int32")
    return mb.cumsum(x=inputs[0], axis=axis, **flags)


@node("LogSoftmax")
def _log_softmax(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    axis = attributes.get("axis", -1)
    return mb.sub(x=inputs[0], y=mb.reduce_log_sum_exp(x=inputs[0], axes=[axis], keep_dims=True))


@node("Softmax")
def _softmax(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.softmax(x=inputs[0], axis=attributes.get("axis", -1))


@node("TopK")
def _top_k(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    (count,) = ints(inputs[1], "count")
    ascending = not attributes.get("largest", 1)
    return tuple(mb.topk(x=inputs[0], k=count, axis=attributes.get("axis", -1), ascending=ascending))


@node("ScatterElements")
def _scatter_elements(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    data, indices, updates = inputs
    axis = attributes.get("axis", 0)
    return mb.scatter_along_axis(data=data, indices=indices, updates=updates, axis=axis, mode="update")
