"""Digits read by classical methods and by ours: accuracy, size, time to train and time per prediction.

    python -m training compare-classical

takes about half an hour on two cores; with `--sample 5000` (training images) about two minutes. Every method gets the
same images. The networks are trained as their scripts train them, distortions included, for fewer epochs, and the
student is taught by the network trained here. The settings of scikit-learn's methods are common ones for MNIST; none
was chosen on the test images.

Written into `--out`: `compare-classical.md`, `.json` and `.png`. Size is that of what is kept for predicting: the
arrays of scikit-learn's estimators, the ONNX files of the networks. Time per prediction is the median of 100 single
images on one thread, in scikit-learn or, as they are served, in ONNX Runtime.
"""

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import onnxruntime
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from training import data, digits, distill, export, mlp, plots
from training.cluster import Cluster
from training.runs import Run

NAME = "compare-classical"
_TIMED = 100  # predictions of one image, of which the median counts

Predict = Callable[[npt.NDArray[np.float32]], Any]  # from pixels [n, 28, 28, 1], 0 to 255, to labels [n]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A method after training: how it predicts, and the bytes that it needs for that."""

    predict: Predict
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One line of the table."""

    method: str
    accuracy: float
    size_bytes: int
    train_s: float
    predict_ms: float


def main(argv: Sequence[str]) -> int:
    """Compare, print the table and write the three files; returns 0, or 1 when the error was printed."""
    parser = argparse.ArgumentParser(
        prog="python -m training compare-classical",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", type=Path, default=Path(".data"), help="data files; missing ones are downloaded")
    parser.add_argument("--accept-other-data", action="store_true", help="use files whose SHA-256 is another one")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="where the table and the plot go")
    parser.add_argument("--sample", type=int, default=0, help="train on that many images only; 0 is all of them")
    parser.add_argument("--epochs", type=int, default=8, help="of the networks [8]")
    options = parser.parse_args(argv)
    try:
        found = digits.read(data.DataFolder(options.data_dir, accept_other=options.accept_other_data), held_out=0)
    except data.DataError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    if options.sample:
        found = dataclasses.replace(found, images=found.images[: options.sample], labels=found.labels[: options.sample])
    with tempfile.TemporaryDirectory() as scratch:
        measured = [measure(*method, found) for method in methods(found, options.epochs, Path(scratch))]
    write(options.out, measured, about(" ".join([parser.prog, *argv]), found))
    print(table(measured))
    return 0


def measure(method: str, train: Callable[[], Trained], found: digits.Digits) -> Measured:
    """Train the method and try it on the test images."""
    print(f"training: {method}", flush=True)
    begun = time.perf_counter()
    trained = train()
    train_s = time.perf_counter() - begun
    images = found.test_images.astype(np.float32)
    accuracy = float((trained.predict(images) == found.test_labels).mean())
    times = []
    with threadpool_limits(1):
        for number in range(_TIMED):
            one = images[number % len(images)][None]
            begun = time.perf_counter()
            trained.predict(one)
            times.append(time.perf_counter() - begun)
    predict_ms = 1000 * float(np.median(times))
    return Measured(
        method=method, accuracy=accuracy, size_bytes=trained.size_bytes, train_s=train_s, predict_ms=predict_ms
    )


# The methods


def methods(found: digits.Digits, epochs: int, scratch: Path) -> Iterator[tuple[str, Callable[[], Trained]]]:
    """Every method's name and how it is trained; the student comes after its teacher, which it finds in `scratch`."""
    classical = {
        "k-nearest neighbours, k = 3": KNeighborsClassifier(3),
        "decision tree": DecisionTreeClassifier(random_state=1),
        "logistic regression": LogisticRegression(max_iter=100, tol=1e-2),
        "RBF SVM, C = 5, gamma = 0.02": SVC(C=5, gamma=0.02, cache_size=1000),
    }
    for method, estimator in classical.items():
        yield method, partial(_classical, estimator, found)
    yield "MLP", partial(_network, _fit_mlp, found, epochs, scratch / "mlp")
    yield "CNN", partial(_network, _fit_cnn, found, epochs, scratch / "cnn")
    yield "student of the CNN", partial(_network, _fit_student, found, epochs, scratch / "student")


