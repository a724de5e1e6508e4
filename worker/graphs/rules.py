"""What each ONNX operator does to rows: a rule takes what is known of its inputs and says what is known of its outputs.

A rule raises `Mixes` where a row's result depends on other rows, and `CannotTell`. It is not asked where an input is
mixed or unknown already. An operator without a rule cannot be told.
"""

from collections.abc import Callable, Sequence
from functools import partial

from worker.graphs.onnx_graph import Constant, Node
from worker.graphs.values import ONE, Size, Value, by_row, counted, fixed, mixed, unknown_size

Args = Sequence[Value | None]
Rule = Callable[[Node, Args], list[Value]]


class Mixes(Exception):
    """A row's result depends on other rows, or on how many there are; the text says how."""


class CannotTell(Exception):
    """Whether it does cannot be told."""


def data(args: Args, place: int = 0) -> Value:
    """An input that must be there."""
    value = args[place] if place < len(args) else None
    if value is None:
        raise CannotTell
    return value


def shape_of(value: Value) -> tuple[Size, ...]:
    """The shape, which must be known."""
    if value.shape is None:
        raise CannotTell
    return value.shape


def like(value: Value, shape: Sequence[Size] | None, axis: int | None = None) -> Value:
    """A value of the same kind as the one that it is computed of."""
    if value.is_by_row:
        if shape is None:
            raise CannotTell
        return by_row(value.axis if axis is None else axis, shape)
    return counted(shape, (None,)) if value.kind == "counted" else fixed(shape)


