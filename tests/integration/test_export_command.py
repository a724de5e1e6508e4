"""`millrace export` on models of a user's own: each format is written, run and judged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.artifacts import manifest
from millrace.protocol.tensors import TensorSpec

keras = pytest.importorskip("keras")
Layer: Any = keras.layers.Layer
onnx = pytest.importorskip("onnx")
import tensorflow as tf  # noqa: E402 - after the skip where it is not installed

from training import parity  # noqa: E402
from training.export import lite, metadata  # noqa: E402
from training.export_command import main  # noqa: E402

L = keras.layers


def _dense() -> Any:
    """Two inputs, two outputs, by names that graphs cannot carry as they are."""
    left, right = L.Input((4,), name="left side"), L.Input((3,), name="right-side")
    both = L.Concatenate()([left, right])
    return keras.Model(
        [left, right], [L.Dense(3, activation="softmax", name="kind")(both), L.Dense(2, name="size")(both)]
    )


def _bidirectional() -> Any:
    sequence = L.Input((None, 4), name="sequence")
    states = L.Bidirectional(L.LSTM(5, return_sequences=True))(sequence)
    return keras.Model(sequence, L.Dense(2, activation="softmax", name="kind")(L.LSTM(6)(states)))


def _masked() -> Any:
    ids = L.Input((None,), dtype="int32", name="ids")
    state = L.Bidirectional(L.LSTM(5))(L.Embedding(9, 4, mask_zero=True)(ids))
    return keras.Model(ids, L.Dense(2, activation="softmax", name="kind")(state))


def _saved(model: Any, folder: Path) -> str:
    path = folder / "mine.keras"
    model.save(path)
    return str(path)


def _run(folder: Path, *arguments: str) -> tuple[int, Path]:
    out = folder / "out" / "mine" / "3"
    return main([*arguments, "--out", str(out)]), out


def _report(out: Path) -> dict[str, Any]:
    found = json.loads((out / "parity.json").read_text())
    return {row["format"]: row for row in found["rows"]}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small model exported in every format, with data and labels."""
    folder = tmp_path_factory.mktemp("dense")
    random = np.random.default_rng(3)
    data = {"left_side": random.normal(size=(300, 4)), "right_side": random.normal(size=(300, 3))}
    keras.utils.set_random_seed(3)
    model = _dense()
    sure = np.asarray(model([data["left_side"].astype("f"), data["right_side"].astype("f")])[0])
    chosen = np.ptp(np.sort(sure, axis=1)[:, 1:], axis=1) > 0.05  # so that rounding changes no answer
    data = {name: array[chosen] for name, array in data.items()}
    np.savez(folder / "data.npz", allow_pickle=False, labels=sure.argmax(axis=1)[chosen], **data)
    (folder / "labels.txt").write_text("round\nsquare\nflat\n")
    flags = ["--to", "all", "--data", str(folder / "data.npz"), "--representative", str(folder / "data.npz")]
    code, out = _run(folder, _saved(model, folder), *flags, "--labels", str(folder / "labels.txt"))
    return code, out, _report(out)


def test_every_format_of_a_keras_file_is_published_with_a_report(dense: Any) -> None:
    code, out, rows = dense

    assert code == 0
    assert list(rows) == [
        "trained",
        "savedmodel",
        "onnx",
        "tflite",
        "tflite-fp16",
        "tflite-dynamic",
        "tflite-int8",
        "tflite-int8-io",
        "tflite-16x8",
        "tflite-compiled",
        "coreml",
    ]
    assert all(rows[name]["max_abs_difference"] <= 1e-4 for name in ("savedmodel", "onnx", "tflite"))
    assert rows["tflite-int8"]["max_abs_difference"] > 1e-4
    assert rows["trained"]["score"] == 1.0
    assert all(row["score"] >= 0.997 for name, row in rows.items() if name != "coreml")
    assert all(row["sample_ms"] > 0 and row["batch_ms"] > 0 for name, row in rows.items() if name != "coreml")
    assert "macOS" in rows["coreml"]["note"]
    page = (out / "parity.md").read_text()
    assert all(row["title"] in page for row in rows.values())
    assert (out / "parity.png").read_bytes().startswith(b"\x89PNG")


def test_the_folder_is_a_version_with_a_manifest_read_from_the_graph(dense: Any) -> None:
    _, out, _ = dense

    found = manifest.read(out)

    assert found is not None
    manifest.verify(out, found)
    assert (found.name, found.version, found.labels) == ("mine", 3, ("round", "square", "flat"))
    signature = found.signatures["serving_default"]
    assert signature.inputs == (
        TensorSpec(name="left_side", datatype="FP32", shape=(-1, 4)),
        TensorSpec(name="right_side", datatype="FP32", shape=(-1, 3)),
    )
    assert {spec.name: spec.shape for spec in signature.outputs} == {"kind": (-1, 3), "size": (-1, 2)}
    variants = ("fp16", "dynamic", "int8", "int8_io", "16x8", "compiled")
    assert set(found.parity) == {"saved_model", "onnx", "tflite", *(f"tflite_{variant}" for variant in variants)}


