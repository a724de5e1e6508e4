"""Repositories as strangers have them: what is a model, where it is looked for, and what is said of the rest."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.artifacts import misplaced, modelfiles
from millrace.artifacts.modelfiles import ModelFile
from millrace.artifacts.onemodel import OneModel, one_model
from millrace.artifacts.repository import RepositoryError
from millrace.broker.keys import Queue, queue_of_dead_letters
from millrace.protocol import names
from worker.reconciling.catalogue import Catalogue


def put(root: Path, *files: str) -> Path:
    """Empty files below the root, which is returned."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


# A version's model


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["model.onnx"], [("onnx", "", "model.onnx")]),
        (["model.onnx/model.onnx", "model.onnx/weights.bin"], [("onnx", "model.onnx", "model.onnx")]),
        (["model.ort"], [("onnx", "", "model.ort")]),
        (["saved_model.pb", "variables/x"], [("savedmodel", "", "saved_model.pb")]),
        (["saved_model.pbtxt"], []),
        (["model.savedmodel/saved_model.pb"], [("savedmodel", "model.savedmodel", "saved_model.pb")]),
        (["model.tflite", "model.onnx"], [("onnx", "", "model.onnx"), ("tflite", "", "model.tflite")]),
        (["tfserving.json"], [("tfserving", "", "tfserving.json")]),
        (["yolov8.onnx", "labels.txt"], [("onnx", "", "yolov8.onnx")]),
        (["Detect.TFLITE"], [("tflite", "", "Detect.TFLITE")]),
        (["model.onnx", "other.onnx"], [("onnx", "", "model.onnx")]),
        (["a.onnx", "b.onnx"], []),
        (["a.onnx", "b.tflite"], []),
        (["model.keras"], []),
        (["model.onnx/readme.txt"], []),
    ],
)
def test_the_model_of_a_version_is_found_by_its_name_or_because_it_is_the_only_one(
    tmp_path: Path, files: list[str], found: list[tuple[str, str, str]]
) -> None:
    put(tmp_path, *files)
    assert modelfiles.find(tmp_path) == [ModelFile(kind, tmp_path / folder, name) for kind, folder, name in found]


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("b.onnx", ("onnx", "", "b.onnx")),
        ("net.savedmodel", ("savedmodel", "net.savedmodel", "saved_model.pb")),
        ("big", ("onnx", "big", "model.onnx")),
    ],
)
def test_a_configuration_names_any_other(tmp_path: Path, named: str, found: tuple[str, str, str]) -> None:
    put(tmp_path, "a.onnx", "b.onnx", "net.savedmodel/saved_model.pb", "big/model.onnx", "big/weights")
    assert modelfiles.find(tmp_path, named) == [ModelFile(found[0], tmp_path / found[1], found[2])]
    assert modelfiles.find(tmp_path, "absent.onnx") == []


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a.onnx", "b.onnx"], ["a.onnx and b.onnx could each be the model", "default_model_filename"]),
        (["net.keras"], ["net.keras is Keras' format", "millrace export"]),
        (["net.h5"], ["Keras' format"]),
        (["best.pt"], ["best.pt is PyTorch's format", "torch.onnx.export"]),
        (["model.safetensors", "config.json"], ["weights without their program"]),
        (["model.pkl"], ["a pickle, which would run code"]),
        (["model.plan"], ["TensorRT"]),
        (["frozen.pb"], ["a frozen graph", "SavedModel"]),
        (["saved_model.pbtxt"], ["in text form"]),
        (["model.zip"], ["an archive; unpack it"]),
        (["export/saved_model.pb"], ["one folder too deep, in export"]),
        (["readme.txt"], []),
        ([], []),
    ],
)
def test_a_version_without_a_model_says_what_is_there_and_what_to_do(
    tmp_path: Path, files: list[str], words: list[str]
) -> None:
    said = misplaced.in_version(put(tmp_path, *files))
    assert all(word in said for word in words), said
    assert bool(said) == bool(words)


# What lies beside versions


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["model.onnx"], "m/model.onnx lies outside of a version's folder; move it to m/1/model.onnx"),
        (["1/model.onnx", "new.onnx"], "m/new.onnx lies outside of a version's folder; move it to m/2/model.onnx"),
        (
            ["saved_model.pb", "fingerprint.pb"],
            "m/saved_model.pb lies outside of a version's folder; move it to m/1/saved_model.pb",
        ),
        (["v1/model.onnx"], "m/v1 is no version, for its name is no whole number below 2^63; rename it to m/1"),
        (["3/model.onnx", "latest/saved_model.pb"], "m/latest is no version, for its name is"),
        ([f"{2**63}/model.onnx"], "is no whole number below 2^63; rename it to m/1"),
        (["1/model.onnx", "0001/model.onnx"], "m/0001 names version 1 as m/1 does, and only m/1 is looked at"),
        (["best.pt"], "m/best.pt is PyTorch's format"),
        (["config.pbtxt"], "m has a config.pbtxt and no version's folder"),
        (["model.py"], "m/model.py lies outside of a version's folder; move it to m/1/model.py"),
    ],
)
def test_what_looks_like_a_model_and_is_not_looked_at_is_named_with_what_to_do(
    tmp_path: Path, files: list[str], sentence: str
) -> None:
    (said,) = misplaced.in_model("m", put(tmp_path, *files))
    assert sentence in said


