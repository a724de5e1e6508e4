"""`millrace doctor` on models that break in known ways, each named after how it breaks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

keras = pytest.importorskip("keras")
import tensorflow as tf  # noqa: E402 - after the skip where it is not installed

from training.doctor import main  # noqa: E402

L: Any = keras.layers
TFLITE = ("tflite", "tflite-fp16", "tflite-dynamic", "tflite-int8", "tflite-int8-io", "tflite-16x8", "tflite-compiled")
FORMATS = ("savedmodel", "onnx", *TFLITE, "coreml")


@keras.saving.register_keras_serializable("tests")
class Inverse(L.Layer):
    """Has an operator of TensorFlow's only."""

    def call(self, inputs: Any) -> Any:
        return tf.linalg.inv(inputs + 9 * tf.eye(3))


class Unregistered(L.Layer):
    """A class that a file names and nobody registered."""

    def call(self, inputs: Any) -> Any:
        return 2 * inputs


def _keras(model: Any, folder: Path) -> str:
    path = folder / "mine.keras"
    model.save(path)
    return str(path)


def _saved_model(call: Any, spec: Any, folder: Path) -> str:
    function = tf.function(call, input_signature=[spec])
    tf.saved_model.save(tf.Module(), str(folder / "mine"), signatures={"serving_default": function})
    return str(folder / "mine")


def _dense(folder: Path) -> str:
    given = L.Input((4,), name="x")
    return _keras(keras.Model(given, L.Dense(2, name="y")(given)), folder)


def _string_operators(folder: Path) -> str:
    return _saved_model(
        lambda text: {"length": tf.strings.length(tf.strings.lower(text))},
        tf.TensorSpec((None,), tf.string, name="text"),
        folder,
    )


def _text_vectorization(folder: Path) -> str:
    given = L.Input((), dtype="string", name="text")
    ids = L.TextVectorization(vocabulary=["good", "bad"], output_sequence_length=4, name="words")(given)
    return _keras(keras.Model(given, L.Dense(2, name="y")(L.Flatten()(L.Embedding(5, 3)(ids)))), folder)


def _tensorflow_only(folder: Path) -> str:
    given = L.Input((3, 3), name="x")
    return _keras(keras.Model(given, Inverse(name="inverted")(given)), folder)


def _gru(folder: Path) -> str:
    given = L.Input((None, 3), name="x")
    return _keras(keras.Model(given, L.GRU(4, name="gate")(given)), folder)


def _dynamic_lstm(folder: Path) -> str:
    given = L.Input((None, 3), name="x")
    return _keras(keras.Model(given, L.LSTM(4, name="memory")(given)), folder)


def _odd_lstm(folder: Path) -> str:
    given = L.Input((None, 3), name="x")
    return _keras(keras.Model(given, L.LSTM(4, activation="relu", name="memory")(given)), folder)


def _conv_3d_transpose(folder: Path) -> str:
    given = L.Input((3, 3, 3, 1), name="x")
    return _keras(keras.Model(given, L.Conv3DTranspose(2, 2, name="y")(given)), folder)


def _fixed_batch(folder: Path) -> str:
    given = L.Input(batch_shape=(2, 4), name="x")
    return _keras(keras.Model(given, L.Dense(2, name="y")(given)), folder)


def _cudnn(folder: Path) -> str:
    def call(x: Any) -> Any:
        zero = tf.zeros((1, tf.shape(x)[1], 4))
        found = tf.raw_ops.CudnnRNN(
            input=x, input_h=zero, input_c=zero, params=tf.zeros((160,)), rnn_mode="lstm", is_training=False
        )
        return {"y": found.output}

    return _saved_model(call, tf.TensorSpec((None, None, 4), tf.float32, name="x"), folder)


def _asked(model: str, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, dict[str, str], str]:
    """The exit status, what is said of each format, and the errors."""
    code = main([model, *flags])
    said = capsys.readouterr()
    blocks: dict[str, str] = {}
    for line in said.out.splitlines():
        if line.startswith(("works", "blocked")):
            name = line.rpartition("(")[2].rstrip(")")
            blocks[name] = line
        else:
            blocks[name] += f"\n{line}"
    return code, blocks, said.err


