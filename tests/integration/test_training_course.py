"""How trainings end: with more epochs, early with the best, and never without what was trained."""

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from millrace.artifacts import manifest
from millrace.artifacts.manifest import Manifest
from millrace.artifacts.repository import ModelRepository

tf = pytest.importorskip("tensorflow")
import keras  # noqa: E402 - after the skip where TensorFlow is not installed

from training import data, export, fitting  # noqa: E402
from training.cluster import Cluster  # noqa: E402
from training.course import Course, CourseError  # noqa: E402
from training.runs import Run  # noqa: E402


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    epochs: int = 2
    seed: int = 1


def _run(folder: Path, epochs: int = 2, *, resume: bool = False, **course: Any) -> Run:
    return Run(folder, Settings(epochs=epochs), {}, resume=resume, cluster=Cluster(), course=Course(**course))


def _counted(run: Run, losses: list[float]) -> float:
    """The variable at the end, which counts the epochs; the held-out losses are given."""
    total = keras.Variable(0.0)
    for epoch in run.epochs(len(losses), [total]):
        total.assign_add(1.0)
        epoch.metrics |= {"held_out_loss": losses[epoch.number], "held_out_accuracy": losses[epoch.number]}
    return float(total)


def test_a_finished_run_goes_on_for_more_epochs(tmp_path: Path) -> None:
    _counted(_run(tmp_path, 2), [1.0, 1.0])
    more = _run(tmp_path, 5, resume=True)

    assert _counted(more, [1.0] * 5) == 5.0
    assert len(more.history) == 5


def test_a_run_stops_after_the_epochs_of_patience_with_the_best_ones_weights(tmp_path: Path) -> None:
    run = _run(tmp_path, 9, patience=2)

    assert _counted(run, [3.0, 1.0, 2.0, 1.5, 0.1, 0.1, 0.1, 0.1, 0.1]) == 2.0
    assert len(run.history) == 4


def test_the_best_epoch_is_kept_where_no_patience_ends_too(tmp_path: Path) -> None:
    assert _counted(_run(tmp_path, 3, patience=9), [3.0, 1.0, 2.0]) == 2.0


def test_a_metric_that_is_no_loss_is_better_when_it_is_larger(tmp_path: Path) -> None:
    assert _counted(_run(tmp_path, 3, patience=9, monitor="held_out_accuracy"), [3.0, 1.0, 2.0]) == 1.0


def test_a_stopped_run_that_is_resumed_is_still_over(tmp_path: Path) -> None:
    losses = [1.0, 2.0, 3.0, 0.1]
    _counted(_run(tmp_path, 4, patience=2), losses)

    assert _counted(_run(tmp_path, 4, resume=True, patience=2), losses) == 1.0


def test_a_metric_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CourseError, match="--monitor f1: there is no such metric; there are held_out_loss"):
        _counted(_run(tmp_path, 2, patience=1, monitor="f1"), [1.0, 1.0])


def test_mlflow_is_sent_the_metrics_or_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        import mlflow
    except ImportError:
        with pytest.raises(CourseError, match="mlflow is not installed; pip install mlflow-skinny"):
            _counted(_run(tmp_path / "run", 2, mlflow=str(tmp_path / "mlruns")), [1.0, 2.0])
        return
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    _counted(_run(tmp_path / "run", 2, mlflow=f"file:{tmp_path / 'mlruns'}"), [1.0, 2.0])
    (found,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert (found.data.params["epochs"], found.data.metrics["held_out_loss"]) == ("2", 2.0)


# Keras models


def _make() -> tuple[Any, Any]:
    given = keras.layers.Input((3,), name="x")
    hidden = keras.layers.Dense(8, activation="relu")(given)
    model = keras.Model(given, keras.layers.Dense(2, activation="softmax", name="kind")(hidden))
    return model, keras.optimizers.Adam(0.01)


def _fitted(run: Run, epochs: int) -> Any:
    random = np.random.default_rng(0)
    rows = random.normal(size=(64, 3)).astype("f")
    labels = (rows[:, 0] > 0).astype("i4")
    batches = [(tf.constant(rows[i : i + 16]), tf.constant(labels[i : i + 16])) for i in range(0, 64, 16)]
    loss = keras.losses.sparse_categorical_crossentropy
    return fitting.fit(_make, loss, lambda _: batches, run, epochs=epochs, steps=4)


def test_mixed_precision_trains_and_gives_a_model_of_32_bits(tmp_path: Path) -> None:
    run = _run(tmp_path, 3, precision="mixed_float16")

    model = _fitted(run, 3)

    assert run.history[-1]["loss"] < run.history[0]["loss"]
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


def test_keras_callbacks_are_called_and_may_end_a_run(tmp_path: Path) -> None:
    place = tmp_path / "mine.py"
    place.write_text(
        "import keras\n"
        "class Ends(keras.callbacks.Callback):\n"
        "    def on_epoch_end(self, epoch, logs):\n"
        "        self.model.optimizer.learning_rate = 0.5\n"
        "        self.model.stop_training = epoch == 1\n"
        "def callbacks():\n"
        "    return [Ends()]\n"
    )
    run = _run(tmp_path / "run", 4, callbacks=f"{place}:callbacks")

    _fitted(run, 4)

    assert [round(metrics["learning_rate"], 3) for metrics in run.history] == [0.01, 0.5]


def test_callbacks_that_are_not_there_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CourseError, match=r"--callbacks nowhere\.py:mine"):
        _fitted(_run(tmp_path, 1, callbacks="nowhere.py:mine"), 1)


