"""Graphs of the operators that other formats know: what a format lacks is put together from what it has.

TensorFlow's graph is taken as it is, so that it does not matter which layers made it. Constants that it captured become
part of it, and operators that the format lacks become calls of functions that compute the same (`replacements`).
"""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from training.export import precision
from training.export.model import traced
from training.export.replacements import Node, Replacement


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a format needs: which operators are replaced, and which types of numbers become float32.

    `sees_compiled` says whether its converter looks into functions that TensorFlow would compile by XLA.
    """

    replacements: Mapping[str, Replacement]
    narrowed: frozenset[Any]
    sees_compiled: bool


def portable(function: Any, rules: Rules) -> Any:
    """A `tf.function` that computes what `function` does, with the same inputs and outputs, by those rules.

    Variables become constants, unless the graph holds functions that a converter looks for by their name.
    """
    concrete = function.get_concrete_function()
    is_frozen = not _has_named_functions(concrete)
    graph = _frozen(concrete).graph if is_frozen else concrete.graph
    captured = {inner.name: outer for outer, inner in concrete.graph.captures if _is_captured(graph, inner)}
    definition = graph.as_graph_def(add_shapes=True)
    if is_frozen:
        precision.narrow(definition, rules.narrowed)
        _forget_gradients(definition)
        if not rules.sees_compiled:
            _uncompile(definition)
    _rename_functions(definition)
    _replace(definition, graph, captured, rules)
    arguments = [tensor.name for tensor in concrete.inputs[: len(function.input_signature)]]
    drop = {name.partition(":")[0] for name in (*arguments, *captured)}
    kept = [node for node in definition.node if node.name not in drop]
    del definition.node[:]
    definition.node.extend(kept)
    outputs = concrete.structured_outputs
    fetched = [tensor.name for tensor in tf.nest.flatten(outputs)]
    referenced = {name.partition(":")[0].lstrip("^") for node in kept for name in node.input}

    def call(**tensors: Any) -> dict[str, Any]:
        given = dict(zip(arguments, (precision.entered(x, rules.narrowed) for x in tensors.values()), strict=True))
        given |= {
            name: _constant(outer, rules)
            for name, outer in captured.items()
            if name in fetched or name.partition(":")[0] in referenced
        }
        bound = {name: tensor for name, tensor in given.items() if name.partition(":")[0] in referenced}
        inside = [name for name in fetched if name not in given]
        found = tf.graph_util.import_graph_def(definition, input_map=bound, return_elements=inside, name="")
        made = given | dict(zip(inside, found, strict=True))
        return {name: _as_declared(made[spec.name], spec) for name, spec in outputs.items()}

    return traced(call, {spec.name: spec for spec in function.input_signature})


def tables_of(function: Any) -> Mapping[str, tuple[Any, Any, Any]]:
    """The look-up tables of text in a graph, by the name of the operator that reads them: keys, values, the default."""
    concrete = function.get_concrete_function()
    captured = {inner.name: outer for outer, inner in concrete.graph.captures}
    found = {}
    for operation in concrete.graph.get_operations():
        node = Node(operation=operation, captured=captured)
        if operation.type == "LookupTableFindV2" and (rows := node.table()) is not None:
            found[operation.name] = rows
    return found


def _has_named_functions(concrete: Any) -> bool:
    definitions = concrete.graph.as_graph_def().library.function
    return any("api_implements" in definition.attr for definition in definitions)


def _frozen(concrete: Any) -> Any:
    return convert_variables_to_constants_v2(concrete, lower_control_flow=False, aggressive_inlining=True)


def _is_captured(graph: Any, inner: Any) -> bool:
    """Whether the value still comes from outside: variables that were frozen do not."""
    return any(node.name == inner.op.name and node.type == "Placeholder" for node in graph.get_operations())


def _constant(outer: Any, rules: Rules) -> Any:
    if outer.dtype in (tf.resource, tf.variant):
        return tf.compat.v1.get_default_graph().capture(outer)
    return precision.entered(tf.constant(outer.numpy()), rules.narrowed)


def _as_declared(tensor: Any, spec: Any) -> Any:
    if tensor.dtype != spec.dtype:
        tensor = tf.cast(tensor, spec.dtype)
    tensor = tf.identity(tensor)
    tensor.set_shape(spec.shape)
    return tensor


def _replace(definition: Any, graph: Any, captured: Mapping[str, Any], rules: Rules) -> None:
    """Make calls of what has a replacement; the call keeps the operator's name."""
    for node in definition.node:
        if node.op not in rules.replacements:
            continue
        found = Node(operation=graph.get_operation_by_name(node.name), captured=captured)
        if (replacement := rules.replacements[node.op](found)) is None:
            continue
        compute, places = replacement
        inputs = [found.operation.inputs[place] if isinstance(place, int) else place for place in places]
        made = tf.function(compute, autograph=False).get_concrete_function(
            *(tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in inputs)
        )
        _call(definition, node, made, [tensor.name for tensor in inputs])


def _call(definition: Any, node: Any, made: Any, inputs: list[str]) -> None:
    library = made.graph.as_graph_def().library.function
    known = {function.signature.name for function in definition.library.function}
    for function in (*library, made.function_def):
        if function.signature.name not in known:
            definition.library.function.append(function)
    node.op = "PartitionedCall"
    node.input[:] = inputs
    node.attr.clear()
    node.attr["f"].func.name = made.function_def.signature.name
    node.attr["Tin"].list.type.extend(argument.type for argument in made.function_def.signature.input_arg)
    node.attr["Tout"].list.type.extend(argument.type for argument in made.function_def.signature.output_arg)


def _forget_gradients(definition: Any) -> None:
    """Leave out which gradients operators have: saving them fails, and nobody trains an export."""
    for node in _nodes(definition):
        if "_gradient_op_type" in node.attr:
            del node.attr["_gradient_op_type"]


def _uncompile(definition: Any) -> None:
    """Make plain calls of those that TensorFlow would compile by XLA."""
    for node in _nodes(definition):
        if "_XlaMustCompile" in node.attr:
            del node.attr["_XlaMustCompile"]
            node.op = "PartitionedCall"
    for function in definition.library.function:
        if "_XlaMustCompile" in function.attr:
            del function.attr["_XlaMustCompile"]


def _rename_functions(definition: Any) -> None:
    """Give the graph's functions names of their own: TensorFlow knows the old ones, as they were before."""
    suffix = f"_{uuid.uuid4().hex}"
    names = {function.signature.name for function in definition.library.function}
    for function in definition.library.function:
        function.signature.name += suffix
    for node in _nodes(definition):
        if node.op in names:
            node.op += suffix
        for value in node.attr.values():
            for called in _called(value):
                if called.name in names:
                    called.name += suffix


def _nodes(definition: Any) -> Iterator[Any]:
    yield from definition.node
    for function in definition.library.function:
        yield from function.node_def


def _called(value: Any) -> list[Any]:
    """The functions that an attribute names."""
    match value.WhichOneof("value"):
        case "func":
            return [value.func]
        case "list":
            return list(value.list.func)
        case _:
            return []
