"""Core ML's operators in NumPy, as coremltools' reference of MIL describes them: packages run where Core ML is not."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_TYPES = {"fp32": np.float32, "int32": np.int32, "bool": np.bool_}
_OPERATORS: dict[str, Callable[..., Any]] = {}


def run(package: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs, by their names, of a package that was just converted. Raises `KeyError` for an unknown operator."""
    (main,) = package._mil_program.functions.values()  # noqa: SLF001 - coremltools shows the program nowhere else
    values: dict[str, Any] = dict(inputs)

    def value(given: Any) -> Any:
        if isinstance(given, list | tuple):
            return [value(each) for each in given]
        return values.get(given.name, given.val)

    for operation in main.operations:
        if operation.op_type == "const":
            values[operation.outputs[0].name] = operation.outputs[0].val
            continue
        given = {name: value(each) for name, each in operation.inputs.items() if each is not None}
        found = _OPERATORS[operation.op_type](**given)
        for output, array in zip(operation.outputs, found if isinstance(found, tuple) else (found,), strict=True):
            values[output.name] = array
    return {output.name: values[output.name] for output in main.outputs}


def operator(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the operator of that name; its arguments are called as in MIL."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _OPERATORS[name] = function
        return function

    return register


def _plain(name: str, function: Callable[..., Any], *arguments: str) -> None:
    _OPERATORS[name] = lambda **given: function(*(given[each] for each in arguments))


def _sigmoid(x: Array) -> Array:
    whole: Array = 1 / (1 + np.exp(-x))
    return whole


for _name, _function in {
    "add": np.add,
    "greater": np.greater,
    "less": np.less,
    "maximum": np.maximum,
    "mod": np.mod,
    "mul": np.multiply,
    "pow": np.power,
    "real_div": np.divide,
    "sub": np.subtract,
}.items():
    _plain(_name, _function, "x", "y")
_plain("cast", lambda x, dtype: np.asarray(x).astype(_TYPES[dtype]), "x", "dtype")
_plain("expand_dims", lambda x, axes: np.expand_dims(x, tuple(axes)), "x", "axes")
_plain("fill", lambda shape, value: np.full(tuple(shape), value), "shape", "value")
_plain("flatten2d", lambda x, axis: np.reshape(x, (int(np.prod(x.shape[:axis])), -1)), "x", "axis")
_plain("identity", lambda x: x, "x")
_plain("linear", lambda x, weight, bias: x @ weight.T + bias, "x", "weight", "bias")
_plain("matmul", lambda x, y, a, b: (x.T if a else x) @ (y.T if b else y), "x", "y", "transpose_x", "transpose_y")
_plain("range_1d", lambda start, end, step: np.arange(start, end, step, dtype=np.int32), "start", "end", "step")
_plain("reduce_max", lambda x, axes, keep: x.max(axis=tuple(axes), keepdims=bool(keep)), "x", "axes", "keep_dims")
_plain("reduce_sum", lambda x, axes, keep: x.sum(axis=tuple(axes), keepdims=bool(keep)), "x", "axes", "keep_dims")
_plain("relu", lambda x: np.maximum(x, 0), "x")
_plain(
    "reduce_l2_norm",
    lambda x, axes, keep: np.linalg.norm(x, axis=axes[0], keepdims=bool(keep)),
    "x",
    "axes",
    "keep_dims",
)
_plain("reshape", lambda x, shape: x.reshape(tuple(shape)), "x", "shape")
_plain("select", np.where, "cond", "a", "b")
_plain("shape", lambda x: np.array(x.shape, np.int32), "x")
_plain("squeeze", lambda x, axes: np.squeeze(x, tuple(axes)), "x", "axes")
_plain("stack", lambda values, axis: np.stack(values, axis), "values", "axis")
_plain("tile", lambda x, reps: np.tile(x, tuple(reps)), "x", "reps")
_plain("transpose", lambda x, perm: np.transpose(x, tuple(perm)), "x", "perm")


@operator("concat")
def _concat(values: list[Array], axis: int, **_: Any) -> Array:
    return np.concatenate([np.atleast_1d(value) for value in values], axis)


@operator("gather")
def _gather(x: Array, indices: Array, axis: int = 0, **_: Any) -> Array:
    return np.take(x, indices, axis)


@operator("softmax")
def _softmax(x: Array, axis: int) -> Array:
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    whole: Array = powers / powers.sum(axis=axis, keepdims=True)
    return whole


@operator("slice_by_size")
def _slice_by_size(x: Array, begin: Array, size: Array) -> Array:
    parts = [slice(first, None if count == -1 else first + count) for first, count in zip(begin, size, strict=True)]
    return x[tuple(parts)]


@operator("slice_by_index")
def _slice_by_index(
    x: Array, begin: Array, end: Array, begin_mask: Any = None, end_mask: Any = None, **_: Any
) -> Array:
    free = [False] * x.ndim
    parts = [
        slice(None if no_begin else int(first), None if no_end else int(after))
        for first, after, no_begin, no_end in zip(
            begin,
            end,
            free if begin_mask is None else begin_mask,
            free if end_mask is None else end_mask,
            strict=True,
        )
    ]
    return x[tuple(parts)]


def _windows(x: Array, sizes: tuple[int, ...], strides: Array, pad: Array, fill: float) -> Array:
    """The windows [rows, channels, down, across, *sizes] over images [rows, channels, height, width]."""
    padded = np.pad(x, ((0, 0), (0, 0), tuple(pad[:2]), tuple(pad[2:])), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(padded, sizes, (2, 3))
    return windows[:, :, :: strides[0], :: strides[1]]


@operator("conv")
def _conv(x: Array, weight: Array, strides: Array, pad_type: str, pad: Any = None, bias: Any = 0.0, **_: Any) -> Array:
    assert pad_type in ("custom", "valid", "same")
    sizes = weight.shape[2:]
    assert pad_type != "same" or (tuple(strides) == (1, 1) and all(size % 2 for size in sizes))
    around = {"same": np.repeat([size // 2 for size in sizes], 2), "valid": np.zeros(4, int), "custom": pad}[pad_type]
    found = np.einsum("nchwij,ocij->nohw", _windows(x, sizes, strides, around, 0.0), weight, optimize=True)
    return found + np.reshape(bias, (1, -1, 1, 1))


@operator("max_pool")
def _max_pool(x: Array, kernel_sizes: Array, strides: Array, pad_type: str, pad: Any = None, **_: Any) -> Array:
    assert pad_type in ("custom", "valid")
    around = np.zeros(4, int) if pad_type == "valid" else pad
    return _windows(x, tuple(kernel_sizes), strides, around, -np.inf).max(axis=(4, 5))


@operator("scatter_along_axis")
def _scatter_along_axis(data: Array, indices: Array, updates: Array, axis: int, mode: str, **_: Any) -> Array:
    assert mode == "update"
    out = data.copy()
    np.put_along_axis(out, indices, updates, axis)
    return out


@operator("topk")
def _topk(x: Array, k: int, axis: int, **_: Any) -> tuple[Array, Array]:
    order = np.argsort(-x, axis=axis, kind="stable").take(range(k), axis)
    return np.take_along_axis(x, order, axis), order.astype(np.int32)


@operator("reverse_sequence")
def _reverse_sequence(x: Array, lengths: Array, seq_axis: int, batch_axis: int) -> Array:
    out = np.moveaxis(x, (batch_axis, seq_axis), (0, 1)).copy()
    for row, length in zip(out, lengths, strict=True):
        row[:length] = row[:length][::-1].copy()
    return np.moveaxis(out, (0, 1), (batch_axis, seq_axis))


@operator("lstm")
def _lstm(
    x: Array,
    initial_h: Array,
    initial_c: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array,
    direction: str,
    **_: Any,
) -> tuple[Array, Array, Array]:
    """One direction; the gates are in the order input, forget, output, cell."""
    assert direction == "forward"
    hidden, cell, states = initial_h, initial_c, []
    for step in x:
        entered, kept, shown, new = np.split(step @ weight_ih.T + hidden @ weight_hh.T + bias, 4, axis=1)
        cell = _sigmoid(kept) * cell + _sigmoid(entered) * np.tanh(new)
        hidden = _sigmoid(shown) * np.tanh(cell)
        states.append(hidden)
    return np.stack(states), hidden, cell
