"""Each backend with its real runtime, on one tiny model in its format."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker import backends
from worker.backends.base import Backend, Device, LoadError

WEIGHTS = np.array([[1, 10], [2, 20], [3, 30]], np.float32)
CPU = Device()


@pytest.fixture(scope="module")
def tensorflow() -> Any:
    return pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def saved_model(tensorflow: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tf = tensorflow
    folder = tmp_path_factory.mktemp("saved_model")

    module: Any = tf.Module

    class Tiny(module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "x")])
        def serve(self, x: Any) -> dict[str, Any]:
            return {"scores": tf.matmul(x, WEIGHTS)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
        def shout(self, text: Any) -> dict[str, Any]:
            return {"loud": tf.strings.upper(text)}

    tiny = Tiny()
    tf.saved_model.save(tiny, str(folder), {"serving_default": tiny.serve, "shout": tiny.shout})
    return folder


@pytest.fixture(scope="module")
def tflite(tensorflow: Any, saved_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("ai_edge_litert")
    folder = tmp_path_factory.mktemp("tflite")
    converter = tensorflow.lite.TFLiteConverter.from_saved_model(str(saved_model), ["serving_default"])
    (folder / "model.tflite").write_bytes(converter.convert())
    return folder


@pytest.fixture(params=["onnx", "savedmodel", "tflite"])
def backend(request: pytest.FixtureRequest, make_onnx: Callable[..., Path], tmp_path: Path) -> Backend:
    if request.param == "onnx":
        return backends.load(make_onnx(tmp_path), CPU)
    return backends.load(request.getfixturevalue({"savedmodel": "saved_model"}.get(request.param, request.param)), CPU)


def test_the_signature_is_read_from_the_file(backend: Backend) -> None:
    signature = backend.signatures["serving_default"]
    assert [(s.name, s.datatype, s.shape) for s in signature.inputs] == [("x", "FP32", (-1, 3))]
    assert [(s.name, s.datatype, s.shape) for s in signature.outputs] == [("scores", "FP32", (-1, 2))]


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_rows_are_computed_whatever_their_number(backend: Backend, rows: int) -> None:
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    outputs = backend.run("serving_default", {"x": x})
    np.testing.assert_allclose(outputs["scores"], x @ WEIGHTS, rtol=1e-5)


def test_a_savedmodel_offers_all_its_signatures_and_takes_strings(saved_model: Path) -> None:
    backend = backends.load(saved_model, CPU)
    outputs = backend.run("shout", {"text": np.array([b"hi", "é".encode()], object)})
    assert outputs["loud"].tolist() == [b"HI", "é".encode()]


def test_onnx_strings_are_bytes_on_both_sides(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    folder = tmp_path / "1"
    folder.mkdir()
    graph = helper.make_graph(
        [helper.make_node("Identity", ["text"], ["same"])],
        "strings",
        [helper.make_tensor_value_info("text", TensorProto.STRING, ["batch"])],
        [helper.make_tensor_value_info("same", TensorProto.STRING, ["batch"])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
    )
    backend = backends.load(folder, CPU)
    assert backend.run("serving_default", {"text": np.array([b"a", "é".encode()], object)})["same"].tolist() == [
        b"a",
        "é".encode(),
    ]


def test_the_first_format_whose_runtime_is_installed_is_taken(
    make_onnx: Callable[..., Path], saved_model: Path, tmp_path: Path
) -> None:
    folder = make_onnx(tmp_path)
    (folder / "saved_model.pb").write_bytes((saved_model / "saved_model.pb").read_bytes())
    (folder / "variables").mkdir()
    for file in (saved_model / "variables").iterdir():
        (folder / "variables" / file.name).write_bytes(file.read_bytes())
    assert backends.load(folder, CPU).platform == "onnxruntime_onnx"
    assert backends.load(folder, CPU, "savedmodel").platform == "tensorflow_savedmodel"


@pytest.mark.parametrize("file", ["model.onnx", "model.tflite", "saved_model.pb"])
def test_a_damaged_file_is_named(tmp_path: Path, file: str) -> None:
    if file == "saved_model.pb":
        pytest.importorskip("tensorflow")
    (tmp_path / file).write_bytes(b"not a model")
    with pytest.raises(LoadError, match=str(tmp_path)):
        backends.load(tmp_path, CPU)


def test_a_folder_without_a_model_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(
        LoadError,
        match=r"holds no model: one of model\.onnx, saved_model\.pb, model\.tflite, tfserving\.json is wanted",
    ):
        backends.load(tmp_path, CPU)


def test_a_format_that_is_not_there_says_what_is(make_onnx: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="has no tflite format, only onnx"):
        backends.load(make_onnx(tmp_path), CPU, "tflite")


def test_a_runtime_that_is_not_installed_is_named(
    make_onnx: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(LoadError, match="needs onnxruntime, and that is not installed"):
        backends.load(make_onnx(tmp_path), CPU)


def test_cuda_without_a_gpu_is_an_error_and_no_silent_fallback(make_onnx: Callable[..., Path], tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has CUDA")
    with pytest.raises(LoadError, match="worker-gpu"):
        backends.load(make_onnx(tmp_path), Device("cuda"))
