"""Jobs of the kind `export`: an uploaded Keras model, and a published version, in other formats with their report."""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from millrace.jobs.records import JobRecord
from tests.support.jobs import Jobs
from tests.support.running import RedisServer, until

EXPORT = {"kind": "export", "formats": ["onnx", "tflite"]}
QUICK = {"kind": "export", "formats": ["onnx"]}


@pytest.fixture
def jobs(redis_server: RedisServer, tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(redis_server, redis_server, tmp_path, {"MILLRACE_JOBS_MODELS": str(tmp_path / "models")})
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Any]:
    """A small Keras model as a file, and itself."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.layers.Input((4,), name="x"), keras.layers.Dense(3, activation="softmax")])
    path = tmp_path_factory.mktemp("keras") / "mine.keras"
    model.save(path)
    return path.read_bytes(), model


def is_refused(record: JobRecord, words: str) -> bool:
    assert record.state == "failed"
    assert words in record.error
    assert "/" not in record.error  # no path of the machine
    return True


@pytest.mark.slow
def test_a_keras_model_and_a_published_version_are_exported_with_their_reports(
    jobs: Jobs, trained: tuple[bytes, Any], tmp_path: Path
) -> None:
    raw, model = trained
    record = jobs.ended(jobs.submit(EXPORT, raw, "mine.keras").id, 180)
    assert (record.state, record.error) == ("finished", "")
    assert record.outputs == ("export.zip", "parity.md", "parity.json", "parity.png")
    rows = np.random.default_rng(0).random((5, 4), np.float32)
    assert np.allclose(_answers(jobs.result(record.id), rows), model.predict(rows, verbose=0), atol=1e-4)
    report = json.loads(jobs.result(record.id, "parity.json"))
    assert {each["format"] for each in report["rows"]} >= {"onnx", "tflite"}
    assert b"onnx" in jobs.result(record.id, "parity.md")
    assert jobs.result(record.id, "parity.png").startswith(b"\x89PNG")

    for version in ("1", "2"):
        with zipfile.ZipFile(io.BytesIO(jobs.result(record.id))) as packed:
            packed.extractall(tmp_path / "models" / "mine" / version)
        (tmp_path / "models" / "mine" / version / "model.keras").write_bytes(raw)
    for chosen in ({}, {"version": 1}):
        again = jobs.ended(jobs.submit(QUICK | {"model": "mine"} | chosen).id, 180)
        assert (again.state, again.error) == ("finished", "")
        assert np.allclose(_answers(jobs.result(again.id), rows), model.predict(rows, verbose=0), atol=1e-4)
    shutil.rmtree(tmp_path / "models")


def _answers(packed: bytes, rows: Any) -> Any:
    """What the exported ONNX model answers."""
    runtime = pytest.importorskip("onnxruntime")
    with zipfile.ZipFile(io.BytesIO(packed)) as files:
        session = runtime.InferenceSession(files.read("model.onnx"))
    return session.run(None, {session.get_inputs()[0].name: rows})[0]


def test_what_cannot_be_exported_is_refused_in_words(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "models" / "mine" / "7").mkdir(parents=True)
    refused: list[tuple[dict[str, Any], bytes | None, str, str]] = [
        (QUICK, b"no zip", "mine.keras", "input: the uploaded file is damaged"),
        (QUICK, b"no zip", "mine.h5", "input: upload a .keras file, or name a published model"),
        (QUICK, None, "", "model: upload a .keras file, or name a published model"),
        (QUICK | {"model": "none"}, None, "", "model: there is no published model 'none'"),
        (QUICK | {"model": "mine", "version": 1}, None, "", "model 'mine' has no version 1; it has 7"),
    ]
    for document, upload, name, words in refused:
        assert is_refused(jobs.ended(jobs.submit(document, upload, name).id), words)


@pytest.mark.slow
def test_code_in_an_uploaded_model_does_not_run_and_a_cancel_ends_the_program(
    jobs: Jobs, trained: tuple[bytes, Any], tmp_path: Path
) -> None:
    keras = pytest.importorskip("keras")
    touched = str(tmp_path / "touched")
    hostile = keras.Sequential([keras.layers.Input((4,)), keras.layers.Lambda(lambda x: (Path(touched).touch(), x)[1])])
    Path(touched).unlink(missing_ok=True)
    hostile.save(tmp_path / "hostile.keras")
    record = jobs.ended(jobs.submit(QUICK, (tmp_path / "hostile.keras").read_bytes(), "hostile.keras").id, 120)
    assert is_refused(record, "Lambda")
    assert not Path(touched).exists()

    job = jobs.submit(QUICK, trained[0], "mine.keras")
    until(lambda: _exports(jobs), 60, "the program that exports")
    (program,) = _exports(jobs)
    jobs.store.cancel(job.id)
    until(lambda: not program.is_running() or program.status() == psutil.STATUS_ZOMBIE, 5, "the end of the program")
    until(lambda: not list(jobs.store.job_folder(job.id).glob("*/*")), 5, "the end of its files")


def _exports(jobs: Jobs) -> list[psutil.Process]:
    children = psutil.Process(jobs.programs[0].pid).children(recursive=True)
    return [each for each in children if "export" in each.cmdline()]
