"""Names that formats cannot carry, and outputs in any order: every format answers as the model called by position."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
from training import parity  # noqa: E402 - after the skip where TensorFlow is not installed
from training.export import exporting  # noqa: E402
from training.export.keras_model import identifiers, output_names, renamed  # noqa: E402
from training.export.source import Source  # noqa: E402

L: Any = keras.layers


def _names_that_meet() -> Any:
    left, right = L.Input((2,), name="size (cm)"), L.Input((2,), name="size [cm]")
    return keras.Model([left, right], L.Subtract(name="difference")([left, right]))


def _keyword_and_outputs_out_of_order() -> Any:
    given = L.Input((3,), name="class")
    return keras.Model(given, [L.Dense(1, name="price")(given), L.Dense(2, name="kind")(given)])


def _nested_dictionaries() -> Any:
    first, second = L.Input((2,), name="z"), L.Input((2,), name="a")
    outputs = {"b": {"inner": L.Dense(2)(first)}, "a": L.Dense(3)(second)}
    return keras.Model({"z": first, "a": second}, outputs)


RUNS = {"savedmodel": parity.saved_model, "onnx": parity.onnx, "tflite": parity.tflite}
FILES = {"savedmodel": "", "onnx": "model.onnx", "tflite": "model.tflite"}


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (_names_that_meet, ["size__cm_", "size__cm__2"]),
        (_keyword_and_outputs_out_of_order, ["class_"]),
        pytest.param(_nested_dictionaries, ["a", "z"], marks=pytest.mark.slow),
    ],
)
def test_every_format_answers_as_the_model_called_by_position(tmp_path: Path, make: Any, inputs: list[str]) -> None:
    keras.utils.set_random_seed(2)
    model = make()
    model.save(tmp_path / "mine.keras")
    out = tmp_path / "out"
    out.mkdir()

    found = exporting.tried(Source(model=str(tmp_path / "mine.keras")).open(), list(RUNS), out, is_timed=False)

    assert [row.missed for row in found.rows] == [""] * 4
    random = np.random.default_rng(1)
    given = [random.normal(size=(3, tensor.shape[1])).astype("f") for tensor in model.inputs]
    expected = keras.tree.flatten(model(keras.tree.pack_sequence_as(model.input, given), training=False))
    names = [tensor.name for tensor in model.inputs]
    batch = dict(zip(identifiers(names), given, strict=True))
    assert set(batch) == set(inputs)
    for name, run in RUNS.items():
        answers = run(out / FILES[name])(batch)
        for answer in expected:
            array = np.asarray(answer)
            assert any(one.shape == array.shape and np.allclose(one, array, atol=1e-5) for one in answers.values())


def test_an_output_with_an_inputs_name_gets_a_number() -> None:
    assert output_names(_nested_dictionaries()) == ["a_2", "b_inner"]


def test_what_was_renamed_can_be_told() -> None:
    assert renamed(_names_that_meet()) == {"size (cm)": "size__cm_", "size [cm]": "size__cm__2"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a b", "a_b"], ["a_b_2", "a_b"]),
        (["a_b_2", "a b", "a-b"], ["a_b_2", "a_b", "a_b_3"]),
        (["1st", "class", "größe"], ["_1st", "class_", "gr__e"]),
    ],
)
def test_names_become_identifiers_and_stay_apart(names: list[str], expected: list[str]) -> None:
    assert identifiers(names) == expected
