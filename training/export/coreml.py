"""Core ML packages (`.mlpackage`): the nodes of an ONNX model, one by one, in Core ML's own language (MIL).

coremltools converts neither Keras 3 nor ONNX; its MIL builder takes weights and operators as they are. Every node of
the graph goes to the function of `_NODES` for its operator, with its attributes and the values of its inputs: arrays,
where they are known while converting, or MIL variables. What depends on arrays alone is computed here. The numbers of
a package can be checked on macOS only; here its structure is.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
from coremltools.converters.mil import Builder as mb  # noqa: N813 - its own name everywhere
from coremltools.converters.mil.mil import Function, Program, types
from onnx import TensorProto, numpy_helper

from millrace.artifacts.manifest import Manifest
from training.export.lite import quiet
from training.export.model import ExportError

_MOST_ROWS, _MOST_OTHERS = 64, 1024  # of free dimensions: Core ML wants bounds
_DTYPES = {TensorProto.FLOAT: types.fp32, TensorProto.INT32: types.int32}
_CASTS = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int32",
    TensorProto.BOOL: "bool",
}
_NARROWER = {np.dtype(np.int64): np.int32, np.dtype(np.float64): np.float32}
_OF_SHAPES = {"Shape", "Slice", "Gather", "Concat", "Cast", "Unsqueeze", "Squeeze", "Expand", "Reshape", "Identity"}

Value = Any  # an array, or a MIL variable; None for an input that is left out
Attributes = dict[str, Any]
_Translation = Callable[[Attributes, Sequence[Value]], Value]
_NODES: dict[str, _Translation] = {}


class _NotInMil(Exception):
    """An operator in a form that has no translation."""


def write_coreml(model: onnx.ModelProto, path: Path, description: Manifest) -> None:
    """Write the package, with description and labels as its metadata. Raises `ExportError`, naming the operator."""
    package = converted(model)
    package.short_description = description.description
    package.version = str(description.version)
    if description.labels:
        package.user_defined_metadata["labels"] = "\n".join(description.labels)
    with quiet():
        package.save(str(path))


def unsupported(model: onnx.ModelProto) -> list[str]:
    """The operators of the model that have no translation here, each with its node's name."""
    missing = {node.op_type: node.name for node in reversed(model.graph.node) if node.op_type not in _NODES}
    return [f"{operator} ({name})" for operator, name in missing.items()]


def converted(model: onnx.ModelProto) -> Any:
    """The package, an `MLModel`, with the ONNX model's names. Raises `ExportError`."""
    if missing := unsupported(model):
        raise ExportError(f"Core ML: has no translation for {', '.join(missing)}")
    names: dict[str, Any] = {}
    inputs = {value.name: _Input(value, names) for value in model.graph.input}
    program = Program()
    with Function({name: given.placeholder for name, given in inputs.items()}, opset_version=ct.target.iOS16) as main:
        main.set_outputs(_outputs(model.graph, dict(main.inputs)))
    program.add_function("main", main)
    with quiet():
        package = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS16,
            compute_precision=ct.precision.FLOAT32,
            inputs=[given.type for given in inputs.values()],
            skip_model_load=True,
        )
    found = package.get_spec().description
    written = [value.name for value in (*found.input, *found.output)]
    if written != [value.name for value in (*model.graph.input, *model.graph.output)]:
        raise ExportError(f"Core ML: inputs and outputs came out as {', '.join(written)}")
    return package


class _Input:
    """One input, as the program's placeholder and as the type that `ct.convert` is told.

    Free dimensions get bounds; those of one name are one dimension, which `names` keeps.
    """

    def __init__(self, value: onnx.ValueInfoProto, names: dict[str, Any]) -> None:
        tensor = value.type.tensor_type
        if tensor.elem_type not in _DTYPES:
            kind = TensorProto.DataType.Name(tensor.elem_type)
            raise ExportError(f"Core ML: the input '{value.name}' is {kind}; it takes FLOAT and INT32")
        bounds: list[Any] = []
        for place, dimension in enumerate(tensor.shape.dim):
            free = ct.RangeDim(1, _MOST_OTHERS if place else _MOST_ROWS, default=1)
            bounds.append(dimension.dim_value or names.setdefault(dimension.dim_param, free))
        sizes = tuple(bound if isinstance(bound, int) else bound.symbol for bound in bounds)
        self.placeholder = mb.placeholder(shape=sizes, dtype=_DTYPES[tensor.elem_type])
        self.type = ct.TensorType(name=value.name, shape=tuple(bounds), dtype=_DTYPES[tensor.elem_type])


