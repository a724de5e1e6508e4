"""Tiny versions of the three trainings, through the command that users run, into the test's own model repository."""

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.artifacts import manifest
from millrace.artifacts.repository import ModelRepository
from millrace.artifacts.vocabulary import Vocabulary
from training import data, outputs, parity, scores
from training.__main__ import main

pytestmark = pytest.mark.slow

pytest.importorskip("tensorflow")
ROOT = Path(__file__).parents[2]
FORMATS = ("saved_model", "onnx", "tflite")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content))


def _idx(array: Any) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">i4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folders of the real layout with a few made-up examples each."""
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(1)
    for part in (data.MNIST_TRAIN, data.MNIST_TEST):
        _write(root / part[0].path, _idx(random.integers(0, 256, (96, 28, 28))))
        _write(root / part[1].path, _idx(random.integers(0, 10, 96)))
    for source in (data.IMDB_TRAIN, data.IMDB_TEST, *data.SENTENCES):
        lines = [
            f"{label}\t{'good fun' if label else 'bad bore'} {'film ' * int(random.integers(1, 60))}\n"
            for label in [0, 1] * 40
        ]
        _write(root / source.path, "".join(lines).encode())
    names = [a + b + c for a in "abcd" for b in "efgh" for c in "klmn"]
    for source in data.ENWIKI:
        _write(root / source.path, "\n".join(" ".join(random.choice(names, 50)) for _ in range(40)).encode())
    return root


@pytest.fixture(scope="module")
def published(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    """The models, each trained for one epoch."""
    out = tmp_path_factory.mktemp("models")
    common = ["--data-dir", str(data_dir), "--accept-other-data", "--out", str(out), "--epochs", "1"]
    common += ["--runs", str(tmp_path_factory.mktemp("runs"))]
    assert main(["digits", *common, "--version", "3", "--batch-size", "32", "--held-out", "20"]) == 0
    batch = ["--batch-size", "32", "--held-out", "20"]
    assert main(["digits-mlp", *common, *batch, "--units", "16"]) == 0
    teacher = str(out / "digits" / "3" / "model.onnx")
    assert main(["digits-student", *common, *batch, "--teacher", teacher]) == 0
    few = ["--made-sentences", "400", "--short-epochs", "1", "--short-made-sentences", "400"]
    tiny = ["--units", "8", "--embedding-size", "6", "--validation", "10"]
    assert main(["sentiment", *common, *few, *tiny]) == 0
    tiny = ["--size", "12", "--spans", "4", "--vocabulary-size", "60"]
    assert main(["word2vec", *common, *tiny, "--architecture", "cbow"]) == 0
    return ModelRepository(out)


def _runs(folder: Path) -> dict[str, parity.Run]:
    return {
        "saved_model": parity.saved_model(folder),
        "onnx": parity.onnx(folder / "model.onnx"),
        "tflite": parity.tflite(folder / "model.tflite"),
    }


def test_each_training_publishes_one_version_with_its_manifest(published: ModelRepository) -> None:
    names = ("digits", "digits-mlp", "digits-student", "sentiment", "word2vec")
    assert published.models() == {name: [3 if name == "digits" else 1] for name in names}
    for name, (version,) in published.models().items():
        found = manifest.read(published.folder(name, version))
        assert found is not None
        assert (found.name, found.version) == (name, version)
        assert set(found.parity) == set(FORMATS)
        assert {"model.onnx", "model.tflite", "saved_model.pb"} <= set(found.files)
        assert found.data
        assert found.example["instances"]
        manifest.verify(published.folder(name, version), found)


def test_digits_answer_alike_in_all_formats(published: ModelRepository) -> None:
    image = np.random.default_rng(2).uniform(0, 255, (5, 28, 28, 1)).astype(np.float32)

    answers = [run({"image": image})["probabilities"] for run in _runs(published.folder("digits", 3)).values()]

    assert answers[0].shape == (5, 10)
    np.testing.assert_allclose(answers[0].sum(axis=1), 1, atol=1e-5)
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], atol=outputs.ATOL)


@pytest.mark.parametrize("format_name", FORMATS)
def test_padding_does_not_change_a_sentiment(published: ModelRepository, format_name: str) -> None:
    run = _runs(published.folder("sentiment", 1))[format_name]
    alone = np.array([[2, 3, 4]], np.int32)
    beside_a_longer_one = np.array([[2, 3, 4, 0, 0, 0, 0], [3, 2, 4, 5, 2, 3, 4]], np.int32)

    padded = run({"ids": beside_a_longer_one})["probabilities"]

    np.testing.assert_allclose(padded[0], run({"ids": alone})["probabilities"][0], atol=1e-6)
    assert padded.shape == (2, 2)


@pytest.mark.parametrize("format_name", FORMATS)
def test_neighbors_leave_out_the_words_asked_for(published: ModelRepository, format_name: str) -> None:
    run = _runs(published.folder("word2vec", 1))[format_name]
    ids = np.array([[5, 9], [7, 7]], np.int32)

    found = run({"ids": ids, "weights": np.array([[1, -1], [1, 0]], np.float32)})

    assert {name: array.shape for name, array in found.items()} == {
        "vector": (2, 12),
        "neighbors": (2, 10),
        "similarities": (2, 10),
    }
    assert found["neighbors"].dtype == np.int32
    assert not np.isin(found["neighbors"][0], ids[0]).any()
    assert not np.isin(found["neighbors"][1], ids[1]).any()
    np.testing.assert_allclose(np.linalg.norm(found["vector"], axis=1), 1, atol=1e-5)
    assert (np.diff(found["similarities"]) <= 0).all()


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_rows_neighbors_do_not_depend_on_its_batch(published: ModelRepository, format_name: str) -> None:
    run = _runs(published.folder("word2vec", 1))[format_name]

    alone = run({"ids": np.array([[5]], np.int32), "weights": np.ones((1, 1), np.float32)})
    padded = run({"ids": np.array([[5, 5], [8, 9]], np.int32), "weights": np.array([[1, 0], [1, 1]], np.float32)})

    assert padded["neighbors"][0].tolist() == alone["neighbors"][0].tolist()
    np.testing.assert_allclose(padded["similarities"][0], alone["similarities"][0], atol=1e-6)