def normal(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < max(1, rank):
        raise CannotTell
    return axis + rank if axis < 0 else axis


def only_fixed(args: Args, first: int = 1) -> None:
    """Raise where weights and the like are computed of rows."""
    for value in args[first:]:
        if value is not None and value.kind == "counted":
            raise Mixes("depends on how many rows there are")
        if value is not None and value.kind != "fixed":
            raise CannotTell


def broadcast(args: Args) -> Value:
    """What an operator makes of tensors that it takes element by element."""
    values = [value for value in args if value is not None]
    rowed = [value for value in values if value.is_by_row]
    if not rowed:
        return _plain_broadcast(values)
    if any(value.kind == "counted" for value in values):
        raise Mixes("depends on how many rows there are")
    rank = max(len(shape_of(value)) for value in values)
    first = rowed[0]
    offset = first.rank - first.axis
    for value in rowed:
        if value.rank - value.axis != offset or shape_of(value)[value.axis] != shape_of(first)[first.axis]:
            raise Mixes("combines rows with one another")
    sizes = [ONE] * rank
    for value in values:
        for place, size in enumerate(reversed(shape_of(value)), start=1):
            if place == offset and not value.is_by_row and size != ONE:
                raise Mixes("gives each place among the rows a constant of its own")
            if size != ONE and sizes[-place] == ONE:
                sizes[-place] = size
    return by_row(rank - offset, sizes)


def _plain_broadcast(values: Sequence[Value]) -> Value:
    shape: list[Size] | None = None
    if all(value.shape is not None for value in values):
        shape = [ONE] * max((value.rank for value in values), default=0)
        for value in values:
            for place, size in enumerate(reversed(shape_of(value)), start=1):
                if size != ONE:
                    shape[-place] = size
    if any(value.kind == "counted" for value in values):
        return counted(shape, (None,))
    return fixed(shape)


def elementwise(node: Node, args: Args) -> list[Value]:
    """Each element of the result is computed of the elements at its place."""
    return [broadcast(args)] * max(1, len(node.outputs))


def axes_of(node: Node, args: Args, rank: int, place: int = 1) -> list[int] | None:
    """The axes that an attribute or an input names; None where none is named."""
    axes = node.attributes.get("axes")
    if axes is None and len(args) > place and args[place] is not None:
        axes = data(args, place).integers()
        if axes is None:
            raise CannotTell
    return None if axes is None else [normal(axis, rank) for axis in axes]


def reduction(node: Node, args: Args) -> list[Value]:
    """Several elements become one, along some axes or all."""
    value = data(args)
    shape = shape_of(value)
    axes = axes_of(node, args, len(shape))
    if not axes:
        if node.attributes.get("noop_with_empty_axes"):
            return [value]
        axes = list(range(len(shape)))
    return [_reduced(value, shape, axes, keeps=node.attributes.get("keepdims", 1) != 0)]


def arg_reduction(node: Node, args: Args) -> list[Value]:
    """The place of the largest or smallest along one axis."""
    value = data(args)
    shape = shape_of(value)
    axis = normal(node.attributes.get("axis", 0), len(shape))
    return [_reduced(value, shape, [axis], keeps=node.attributes.get("keepdims", 1) != 0)]


def _reduced(value: Value, shape: Sequence[Size], axes: Sequence[int], *, keeps: bool) -> Value:
    if value.is_by_row and value.axis in axes:
        raise Mixes(f"works over axis {value.axis}, which counts rows")
    if keeps:
        return like(value, [ONE if axis in axes else size for axis, size in enumerate(shape)])
    left = [axis for axis in range(len(shape)) if axis not in axes]
    return like(value, [shape[axis] for axis in left], left.index(value.axis) if value.is_by_row else None)


def along(node: Node, args: Args, *, default: int = -1, changes_size: bool = False) -> list[Value]:
    """Elements along one axis depend on one another."""
    value = data(args)
    shape = list(shape_of(value))
    axis = normal(node.attributes.get("axis", default), len(shape))
    if value.is_by_row and axis == value.axis:
        raise Mixes(f"works over axis {axis}, which counts rows")
    only_fixed(args)
    if changes_size:
        shape[axis] = unknown_size()
    return [like(value, shape)] * max(1, len(node.outputs))


def from_axis(node: Node, args: Args, *, default: int = -1) -> list[Value]:
    """Elements along one axis and all behind it depend on one another."""
    value = data(args)
    shape = shape_of(value)
    axis = normal(node.attributes.get("axis", default), len(shape))
    if value.is_by_row and value.axis >= axis:
        raise Mixes(f"works over axis {value.axis}, which counts rows")
    only_fixed(args)
    reduced = like(value, [size if place < axis else ONE for place, size in enumerate(shape)])
    return [value, *[reduced] * (len(node.outputs) - 1)]


def cumulative(node: Node, args: Args) -> list[Value]:
    """Along the axis that the second input names."""
    value = data(args)
    only_fixed(args)
    axes = data(args, 1).integers()
    if value.is_by_row and (not axes or normal(axes[0], value.rank) == value.axis):
        raise Mixes(f"works over axis {value.axis}, which counts rows")
    return [value]


def whole(node: Node, args: Args) -> list[Value]:
    """The result depends on all elements, or has another number of rows."""
    if any(value is not None and value.kind != "fixed" for value in args):
        raise Mixes("works over all rows")
    return [fixed()] * max(1, len(node.outputs))


def matrix_product(node: Node, args: Args, *, places: tuple[int, int] = (0, 1)) -> list[Value]:
    """Rows of the first by columns of the second, along leading axes that belong together."""
    left, right = data(args, places[0]), data(args, places[1])
    only_fixed([value for place, value in enumerate(args) if place not in places], 0)
    if left.kind == right.kind == "fixed":
        return [fixed()]
    if "counted" in (left.kind, right.kind):
        raise Mixes("depends on how many rows there are")
    a, b = shape_of(left), shape_of(right)
    if len(a) < 2 or len(b) < 2:
        return [_vector_product(left, right, a, b)]
    leading = broadcast([_leading(left, a), _leading(right, b)])
    sizes = (*shape_of(leading), a[-2], b[-1])
    rows = [leading.axis] if leading.is_by_row else []
    if left.is_by_row and left.axis >= len(a) - 2:
        _check_alone(left.axis == len(a) - 1, right, rows)
        rows = [len(sizes) - 2]
    if right.is_by_row and right.axis >= len(b) - 2:
        _check_alone(right.axis == len(b) - 2, left, rows)
        rows = [len(sizes) - 1]
    return [by_row(rows[0], sizes)]


def _check_alone(is_summed: bool, other: Value, rows: Sequence[int]) -> None:
    if is_summed:
        raise Mixes("sums over rows")
    if other.is_by_row or rows:
        raise Mixes("multiplies rows with one another")


def _leading(value: Value, shape: Sequence[Size]) -> Value:
    """The axes before a tensor's matrices."""
    if value.is_by_row and value.axis < len(shape) - 2:
        return by_row(value.axis, shape[:-2])
    return fixed(shape[:-2])


def _vector_product(left: Value, right: Value, a: Sequence[Size], b: Sequence[Size]) -> Value:
    if left.is_by_row and not right.is_by_row and len(b) == 1 and left.axis < len(a) - 1:
        return by_row(left.axis, a[:-1])
    raise Mixes("sums over rows") if len(a) == 1 and left.is_by_row else CannotTell


def general_product(node: Node, args: Args) -> list[Value]:
    """Gemm: two matrices, either of them transposed, and what is added to their product."""
    left, right = data(args), data(args, 1)
    if node.attributes.get("transA"):
        left = _turned(left)
    if node.attributes.get("transB"):
        right = _turned(right)
    product = matrix_product(node, [left, right])
    return [broadcast([product[0], args[2]])] if len(args) > 2 and args[2] is not None else product


def _turned(value: Value) -> Value:
    shape = shape_of(value)
    return like(value, shape[::-1], 1 - value.axis)


def of_images(
    node: Node, args: Args, *, weights: int = 0, spatial: Size | None = None, keeps_shape: bool = False
) -> list[Value]:
    """Axis 0 counts images, axis 1 channels: convolutions, pools, normalizations of each image.

    `weights` is the input whose first axis gives the channels, 0 where they stay, and -1 where no more is known.
    `spatial` is the size of the other axes, None for one that is not known.
    """
    value = data(args)
    if not value.is_by_row:
        only_fixed(args, 0)
        return [fixed()] * max(1, len(node.outputs))
    only_fixed(args)
    if value.axis or value.rank < 2:
        raise CannotTell
    shape = shape_of(value)
    channels = shape[1]
    if weights < 0:
        channels = unknown_size()
    elif weights:
        kernel = data(args, weights).shape
        channels = kernel[0] if kernel and node.operator != "ConvTranspose" else unknown_size()
    result = value if keeps_shape else by_row(0, [shape[0], channels, *[spatial or unknown_size() for _ in shape[2:]]])
    return [result] * max(1, len(node.outputs))


def pool(node: Node, args: Args) -> list[Value]:
    """Of each image; a second output has places in the whole batch."""
    found = of_images(node, args)
    places = "gives places in the whole batch, which depend on the row's place"
    return [found[0], *[mixed(f"{node.operator} {places}")] * (len(node.outputs) - 1)]


def batch_normalization(node: Node, args: Args) -> list[Value]:
    """By what training found; while training, by the batch."""
    if node.attributes.get("training_mode") or len(node.outputs) > 1:
        return whole(node, args)
    return of_images(node, args, keeps_shape=True)


def mean_variance(node: Node, args: Args) -> list[Value]:
    """Over axes 0, 2 and 3 unless others are named."""
    value = data(args)
    axes = [normal(axis, value.rank) for axis in node.attributes.get("axes") or (0, 2, 3)]
    if value.is_by_row and value.axis in axes:
        raise Mixes(f"works over axis {value.axis}, which counts rows")
    return [value]


def dropout(node: Node, args: Args) -> list[Value]:
    """Nothing is dropped outside of training."""
    if len(args) > 2 and args[2] is not None and data(args, 2).integers() != [0]:
        raise Mixes("draws random numbers")
    return [data(args)] * max(1, len(node.outputs))


def quantized(node: Node, args: Args) -> list[Value]:
    """With scales that are constants: one for all, or for each place along an axis."""
    value = data(args)
    only_fixed(args)
    scale = data(args, 1).shape
    axis = normal(node.attributes.get("axis", 1), max(2, len(shape_of(value))))
    if value.is_by_row and (scale is None or (len(scale) > 0 and scale != (ONE,) and axis == value.axis)):
        raise CannotTell
    return [value]


def recurrent(node: Node, args: Args) -> list[Value]:
    """Over time: the first axis, and rows the second, unless the layout says the other way round."""
    value = data(args)
    if not value.is_by_row:
        only_fixed(args, 0)
        return [fixed()] * max(1, len(node.outputs))
    is_turned = node.attributes.get("layout") == 1
    if value.axis == (1 if is_turned else 0):
        raise Mixes("runs over rows as over time")
    if value.axis != (0 if is_turned else 1):
        raise CannotTell
    states = {5: 0 if is_turned else 1, 6: 0 if is_turned else 1}
    for place, given in enumerate(args[1:], start=1):
        if given is None or given.kind == "fixed":
            if given is not None and place in (4, *states):
                raise CannotTell  # a state or lengths for so many rows
        elif not given.is_by_row or given.axis != {4: 0, **states}.get(place):
            raise CannotTell
    rows, time = shape_of(value)[value.axis], shape_of(value)[1 - value.axis]
    directions, hidden = unknown_size(), unknown_size()
    every = by_row(0, [rows, time, directions, hidden]) if is_turned else by_row(2, [time, directions, rows, hidden])
    last = by_row(0, [rows, directions, hidden]) if is_turned else by_row(1, [directions, rows, hidden])
    return [every, last, last][: len(node.outputs)]


def of_features(node: Node, args: Args, *, shapes: tuple[str, ...] = ("scores",)) -> list[Value]:
    """Classical models: a matrix whose rows are examples. `shapes` are those of the outputs."""
    value = data(args)
    if not value.is_by_row:
        only_fixed(args, 0)
        return [fixed()] * max(1, len(node.outputs))
    only_fixed(args)
    if value.rank < 2:
        raise Mixes("takes the rows for the features of one example")
    if value.axis or value.rank != 2:
        raise CannotTell
    rows = shape_of(value)[0]
    found = {"same": value, "labels": by_row(0, [rows]), "scores": by_row(0, [rows, unknown_size()])}
    return [found[shape] for shape in shapes]


def picked_features(node: Node, args: Args) -> list[Value]:
    """Places along the last axis, as of a list of classes by each row's best one."""
    value, places = data(args), data(args, 1)
    if value.kind == "fixed" and places.is_by_row and places.rank == 1 and shape_of(value)[:-1] in ((), (ONE,)):
        return [by_row(1, [ONE, shape_of(places)[0]])]
    return of_features(node, args)


def attention(node: Node, args: Args) -> list[Value]:
    """Within each row: [rows, positions, features]."""
    value = data(args)
    if not value.is_by_row or value.axis or value.rank != 3:
        raise CannotTell
    for given in args[1:]:
        if given is not None and given.kind != "fixed" and (not given.is_by_row or given.axis):
            raise CannotTell
    return [by_row(0, [*shape_of(value)[:2], unknown_size()])]


def einsum(node: Node, args: Args) -> list[Value]:
    """By its equation: the letter of the rows must be in the result, and be no other's."""
    equation = str(node.attributes.get("equation", "")).replace(" ", "")
    terms, arrow, result = equation.partition("->")
    letters = terms.split(",")
    values = [data(args, place) for place in range(len(args))]
    if not arrow or "." in equation or len(letters) != len(values):
        raise CannotTell
    if all(value.kind == "fixed" for value in values):
        return [fixed()]
    if any(value.kind == "counted" for value in values):
        raise Mixes("depends on how many rows there are")
    rows = {term[value.axis] for term, value in zip(letters, values, strict=True) if value.is_by_row}
    if len(rows) != 1:
        raise Mixes("multiplies rows with one another")
    (letter,) = rows
    sizes: dict[str, Size] = {}
    for term, value in zip(letters, values, strict=True):
        if len(term) != len(shape_of(value)) or term.count(letter) != int(value.is_by_row):
            raise CannotTell
        sizes |= {name: size for name, size in zip(term, shape_of(value), strict=True) if size != ONE}
    if letter not in result:
        raise Mixes("sums over rows")
    return [by_row(result.index(letter), [sizes.get(name, ONE) for name in result])]


def constant(node: Node, args: Args) -> list[Value]:
    """A value in the file."""
    for name in ("value", "value_int", "value_ints"):
        found = node.attributes.get(name)
        if isinstance(found, Constant):
            return [of_constant(found)]
        if isinstance(found, tuple):
            return [fixed([Size(len(found))], [Size(number) for number in found])]
        if isinstance(found, int):
            return [fixed([], [Size(found)])]
    return [fixed()]


def of_constant(found: Constant) -> Value:
    """The value of a constant in the file."""
    numbers = None if found.numbers is None else [Size(number) for number in found.numbers]
    return fixed([Size(size) for size in found.shape], numbers)


SOFTMAX = ("Softmax", "LogSoftmax", "Hardmax")  # before version 13: along one axis and all behind it, by default 1
RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
)
# Where an input is not known, these may mix rows: all that has no axis or works over axis 0.
MAY_MIX = frozenset(
    (
        *("NonZero", "Unique", "Compress", "NonMaxSuppression", "DynamicQuantizeLinear", "DynamicQuantizeMatMul"),
        *("MaxUnpool", "StringSplit", "StringNormalizer", "RNN", "LSTM", "GRU", "DynamicQuantizeLSTM"),
    )
)
_REDUCTIONS = (
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum"),
    *("ReduceLogSumExp", "ReduceSumSquare"),
)
_ELEMENTWISE = (
    *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot"),
    *("BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Div", "Elu", "Equal"),
    *("Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf"),
    *("IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not"),
    *("Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh"),
    *("Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor"),
    *("StringConcat", "RegexFullMatch"),
)
_images = partial(of_images, keeps_shape=True)
_classifier = partial(of_features, shapes=("labels", "scores"))
_same = partial(of_features, shapes=("same",))

