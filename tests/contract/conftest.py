"""The stack that clients written for other servers are run against: the bundled models and a few made here."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.running import ROOT, Stack, start_up

DATATYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The page is compared, or written, after everything that it claims was tried."""
    items.sort(key=lambda item: item.path.name == "test_compatibility.py")


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository: the bundled models, and three that other servers' documentation uses.

    half_plus_two: `x` FP32 [-1] → `y` FP32 [-1].
    simple: `INPUT0`, `INPUT1` INT32 [-1, 16] → `OUTPUT0` their sum, `OUTPUT1` their difference.
    identity_<DATATYPE>: `INPUT0` → `OUTPUT0`, both [-1, -1] of that datatype; version 1.
    """
    root = tmp_path_factory.mktemp("contract") / "models"
    shutil.copytree(ROOT / "models", root)
    half, two = (numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("a", 0.5), ("b", 2)))
    nodes = [helper.make_node("Mul", ["x", "a"], ["half"]), helper.make_node("Add", ["half", "b"], ["y"])]
    _save(root / "half_plus_two", nodes, {"x": (TensorProto.FLOAT, [])}, {"y": (TensorProto.FLOAT, [])}, [half, two])
    (root / "half_plus_two" / "1").rename(root / "half_plus_two" / "00000001")  # as TensorFlow Serving's own is called
    whole = (TensorProto.INT32, [16])
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    _save(root / "simple", nodes, {"INPUT0": whole, "INPUT1": whole}, {"OUTPUT0": whole, "OUTPUT1": whole})
    for name, element in DATATYPES.items():
        nodes = [helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])]
        _save(root / f"identity_{name}", nodes, {"INPUT0": (element, ["n"])}, {"OUTPUT0": (element, ["n"])})
    return root


def _save(
    folder: Path,
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[int | str]]],
    outputs: Mapping[str, tuple[int, Sequence[int | str]]],
    constants: list[onnx.TensorProto] | None = None,
) -> None:
    """Write version 1 of a model, whose tensors have a free first dimension before the shapes given here."""
    values = [
        [helper.make_tensor_value_info(name, element, ["batch", *shape]) for name, (element, shape) in tensors.items()]
        for tensors in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, folder.name, *values, constants or [])
    (folder / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "1" / "model.onnx")


@pytest.fixture(scope="session")
def stack(repository: Path) -> Iterator[Stack]:
    """`millrace up` on that repository; tests must leave its models as they were."""
    running = start_up("--models", str(repository))
    assert running.process.poll() is None, running.output
    yield running
    status = running.stop()
    assert status == 0, running.output
    running.log.unlink()