def test_the_worker_loads_what_was_exported(dense: Any) -> None:
    from worker.backends.base import Device
    from worker.loading import model as workers

    _, out, _ = dense
    for backend in ("onnx", "savedmodel", "tflite"):
        loaded = workers.load(out, "mine", 3, device=Device(kind="cpu", threads=1), backend=backend, max_batch_size=8)
        rows = {"left_side": np.ones((2, 4), np.float32), "right_side": np.ones((2, 3), np.float32)}
        assert loaded.run("serving_default", rows, 2)["kind"].shape == (2, 3)


def test_labels_are_packed_into_tflite_files_that_still_run(dense: Any) -> None:
    _, out, _ = dense
    for name in ("model.tflite", "model.int8.tflite"):
        files = metadata.unpack((out / name).read_bytes())

        assert files["labels.txt"].splitlines() == ["round", "square", "flat"]
        assert json.loads(files["millrace.json"])["name"] == "mine"


def test_the_first_dimension_of_onnx_models_is_named_and_free(dense: Any) -> None:
    _, out, _ = dense

    graph = onnx.load(out / "model.onnx").graph

    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_a_core_ml_package_has_the_models_names_and_layers(dense: Any) -> None:
    import coremltools

    _, out, _ = dense

    found = coremltools.utils.load_spec(str(out / "model.mlpackage"))

    assert [value.name for value in found.description.input] == ["left_side", "right_side"]
    assert [value.name for value in found.description.output] == ["kind", "size"]
    operators = _mil_operators(found)
    assert operators.count("matmul") + operators.count("linear") == 2
    assert "softmax" in operators


def _mil_operators(spec: Any) -> list[str]:
    blocks = spec.mlProgram.functions["main"].block_specializations.values()
    return [operation.type for block in blocks for operation in block.operations]


@pytest.mark.parametrize("make", [_bidirectional, _masked])
def test_lstms_are_one_operator_in_tflite_and_keep_nothing_from_run_to_run(make: Any, tmp_path: Path) -> None:
    code, out = _run(tmp_path, _saved(make(), tmp_path), "--to", "savedmodel,tflite")

    assert code == 0
    content = (out / "model.tflite").read_bytes()
    operators = lite.operators(content)
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" in operators
    assert not {"WHILE", "CUSTOM"} & set(operators)
    run, random = parity.tflite(out / "model.tflite"), np.random.default_rng(5)
    (name,) = {spec.name for spec in manifest.read(out).signatures["serving_default"].inputs}  # type: ignore[union-attr]
    rows = [
        random.integers(1, 9, (1, length)).astype(np.int32) if make is _masked else random.normal(size=(1, length, 4))
        for length in (3, 8, 3)
    ]
    batches = [{name: row.astype(np.int32 if make is _masked else np.float32)} for row in rows]
    first = [run(batch)["kind"] for batch in batches]
    again = [run(batch)["kind"] for batch in reversed(batches)][::-1]
    np.testing.assert_allclose(first, again, atol=1e-6)


def test_keras_lstms_become_onnx_lstms(tmp_path: Path) -> None:
    code, out = _run(tmp_path, _saved(_bidirectional(), tmp_path), "--to", "onnx,coreml")

    operators = [node.op_type for node in onnx.load(out / "model.onnx").graph.node]
    assert code == 0
    assert operators.count("LSTM") == 2
    assert "Loop" not in operators
    import coremltools

    assert _mil_operators(coremltools.utils.load_spec(str(out / "model.mlpackage"))).count("lstm") == 2


@pytest.mark.slow
def test_no_graph_holds_operators_of_gpus_even_where_layers_ask_for_them(tmp_path: Path) -> None:
    model = _bidirectional()
    for layer in model._flatten_layers():  # noqa: SLF001 - Keras has no other way to all of them
        if hasattr(layer, "use_cudnn"):
            layer.use_cudnn = True

    code, _ = _run(tmp_path, _saved(model, tmp_path), "--to", "savedmodel,tflite")

    assert code == 0


def _module(call: Any, *specs: Any) -> tuple[Any, Any]:
    module = tf.Module()
    module.call = tf.function(call, input_signature=specs)
    return module, module.call


def test_a_saved_model_of_ones_own_is_exported_by_a_signature(tmp_path: Path) -> None:
    module = tf.Module()
    module.factor = tf.Variable(3.0)
    spec = tf.TensorSpec((None, 2), tf.float32, name="x")
    twice = tf.function(lambda x: {"y": 2 * x}, input_signature=[spec])
    scaled = tf.function(lambda x: {"y": module.factor * x}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "given"), signatures={"serving_default": twice, "scaled": scaled})

    code, out = _run(tmp_path, str(tmp_path / "given"), "--signature", "scaled")

    assert code == 0
    batch = {"x": np.array([[1, 2]], np.float32)}
    for run in (parity.onnx(out / "model.onnx"), parity.tflite(out / "model.tflite"), parity.saved_model(out)):
        assert run(batch)["y"].tolist() == [[3.0, 6.0]]


