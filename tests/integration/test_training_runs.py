"""Training runs that are interrupted, and runs of two processes, end where one uninterrupted process does."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.running import ROOT, free_port
from training.checkpoints import CheckpointError

pytest.importorskip("tensorflow")
import keras

from training import digits, distill, export, mlp, sentiment, word2vec
from training.__main__ import main
from training.cluster import Cluster, ClusterError
from training.negative_sampling import Corpus
from training.runs import CHECKPOINT, Epoch, Run


class CtrlC(Exception):
    """Somebody pressed Ctrl-C."""


class Interrupted(Run):
    """A run that is ended in the middle of its third epoch."""

    def epochs(self, count: int, variables: Any) -> Iterator[Epoch]:
        for epoch in super().epochs(count, variables):
            if epoch.number == 2:
                raise CtrlC
            yield epoch


def _digits() -> digits.Digits:
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (3, 64, 28, 28, 1)).astype(np.uint8)
    labels = random.integers(0, 10, (3, 64)).astype(np.int32)
    return digits.Digits(
        images=images[0],
        labels=labels[0],
        held_out_images=images[1],
        held_out_labels=labels[1],
        test_images=images[2],
        test_labels=labels[2],
    )


def _uniform_teacher(images: Any) -> Any:
    return np.full((len(images), 10), 0.1, np.float32)


def _texts(seed: int) -> sentiment.Texts:
    random = np.random.default_rng(seed)
    ids = [random.integers(1, 30, length).astype(np.int32) for length in random.integers(1, 60, 40)]
    return sentiment.Texts(ids=ids, labels=random.integers(0, 2, 40).astype(np.int32))


def _train_digits(settings: digits.Settings, run: Run) -> list[Any]:
    weights: list[Any] = digits.fit(lambda: digits.build(settings), settings, _digits(), run).get_weights()
    return weights


def _train_mlp(settings: mlp.Settings, run: Run) -> list[Any]:
    weights: list[Any] = digits.fit(lambda: mlp.build(settings), settings, _digits(), run).get_weights()
    return weights


def _train_student(settings: distill.Settings, run: Run) -> list[Any]:
    weights: list[Any] = distill.fit(settings, _digits(), _uniform_teacher, run).get_weights()
    return weights


def _train_sentiment(settings: sentiment.Settings, run: Run) -> list[Any]:
    weights: list[Any] = sentiment.fit(settings, run, 30, _texts, {"reviews": _texts(9)}).get_weights()
    return weights


def _train_words(settings: word2vec.Settings, run: Run) -> list[Any]:
    words = np.random.default_rng(1).integers(0, 20, 2000).astype(np.int32)
    paragraphs = np.repeat(np.arange(40, dtype=np.int32), 50)
    return [word2vec.fit(settings, Corpus(words=words, paragraphs=paragraphs, counts=np.bincount(words)), run)]


TRAININGS = [
    pytest.param(_train_digits, digits.Settings(epochs=4, batch_size=16), id="digits", marks=pytest.mark.slow),
    pytest.param(_train_mlp, mlp.Settings(epochs=4, batch_size=16, units=16), id="digits-mlp"),
    pytest.param(
        _train_student,
        distill.Settings(epochs=4, batch_size=16, dropout=0.2),
        id="digits-student",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        _train_sentiment,
        sentiment.Settings(epochs=2, short_epochs=2, units=6, embedding_size=5, batch_texts=16, short_batch_texts=8),
        id="sentiment",
        marks=pytest.mark.slow,
    ),
    pytest.param(_train_words, word2vec.Settings(epochs=4, size=8, spans=4), id="word2vec"),
]


@pytest.mark.parametrize(("train", "settings"), TRAININGS)
def test_a_resumed_training_ends_as_an_uninterrupted_one(train: Any, settings: Any, tmp_path: Path) -> None:
    def run(folder: str, kind: type[Run] = Run, resume: bool = False) -> Run:
        keras.utils.set_random_seed(settings.seed)
        return kind(tmp_path / folder, settings, {}, resume=resume, cluster=Cluster())

    whole = run("whole")
    expected = train(settings, whole)
    with pytest.raises(CtrlC):
        train(settings, run("parts", Interrupted))
    rest = run("parts", resume=True)
    found = train(settings, rest)

    for weight, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(weight, wanted)
    assert rest.history == whole.history
    assert len(rest.history) == 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    epochs: int = 2
    seed: int = 1


def _count(run: Run, epochs: int) -> list[int]:
    total = keras.Variable(0.0)
    numbers = []
    for epoch in run.epochs(epochs, [total]):
        total.assign_add(1.0)
        epoch.metrics["loss"] = float(total)
        numbers.append(epoch.number)
    return numbers


def test_a_finished_run_that_is_resumed_trains_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _count(Run(tmp_path, Settings(), {}, cluster=Cluster()), 2) == [0, 1]
    again = Run(tmp_path, Settings(), {}, resume=True, cluster=Cluster())

    assert _count(again, 2) == []
    assert again.history == [{"loss": 1.0}, {"loss": 2.0}]
    assert "going on after epoch 2" in capsys.readouterr().out


def test_without_a_checkpoint_a_resumed_run_begins_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _count(Run(tmp_path, Settings(), {}, resume=True, cluster=Cluster()), 2) == [0, 1]
    assert f"no checkpoint in {tmp_path} yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "hashes", "message"),
    [
        pytest.param(Settings(epochs=1), {"a.gz": "abc"}, "epochs was 2 and is 1", id="fewer epochs"),
        pytest.param(Settings(seed=2), {"a.gz": "abc"}, "seed was 1 and is 2", id="another setting"),
        pytest.param(Settings(), {"a.gz": "abd"}, "a.gz was 'abc' and is 'abd'", id="other data"),
    ],
)
def test_a_run_is_not_resumed_with_something_else(
    tmp_path: Path, settings: Settings, hashes: dict[str, str], message: str
) -> None:
    _count(Run(tmp_path, Settings(), {"a.gz": "abc"}, cluster=Cluster()), 2)

    with pytest.raises(CheckpointError, match=message):
        _count(Run(tmp_path, settings, hashes, resume=True, cluster=Cluster()), 2)


def test_the_metrics_of_each_epoch_are_logged_for_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, TensorEvent
    from tensorboard.util import tensor_util

    _count(Run(tmp_path, Settings(), {}, cluster=Cluster()), 2)

    log = EventAccumulator(str(tmp_path)).Reload()
    events: list[TensorEvent] = log.Tensors("loss")
    assert [(event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in events] == [
        (1, 1.0),
        (2, 2.0),
    ]


def test_a_run_that_begins_anew_does_not_mix_its_curves_with_an_older_ones(tmp_path: Path) -> None:
    for _ in range(2):
        _count(Run(tmp_path, Settings(), {}, cluster=Cluster()), 2)

    assert sum(1 for _ in tmp_path.glob("events.out.tfevents.*")) == 1


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    _count(Run(tmp_path, Settings(), {}, cluster=Cluster()), 2)
    resumed = Run(tmp_path, Settings(), {}, resume=True, cluster=Cluster())

    with pytest.raises(CheckpointError, match="belongs to another model: its variables have other shapes"):
        list(resumed.epochs(2, [keras.Variable(np.zeros(3))]))


def test_an_interrupted_command_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "interrupted.py"
    script.write_text(
        "import dataclasses, os, signal\n"
        "NAME = 'interrupted'\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Settings:\n"
        "    epochs: int = 1\n"
        "    seed: int = 1\n"
        "def train(settings, folder, target, run):\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background has not\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )

    assert main([str(script), "--out", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]) == 130
    assert "interrupted; with --resume it goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--epochs", "0", "0: at least 1 is needed"),
        ("--batch-size", "-1", "-1: at least 1 is needed"),
        ("--seed", "-1", "-1 is less than 0"),
        ("--dropout", "nan", "nan is no number from 0"),
        ("--learning-rate", "fast", "invalid number value: 'fast'"),
    ],
)
def test_hyper_parameters_that_make_no_sense_are_refused_by_name(
    flag: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["digits", flag, value])

    assert ended.value.code == 2
    assert f"argument {flag}: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("task", [-1, 2])
def test_a_task_that_the_cluster_lacks_is_refused(task: int) -> None:
    with pytest.raises(ClusterError, match=f"--task {task}: there are 2 processes"):
        Cluster(["127.0.0.1:1", "127.0.0.1:2"], task)


@pytest.mark.parametrize("script", [sentiment, word2vec])
def test_a_model_that_is_trained_in_one_process_refuses_a_cluster(script: Any, tmp_path: Path) -> None:
    both = Cluster()
    both.size = 2
    run = Run(tmp_path, script.Settings(), {}, cluster=both)

    with pytest.raises(ClusterError, match=f"{script.NAME} is trained in one process"):
        script.train(script.Settings(), None, None, run)


# Two processes that train one model, by the command that users run, with this file as their script.

NAME = "shared"


def train(settings: Settings, _: Any, target: export.Target, run: Run) -> None:
    """A small network whose weights every process writes into the repository's folder; no model is published."""
    told = run.cluster.from_chief(np.array([7, 9], np.uint32) * np.uint32(run.cluster.is_chief))
    assert (told.dtype, told.tolist()) == (np.uint32, [7, 9])
    setting = digits.Settings(epochs=settings.epochs, batch_size=16, learning_rate=1e-2)
    model = digits.fit(_small, setting, _digits(), run)
    np.savez(target.repository.root / f"weights-of-{run.cluster.task}.npz", *model.get_weights())


