"""Trial inputs look like what the model was made for, and data that users give are read or refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

keras = pytest.importorskip("keras")

import tensorflow as tf  # noqa: E402 - after the skip where it is not installed

from training.export import given, lookups, source, trials  # noqa: E402
from training.export.keras_model import answers_of, exports_of  # noqa: E402
from training.export.model import ExportError, Trained  # noqa: E402

L: Any = keras.layers


def _trained(model: Any, **known: Any) -> Trained:
    exports = exports_of(model)
    return Trained(description=source._description("mine", exports), exports=exports, answer=answers_of(model), **known)  # noqa: SLF001 - the manifest of a bare graph


def _dense() -> Any:
    x = L.Input((3,), name="x")
    return keras.Model(x, L.Dense(2, activation="softmax", name="kind")(x))


def test_ids_are_drawn_from_the_whole_table_and_bytes_from_0_to_255() -> None:
    ids, pixels = L.Input((10,), dtype="int32", name="ids"), L.Input((4, 4, 3), dtype="uint8", name="pixels")
    features = [L.Flatten()(L.Embedding(5000, 2)(ids)), L.Flatten()(L.Rescaling(1 / 255)(pixels))]
    trained = _trained(keras.Model([ids, pixels], L.Dense(2)(L.Concatenate()(features))))

    found = trials.with_trials(trained)

    assert lookups.sizes(trained.exports.function) == {"ids": 5000}
    drawn = np.concatenate([batch["ids"].ravel() for batch in found.batches])
    assert drawn.min() < 100
    assert 4900 < drawn.max() < 5000
    assert np.ptp(np.concatenate([batch["pixels"].ravel() for batch in found.batches])) > 250
    assert "ids from 0 to 4999" in found.compared_on


def test_a_table_is_found_within_the_functions_of_a_saved_model(tmp_path: Path) -> None:
    module = tf.Module()
    module.table = tf.Variable(tf.zeros((70, 2)))
    spec = tf.TensorSpec((None, 4), tf.int64, name="ids")
    called = tf.function(lambda ids: {"rows": tf.gather(module.table, ids)}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures={"serving_default": called})

    function = source.Source(model=str(tmp_path / "saved")).open().exports.function

    assert lookups.sizes(function) == {"ids": 70}


def test_numbers_are_positive_where_the_model_takes_logarithms() -> None:
    x = L.Input((3,), name="x")
    found = trials.with_trials(_trained(keras.Model(x, keras.ops.log(x))))

    assert min(batch["x"].min() for batch in found.batches) >= 0
    assert "positive" in found.compared_on


def test_a_model_that_answers_nan_all_the_same_is_told_of() -> None:
    x = L.Input((3,), name="x")
    found = trials.with_trials(_trained(keras.Model(x, keras.ops.log(-keras.ops.abs(x) - 1))))

    assert "the model answers NaN" in found.compared_on


def test_free_sizes_are_those_that_the_model_survives() -> None:
    image = L.Input((None, None, 3), name="image")
    small = L.UpSampling2D(16)(L.MaxPooling2D(16)(image))
    found = trials.with_trials(_trained(keras.Model(image, L.Concatenate()([image, small]))))

    assert len(found.batches) == 4
    assert all(side % 16 == 0 for batch in found.batches for side in batch["image"].shape[1:3])


def test_lengths_go_from_1_up() -> None:
    sequence = L.Input((None, 2), name="sequence")
    found = trials.with_trials(_trained(keras.Model(sequence, L.GlobalAveragePooling1D()(sequence))))

    assert sorted({batch["sequence"].shape[1] for batch in found.batches}) == [1, 5, 12, 33]


def test_numbers_are_what_a_first_layer_was_adapted_to() -> None:
    x = L.Input((2,), name="x")
    layer = L.Normalization()
    layer.adapt(np.random.default_rng(0).normal(5000, 10, (100, 2)))
    found = trials.with_trials(_trained(keras.Model(x, layer(x))))

    assert 4900 < found.batches[-1]["x"].mean() < 5100


# Data that users give


def _written(folder: Path, name: str, **arrays: Any) -> str:
    np.savez(folder / name, allow_pickle=False, **arrays)
    return str(folder / name)


ROWS = np.arange(15, dtype=np.float64).reshape(5, 3)


def test_one_hot_labels_are_labels(tmp_path: Path) -> None:
    place = _written(tmp_path, "a.npz", x=ROWS, labels=np.eye(2)[[0, 1, 0, 1, 1]])

    inputs, labels = given.read(place, _trained(_dense()), None)

    assert inputs["x"].dtype == np.float32
    assert labels is not None
    assert labels.tolist() == [0, 1, 0, 1, 1]


def test_a_lone_array_is_the_only_input(tmp_path: Path) -> None:
    np.save(tmp_path / "lone.npy", ROWS)

    inputs, labels = given.read(str(tmp_path / "lone.npy"), _trained(_dense()), 4)

    assert inputs["x"].tolist() == ROWS[:4].tolist()
    assert labels is None


def test_a_csv_has_a_column_for_each_number_and_its_label(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("width,height,label,depth\n1,2,1,3\n4,5,0,6.5\n")

    inputs, labels = given.read(str(tmp_path / "a.csv"), _trained(_dense()), None)

    assert inputs["x"].tolist() == [[1, 2, 3], [4, 5, 6.5]]
    assert labels is not None
    assert labels.tolist() == [1, 0]


def test_a_csv_may_have_a_column_for_each_input(tmp_path: Path) -> None:
    names = ("size (cm)", "weight")
    inputs = [L.Input((1,), name=name) for name in names]
    (tmp_path / "a.csv").write_text("weight,size (cm)\n1,2\n")

    found, _ = given.read(str(tmp_path / "a.csv"), _trained(keras.Model(inputs, L.Add()(inputs))), None)

    assert {name: array.tolist() for name, array in found.items()} == {"size__cm_": [[2.0]], "weight": [[1.0]]}


def test_a_folder_of_images_is_labelled_by_its_folders(tmp_path: Path) -> None:
    for place, label in enumerate(("cat", "dog")):
        (tmp_path / label).mkdir()
        Image.new("RGB", (9, 7), (place * 200, 0, 0)).save(tmp_path / label / "a.png")
    image = L.Input((4, 6, 3), name="image")

    found, labels = given.read(str(tmp_path), _trained(keras.Model(image, L.Flatten()(image))), None)

    assert found["image"].shape == (2, 4, 6, 3)
    assert found["image"][:, 0, 0, 0].tolist() == [0.0, 200.0]
    assert labels is not None
    assert labels.tolist() == [0, 1]


def test_a_function_may_return_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_rows.py").write_text(
        "import numpy as np, tensorflow as tf\n"
        "def rows():\n"
        "    return tf.data.Dataset.from_tensor_slices((np.ones((7, 3)), np.arange(7) % 2)).batch(3)\n"
    )
    monkeypatch.chdir(tmp_path)

    found, labels = given.read("some_rows:rows", _trained(_dense()), None)

    assert found["x"].shape == (7, 3)
    assert labels is not None
    assert labels.tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_a_model_of_fixed_rows_takes_data_in_parts_of_that_size(tmp_path: Path) -> None:
    x = L.Input(batch_shape=(2, 3), name="x")
    place = _written(tmp_path, "a.npz", x=ROWS, labels=np.arange(5) % 2)

    found = source.with_data(_trained(keras.Model(x, L.Dense(2)(x))), place, None, None)

    assert [len(batch["x"]) for batch in found.batches] == [2, 2]
    assert [len(labels) for _, labels in found.tested] == [2, 2]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        pytest.param({"x": ROWS[:0]}, "has no rows", id="empty"),
        pytest.param({"x": np.array([["a"] * 3])}, "'x' holds <U1; the model takes float32", id="texts for numbers"),
        pytest.param({"x": ROWS[:, :2]}, r"'x' has shape \[5, 2\]; the model takes", id="another width"),
        pytest.param({"x": np.array(1.0)}, r"'x' has shape \[\]", id="a number for rows"),
        pytest.param({"y": ROWS}, "lacks x; it has y", id="another name"),
        pytest.param({"x": ROWS, "labels": np.zeros(4, int)}, "different numbers of rows", id="fewer labels"),
        pytest.param({"x": ROWS, "labels": np.full(5, 0.5)}, "no whole numbers", id="fractions for labels"),
        pytest.param({"x": ROWS, "labels": np.zeros((5, 2, 2), int)}, "is wanted, or one-hot", id="labels of rank 3"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message) as refused:
        given.read(_written(tmp_path, "a.npz", **arrays), _trained(_dense()), None)

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", b"no", "cannot be read as an .npz file"),
        ("a.npy", b"no", "cannot be read as an .npy file"),
        ("a.txt", b"no", "give .npz, .npy, .csv, a folder"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"a,b,c\n1,2,3\n1,2\n", "line 3: 2 fields; the head has 3"),
        ("a.csv", b"a,b,c\n1,two,3\n", "line 2, column 'b': 'two' is no number"),
        ("a.csv", b"a,b\n1,2\n", "has 2 columns beside the labels; the model takes 3"),
        ("a.csv", b"a,b,c\n", "has no rows"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ExportError, match=message) as refused:
        given.read(str(tmp_path / name), _trained(_dense()), None)

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("place", ["nowhere.npz", "no_such_module:rows", "json:no_such_function", "os:getcwd"])
def test_places_without_data_are_refused(place: str) -> None:
    with pytest.raises(ExportError):
        given.read(place, _trained(_dense()), None)


def test_whole_numbers_that_the_type_cannot_hold_are_refused(tmp_path: Path) -> None:
    x = L.Input((3,), dtype="uint8", name="x")
    trained = _trained(keras.Model(x, keras.ops.cast(x, "float32")))

    with pytest.raises(ExportError, match="numbers that uint8 cannot"):
        given.read(_written(tmp_path, "a.npz", x=np.full((2, 3), 300)), trained, None)
    with pytest.raises(ExportError, match="fractions"):
        given.read(_written(tmp_path, "b.npz", x=np.full((2, 3), 0.5)), trained, None)