# Publishing


@keras.saving.register_keras_serializable("tests")
class Betainc(keras.layers.Layer):
    """Has an operator that TFLite lacks."""

    def call(self, inputs: Any) -> Any:
        return tf.raw_ops.Betainc(a=inputs + 1, b=inputs + 1, x=inputs)


def _published(root: Path, **target: Any) -> Path:
    given = keras.layers.Input((3,), name="x")
    hidden = keras.layers.Dense(3, activation="sigmoid")(given)
    model = keras.Model(given, Betainc(name="strange")(hidden))
    place = export.Target(repository=ModelRepository(root), version=1, **target)
    batches = [{"x": np.ones((2, 3), np.float32)}]
    exports, answers = export.exports_of(model), export.answers_of(model)
    return export.publish(place, Manifest(name="mine", description="Mine"), exports, answers, batches)


def test_the_trained_model_is_kept_when_a_format_fails(tmp_path: Path) -> None:
    with pytest.raises(export.ExportError, match=r"Betainc.* The trained model is in .*model\.keras"):
        _published(tmp_path / "models", kept=tmp_path / "run")

    assert keras.saving.load_model(tmp_path / "run" / "model.keras").name
    assert ModelRepository(tmp_path / "models").models() == {}


def test_a_version_may_lack_formats_and_says_why(tmp_path: Path) -> None:
    folder = _published(tmp_path / "models", may_lack=("onnx", "tflite"))

    found = manifest.read(folder)

    assert found is not None
    assert "Betainc" in found.left_out["tflite"]
    assert set(found.parity) == {"saved_model"}
    assert not (folder / "model.tflite").exists()


# Data of one's own


def _digits_folder(root: Path) -> None:
    for label in range(10):
        (root / str(label)).mkdir(parents=True)
        for number in range(10):
            image = Image.new("L", (40, 40))
            image.paste(255, (15, 5, 22 + label, 35))
            image.save(root / str(label) / f"{number}.png")


def test_digits_are_read_from_a_folder_of_images(tmp_path: Path) -> None:
    _digits_folder(tmp_path / "mine")
    folder = data.DataFolder(tmp_path, own=tmp_path / "mine")

    images, labels = data.mnist(folder, data.MNIST_TRAIN)
    test_images, test_labels = data.mnist(folder, data.MNIST_TEST)

    assert images.shape == (90, 28, 28, 1)
    assert np.bincount(labels).tolist() == [9] * 10
    assert test_labels.tolist() == list(range(10))
    assert test_images.max() > 200
    assert set(folder.hashes) == {"mine"}


def test_digits_and_texts_are_read_from_csv_files(tmp_path: Path) -> None:
    with (tmp_path / "digits.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["label", *range(784)], *([n % 2, *[n] * 784] for n in range(20))])
    (tmp_path / "texts.csv").write_text(
        "Review,Sentiment\n" + "".join(f'"so, {n}",{("negative", "positive")[n % 2]}\n' for n in range(20))
    )
    digits = data.DataFolder(tmp_path, own=tmp_path / "digits.csv")
    texts = data.DataFolder(tmp_path, own=tmp_path / "texts.csv")

    assert data.mnist(digits, data.MNIST_TEST)[0][:, 0, 0, 0].tolist() == [18, 19]
    assert [(review.text, review.label) for review in data.imdb(texts, data.IMDB_TEST)] == [
        ("so, 18", 0),
        ("so, 19", 1),
    ]
    assert len(data.imdb(texts, data.IMDB_TRAIN)) == 18
    assert data.sentences(texts) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "label,a\n1,2\n", "line 2: a `label` from 0 to 9 and 784 pixels"),
        ("a.csv", "", "too few digits"),
        ("elsewhere.csv", None, "there is no"),
    ],
)
def test_data_that_are_no_digits_are_refused(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)

    with pytest.raises(data.DataError, match=message):
        data.mnist(data.DataFolder(tmp_path, own=tmp_path / name), data.MNIST_TRAIN)


def test_texts_without_a_label_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\ngood,1\nbad,maybe\n")

    with pytest.raises(data.DataError, match="line 3"):
        data.imdb(data.DataFolder(tmp_path, own=tmp_path / "a.csv"), data.IMDB_TRAIN)