def _outputs(graph: onnx.GraphProto, values: dict[str, Value]) -> list[Value]:
    """MIL variables for the graph's outputs, of the same names."""
    values |= {tensor.name: _narrowed(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    of_shapes: set[str] = set()  # values that say how large tensors are, not what is in them
    for node in graph.node:
        inputs = [values[name] if name else None for name in node.input]
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type in _OF_SHAPES and (node.op_type == "Shape" or of_shapes & set(node.input)):
            of_shapes.update(node.output)
        if node.op_type == "LSTM" and len(node.input) > 4 and node.input[4] in of_shapes:
            inputs[4] = None  # every row is as long as the tensor
        try:
            found = _folded(node, inputs) if _are_known(inputs) else _NODES[node.op_type](attributes, inputs)
        except (AssertionError, TypeError, ValueError, _NotInMil) as error:  # what MIL's builder raises, and we
            reason = str(error) or "shapes or types that MIL does not take"
            raise ExportError(f"Core ML: {node.op_type} ({node.name}): {reason}") from error
        values.update(zip(node.output, found if isinstance(found, tuple) else (found,), strict=False))
    return [mb.identity(x=values[output.name], name=output.name) for output in graph.output]


def _are_known(inputs: Iterable[Value]) -> bool:
    return all(value is None or isinstance(value, np.ndarray) for value in inputs)


def _folded(node: onnx.NodeProto, inputs: Sequence[Value]) -> tuple[Value, ...]:
    """The node's outputs for arrays, by ONNX's reference implementation."""
    given = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
    found = onnx.reference.ReferenceEvaluator(node).run(None, given)
    return tuple(_narrowed(np.asarray(value)) for value in found)


def _narrowed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array in a type that MIL has."""
    return np.asarray(array, _NARROWER.get(array.dtype, array.dtype))


def _node(operator: str) -> Callable[[_Translation], _Translation]:
    def register(translate: _Translation) -> _Translation:
        _NODES[operator] = translate
        return translate

    return register


def _shape(value: Value) -> list[int | None]:
    """The sizes that are known while converting."""
    return [int(size) if isinstance(size, (int, np.integer)) else None for size in value.shape]


def _ints(value: Value, what: str) -> list[int]:
    """The numbers of an array that has to be known while converting."""
    if not isinstance(value, np.ndarray):
        raise _NotInMil(f"its {what} depend on the data")
    return [int(number) for number in value.ravel()]


def _axes(attributes: Attributes, inputs: Sequence[Value]) -> list[int]:
    """Axes come as an attribute in older operators, as the second input in newer ones."""
    if "axes" in attributes:
        return list(attributes["axes"])
    given = inputs[1] if len(inputs) > 1 else None
    return list(range(inputs[0].rank)) if given is None else _ints(given, "axes")


# Element by element

_UNARY = {
    "Abs": mb.abs,
    "Ceil": mb.ceil,
    "Cos": mb.cos,
    "Erf": mb.erf,
    "Exp": mb.exp,
    "Floor": mb.floor,
    "Identity": mb.identity,
    "Log": mb.log,
    "Not": mb.logical_not,
    "Relu": mb.relu,
    "Sigmoid": mb.sigmoid,
    "Sin": mb.sin,
    "Softplus": mb.softplus,
    "Softsign": mb.softsign,
    "Sqrt": mb.sqrt,
    "Tanh": mb.tanh,
}
_BINARY = {
    "Add": mb.add,
    "And": mb.logical_and,
    "Div": mb.real_div,
    "Equal": mb.equal,
    "Greater": mb.greater,
    "GreaterOrEqual": mb.greater_equal,
    "Less": mb.less,
    "LessOrEqual": mb.less_equal,
    "Max": mb.maximum,
    "Min": mb.minimum,
    "Mul": mb.mul,
    "Or": mb.logical_or,
    "Pow": mb.pow,
    "Sub": mb.sub,
}


def _element_wise(operator: Any) -> _Translation:
    def translate(attributes: Attributes, inputs: Sequence[Value]) -> Value:
        return operator(**dict(zip("xy", inputs, strict=False)))

    return translate


_NODES.update({name: _element_wise(operator) for name, operator in (_UNARY | _BINARY).items()})


@_node("Neg")
def _neg(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.mul(x=inputs[0], y=np.float32(-1))


@_node("Reciprocal")
def _reciprocal(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.real_div(x=np.float32(1), y=inputs[0])


@_node("Elu")
def _elu(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.elu(x=inputs[0], alpha=np.float32(attributes.get("alpha", 1)))


@_node("LeakyRelu")
def _leaky_relu(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.leaky_relu(x=inputs[0], alpha=np.float32(attributes.get("alpha", 0.01)))


@_node("Clip")
def _clip(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    value, (low, high) = inputs[0], [*inputs[1:], None, None][:2]
    value = value if low is None else mb.maximum(x=value, y=low)
    return value if high is None else mb.minimum(x=value, y=high)


@_node("Cast")
def _cast(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    if attributes["to"] not in _CASTS:
        raise _NotInMil(f"there is no type {TensorProto.DataType.Name(attributes['to'])}")
    return mb.cast(x=inputs[0], dtype=_CASTS[attributes["to"]])


@_node("Where")
def _where(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.select(cond=inputs[0], a=inputs[1], b=inputs[2])


# Shapes


@_node("Shape")
def _shape_of(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    sizes = _shape(inputs[0])
    if None not in sizes:
        return np.array(sizes, np.int32)
    return mb.shape(x=inputs[0])


@_node("Reshape")
def _reshape(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    value, shape = inputs
    if isinstance(shape, np.ndarray) and (shape == 0).any():  # 0 keeps a size
        if (shape == 0).sum() == 1 and -1 not in shape and None in _shape(value)[: len(shape)]:
            shape = np.where(shape == 0, -1, shape)
        else:
            kept = mb.shape(x=value)
            sizes = [
                mb.slice_by_size(x=kept, begin=[place], size=[1]) if size == 0 else np.array([size], np.int32)
                for place, size in enumerate(shape)
            ]
            shape = mb.concat(values=sizes, axis=0)
    return mb.reshape(x=value, shape=shape)


@_node("Flatten")
def _flatten(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.flatten2d(x=inputs[0], axis=attributes.get("axis", 1))


@_node("Transpose")
def _transpose(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.transpose(x=inputs[0], perm=attributes.get("perm", list(range(inputs[0].rank))[::-1]))


@_node("Squeeze")
def _squeeze(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.squeeze(x=inputs[0], axes=_axes(attributes, inputs))


@_node("Unsqueeze")
def _unsqueeze(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.expand_dims(x=inputs[0], axes=_axes(attributes, inputs))


@_node("Concat")
def _concat(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.concat(values=list(inputs), axis=attributes["axis"])


@_node("Split")
def _split(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    if len(inputs) < 2:
        raise _NotInMil("its parts' sizes are not given")
    return tuple(mb.split(x=inputs[0], split_sizes=_ints(inputs[1], "sizes"), axis=attributes.get("axis", 0)))


@_node("Slice")
def _slice(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    value, rank = inputs[0], inputs[0].rank
    starts, ends = _ints(inputs[1], "starts"), _ints(inputs[2], "ends")
    axes = _ints(inputs[3], "axes") if len(inputs) > 3 and inputs[3] is not None else list(range(len(starts)))
    steps = _ints(inputs[4], "steps") if len(inputs) > 4 else [1] * len(starts)
    begin, end, stride, sizes = [0] * rank, [0] * rank, [1] * rank, _shape(value)
    to_the_end = [True] * rank
    for axis, start, stop, step in zip(axes, starts, ends, steps, strict=True):
        begin[axis], end[axis], stride[axis] = start, stop, step
        size = sizes[axis]
        to_the_end[axis] = stop >= (2**31 - 1 if size is None else size) if step > 0 else stop < -(2**30)
        if step < 0 and start >= 2**30:
            begin[axis] = -1
    return mb.slice_by_index(x=value, begin=begin, end=end, stride=stride, end_mask=to_the_end)


@_node("Gather")
def _gather(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.gather(x=inputs[0], indices=inputs[1], axis=attributes.get("axis", 0))


@_node("Expand")
def _expand(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    value, shape = inputs
    is_whole = value.dtype == np.int32 if isinstance(value, np.ndarray) else value.dtype == types.int32
    return mb.add(x=value, y=mb.fill(shape=shape, value=np.int32(0) if is_whole else np.float32(0)))


@_node("Tile")
def _tile(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.tile(x=inputs[0], reps=inputs[1])


@_node("Pad")
def _pad(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    mode = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate"}[attributes.get("mode", b"constant")]
    pads = np.array(_ints(inputs[1], "widths")).reshape(2, -1)  # first all widths in front, then all behind
    fill = inputs[2] if len(inputs) > 2 and inputs[2] is not None else np.zeros(1, np.float32)
    return mb.pad(x=inputs[0], pad=pads.T.ravel().tolist(), mode=mode, constant_val=np.float32(fill.ravel()[0]))


# Along axes

_REDUCE = {
    "ReduceL2": mb.reduce_l2_norm,
    "ReduceMax": mb.reduce_max,
    "ReduceMean": mb.reduce_mean,
    "ReduceMin": mb.reduce_min,
    "ReduceProd": mb.reduce_prod,
    "ReduceSum": mb.reduce_sum,
}


def _reduce(operator: Any) -> _Translation:
    def translate(attributes: Attributes, inputs: Sequence[Value]) -> Value:
        return operator(x=inputs[0], axes=_axes(attributes, inputs), keep_dims=bool(attributes.get("keepdims", 1)))

    return translate


_NODES.update({name: _reduce(operator) for name, operator in _REDUCE.items()})


@_node("ArgMax")
def _argmax(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    keeps = bool(attributes.get("keepdims", 1))
    return mb.reduce_argmax(x=inputs[0], axis=attributes.get("axis", 0), keep_dims=keeps)


@_node("Softmax")
def _softmax(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.softmax(x=inputs[0], axis=attributes.get("axis", -1))


@_node("TopK")
def _top_k(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    (count,) = _ints(inputs[1], "count")
    ascending = not attributes.get("largest", 1)
    return tuple(mb.topk(x=inputs[0], k=count, axis=attributes.get("axis", -1), ascending=ascending))


@_node("ScatterElements")
def _scatter_elements(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    data, indices, updates = inputs
    axis = attributes.get("axis", 0)
    return mb.scatter_along_axis(data=data, indices=indices, updates=updates, axis=axis, mode="update")


# Layers


@_node("MatMul")
def _matmul(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.matmul(x=inputs[0], y=inputs[1])


@_node("Gemm")
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


@_node("Conv")
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


@_node("ConvTranspose")
def _conv_transpose(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    dimensions = inputs[0].rank - 2
    if any(attributes.get("output_padding", ())) or "output_shape" in attributes:
        raise _NotInMil("its output's size is not the usual one")
    bias = {"bias": inputs[2]} if len(inputs) > 2 and inputs[2] is not None else {}
    return mb.conv_transpose(
        x=inputs[0],
        weight=inputs[1],
        dilations=list(attributes.get("dilations", [1] * dimensions)),
        groups=attributes.get("group", 1),
        **_windows(attributes, dimensions),
        **bias,
    )


@_node("MaxPool")
def _max_pool(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    kernel = list(attributes["kernel_shape"])
    ceil = bool(attributes.get("ceil_mode", 0))
    return mb.max_pool(x=inputs[0], kernel_sizes=kernel, ceil_mode=ceil, **_windows(attributes, len(kernel)))


@_node("AveragePool")
def _average_pool(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    kernel = list(attributes["kernel_shape"])
    return mb.avg_pool(
        x=inputs[0],
        kernel_sizes=kernel,
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
        exclude_padding_from_average=not attributes.get("count_include_pad", 0),
        **_windows(attributes, len(kernel)),
    )


@_node("GlobalAveragePool")
def _global_average_pool(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.reduce_mean(x=inputs[0], axes=list(range(2, inputs[0].rank)), keep_dims=True)


@_node("BatchNormalization")
def _batch_normalization(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    value, scale, bias, mean, variance = inputs
    epsilon = np.float32(attributes.get("epsilon", 1e-5))
    return mb.batch_norm(x=value, mean=mean, variance=variance, gamma=scale, beta=bias, epsilon=epsilon)


@_node("LSTM")
def _lstm(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    """Sequences [steps, rows, size] to states [steps, directions, rows, units], and the last ones.

    MIL puts both directions' units side by side and knows no lengths: forwards, states after a row's end are zeroed
    here, as ONNX says, and the last ones cannot be had; backwards it would begin too late.
    """
    value, kernel, recurrent, bias, lengths, hidden, cell = [*inputs, *[None] * 5][:7]
    units, direction = attributes["hidden_size"], attributes.get("direction", b"forward").decode()
    if set(attributes.get("activations", ())) - {b"Sigmoid", b"Tanh"}:
        raise _NotInMil("its activations are not sigmoid and tanh")
    if lengths is not None and direction != "forward":
        raise _NotInMil("rows of their own length are read backwards")
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
        **weights,
    )
    if direction == "reverse":
        states = mb.reverse(x=states, axes=[0])
    if lengths is not None:
        return _by_direction(_zeroed(states, lengths), sides, axis=1), None, None
    return (_by_direction(states, sides, axis=1), *(_by_direction(state, sides, axis=0) for state in last))


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
