"""Core ML packages (`.mlpackage`): the nodes of an ONNX model, one by one, in Core ML's own language (MIL).

coremltools converts neither Keras 3 nor ONNX; its MIL builder takes weights and operators as they are. Every node of
the graph goes to the function of `_NODES` for its operator, with its attributes and the values of its inputs: arrays,
where they are known while converting, or MIL variables. What depends on arrays alone is computed here. The numbers of
a package can be checked on macOS only; here its structure is.
"""

from collections.abc import Iterable, Mapping, Sequence
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
from training.export import mil_images, mil_layers, mil_nodes  # noqa: F401 - they register their translations
from training.export.lite import quiet
from training.export.mil import CASTS, FLOATS, NODES, Attributes, NotInMil, Value, is_of, known_shape, narrowed
from training.export.mil_loops import loop
from training.export.model import ExportError

_MOST_ROWS, _MOST_OTHERS = 64, 1024  # of free dimensions: Core ML wants bounds
_OF_SHAPES = {"Shape", "Slice", "Gather", "Concat", "Cast", "Unsqueeze", "Squeeze", "Expand", "Reshape", "Identity"}
_MOVING = {"Concat", "Gather", "GatherElements", "GatherND", "Pad", "ReverseSequence", "Slice", "Tile"}
_UNKNOWN = -987_654_321  # a size that is not known while converting, among those that are


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
    known = NODES.keys() | {"Loop"}
    missing = {node.op_type: node.name for node in reversed(model.graph.node) if node.op_type not in known}
    return [f"{operator} ({name})" for operator, name in missing.items()]


def converted(model: onnx.ModelProto) -> Any:
    """The package, an `MLModel`, with the ONNX model's names. Raises `ExportError`."""
    if missing := unsupported(model):
        raise ExportError(f"Core ML: has no translation for {', '.join(missing)}")
    names: dict[str, Any] = {}
    inputs = {value.name: _Input(value, names) for value in model.graph.input}
    program = Program()
    with Function({name: given.placeholder for name, given in inputs.items()}, opset_version=ct.target.iOS16) as main:
        values = {name: given.value(main.inputs[name]) for name, given in inputs.items()}
        main.set_outputs(_outputs(model.graph, values))
    program.add_function("main", main)
    try:
        with quiet():
            package = ct.convert(
                program,
                convert_to="mlprogram",
                minimum_deployment_target=ct.target.iOS16,
                compute_precision=ct.precision.FLOAT32,
                inputs=[given.type for given in inputs.values()],
                skip_model_load=True,
            )
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:  # its passes raise what they stumble over
        raise ExportError(f"Core ML: {str(error).strip().partition(chr(10))[0]}") from error
    found = package.get_spec().description
    written = [value.name for value in (*found.input, *found.output)]
    if written != [value.name for value in (*model.graph.input, *model.graph.output)]:
        raise ExportError(f"Core ML: inputs and outputs came out as {', '.join(written)}")
    return package


class _Input:
    """One input, as the program's placeholder and as the type that `ct.convert` is told.

    Free dimensions get bounds; those of one name are one dimension, which `names` keeps. Core ML takes 32 bits: other
    whole numbers and flags come as int32, and `value` is what the graph goes on with.
    """

    def __init__(self, value: onnx.ValueInfoProto, names: dict[str, Any]) -> None:
        tensor = value.type.tensor_type
        if tensor.elem_type not in CASTS:
            kind = TensorProto.DataType.Name(tensor.elem_type)
            raise ExportError(f"Core ML: the input '{value.name}' is {kind}; it takes numbers and flags")
        self._is_flag = tensor.elem_type == TensorProto.BOOL
        kind = types.fp32 if tensor.elem_type in FLOATS else types.int32
        bounds: list[Any] = []
        for place, dimension in enumerate(tensor.shape.dim):
            free = ct.RangeDim(1, _MOST_OTHERS if place else _MOST_ROWS, default=1)
            bounds.append(dimension.dim_value or names.setdefault(dimension.dim_param, free))
        sizes = tuple(bound if isinstance(bound, int) else bound.symbol for bound in bounds)
        self.placeholder = mb.placeholder(shape=sizes, dtype=kind)
        self.type = ct.TensorType(name=value.name, shape=tuple(bounds), dtype=kind)

    def value(self, given: Value) -> Value:
        """The program's input in the graph's own type."""
        return mb.cast(x=given, dtype="bool") if self._is_flag else given


