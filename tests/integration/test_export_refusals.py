"""Exports that are broken on purpose: each is refused with its reason, and nothing is published."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.artifacts.manifest import Manifest
from millrace.artifacts.repository import ModelRepository
from millrace.protocol.tensors import Signature, TensorSpec

tf = pytest.importorskip("tensorflow")
onnx = pytest.importorskip("onnx")
from training import export, parity  # noqa: E402 - after the skip where TensorFlow is not installed

BATCHES = [{"x": np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)} for rows in (1, 3)]
DESCRIPTION = Manifest(
    name="doubler",
    version=1,
    signatures={
        "serving_default": Signature(
            inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),),
            outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 2)),),
        )
    },
)


def _trained(batch: parity.Arrays) -> dict[str, Any]:
    return {"y": batch["x"] * 2}


def _onnx(factor: float) -> Any:
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    return export.onnx_from_nodes(
        "doubler",
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [helper.make_tensor_value_info("x", real, ["batch", 2])],
        [helper.make_tensor_value_info("y", real, ["batch", 2])],
        [onnx.numpy_helper.from_array(np.array(factor, np.float32), "factor")],
    )


def _exports(compute: Any = lambda x, factor: x * factor, onnx_factor: float = 2.0) -> export.Exports:
    factor = tf.Variable(2.0)
    function = tf.function(
        lambda x: {"y": compute(x, factor)}, input_signature=[tf.TensorSpec((None, 2), tf.float32, name="x")]
    )
    return export.Exports(function=function, variables=[factor], onnx_model=lambda: _onnx(onnx_factor))


def _publish(root: Path, exports: export.Exports) -> Path:
    target = export.Target(repository=ModelRepository(root), version=1)
    return export.publish(target, DESCRIPTION, exports, _trained, BATCHES)


def test_a_sound_export_is_published(tmp_path: Path) -> None:
    folder = _publish(tmp_path, _exports())

    assert ModelRepository(tmp_path).models() == {"doubler": [1]}
    assert {path.name for path in folder.iterdir()} >= {"saved_model.pb", "model.onnx", "model.tflite", "manifest.json"}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        pytest.param({"onnx_factor": 2.001}, "ONNX: output 'y' differs", id="an ONNX weight is off"),
        pytest.param({"compute": lambda x, factor: x * factor + 1}, "SavedModel: output 'y'", id="another graph"),
        pytest.param(
            {"compute": lambda x, factor: tf.raw_ops.Betainc(a=x * 0 + 1, b=x * 0 + 1, x=x * 0) + x * factor},
            "TFLite: .*",
            id="an operator that TFLite lacks",
        ),
    ],
)
def test_a_broken_export_publishes_nothing(tmp_path: Path, broken: dict[str, Any], message: str) -> None:
    with pytest.raises(export.ExportError, match=message):
        _publish(tmp_path, _exports(**broken))

    assert ModelRepository(tmp_path).models() == {}
    assert list((tmp_path / "doubler").iterdir()) == []


def test_an_invalid_onnx_graph_is_refused(tmp_path: Path) -> None:
    model = _onnx(2.0)
    model.graph.node[0].op_type = "Mull"

    with pytest.raises(export.ExportError, match=r"ONNX: .*Mull"):
        export.write_onnx(model, tmp_path / "model.onnx")

    assert not (tmp_path / "model.onnx").exists()


def test_a_version_that_exists_stays_as_it_is(tmp_path: Path) -> None:
    folder = _publish(tmp_path, _exports())
    before = (folder / "manifest.json").read_bytes()

    with pytest.raises(export.ExportError):
        export.publish(
            export.Target(repository=ModelRepository(tmp_path), version=1, replace=True),
            DESCRIPTION,
            _exports(onnx_factor=3.0),
            _trained,
            BATCHES,
        )

    assert (folder / "manifest.json").read_bytes() == before