def test_names_and_free_dimensions_can_be_read_from_the_onnx_files(published: ModelRepository) -> None:
    import onnxruntime

    shapes = {}
    for name, (version,) in published.models().items():
        session = onnxruntime.InferenceSession(published.folder(name, version) / "model.onnx")
        for value in (*session.get_inputs(), *session.get_outputs()):
            shapes[name, value.name] = (value.type, value.shape)

    assert shapes == {
        ("digits", "image"): ("tensor(float)", ["batch", 28, 28, 1]),
        ("digits", "probabilities"): ("tensor(float)", ["batch", 10]),
        ("digits-mlp", "image"): ("tensor(float)", ["batch", 28, 28, 1]),
        ("digits-mlp", "probabilities"): ("tensor(float)", ["batch", 10]),
        ("digits-student", "image"): ("tensor(float)", ["batch", 28, 28, 1]),
        ("digits-student", "probabilities"): ("tensor(float)", ["batch", 10]),
        ("sentiment", "ids"): ("tensor(int32)", ["batch", "length"]),
        ("sentiment", "probabilities"): ("tensor(float)", ["batch", 2]),
        ("word2vec", "ids"): ("tensor(int32)", ["batch", "words"]),
        ("word2vec", "weights"): ("tensor(float)", ["batch", "words"]),
        ("word2vec", "vector"): ("tensor(float)", ["batch", 12]),
        ("word2vec", "neighbors"): ("tensor(int32)", ["batch", 10]),
        ("word2vec", "similarities"): ("tensor(float)", ["batch", 10]),
    }


def test_the_student_is_published_as_small_int8_tflite_too(published: ModelRepository) -> None:
    folder = published.folder("digits-student", 1)
    images = np.random.default_rng(2).uniform(0, 255, (3, 28, 28, 1)).astype(np.float32)

    small = parity.tflite(folder / "model.int8.tflite")({"image": images})["probabilities"]

    np.testing.assert_allclose(small, parity.onnx(folder / "model.onnx")({"image": images})["probabilities"], atol=0.05)
    assert (folder / "model.int8.tflite").stat().st_size <= 30_000


def test_scores_tell_which_promises_a_hardly_trained_model_does_not_keep(
    published: ModelRepository, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exam = scores.Exam(repository=published.root, folder=data.DataFolder(data_dir, accept_other=True))
    accuracy, size = (promise for promise in scores.PROMISES if promise.model == "digits-student")

    assert not scores.report([accuracy, size], exam)
    assert scores.report([size], exam)

    lines = capsys.readouterr().out.splitlines()
    assert ["SHORT" in line for line in lines] == [False, True, False, False, False]
    assert lines[1].startswith("digits-student   accuracy as int8 TFLite, MNIST test      >= 0.992 ")


def test_scores_need_the_real_test_sets(
    published: ModelRepository, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--models", str(published.root), "--data-dir", str(data_dir), "--only", "digits-student"]

    assert main(["scores", *flags]) == 1
    assert "t10k-images-idx3-ubyte.gz is not the expected file" in capsys.readouterr().err


def test_a_student_without_its_teacher_is_not_trained(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data-dir", str(data_dir), "--out", str(tmp_path / "models"), "--teacher", "nowhere/model.onnx"]

    assert main(["digits-student", *flags]) == 1
    assert "nowhere/model.onnx is missing: train the teacher first" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["digits", "sentiment", "word2vec"])
def test_card_and_plots_are_published_with_each_model(published: ModelRepository, name: str) -> None:
    (version,) = published.models()[name]
    folder = published.folder(name, version)

    card = (folder / "README.md").read_text()
    pictures = {path.relative_to(folder).as_posix() for path in folder.glob("plots/*.png")}
    assert card.startswith(f"# {name}, version {version}\n")
    assert len(pictures) >= 2
    assert all(f"({picture})" in card for picture in pictures)
    assert {*pictures, "README.md"} <= set(manifest.read(folder).files)  # type: ignore[union-attr]


def test_a_script_that_is_not_there_ends_the_command_with_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere/script.py"]) == 1
    assert "nowhere/script.py" in capsys.readouterr().err


def test_vocabularies_are_published_with_their_models(published: ModelRepository) -> None:
    text = Vocabulary.read(published.folder("sentiment", 1) / "vocabulary.txt")
    names = Vocabulary.read(published.folder("word2vec", 1) / "vocabulary.txt")

    assert text.entries[:3] == ("<pad>", "<unk>", "film")
    assert len(names) == 60
    assert "<unk>" not in names.entries


def test_a_published_version_is_not_trained_again(
    published: ModelRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["digits", "--out", str(published.root), "--version", "3", "--data-dir", "/nowhere"])

    assert code == 1
    assert "exists; choose another --version" in capsys.readouterr().err


def test_data_of_another_hash_end_the_command_with_a_message(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["digits", "--data-dir", str(data_dir), "--out", str(tmp_path / "models")])

    assert code == 1
    assert "--accept-other-data" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_the_command_imports_tensorflow_only_to_train() -> None:
    code = "import sys, training.__main__ as run; code = run.main([]); sys.exit(code or 'tensorflow' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert "sentiment" in done.stdout