def _outputs(graph: onnx.GraphProto, values: dict[str, Value]) -> list[Value]:
    """MIL variables for the graph's outputs, of the same names."""
    found = _Walk(values).through(graph)
    named = []
    for output, value in zip(graph.output, found, strict=True):
        if isinstance(value, np.ndarray) or value.dtype != types.bool:
            named.append(mb.identity(x=value, name=output.name))
        else:
            named.append(mb.cast(x=value, dtype="int32", name=output.name))  # no output of Core ML's is a flag
    return named


class _Walk:
    """A way through a graph's nodes. `values` are those of the graph around it, by their names.

    `_of_shapes` are values that say how large tensors are, not what is in them; `_sizes` what is known of them.
    """

    def __init__(self, values: dict[str, Value]) -> None:
        self._values = dict(values)
        self._of_shapes: set[str] = set()
        self._sizes: dict[str, npt.NDArray[Any]] = {}

    def through(self, graph: onnx.GraphProto) -> list[Value]:
        """The values of the graph's outputs."""
        self._values |= {tensor.name: narrowed(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
        for node in graph.node:
            try:
                found = self._found(node)
            except (AssertionError, AttributeError, IndexError, TypeError, ValueError, NotInMil) as error:
                reason = str(error) or "shapes or types that MIL does not take"  # what MIL's builder raises, and we
                raise ExportError(f"Core ML: {node.op_type} ({node.name}): {reason}") from error
            self._values.update(zip(node.output, found if isinstance(found, tuple) else (found,), strict=False))
        return [self._values[output.name] for output in graph.output]

    def _found(self, node: onnx.NodeProto) -> Value:
        inputs = [self._values[name] if name else None for name in node.input]
        if node.op_type in _OF_SHAPES and (node.op_type == "Shape" or self._of_shapes & set(node.input)):
            self._of_shapes.update(node.output)
            if (sizes := self._known_sizes(node, inputs)) is not None:
                self._sizes[node.output[0]] = sizes
                if not (sizes == _UNKNOWN).any():
                    return sizes
        if node.op_type == "LSTM" and len(node.input) > 4 and node.input[4] in self._of_shapes:
            inputs[4] = None  # every row is as long as the tensor
        if node.op_type == "ReverseSequence" and node.input[1] in self._of_shapes:
            inputs[1] = None
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type == "Loop":
            return loop(attributes["body"], inputs, self._inside, next(iter(self._values.values())))
        if _are_known(inputs) and node.op_type != "Loop":
            return _folded(node, inputs)
        return _translated(node, attributes, inputs)

    def _inside(self, body: onnx.GraphProto, given: Mapping[str, Value]) -> list[Value]:
        """The values of a body's outputs; it sees the values of the graph around it."""
        return _Walk({**self._values, **given}).through(body)

    def _known_sizes(self, node: onnx.NodeProto, inputs: Sequence[Value]) -> npt.NDArray[Any] | None:
        """What is known of sizes, the others `_UNKNOWN`; None where the node does more than to move them about."""
        if node.op_type == "Shape":
            sizes = [_UNKNOWN if size is None else size for size in known_shape(inputs[0])]
            return np.array(sizes, np.int32)
        known = [self._sizes.get(name, value) for name, value in zip(node.input, inputs, strict=True)]
        if node.op_type in ("Expand", "Reshape") or not _are_known(known):
            return None
        return np.asarray(_folded(node, known)[0])


def _translated(node: onnx.NodeProto, attributes: Attributes, inputs: list[Value]) -> Value:
    """What the operator becomes; those that move values about do so with flags as numbers, since MIL moves no flags."""
    attributes = attributes | {"outputs": len(node.output)}
    if node.op_type not in _MOVING or not any(value is not None and is_of(value, types.bool) for value in inputs):
        return NODES[node.op_type](attributes, inputs)
    whole = [mb.cast(x=x, dtype="int32") if x is not None and is_of(x, types.bool) else x for x in inputs]
    return mb.cast(x=NODES[node.op_type](attributes, whole), dtype="bool")


def _are_known(inputs: Iterable[Value]) -> bool:
    return all(value is None or isinstance(value, np.ndarray) for value in inputs)


def _folded(node: onnx.NodeProto, inputs: Sequence[Value]) -> tuple[Value, ...]:
    """The node's outputs for arrays, by ONNX's reference implementation."""
    given = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
    found = onnx.reference.ReferenceEvaluator(node).run(None, given)
    return tuple(narrowed(np.asarray(value)) for value in found)
