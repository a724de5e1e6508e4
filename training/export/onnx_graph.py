"""ONNX models: from a TensorFlow function by tf2onnx, or of hand-written nodes."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import tf2onnx

from training.export import precision
from training.export.model import ExportError, Exports
from training.export.portable import Rules, portable, tables_of
from training.export.replacements import FOR_ONNX

_OPSET, _TABLES_OPSET = 17, 2
_RULES = Rules(replacements=FOR_ONNX, narrowed=precision.HALF, sees_compiled=False)
_OF_TABLE = {"S": ("strings", "string"), "O": ("strings", "string"), "i": ("int64s", "int64"), "f": ("floats", "float")}
_IR_VERSION = 8  # what runtimes of the last years read; the onnx package would write its newest


def onnx_of(exports: Exports) -> onnx.ModelProto:
    """The model's ONNX form: the one written by hand, in the sizes of the function, or the function's. Raises
    `ExportError`."""
    if exports.onnx_model is None:
        return onnx_from_tensorflow(exports.function)
    model, function = exports.onnx_model(), exports.function
    shapes = {spec.name: spec.shape for spec in function.input_signature}
    shapes |= {name: made.shape for name, made in function.get_concrete_function().structured_outputs.items()}
    for value in (*model.graph.input, *model.graph.output):
        dimensions = value.type.tensor_type.shape.dim
        for dimension, size in zip(dimensions, shapes[value.name], strict=True):
            if size is not None:
                dimension.dim_value = size
    return model


def onnx_from_tensorflow(function: Any) -> onnx.ModelProto:
    """The ONNX form of a `tf.function`, by tf2onnx. Raises `ExportError`.

    A first dimension that is free in TensorFlow is called `batch`, other free ones after their tensor and place. Keras'
    LSTM layers without a mask become ONNX's own `LSTM` operators; tf2onnx knows their loops.
    """
    tables = tables_of(function)
    function = portable(function, _RULES)
    concrete = function.get_concrete_function()
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # what it cannot convert is raised below
    try:
        model, _ = tf2onnx.convert.from_function(function, input_signature=function.input_signature, opset=_OPSET)
    except Exception as error:  # tf2onnx raises whatever its handlers stumble over
        raise ExportError(f"ONNX: tf2onnx: {str(error).strip().partition(chr(10))[0]}") from error
    _look_up(model, tables)
    _resize_to_the_nearest(model)
    check(model)
    for value, wanted in zip(model.graph.output, concrete.structured_outputs, strict=True):
        if value.name != wanted:
            raise ExportError(f"ONNX: the output '{wanted}' came out as '{value.name}'")
    shapes = {spec.name: spec.shape for spec in function.input_signature}
    shapes |= {name: tensor.shape for name, tensor in concrete.structured_outputs.items()}
    for value in (*model.graph.input, *model.graph.output):
        if value.name not in shapes:
            raise ExportError(f"ONNX: '{value.name}' was left as an input, since its operator was not converted")
        _name_free_dimensions(value, shapes[value.name])
    return model


def _look_up(model: onnx.ModelProto, tables: Mapping[str, tuple[Any, Any, Any]]) -> None:
    """Turn look-ups in tables of text into ONNX's `LabelEncoder`, whose rows are in the operator."""
    found = [node for node in model.graph.node if node.op_type == "LookupTableFindV2" and node.name in tables]
    for node in found:
        handle, keys, output = node.input[0], node.input[1], node.output[0]
        rows = dict(zip(("keys", "values", "default"), tables[node.name], strict=True))
        attributes = {}
        for name, array in rows.items():
            several, one = _OF_TABLE[array.dtype.kind]
            attributes[f"{name}_{one if name == 'default' else several}"] = array.tolist()
        made = onnx.helper.make_node(
            "LabelEncoder", [keys], [output], name=node.name, domain="ai.onnx.ml", **attributes
        )
        node.CopyFrom(made)
        for given in [given for given in model.graph.input if given.name == handle]:
            model.graph.input.remove(given)
    if found:
        model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", _TABLES_OPSET))


def _resize_to_the_nearest(model: onnx.ModelProto) -> None:
    """Write TensorFlow's nearest pixel, floor((x + 0.5) / scale), as ONNX's newer versions do: round(half pixel)."""
    for node in model.graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Resize" and attributes["coordinate_transformation_mode"].s == b"tf_half_pixel_for_nn":
            attributes["coordinate_transformation_mode"].s = b"half_pixel"
            attributes["nearest_mode"].s = b"round_prefer_ceil"


def _name_free_dimensions(value: onnx.ValueInfoProto, shape: Any) -> None:
    dimensions = value.type.tensor_type.shape.dim
    for place, (dimension, size) in enumerate(zip(dimensions, shape if shape.rank else (), strict=False)):
        if size is None:
            dimension.dim_param = "batch" if place == 0 else f"{value.name}_{place}"


def onnx_from_nodes(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto],
) -> onnx.ModelProto:
    """An ONNX model of hand-written nodes."""
    graph = onnx.helper.make_graph(nodes, name, inputs, outputs, initializers)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def write_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Check the model and write it. Raises `ExportError`."""
    check(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def check(model: onnx.ModelProto) -> None:
    """Raises `ExportError` for a model that is not valid ONNX: an operator that ONNX lacks, a shape that cannot be."""
    for node in model.graph.node:
        if not node.domain and not onnx.defs.has(node.op_type):
            raise ExportError(f"ONNX: has no operator {node.op_type} (node {node.name})")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"ONNX: {error}") from error
