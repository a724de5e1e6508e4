"""SavedModels as TensorFlow Serving reads them: named signatures, and no operator that needs a GPU."""

from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from training.export.model import ExportError, Exports

_GPU_ONLY = ("Cudnn", "Nccl")


def write_saved_model(exports: Exports, folder: Path) -> None:
    """Write `saved_model.pb` and `variables/`. Raises `ExportError` for operators that run on GPUs only.

    The root is a bare module: under a Keras model as the root, TFLite's converter loses the variables' values.
    """
    root = tf.Module()
    root.parameters = list(exports.variables)
    tf.saved_model.save(root, str(folder), signatures={"serving_default": exports.function, **exports.more_signatures})
    check_devices(folder)


def check_devices(folder: Path) -> None:
    """Raises `ExportError` where a SavedModel's graph holds an operator that only a GPU runs, naming both."""
    found = gpu_only(folder)
    if found:
        raise ExportError(
            f"SavedModel: {found} runs on a GPU only; rebuild the layer with use_cudnn=False and copy its weights"
        )


def gpu_only(folder: Path) -> str:
    """The first operator of a SavedModel's graph that needs a GPU, with its node; empty where there is none."""
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    for graph in (meta.graph_def for meta in model.meta_graphs):
        for node in (*graph.node, *(node for function in graph.library.function for node in function.node_def)):
            if node.op.startswith(_GPU_ONLY):
                return f"{node.op} ({node.name})"
    return ""