def test_what_is_no_models_business_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path, "config.pbtxt", "labels.txt", "1/model.onnx", "README.md", "configs/a.pbtxt", "assets/x.txt")
    put(tmp_path, ".publishing-x/2/model.onnx", "_warmup/x.npz")
    assert misplaced.in_model("m", tmp_path) == []


def test_a_whole_repository_is_read_with_a_reason_for_each_thing_that_cannot_be_served(tmp_path: Path) -> None:
    put(tmp_path, "good/00000123/saved_model.pb", "good/v124/saved_model.pb", "flat/model.tflite", "yolo.onnx")
    put(tmp_path, "docs/index.html", "two words+é/1/model.onnx", "bad\nname/1/model.onnx")
    found = Catalogue(tmp_path).read({})
    assert {name: list(model.there) for name, model in found.items() if not model.error} == {
        "good": [123],
        "two words+é": [1],
    }
    assert found["good"].notes == (
        "good/v124 is no version, for its name is no whole number below 2^63; rename it to good/124",
    )
    assert found["good"].version_folder(123) == tmp_path / "good" / "00000123"
    reasons = {name: model.error for name, model in found.items() if model.error}
    assert reasons == {
        "flat": "flat/model.tflite lies outside of a version's folder; move it to flat/1/model.tflite",
        "yolo": "yolo.onnx lies in the repository itself; move it to yolo/1/model.onnx",
        "bad_name": r"'bad\nname' cannot be served: a model's name has printable characters only; rename it",
    }


# A single model in place of a repository


@pytest.mark.parametrize(
    ("path", "name", "folder", "versions", "file"),
    [
        ("files/yolo v8.onnx", "yolo v8", "files", {1: "files"}, "yolo v8.onnx"),
        ("files/model.tflite", "model", "files", {1: "files"}, "model.tflite"),
        ("repository/m/3/model.onnx", "m", "repository/m", {3: "repository/m/3"}, ""),
        ("repository/m/3", "m", "repository/m", {3: "repository/m/3"}, ""),
        ("repository/m", "m", "repository/m", {3: "repository/m/3", 12: "repository/m/0012"}, ""),
        ("export", "export", "export", {1: "export"}, ""),
        ("export/saved_model.pb", "export", "export", {1: "export"}, ""),
        ("code", "code", "code", {1: "code"}, ""),
    ],
)
def test_a_path_names_one_model(
    tmp_path: Path, path: str, name: str, folder: str, versions: dict[int, str], file: str
) -> None:
    put(tmp_path, "files/yolo v8.onnx", "files/model.tflite", "files/manifest.json", "export/saved_model.pb")
    put(
        tmp_path,
        "code/model.py",
        "repository/m/3/model.onnx",
        "repository/m/0012/model.onnx",
        "repository/m/config.pbtxt",
    )
    found = one_model(tmp_path / path)
    paths = {version: tmp_path / of for version, of in versions.items()}
    assert found == OneModel(name, tmp_path / folder, paths, file, is_whole=path == "repository/m")


def test_a_models_folder_is_one_also_where_its_versions_cannot_be_loaded(tmp_path: Path) -> None:
    put(tmp_path, "m/1/best.pt")
    assert one_model(tmp_path / "m") == OneModel("m", tmp_path / "m", {1: tmp_path / "m" / "1"}, is_whole=True)


def test_a_repository_is_none_also_where_its_models_are_called_by_numbers(tmp_path: Path) -> None:
    put(tmp_path, "7/1/model.onnx", "stray.onnx", "model.onnx")
    assert one_model(tmp_path) is None
    assert one_model(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("file", "message"), [("a.pt", "is PyTorch's format"), ("a.txt", "is no model"), ("a:b.onnx", ":")]
)
def test_a_file_that_is_no_model_is_named(tmp_path: Path, file: str, message: str) -> None:
    with pytest.raises(RepositoryError, match=message):
        one_model(put(tmp_path, file) / file)


def test_one_model_is_read_as_a_repository_would_be_and_stays_one(tmp_path: Path) -> None:
    put(tmp_path, "m/3/model.onnx")
    catalogue = Catalogue(tmp_path / "m")
    assert catalogue.read({})["m"].versions() == [3]
    put(tmp_path, "m/0004/model.onnx")
    assert catalogue.read({})["m"].versions() == [4]
    for number in ("3", "0004"):
        shutil.rmtree(tmp_path / "m" / number)
    with pytest.raises(RepositoryError, match="holds no model any more"):
        catalogue.read({})


# Names


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=40))
def test_every_name_that_is_served_makes_keys_that_lead_back_to_it(name: str) -> None:
    queue = Queue(name, 3)
    assert queue_of_dead_letters(queue.dead) == queue
    tag = queue.held[queue.held.index("{") + 1 : queue.held.index("}")]
    assert "{" not in tag
    assert all(f"{{{tag}}}" in key for key in (queue.dead, queue.requests("high"), queue.fragments("1")))


@pytest.mark.parametrize("name", ["digits", "r1-a_b.c", "two words", "café", "a+b", "100%", "日本", "{x}", "#?&"])
def test_names_may_have_what_others_allow(name: str) -> None:
    assert names.unfit(name) == ""
    assert Queue("digits", 1).held == "millrace:{digits/1}:held"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a:b", "a\nb", "a\x00b", "a\u2028b", "a" * 129, "a\udcffb"])
def test_names_that_would_break_a_url_or_a_log_are_refused(name: str) -> None:
    assert names.unfit(name)
    assert names.quoted(name).isprintable()
