"""The bundled models' Core ML programs, operator by operator in NumPy: Core ML itself runs on macOS only."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("coremltools")
import onnx  # noqa: E402 - after the skip where coremltools is not installed
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from tests.support import mil_reference  # noqa: E402
from training import parity  # noqa: E402
from training.export import coreml  # noqa: E402

ROOT = Path(__file__).parents[2]
RANDOM = np.random.default_rng(0)


def _texts() -> Any:
    """Four texts of their own lengths, filled up with 0."""
    ids = np.zeros((4, 9), np.int32)
    for row, length in zip(ids, (9, 1, 4, 6), strict=True):
        row[:length] = RANDOM.integers(1, 20_000, length)
    return ids


BATCHES: dict[str, dict[str, Any]] = {
    "digits": {"image": RANDOM.uniform(0, 255, (2, 28, 28, 1)).astype(np.float32)},
    "digits-student": {"image": RANDOM.uniform(0, 255, (2, 28, 28, 1)).astype(np.float32)},
    "sentiment": {"ids": _texts()},
    "word2vec": {
        "ids": RANDOM.integers(0, 15_000, (3, 3)).astype(np.int32),
        "weights": np.array([[1, -1, 1]] * 3, np.float32),
    },
}


@pytest.mark.parametrize("name", BATCHES)
def test_a_bundled_models_program_computes_what_its_onnx_file_does(name: str) -> None:
    path = ROOT / "models" / name / "1" / "model.onnx"

    found = mil_reference.run(coreml.converted(onnx.load(path)), BATCHES[name])

    expected = parity.onnx(path)(BATCHES[name])
    assert set(found) == set(expected)
    for output, array in expected.items():
        np.testing.assert_allclose(found[output], array, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_an_lstm_reads_rows_as_far_as_they_go(direction: str, tmp_path: Path) -> None:
    sides = 2 if direction == "bidirectional" else 1
    shapes = {"kernel": (sides, 12, 4), "recurrent": (sides, 12, 3), "bias": (sides, 24), "first": (sides, 2, 3)}
    weights = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    inputs = ["x", "kernel", "recurrent", "bias", "lengths", "first", "first"]
    graph = helper.make_graph(
        [helper.make_node("LSTM", inputs, ["y"], hidden_size=3, direction=direction)],
        "lstm",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 2, 4]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, sides, 2, 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    batch = {"x": RANDOM.normal(size=(5, 2, 4)).astype(np.float32), "lengths": np.array([5, 2], np.int32)}

    found = mil_reference.run(coreml.converted(model), batch)["y"]

    np.testing.assert_allclose(found, parity.onnx(tmp_path / "model.onnx")(batch)["y"], atol=1e-5)


@pytest.mark.parametrize("pads", [(1, 0, -1, 0), (0, 2, 3, 0), (-1, -1, 0, 0)])
def test_whole_numbers_are_padded_and_cut(pads: tuple[int, ...], tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Pad", ["x", "pads", "fill"], ["y"])],
        "pad",
        [helper.make_tensor_value_info("x", TensorProto.INT32, [3, 4])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [None, None])],
        [numpy_helper.from_array(np.array(pads), "pads"), numpy_helper.from_array(np.array(7, np.int32), "fill")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    batch = {"x": RANDOM.integers(-(2**31), 2**31 - 1, (3, 4)).astype(np.int32)}

    found = mil_reference.run(coreml.converted(model), batch)["y"]

    np.testing.assert_array_equal(found, parity.onnx(tmp_path / "model.onnx")(batch)["y"])