def _small() -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 5, strides=3, use_bias=False),
            layers.BatchNormalization(synchronized=True),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def _start(folder: Path, *flags: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "training", __file__, "--out", str(folder), "--runs", str(folder / "runs"), *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _end(*processes: "subprocess.Popen[str]") -> list[str]:
    try:
        printed = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), printed
    return printed


def _weights(path: Path) -> list[Any]:
    with np.load(path) as arrays:
        return [arrays[name] for name in arrays.files]


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_resume_from_the_checkpoint_of_the_first(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    together.mkdir()
    cluster = ("--cluster", f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}", "--task")

    _end(_start(alone, "--epochs", "3"))
    printed = _end(*(_start(together, "--epochs", "3", *cluster, task) for task in "01"))

    expected = _weights(alone / "weights-of-0.npz")
    for task in "01":
        for weight, wanted in zip(_weights(together / f"weights-of-{task}.npz"), expected, strict=True):
            np.testing.assert_allclose(weight, wanted, atol=1e-5)
    assert all("epoch 3/3" in lines for lines in printed)
    assert sum(1 for _ in together.rglob(CHECKPOINT)) == 1

    (together / "weights-of-1.npz").unlink()
    printed = _end(*(_start(together, "--epochs", "3", "--resume", *cluster, task) for task in "01"))

    for weight, wanted in zip(_weights(together / "weights-of-1.npz"), expected, strict=True):
        np.testing.assert_allclose(weight, wanted, atol=1e-5)
    assert all("going on after epoch 3" in lines for lines in printed)
