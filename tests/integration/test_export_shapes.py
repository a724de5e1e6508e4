"""Formats of fixed sizes: those of `--shape`, and files for LiteRT's CompiledModel, which has no free ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.artifacts import manifest
from millrace.artifacts.manifest import Batching, Manifest, Tokenize
from millrace.protocol.tensors import Signature, TensorSpec

keras = pytest.importorskip("keras")
onnx = pytest.importorskip("onnx")
import tensorflow as tf  # noqa: E402 - after the skip where it is not installed

from training import parity  # noqa: E402
from training.export import exporting, shapes  # noqa: E402
from training.export.keras_model import answers_of, exports_of  # noqa: E402
from training.export.model import ExportError, Trained  # noqa: E402
from training.export_command import main  # noqa: E402

L: Any = keras.layers
LENGTH = 6


def _of_any_size() -> Any:
    """A model of images that runs in a graph of known sizes only."""
    image = L.Input((None, None, 3), name="image")
    larger = L.UpSampling2D(interpolation="bilinear")(L.Conv2D(4, 3, padding="same")(image))
    pooled = L.GlobalAveragePooling2D()(larger)
    return keras.Model(image, L.Dense(2, name="kind")(pooled))


def _trained(model: Any, *steps: Any) -> Trained:
    """The model with a manifest of those steps."""
    exports = exports_of(model)
    specs = tuple(
        TensorSpec(name=spec.name, datatype="FP32", shape=tuple(-1 if size is None else size for size in spec.shape))
        for spec in exports.function.input_signature
    )
    signature = Signature(inputs=specs, outputs=(TensorSpec(name="kind", datatype="FP32", shape=(-1, 2)),))
    description = Manifest(
        name="mine", version=1, signatures={"serving_default": signature}, preprocessing=tuple(steps)
    )
    return Trained(description=description, exports=exports, answer=answers_of(model))


def _reader() -> Trained:
    """A text model, whose rows are filled up with 0: an LSTM over its words, their mean beside it."""
    keras.utils.set_random_seed(3)
    ids = L.Input((None,), dtype="int32", name="ids")
    embedded = L.Embedding(9, 4, mask_zero=True, embeddings_initializer="normal")(ids)
    both = L.Concatenate()([L.LSTM(5)(embedded), L.GlobalAveragePooling1D()(embedded)])
    model = keras.Model(ids, L.Dense(2, activation="softmax", name="kind")(both))
    return _trained(model, Tokenize(input="text", output="ids", max_length=LENGTH))


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of images of any size, written for two images of 8 x 8."""
    folder = tmp_path_factory.mktemp("fixed")
    _of_any_size().save(folder / "mine.keras")
    flags = ["--shape", "image=2,8,8,3", "--to", "savedmodel,onnx,tflite-compiled"]
    assert main([str(folder / "mine.keras"), *flags, "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_every_format_is_of_the_sizes_that_are_wanted(fixed: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    graph = onnx.load(fixed / "model.onnx").graph
    found = {
        "onnx": [size.dim_value for size in graph.input[0].type.tensor_type.shape.dim],
        "savedmodel": tf.saved_model.load(str(fixed)).signatures["serving_default"].inputs[0].shape.as_list(),
    }
    interpreter = Interpreter(str(fixed / "model.compiled.tflite"))
    found["compiled"] = interpreter.get_input_details()[0]["shape_signature"].tolist()
    assert all(sizes == [2, 8, 8, 3] for sizes in found.values()), found


@pytest.mark.slow
def test_a_core_ml_package_is_of_the_sizes_that_are_wanted(tmp_path: Path) -> None:
    import coremltools

    _of_any_size().save(tmp_path / "mine.keras")
    flags = ["--shape", "image=2,8,8,3", "--to", "coreml"]
    assert main([str(tmp_path / "mine.keras"), *flags, "--out", str(tmp_path / "out")]) == 0

    package = coremltools.utils.load_spec(str(tmp_path / "out" / "model.mlpackage")).description
    assert list(package.input[0].type.multiArrayType.shape) == [2, 8, 8, 3]


def test_the_manifest_says_the_sizes_and_that_rows_are_not_batched(fixed: Path) -> None:
    found = manifest.read(fixed)

    assert found is not None
    signature = found.signatures["serving_default"]
    assert [spec.shape for spec in (*signature.inputs, *signature.outputs)] == [(2, 8, 8, 3), (2, 2)]
    assert found.batching == Batching(max_batch_size=0)


def test_a_model_for_one_row_is_served_row_by_row(tmp_path: Path) -> None:
    from worker.backends.base import Device
    from worker.loading import model as workers

    _of_any_size().save(tmp_path / "mine.keras")
    flags = ["--shape", "image=1,8,8,3", "--to", "onnx"]
    assert main([str(tmp_path / "mine.keras"), *flags, "--out", str(tmp_path / "mine" / "1")]) == 0

    found = manifest.read(tmp_path / "mine" / "1")
    loaded = workers.load(
        tmp_path / "mine" / "1", "mine", 1, device=Device(kind="cpu", threads=1), backend="onnx", max_batch_size=8
    )

    assert found is not None
    assert (found.signatures["serving_default"].inputs[0].shape, found.batching) == (
        (-1, 8, 8, 3),
        Batching(max_batch_size=1),
    )
    assert loaded.run("serving_default", {"image": np.ones((1, 8, 8, 3), np.float32)}, 1)["kind"].shape == (1, 2)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        pytest.param({"picture": (1, 8, 8, 3)}, "no input 'picture'; there are image", id="no such name"),
        pytest.param({"image": (8, 8, 3)}, "'image' has 4 sizes, [free, free, free, 3], not 3", id="another rank"),
        pytest.param({"image": (1, 8, 8, 4)}, "cannot be [1, 8, 8, 4]", id="a size that is fixed"),
        pytest.param({"image": (1, 8, 0, 3)}, "cannot be [1, 8, 0, 3]", id="no size"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(wanted: Any, message: str) -> None:
    with pytest.raises(ExportError) as raised:
        shapes.with_shapes(_trained(_of_any_size()), wanted)

    assert message in str(raised.value)


def test_a_model_that_runs_in_known_sizes_only_is_refused_with_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _of_any_size().save(tmp_path / "mine.keras")

    assert main([str(tmp_path / "mine.keras"), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "millrace export: the model cannot be written as a graph: Exception encountered when calling"
    )
    assert said.endswith("UpSampling2D.call(); fix its free sizes: --shape image=-1,SIZE,SIZE,3\n")


def test_a_free_size_is_refused_where_none_may_be_and_the_flag_is_named() -> None:
    with pytest.raises(ExportError, match="--shape image=1,SIZE,SIZE,3"):
        shapes.all_fixed(_trained(_of_any_size()))


def test_texts_are_as_long_as_the_manifest_lets_them_be_and_filling_up_changes_nothing(tmp_path: Path) -> None:
    trained = _reader()

    found = exporting.tried(trained, ["tflite-compiled"], tmp_path, is_timed=False)

    assert [row.missed for row in found.rows] == ["", ""]
    run = parity.compiled(tmp_path / "model.compiled.tflite")
    row = np.array([[4, 2, 7]], np.int32)
    answer = run({"ids": np.pad(row, ((0, 0), (0, LENGTH - 3)))})["kind"]
    np.testing.assert_allclose(answer, trained.answer({"ids": row})["kind"], atol=1e-5)
    with pytest.raises(ValueError, match="'ids' has shape"):
        run({"ids": row})


def test_whole_numbers_of_64_bits_become_32_at_both_ends(tmp_path: Path) -> None:
    given = L.Input((3,), dtype="int64", name="ids")
    embedded = L.Embedding(9, 2)(given)
    model = keras.Model(given, {"places": keras.ops.cast(keras.ops.argmax(embedded, axis=1), "int64")})

    found = exporting.tried(_trained(model), ["tflite-compiled"], tmp_path, is_timed=False)

    assert [row.missed for row in found.rows] == ["", ""]
