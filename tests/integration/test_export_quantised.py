"""What a user may ask of TFLite files: integers at both ends, 16 bits, layers in 32 bits, TensorFlow's operators."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
import tensorflow as tf  # noqa: E402 - after the skip where it is not installed

from millrace.artifacts.manifest import Manifest  # noqa: E402
from training.export import exporting, lite  # noqa: E402
from training.export.keras_model import answers_of, exports_of  # noqa: E402
from training.export.model import Choices, ExportError, Trained  # noqa: E402

L: Any = keras.layers


def _trained(model: Any, **choices: Any) -> Trained:
    description = Manifest(name="mine", version=1)
    return Trained(
        description=description, exports=exports_of(model), answer=answers_of(model), choices=Choices(**choices)
    )


def _spoiled() -> Any:
    """A model that int8 spoils: one column of `wide` is thousands of times larger than the others."""
    keras.utils.set_random_seed(0)
    given = L.Input((6,), name="x")
    wide = L.Dense(16, name="wide")(L.Dense(16, activation="relu", name="first")(given))
    answer = L.Dense(3, name="kind")(L.Dense(16, activation="relu", name="second")(wide))
    model = keras.Model(given, answer)
    for name, factors in (("wide", (slice(None), 0)), ("second", (0, slice(None)))):
        weights, bias = model.get_layer(name).get_weights()
        weights[factors] *= 3000 if name == "wide" else 1 / 3000
        model.get_layer(name).set_weights([weights, bias])
    return model


def _dense() -> Any:
    given = L.Input((4,), name="x")
    return keras.Model(given, L.Dense(3, activation="softmax", name="kind")(L.Dense(8, activation="relu")(given)))


@keras.saving.register_keras_serializable("tests")
class _Inverse(L.Layer):
    """Has an operator of TensorFlow's only."""

    def call(self, inputs: Any) -> Any:
        return tf.linalg.inv(inputs + 9 * tf.eye(3))


def _inverse() -> Any:
    given = L.Input((3, 3), name="x")
    return keras.Model(given, _Inverse(name="inverted")(given))


def _row(trained: Trained, format_: str, folder: Path) -> Any:
    return exporting.tried(trained, [format_], folder, is_timed=False).rows[1]


def test_both_ends_are_integers_and_answers_those_of_the_model(tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    row = _row(_trained(_dense()), "tflite-int8-io", tmp_path)

    interpreter = Interpreter(str(tmp_path / row.file))
    details = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    assert row.missed == ""
    assert row.max_abs_difference > 0
    assert [(each["dtype"], each["shape_signature"].tolist()) for each in details] == [
        (np.int8, [1, 4]),
        (np.int8, [1, 3]),
    ]


@pytest.mark.slow
def test_16_bit_numbers_are_closer_than_8_bit_ones(tmp_path: Path) -> None:
    trained = _trained(_dense())

    rows = exporting.tried(trained, ["tflite-int8", "tflite-16x8"], tmp_path, is_timed=False).rows[1:]

    assert [row.missed for row in rows] == ["", ""]
    int8, int16 = (row.max_abs_difference or 0 for row in rows)
    assert 0 < int16 < int8


@pytest.mark.slow
def test_layers_that_spoil_int8_are_found_and_kept_in_32_bits(tmp_path: Path) -> None:
    assert _row(_trained(_spoiled()), "tflite-int8", tmp_path).missed

    row = _row(_trained(_spoiled(), keeps_float=["auto"]), "tflite-int8", tmp_path)

    assert row.missed == ""
    assert row.note == "in 32 bits: second, wide"
    assert _row(_trained(_spoiled(), keeps_float=["second", "wide"]), "tflite-int8", tmp_path).missed == ""


def test_a_layer_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    row = _row(_trained(_spoiled(), keeps_float=["third"]), "tflite-int8", tmp_path)

    assert row.missed == "--keep-float: there is no layer third; there are first, wide, second, kind"


def test_operators_of_tensorflow_are_written_only_where_they_are_allowed(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no operator for MatrixInverse .*; --allow-flex writes them"):
        lite.convert(exports_of(_inverse()))

    row = _row(_trained(_inverse(), allows_flex=True), "tflite", tmp_path)

    assert (row.is_published, row.max_abs_difference) == (True, None)
    assert row.note == "needs the Flex delegate for MatrixInverse; not compared"
    assert "FlexMatrixInverse" in lite.operators((tmp_path / "model.tflite").read_bytes())
