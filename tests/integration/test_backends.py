"""Each backend with its real runtime, on one tiny model in its format."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.protocol.errors import InvalidRequest, ModelFailed
from tests.support.onnxmodels import FLOAT, INT32, INT64, STRING, constant, info, node, save
from tests.support.running import ROOT
from worker import backends
from worker.backends import texts
from worker.backends.base import Backend, Device, LoadError, RowErrors

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
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    (folder / file).write_bytes(b"not a model")
    with pytest.raises(LoadError, match=r"^m/1") as raised:
        backends.load(folder, CPU)
    assert str(tmp_path) not in str(raised.value)


def test_a_folder_without_a_model_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(
        LoadError,
        match=r"holds no model: one of model\.py, model\.onnx, saved_model\.pb, model\.tflite, tfserving\.json, MLmod",
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


# What a runtime refuses


def refused_by_onnx(folder: Path, nodes: list[Any], inputs: list[Any], *constants: Any, **given: Any) -> str:
    """The reason of the `InvalidRequest` that a run on these inputs ends in."""
    backend = backends.load(save(folder, nodes, inputs, [info("y", FLOAT, None)], *constants), CPU)
    with pytest.raises(InvalidRequest) as raised:
        backend.run("serving_default", given)
    return str(raised.value)


def test_onnx_blames_the_request_where_an_operator_refuses_what_it_is_given(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table, pairs = constant("t", np.zeros((2, 1), np.float32)), constant("s", np.array([-1, 2], np.int64))
    x = [info("x", FLOAT, ["N"])]
    ids, two = np.array([7], np.int32), np.zeros(3, np.float32)
    reasons = [
        refused_by_onnx(tmp_path / "a", [node("Gather", ["t", "i"], ["y"])], [info("i", INT32, ["N"])], table, i=ids),
        refused_by_onnx(tmp_path / "b", [node("Reshape", ["x", "s"], ["y"])], x, pairs, x=two),
        refused_by_onnx(
            tmp_path / "c", [node("Add", ["x", "z"], ["y"])], [*x, info("z", FLOAT, ["M"])], x=two, z=two[:2]
        ),
        refused_by_onnx(
            tmp_path / "d",
            [node("Cast", ["x"], ["y"], to=FLOAT)],
            [info("x", STRING, ["N"])],
            x=np.array([b"no number"], object),
        ),
    ]  # fmt: skip
    assert reasons[0] == "Gather: indices element out of data bounds, idx=7 must be within the inclusive range [-2,1]"
    assert reasons[1].startswith("Reshape: ")
    assert "The input tensor cannot be reshaped" in reasons[1]
    assert ".h:" not in reasons[1]
    assert reasons[2].startswith("Add: ")
    assert reasons[3].startswith("Cast: ")
    assert not any("/onnxruntime" in reason for reason in reasons)
    assert capfd.readouterr() == ("", "")


def test_onnx_does_not_blame_the_request_for_memory_that_is_not_there(tmp_path: Path) -> None:
    nodes = [node("Expand", ["x", "s"], ["y"])]
    inputs = [info("x", FLOAT, ["N"]), info("s", INT64, ["r"])]
    backend = backends.load(save(tmp_path, nodes, inputs, [info("y", FLOAT, None)]), CPU)
    with pytest.raises(ModelFailed, match="Failed to allocate memory"):
        backend.run("serving_default", {"x": np.zeros(1, np.float32), "s": np.array([2**45])})


def test_onnx_blames_the_rows_whose_strings_are_no_text(tmp_path: Path) -> None:
    nodes, shape = [node("Identity", ["x"], ["y"])], ["N", 2]
    backend = backends.load(save(tmp_path, nodes, [info("x", STRING, shape)], [info("y", STRING, shape)]), CPU)
    x = np.array([[b"a", b"b"], [b"c", b"\xff"], [b"d", b"e"], [b"\xfe", b"\xff"]], object)
    with pytest.raises(RowErrors) as raised:
        backend.run("serving_default", {"x": x})
    assert sorted(raised.value.errors) == [1, 3]
    assert "takes strings as UTF-8" in str(raised.value.errors[3])


def test_tensorflow_blames_the_request_where_an_operation_blames_its_argument(tensorflow: Any, tmp_path: Path) -> None:
    tf = tensorflow
    signatures = {}
    for name, compute, spec in (
        ("serving_default", lambda i: {"y": tf.gather(WEIGHTS, i)}, tf.TensorSpec([None], tf.int32, "i")),
        ("pairs", lambda x: {"y": tf.reshape(x, [-1, 2])}, tf.TensorSpec([None], tf.float32, "x")),
        ("fill", lambda n: {"y": tf.fill([n[0]], 1.0)}, tf.TensorSpec([None], tf.int64, "n")),
    ):
        signatures[name] = tf.function(compute, autograph=False).get_concrete_function(spec)
    tf.saved_model.save(tf.Module(), str(tmp_path), signatures)
    backend = backends.load(tmp_path, CPU)
    with pytest.raises(InvalidRequest, match=r"^indices\[0\] = 7 is not in \[0, 3\)$"):
        backend.run("serving_default", {"i": np.array([7], np.int32)})
    with pytest.raises(InvalidRequest, match=r"^Input to reshape is a tensor with 3 values"):
        backend.run("pairs", {"x": np.zeros(3, np.float32)})
    with pytest.raises(ModelFailed, match=r"^TensorFlow: OOM when allocating tensor"):
        backend.run("fill", {"n": np.array([2**45])})


@pytest.mark.slow
def test_tensorflow_writes_nothing_of_a_request_to_standard_error_by_itself(saved_model: Path) -> None:
    """In a process of its own, where nobody else has set TensorFlow's logging up before."""
    program = """
import sys, logging, numpy as np
from pathlib import Path
from worker import backends
from worker.backends.base import Device
logging.basicConfig(format="ours %(message)s")
backend = backends.load(Path(sys.argv[1]), Device())
print("loaded", file=sys.stderr, flush=True)
try:
    backend.run("serving_default", {"x": np.zeros((1, 5), np.float32)})
except Exception as error:
    print(type(error).__name__)
import tensorflow
tensorflow.get_logger().warning("a warning")
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    done = subprocess.run(
        [sys.executable, "-c", program, saved_model],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "InvalidRequest\n"
    assert done.stderr.partition("loaded\n")[2] == "ours a warning\n"


def test_litert_blames_the_request_where_an_operator_refuses_what_it_is_given(tensorflow: Any, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    tf = tensorflow
    spec = tf.TensorSpec([None], tf.int32, "i")
    gather = tf.function(lambda i: {"y": tf.gather(WEIGHTS, i)}, autograph=False).get_concrete_function(spec)
    tf.saved_model.save(tf.Module(), str(tmp_path / "saved"), {"serving_default": gather})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"), ["serving_default"])
    (tmp_path / "model.tflite").write_bytes(converter.convert())
    backend = backends.load(tmp_path, CPU)
    with pytest.raises(InvalidRequest, match=r"^gather index out of bounds: GATHER failed to invoke\.$"):
        backend.run("serving_default", {"i": np.array([7], np.int32)})
    with pytest.raises(InvalidRequest, match="Got value of type INT64 but expected type INT32"):
        backend.run("serving_default", {"i": np.array([1])})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/models/m/1/model.onnx: bad", "model.onnx: bad"),
        ("[Errno 2] No such file: '/srv/my models/m/1/v.txt'", "[Errno 2] No such file: 'v.txt'"),
        ("/my models/m/1/f.onnx and /my models/m/1", "m/1/f.onnx and m/1"),
        ("file:///etc/millrace/x.txt", "x.txt"),
        ("http://host/a/b, 1/2, m/1/f.onnx, map/while/Op", "http://host/a/b, 1/2, m/1/f.onnx, map/while/Op"),
    ],
)  # fmt: skip
def test_a_text_for_callers_has_file_names_and_no_paths(text: str, expected: str) -> None:
    assert texts.public(text, Path("/my models/m/1")) == expected
