"""Export and publish: one trained model as SavedModel, ONNX and TFLite, in one version's folder with its manifest.

The version appears only when every format was run and answers as the trained model does; see `parity`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import onnx
import tensorflow as tf
import tf2onnx

from millrace.artifacts import manifest
from millrace.artifacts.manifest import Manifest
from millrace.artifacts.repository import ModelRepository, RepositoryError
from millrace.artifacts.vocabulary import Vocabulary
from training import parity

_OPSET = 17
_IR_VERSION = 8  # what runtimes of the last years read; the onnx package would write its newest


class ExportError(Exception):
    """A model cannot be written in one of the formats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a trained model goes: a version in a repository; `replace` says whether it may be there already."""

    repository: ModelRepository
    version: int
    replace: bool = False

    def check(self, name: str) -> None:
        """Raises `RepositoryError` when that version is there and may not be, before the time to train is spent."""
        folder = self.repository.folder(name, self.version)
        if folder.exists() and not self.replace:
            raise RepositoryError(f"{folder} exists; choose another --version, or --replace it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exports:
    """One model for every format. `function` is a `tf.function` with named inputs that returns named outputs.

    `variables` are those that it reads (`tf.Variable`). The ONNX model has the same names, and the first dimension of
    every tensor is free.
    """

    function: Any
    variables: Sequence[Any]
    onnx_model: onnx.ModelProto


def publish(
    target: Target,
    description: Manifest,
    exports: Exports,
    trained: parity.Run,
    batches: Sequence[parity.Arrays],
    vocabulary: Vocabulary | None = None,
) -> Path:
    """Write, compare and publish; returns the version's folder. The manifest's `parity` and `files` are filled in.

    Nothing is published when an error is raised: `ExportError`, `ParityError`, or `RepositoryError` when the version
    exists.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)  # on a GPU it rounds by more than the tolerance
    name, version = description.name, target.version
    with target.repository.publishing(name, version, replace=target.replace) as folder:
        write_saved_model(exports, folder)
        write_onnx(exports.onnx_model, folder / "model.onnx")
        write_tflite(folder, folder / "model.tflite")
        if vocabulary is not None:
            vocabulary.write(folder / "vocabulary.txt")
        found = {
            "saved_model": parity.compare("SavedModel", trained, parity.saved_model(folder), batches),
            "onnx": parity.compare("ONNX", trained, parity.onnx(folder / "model.onnx"), batches),
            "tflite": parity.compare("TFLite", trained, parity.tflite(folder / "model.tflite"), batches),
        }
        manifest.write(folder, msgspec.structs.replace(description, version=version, parity=found))
    folder = target.repository.folder(name, version)
    for format_name, result in found.items():
        print(f"{format_name}: differs from the trained model by at most {result.max_abs_difference:.1e}")
    print(f"published {folder}")
    return folder


def onnx_from_tensorflow(function: Any) -> onnx.ModelProto:
    """The ONNX form of a `tf.function`, by tf2onnx; the first dimension is called `batch`. Raises `ExportError`."""
    concrete = function.get_concrete_function()
    names = list(concrete.structured_outputs)
    model, _ = tf2onnx.convert.from_function(function, input_signature=function.input_signature, opset=_OPSET)
    for value, wanted in zip(model.graph.output, names, strict=True):
        if value.name != wanted:
            raise ExportError(f"ONNX: the output '{wanted}' came out as '{value.name}'")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


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
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"ONNX: {error}") from error
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_saved_model(exports: Exports, folder: Path) -> None:
    """Write `saved_model.pb` and `variables/`, as TensorFlow Serving reads them.

    The root is a bare module: under a Keras model as the root, TFLite's converter loses the variables' values.
    """
    root = tf.Module()
    root.parameters = list(exports.variables)
    tf.saved_model.save(root, str(folder), signatures={"serving_default": exports.function})


def write_tflite(saved_model: Path, path: Path) -> None:
    """Convert a SavedModel with TFLite's own operators only, and write it; the signature keeps the tensors' names.

    Raises `ExportError` when operators of TensorFlow ("Flex") would be needed: LiteRT runs none.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=["serving_default"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        path.write_bytes(converter.convert())
    except Exception as error:
        first_line = str(error).partition("\n")[0]  # the rest is the whole graph
        raise ExportError(f"TFLite: {first_line}") from error