def test_an_operator_that_tflite_lacks_is_named_with_its_layer_and_the_rest_is_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = L.Input((3,), name="x")
    hidden = L.Dense(3, activation="sigmoid")(given)
    strange = _Betainc(name="strange")(hidden)
    model = _saved(keras.Model(given, strange), tmp_path)

    code, out = _run(tmp_path, model, "--to", "savedmodel,tflite")

    assert code == 1
    assert "TFLite: has no operator for Betainc" in (error := capsys.readouterr().err)
    assert "strange" in error
    assert (out / "saved_model.pb").exists()
    assert not (out / "model.tflite").exists()
    assert "has no operator" in (out / "parity.md").read_text()


@keras.saving.register_keras_serializable("tests")
class _Betainc(Layer):
    def call(self, inputs: Any) -> Any:
        return tf.raw_ops.Betainc(a=inputs + 1, b=inputs + 1, x=inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


def _badly_quantised(tmp_path: Path) -> list[str]:
    """A model that int8 spoils: calibrated on numbers a thousand times too small."""
    random = np.random.default_rng(4)
    given = L.Input((6,), name="x")
    model = keras.Model(given, L.Dense(4, activation="softmax", name="kind")(L.Dense(16, activation="relu")(given)))
    data = random.normal(size=(400, 6)).astype("f")
    np.savez(tmp_path / "data.npz", x=data, labels=np.asarray(model(data)).argmax(1))
    np.savez(tmp_path / "tiny.npz", x=data / 1000)
    flags = ["--to", "onnx,tflite-int8", "--data", str(tmp_path / "data.npz")]
    return [_saved(model, tmp_path), *flags, "--representative", str(tmp_path / "tiny.npz")]


def test_a_format_that_misses_its_bound_is_not_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = _run(tmp_path, *_badly_quantised(tmp_path))

    assert code == 1
    assert "not published: TFLite, full int8: the score is" in capsys.readouterr().err
    assert (out / "model.onnx").exists()
    assert not (out / "model.int8.tflite").exists()
    found = manifest.read(out)
    assert found is not None
    assert set(found.parity) == {"onnx"}


def test_force_publishes_it_and_the_manifest_says_so(tmp_path: Path) -> None:
    code, out = _run(tmp_path, *_badly_quantised(tmp_path), "--force")

    assert code == 0
    assert (out / "model.int8.tflite").exists()
    found = manifest.read(out)
    assert found is not None
    assert "points lower" in found.parity["tflite_int8"].missed
    assert found.parity["onnx"].missed == ""
    assert "published by force" in (out / "parity.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["nowhere"], "no .keras file or SavedModel", id="no such model"),
        pytest.param(["{model}", "--to", "onnx,pickle"], "no format 'pickle'", id="no such format"),
        pytest.param(["{model}", "--data", "{text}"], "cannot be read: give .npz, .npy", id="data of another kind"),
        pytest.param(["{model}", "--data", "{wrong}"], "lacks right_side", id="an input is missing"),
        pytest.param(["{model}", "--data", "{shape}"], "'left_side' has shape", id="an input of another shape"),
        pytest.param(["{model}", "--data-dir", "."], "was not trained on Millrace's data", id="not our model"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    places = {"model": _saved(_dense(), tmp_path), "text": __file__}
    for name, arrays in {
        "wrong": {"left_side": np.zeros((2, 4))},
        "shape": {"left_side": np.zeros((2, 5)), "right_side": np.zeros((2, 3))},
    }.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)  # type: ignore[arg-type]
        places[name] = str(tmp_path / f"{name}.npz")

    code, out = _run(tmp_path, *(argument.format(**places) for argument in arguments))

    assert code == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_model_of_one_size_is_compared_and_timed_at_that_size(tmp_path: Path) -> None:
    given = L.Input(batch_shape=(2, 4), name="x")
    model = keras.Model(given, L.Dense(3, activation="softmax", name="kind")(given))

    code, out = _run(tmp_path, _saved(model, tmp_path), "--to", "savedmodel,onnx,tflite")

    assert code == 0
    assert all("batch_ms" not in row for row in _report(out).values())
    assert manifest.read(out).batching.max_batch_size == 0  # type: ignore[union-attr]


def test_a_models_own_folder_is_not_replaced_by_its_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out = _run(tmp_path, _saved(_dense(), tmp_path), "--to", "savedmodel")

    assert _run(tmp_path, str(out), "--to", "onnx", "--replace")[0] == 1
    assert "own folder" in capsys.readouterr().err
    assert (out / "saved_model.pb").exists()


def test_a_folder_that_exists_is_left_alone_unless_it_is_to_be_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _saved(_dense(), tmp_path)
    _, out = _run(tmp_path, model, "--to", "onnx")
    before = (out / "parity.json").read_bytes()

    assert _run(tmp_path, model, "--to", "onnx")[0] == 1
    assert "exists; choose another --out" in capsys.readouterr().err
    assert (out / "parity.json").read_bytes() == before
    assert _run(tmp_path, model, "--to", "savedmodel", "--replace")[0] == 0
    assert not (out / "model.onnx").exists()