def _blocked(blocks: dict[str, str]) -> set[str]:
    return {name for name, text in blocks.items() if text.startswith("blocked")}


def test_a_plain_model_works_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, blocks, _ = _asked(_dense(tmp_path), capsys)

    assert (code, tuple(blocks), _blocked(blocks)) == (0, FORMATS, set())


LITE = set(TFLITE)
NOT_LOOPS = {"tflite-int8", "tflite-int8-io", "tflite-16x8"}
NOT_FREE = {"tflite-int8-io", "tflite-compiled"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "blocked", "where", "advice"),
    [
        pytest.param(_string_operators, {*LITE, "onnx", "coreml"}, "StringLower", "vocabulary", id="string operators"),
        pytest.param(_text_vectorization, {*LITE, "onnx", "coreml"}, "'words'", "vocabulary", id="TextVectorization"),
        pytest.param(
            _tensorflow_only, {*LITE, "onnx", "coreml"}, "'inverted'", "simpler operators", id="MatrixInverse"
        ),
        pytest.param(_gru, NOT_LOOPS | NOT_FREE, "/gate", "LSTM", id="a GRU"),
        pytest.param(_odd_lstm, NOT_LOOPS | NOT_FREE, "/memory", "LSTM", id="an LSTM with another activation"),
        pytest.param(_cudnn, set(FORMATS), "CudnnRNN", "use_cudnn=False", id="cuDNN"),
    ],
)
def test_what_blocks_a_format_is_named_with_its_layer_and_what_to_do(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], str],
    blocked: set[str],
    where: str,
    advice: str,
) -> None:
    code, blocks, _ = _asked(make(tmp_path), capsys)

    assert code == 1
    assert _blocked(blocks) == blocked
    said = "\n".join(blocks[name] for name in blocked)
    assert where in said
    assert advice in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "note"),
    [
        pytest.param(_dynamic_lstm, "one row at a time", id="an LSTM over any number of steps"),
        pytest.param(_dynamic_lstm, "take tflite-dynamic", id="an LSTM in full int8"),
        pytest.param(_conv_3d_transpose, "", id="a layer that once needed Flex"),
        pytest.param(_fixed_batch, "is fixed, so requests cannot be batched", id="a fixed first dimension"),
    ],
)
def test_what_works_but_not_as_expected_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], str], note: str
) -> None:
    _, blocks, _ = _asked(make(tmp_path), capsys)

    assert not _blocked(blocks) - NOT_LOOPS - NOT_FREE - {"coreml"}  # which lose LSTMs' precision, and need fixed sizes
    assert note in "\n".join(blocks.values())


def test_a_layer_that_keeps_its_state_is_named_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = L.Input(batch_shape=(1, 5, 3), name="x")

    code, _, error = _asked(
        _keras(keras.Model(given, L.LSTM(4, stateful=True, name="memory")(given)), tmp_path), capsys
    )

    assert code == 1
    assert "'memory' keeps its state" in error
    assert "initial_state" in error


def test_python_code_in_a_file_is_not_run_unless_trusted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = L.Input((4,), name="x")
    model = _keras(keras.Model(given, L.Lambda(lambda x: x * 2, output_shape=(4,), name="y")(given)), tmp_path)

    code, blocks, error = _asked(model, capsys)
    trusted, _, _ = _asked(model, capsys, "--trust")

    assert (code, blocks, trusted) == (1, {}, 0)
    assert "--trust" in error


def test_a_class_that_is_not_known_is_named_and_can_be_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = L.Input((4,), name="x")
    model = _keras(keras.Model(given, Unregistered(name="y")(given)), tmp_path)
    code_file = tmp_path / "layers_of_mine.py"
    code_file.write_text(
        "import keras\n\n@keras.saving.register_keras_serializable('mine', 'Unregistered')\n"
        "class Unregistered(L.Layer):\n    def call(self, inputs):\n        return 2 * inputs\n"
    )

    code, _, error = _asked(model, capsys)

    assert code == 1
    assert "Unregistered" in error
    assert "--code" in error
