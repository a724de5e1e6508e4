"""Full int8 with some layers in 32 bits: those that are named, or those that a search finds to spoil the answers.

The search keeps the layer in 32 bits without which the answers to the representative rows are best, then a next one
beside it, until the answers are within the bounds that formats are published by. `AUTO` asks for it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.python.convert import mlir_quantize

from training import parity
from training.console import quiet
from training.export.model import ExportError

AUTO = "auto"
_MOST_LAYERS, _MOST_ROWS = 4, 50

Nodes = Mapping[str, Sequence[str]]  # by layer, the tensors that its operators make


def quantised(
    calibrated: bytes, rows: Sequence[parity.Arrays], kept: Sequence[str], *, has_float_ends: bool
) -> tuple[bytes, list[str]]:
    """The calibrated TFLite model in int8 but for layers, and which those are. Raises `ExportError` for unknown ones.

    `has_float_ends` says whether inputs and outputs of floats stay such.
    """
    layers, ends = _layers(calibrated), tf.float32 if has_float_ends else tf.int8

    def without(names: Sequence[str]) -> bytes:
        nodes = [node for name in names for node in layers[name]]
        with quiet():
            made: bytes = mlir_quantize(
                calibrated, input_data_type=ends, output_data_type=ends, denylisted_nodes=nodes or None
            )
        return made

    if AUTO in kept:
        found = _search(calibrated, rows[:: max(1, len(rows) // _MOST_ROWS)], layers, without)
    else:
        found = list(kept)
    if unknown := [name for name in found if name not in layers]:
        raise ExportError(f"--keep-float: there is no layer {', '.join(unknown)}; there are {', '.join(layers)}")
    return without(found), found


def _search(calibrated: bytes, rows: Sequence[parity.Arrays], layers: Nodes, without: Any) -> list[str]:
    """The layers that have to be kept in 32 bits, at most `_MOST_LAYERS`."""
    trained = parity.tflite_of(calibrated)
    kept: list[str] = []
    while len(kept) < _MOST_LAYERS and not _is_good(trained, without(kept), rows):
        others = [name for name in layers if name not in kept]
        if not others:
            break
        kept.append(min(others, key=lambda name: _error(trained, without([*kept, name]), rows)))
    return kept


def _is_good(trained: parity.Run, made: bytes, rows: Sequence[parity.Arrays]) -> bool:
    return not parity.measure("int8", trained, parity.tflite_of(made), rows).missed(exact=False)


def _error(trained: parity.Run, made: bytes, rows: Sequence[parity.Arrays]) -> float:
    """That of the worst output: beside its spread, or the part of other answers."""
    judged = parity.measure("int8", trained, parity.tflite_of(made), rows).judged(exact=False)
    return max(
        float(one.relative_error or 0) + 1 - (1 if one.same_answers is None else one.same_answers) for one in judged
    )


def _layers(model: bytes) -> dict[str, list[str]]:
    """The tensors that operators make, by their layers' names, or by those of the outputs that they are."""
    interpreter = Interpreter(model_content=model)
    names = {tensor["index"]: tensor["name"] for tensor in interpreter.get_tensor_details()}
    runner = interpreter.get_signature_runner("serving_default")
    outputs = {details["name"]: name for name, details in runner.get_output_details().items()}
    found: dict[str, list[str]] = {}
    for operator in interpreter._get_ops_details():
        for index in operator["outputs"]:
            for layer in _named(names[index], outputs):
                found.setdefault(layer, []).append(names[index])
    return found


def _named(tensor: str, outputs: Mapping[str, str]) -> Iterator[str]:
    """The names of the layers that a tensor is of: `functional_1/dense_1/MatMul;functional_1/dense_1/Relu`."""
    if tensor in outputs:
        yield outputs[tensor]
        return
    paths = [path.split("/") for path in tensor.split(";")]
    yield from dict.fromkeys(re.sub(r"_\d+$", "", path[-2] if len(path) > 1 else path[0]) for path in paths)