def _classical(estimator: Any, found: digits.Digits) -> Trained:
    estimator.fit(_flat(found.images), found.labels)
    state = dict(vars(estimator))
    if tree := state.pop("tree_", None):
        state |= tree.__getstate__()
    size_bytes = sum(value.nbytes for value in state.values() if isinstance(value, np.ndarray))
    return Trained(predict=lambda images: estimator.predict(_flat(images)), size_bytes=size_bytes)


def _flat(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def _network(
    fit: Callable[[digits.Digits, int, Path], keras.Model], found: digits.Digits, epochs: int, folder: Path
) -> Trained:
    keras.utils.set_random_seed(1)
    folder.mkdir()
    path = folder / "model.onnx"
    export.write_onnx(export.onnx_of(export.exports_of(fit(found, epochs, folder))), path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Trained(
        predict=lambda images: session.run(None, {"image": images})[0].argmax(1), size_bytes=path.stat().st_size
    )


def _fit_mlp(found: digits.Digits, epochs: int, folder: Path) -> keras.Model:
    settings = mlp.Settings(epochs=epochs)
    return digits.fit(lambda: mlp.build(settings), settings, found, _run(settings, folder))


def _fit_cnn(found: digits.Digits, epochs: int, folder: Path) -> keras.Model:
    settings = digits.Settings(epochs=epochs)
    return digits.fit(lambda: digits.build(settings), settings, found, _run(settings, folder))


def _fit_student(found: digits.Digits, epochs: int, folder: Path) -> keras.Model:
    teacher = folder.parent / "cnn" / "model.onnx"
    settings = distill.Settings(epochs=epochs, teacher=str(teacher))
    return distill.fit(settings, found, distill.read_teacher(teacher), _run(settings, folder))


def _run(settings: digits.Settings, folder: Path) -> Run:
    return Run(folder, settings, {}, cluster=Cluster())


# What is written


def write(folder: Path, measured: Sequence[Measured], about: dict[str, str | int]) -> None:
    """The table as Markdown, the same as JSON, and the plot; `about` says what was run where."""
    folder.mkdir(parents=True, exist_ok=True)
    told = "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in about.items())
    report = f"# Digits by classical methods and by ours\n\n{table(measured)}\n\n{told}\n\n![plot]({NAME}.png)\n"
    (folder / f"{NAME}.md").write_text(report, encoding="utf-8")
    content = {"about": about, "measured": [dataclasses.asdict(line) for line in measured]}
    (folder / f"{NAME}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / f"{NAME}.png").write_bytes(plot(measured))


def about(command: str, found: digits.Digits) -> dict[str, str | int]:
    """What was run where."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)  # noqa: S607 - whichever git there is
    return {
        "command": command,
        "commit": commit.stdout.strip() or "unknown",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "training_images": len(found.images),
        "test_images": len(found.test_images),
    }


def table(measured: Sequence[Measured]) -> str:
    """A Markdown table, a method each line."""
    lines = ["| method | accuracy | size | time to train | time per image |", "| --- | ---: | ---: | ---: | ---: |"]
    for line in measured:
        size = f"{line.size_bytes / 1000:,.0f} kB"
        lines.append(
            f"| {line.method} | {line.accuracy:.2%} | {size} | {line.train_s:.0f} s | {line.predict_ms:.2f} ms |"
        )
    return "\n".join(lines)


def plot(measured: Sequence[Measured]) -> bytes:
    """Mistakes against time per image, both on logarithmic axes; the area of a dot goes with the size."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel="ms per image", ylabel="% of the test images misread")
    for line in measured:
        place = (line.predict_ms, max(0.01, 100 * (1 - line.accuracy)))
        axes.scatter(*place, s=20 + 8 * np.sqrt(line.size_bytes / 1000))
        axes.annotate(line.method, place, xytext=(6, 6), textcoords="offset points", fontsize=8)
    axes.grid(alpha=0.3, which="both")
    axes.margins(x=0.25, y=0.1)  # room for the names
    return plots.png(figure)
