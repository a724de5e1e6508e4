"""What preparation says of itself, and how rows of different length are joined."""

from pathlib import Path

import numpy as np
import pytest

from millrace.artifacts.manifest import DecodeImage, LookUpWords, Manifest, Tokenize
from millrace.artifacts.vocabulary import Vocabulary
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import Tensor, TensorSpec
from worker.preprocessing import preparation
from worker.preprocessing.preparation import MAX_WORDS, Preparation

IMAGE = DecodeImage(input="image")
TEXT = Tokenize(input="text", output="ids", max_length=7)
WORDS = LookUpWords(input="tokens", output="word_ids", weights="weights")


@pytest.fixture
def prepared(tmp_path: Path) -> Preparation:
    Vocabulary(["<pad>", "<unk>", "good"]).write(tmp_path / "vocabulary.txt")
    manifest = Manifest(name="m", version=1, signatures={}, preprocessing=(IMAGE, TEXT, WORDS))
    return preparation.load(tmp_path, manifest)


def test_only_strings_need_to_be_prepared(prepared: Preparation) -> None:
    pixels = Tensor.from_numpy(np.zeros((1, 28, 28, 1), np.float32))
    file = Tensor.from_numpy(np.array([b"PNG"], object))
    assert not prepared.is_needed({"image": pixels})
    assert prepared.is_needed({"image": file})
    assert not prepared.is_needed({"another": file})


def test_samples_are_made_of_ids_that_the_steps_make(prepared: Preparation) -> None:
    assert prepared.ids("ids") == range(1, 3)  # without the padding
    assert prepared.ids("word_ids") == range(3)
    assert prepared.ids("weights") is None
    assert prepared.max_length == 7
    assert (prepared.filler("ids"), prepared.filler("word_ids")) == (1, 0)  # what no graph takes for padding
    assert [prepared.length_group(name) for name in ("ids", "word_ids", "weights")] == [0, 1, 1]


def test_padding_is_zeros_or_the_last_value_and_a_row_without_values_is_zeros(prepared: Preparation) -> None:
    rows = [np.array([[1, 2]], np.int32), np.zeros((1, 0), np.int32), np.array([[3, 4, 5]], np.int32)]
    assert prepared.join("ids", rows).tolist() == [[1, 2, 0], [0, 0, 0], [3, 4, 5]]
    assert prepared.join("word_ids", rows).tolist() == [[1, 2, 2], [0, 0, 0], [3, 4, 5]]


def test_the_words_of_a_row_are_counted(prepared: Preparation) -> None:
    prepared.check({"tokens": Tensor("BYTES", (9, MAX_WORDS), b""), "text": Tensor("BYTES", (9**9,), b"")})
    with pytest.raises(InvalidRequest, match=f"at most {MAX_WORDS} are taken"):
        prepared.check({"tokens": Tensor("BYTES", (1, MAX_WORDS + 1), b"")})


def test_the_images_of_a_request_that_runs_as_a_whole_are_counted(tmp_path: Path) -> None:
    large = TensorSpec(name="image", datatype="FP32", shape=(-1, 3, 2048, 2048))
    manifest = Manifest(preprocessing=(DecodeImage(input="image", scale="1/255"),))
    prepared = preparation.load(tmp_path, manifest, {"image": large})
    prepared.check({"image": Tensor("BYTES", (1, 5), b"")})
    with pytest.raises(InvalidRequest, match="has 6 strings a row: at most 5 are taken"):
        prepared.check({"image": Tensor("BYTES", (1, 6), b"")})


def test_rows_are_as_long_as_the_model_s_file_says(tmp_path: Path) -> None:
    Vocabulary(["<pad>", "<unk>", "good", "film"]).write(tmp_path / "vocabulary.txt")
    graph = {
        name: TensorSpec(name=name, datatype=kind, shape=(-1, 3))
        for name, kind in (("ids", "INT32"), ("word_ids", "INT32"), ("weights", "FP32"))
    }
    prepared = preparation.load(tmp_path, Manifest(name="m", version=1, preprocessing=(TEXT, WORDS)), graph)

    row = prepared.before({"text": np.array([b"good"], object), "tokens": np.array([[b"film", b"good"]], object)})
    longer = prepared.before(
        {"text": np.array([b"good film good film"], object), "tokens": np.array([[b"film"]], object)}
    )

    assert {name: array.tolist() for name, array in row.items()} == {
        "ids": [[2, 0, 0]],
        "word_ids": [[3, 2, 2]],
        "weights": [[1, 1, 0]],
    }
    assert longer["ids"].tolist() == [[2, 3, 2]]
    with pytest.raises(InvalidRequest, match="at most 3 are taken"):
        prepared.check({"tokens": Tensor("BYTES", (1, 4), b"")})
