"""TFLite models of TFLite's own operators only: LiteRT runs none of TensorFlow's ("Flex"), so they are refused."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from training.console import quiet as quiet
from training.export import kept_float, precision
from training.export.model import Choices, ExportError, Exports
from training.export.portable import Rules, portable
from training.export.replacements import FOR_TFLITE
from training.export.saved_model import write_saved_model
from training.parity import Arrays

_RULES = Rules(replacements=FOR_TFLITE, narrowed=precision.WIDE, sees_compiled=True)
_INT8, _16X8 = (
    tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
    tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
)
_NEEDS_FLEX = "ERROR_NEEDS_FLEX_OPS"
_CALIBRATED = {"int8": _INT8, "int8-io": _INT8, "16x8": _16X8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A TFLite file's content, the layers that int8 kept in 32 bits, and TensorFlow's operators in it."""

    content: bytes
    kept: Sequence[str] = ()
    flex: Sequence[str] = ()


def convert(exports: Exports, variant: str = "float32", representative: Sequence[Arrays] = ()) -> bytes:
    """The TFLite file of one variant, of TFLite's own operators. Raises `ExportError`; see `chosen`."""
    return chosen(exports, variant, representative, Choices()).content


def chosen(exports: Exports, variant: str, representative: Sequence[Arrays], choices: Choices) -> Converted:
    """The TFLite file of one variant; its signature `serving_default` keeps the tensors' names. Raises `ExportError`.

    `float16` stores weights as such; `dynamic` stores them as 8-bit integers. `int8` computes in 8-bit integers, whose
    ranges are those met while the representative rows run, `16x8` in 16-bit ones with 8-bit weights. Inputs and outputs
    keep their types, but for `int8-io`, where those of floats are 8-bit integers too.
    """
    function = portable(exports.lite_function or exports.function, _RULES)
    alone = Exports(function=function, variables=_read(exports.variables, function))
    if variant in _CALIBRATED and _has_loops(function):
        _check_calibration(exports)
    with tempfile.TemporaryDirectory() as folder:
        write_saved_model(alone, Path(folder))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        _set(converter, variant, representative, choices)
        try:
            with quiet():
                content: bytes = converter.convert()
        except Exception as error:  # the converter's own class, or whatever its calibration raises
            raise ExportError(f"TFLite: {reason(error)}") from error
    if _keeps_layers(variant, choices):
        ends = variant != "int8-io"
        content, kept = kept_float.quantised(content, representative, choices.keeps_float, has_float_ends=ends)
        return Converted(content=content, kept=kept)
    flex = [name.removeprefix("Flex") for name in operators(content) if name.startswith("Flex")]
    return Converted(content=content, flex=list(dict.fromkeys(flex)))


def _set(converter: Any, variant: str, representative: Sequence[Arrays], choices: Choices) -> None:
    """Set what the variant needs. Where layers are kept in 32 bits, the converter only measures ranges."""
    operators_of = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if choices.allows_flex:
        operators_of.append(tf.lite.OpsSet.SELECT_TF_OPS)
    if variant != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if variant == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if variant in _CALIBRATED:
        operators_of = [_CALIBRATED[variant]]
        converter.representative_dataset = lambda: iter([("serving_default", dict(row)) for row in representative])
    if variant == "int8-io":
        converter.inference_input_type = converter.inference_output_type = tf.int8
    converter.target_spec.supported_ops = operators_of
    converter._experimental_calibrate_only = _keeps_layers(variant, choices)


def _keeps_layers(variant: str, choices: Choices) -> bool:
    return bool(choices.keeps_float) and variant in ("int8", "int8-io")


def _read(variables: Sequence[Any], function: Any) -> list[Any]:
    """Those that the function reads; a table that it does not read would have to be filled all the same."""
    read = {id(outer) for outer, _ in function.get_concrete_function().graph.captures}
    handles = [getattr(variable, "handle", getattr(variable, "resource_handle", None)) for variable in variables]
    return [
        variable for variable, handle in zip(variables, handles, strict=True) if handle is None or id(handle) in read
    ]


def operators(content: bytes) -> list[str]:
    """The operators of a TFLite file, by name, in their order."""
    return [operator["op_name"] for operator in _interpreter(content)._get_ops_details()]


def _loops(content: bytes) -> list[str]:
    """The paths of a TFLite file's loops, whose parts are the layers that they are in."""
    interpreter = _interpreter(content)
    names = {tensor["index"]: tensor["name"] for tensor in interpreter.get_tensor_details()}
    loops = (operator for operator in interpreter._get_ops_details() if operator["op_name"] == "WHILE")
    return [names.get(int(loop["outputs"][0]), "no name") for loop in loops]


def _interpreter(content: bytes) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_content=content)


def _has_loops(function: Any) -> bool:
    """Whether the graph has loops; those of LSTMs may become one operator all the same."""
    definition = function.get_concrete_function().graph.as_graph_def()
    functions = (node for each in definition.library.function for node in each.node_def)
    return any(node.op in ("While", "StatelessWhile") for node in (*definition.node, *functions))


def _check_calibration(exports: Exports) -> None:
    """Raises `ExportError` for a loop: calibrating one ends the process instead of raising an error."""
    if loops := _loops(convert(exports)):
        raise ExportError(
            f"TFLite: int8 cannot be calibrated through a loop (WHILE in {', '.join(loops)}); use tflite-dynamic, which"
            " quantises weights only"
        )


def reason(error: Exception) -> str:
    """Why a conversion failed, in one line: every operator that TFLite lacks, with the node that it is."""
    found = {
        f"{failure.operator.name.removeprefix('tf.')} ({_node(failure)})": None
        for failure in getattr(error, "errors", ())
        if failure.operator.name
    }
    if not found:
        return str(error).strip().partition("\n")[0]  # the rest is the whole graph
    allowed = "; --allow-flex writes them as TensorFlow's, for apps with the Flex delegate"
    return "has no operator for " + ", ".join(found) + (allowed if _NEEDS_FLEX in str(error) else "")


def _node(failure: Any) -> str:
    """The node's path, whose parts are the layers that it is in."""
    names = [call.name for call in failure.location.call] or [""]
    return names[0].partition("@")[0].rstrip(":") or "no name"