RULES: dict[str, dict[str, Rule]] = {
    "": {
        **dict.fromkeys(_ELEMENTWISE, elementwise),
        **dict.fromkeys(_REDUCTIONS, reduction),
        **dict.fromkeys(MAY_MIX, whole),
        **dict.fromkeys(("ArgMax", "ArgMin"), arg_reduction),
        **dict.fromkeys(SOFTMAX, along),
        **dict.fromkeys(("RNN", "LSTM", "GRU"), recurrent),
        **dict.fromkeys(("InstanceNormalization", "GroupNormalization", "LRN"), _images),
        **dict.fromkeys(("AveragePool", "LpPool"), of_images),
        **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), partial(of_images, weights=-1)),
        **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), partial(of_images, spatial=ONE)),
        **dict.fromkeys(("Conv", "ConvInteger", "ConvTranspose"), partial(of_images, weights=1)),
        **dict.fromkeys(("LayerNormalization", "RMSNormalization"), from_axis),
        **dict.fromkeys(("MatMul", "MatMulInteger"), matrix_product),
        **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), quantized),
        **dict.fromkeys(("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss", "RoiAlign"), whole),
        "BatchNormalization": batch_normalization,
        "Constant": constant,
        "CumSum": cumulative,
        "Dropout": dropout,
        "Einsum": einsum,
        "Gemm": general_product,
        "LpNormalization": along,
        "MaxPool": pool,
        "MeanVarianceNormalization": mean_variance,
        "QLinearConv": partial(of_images, weights=3),
        "QLinearMatMul": partial(matrix_product, places=(0, 3)),
        "TopK": partial(along, changes_size=True),
    },
    "ai.onnx.ml": {
        **dict.fromkeys(("TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier"), _classifier),
        **dict.fromkeys(("TreeEnsembleRegressor", "LinearRegressor", "SVMRegressor", "TreeEnsemble"), of_features),
        **dict.fromkeys(("Scaler", "Normalizer", "Imputer"), _same),
        **dict.fromkeys(("LabelEncoder", "CategoryMapper", "Binarizer"), elementwise),
        "ArrayFeatureExtractor": picked_features,
        "ZipMap": of_features,
    },
    "com.microsoft": {
        **dict.fromkeys(("Gelu", "FastGelu", "BiasGelu", "QuickGelu", "BiasSplitGelu"), elementwise),
        **dict.fromkeys(("DynamicQuantizeMatMul", "DynamicQuantizeLSTM"), whole),
        **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), quantized),
        **dict.fromkeys(("Attention", "MultiHeadAttention"), attention),
        "MatMulNBits": partial(along, changes_size=True),
        "SimplifiedLayerNormalization": from_axis,
    },
}
