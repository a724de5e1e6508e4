"""Small ONNX models, made on the spot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT32, INT64, STRING = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.STRING
node, info = helper.make_node, helper.make_tensor_value_info


def constant(name: str, value: Any) -> Any:
    """An initializer."""
    return numpy_helper.from_array(np.asarray(value), name)


def save(folder: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], *constants: Any) -> Path:
    """Write `model.onnx` into the folder, which is made, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return folder
