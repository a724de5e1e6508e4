"""Models whose manifest says no more than how an image or a text becomes their input, as a stranger writes it."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from millrace.broker.memory import MemoryBroker
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import Tensor
from serving.queueing.requests import InferenceRequest, InferenceResponse
from tests.support.onnxmodels import FLOAT, INT32, INT64, constant, info, node, save
from tests.support.working import ask, request_of, serving
from worker.backends.base import Device, LoadError
from worker.loading import model as models
from worker.loading.model import Model

pytest.importorskip("tokenizers")
from tests.support import wordpieces

SCALED = {"kind": "decode_image", "scale": "1/255"}
TOKENIZED = {"kind": "tokenize", "tokenizer": "tokenizer.json"}


def load(folder: Path, *steps: Any, **manifest: Any) -> Model:
    (folder / "manifest.json").write_text(json.dumps({"preprocessing": steps} | manifest))
    return models.load(folder, "m", 1, device=Device(), backend="auto", max_batch_size=16)


def request_for(**inputs: Any) -> InferenceRequest:
    tensors = {name: Tensor.from_numpy(_array(rows)) for name, rows in inputs.items()}
    return replace(request_of([[0.0]]), inputs=tensors, rows=max(len(rows) for rows in inputs.values()))


def _array(rows: Any) -> Any:
    if isinstance(rows, np.ndarray):
        return rows
    array = np.empty(len(rows), object)
    array[:] = [row.encode() if isinstance(row, str) else row for row in rows]
    return array


def answers_of(model: Model, *requests: InferenceRequest) -> list[Any]:
    """Of requests that are asked together, the first output as an array, or the error."""
    broker = MemoryBroker()
    largest = model.batching.max_batch_size
    with serving(broker, model):
        answers = ask(
            broker, *(replace(each, max_batch_size=largest, rows=each.rows if largest else 1) for each in requests)
        )
    return [
        next(iter(answer.outputs.values())).to_numpy() if isinstance(answer, InferenceResponse) else answer
        for answer in answers
    ]


# Images


def png(colour: Any, size: tuple[int, int] = (40, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def mean_colour(folder: Path, batch: Any = "N") -> Path:
    """Pixels [N, 3, 8, 8] to the mean of each channel."""
    x, y = info("data", FLOAT, [batch, 3, 8, 8]), info("means", FLOAT, [batch, 3])
    return save(folder, [node("ReduceMean", ["data"], ["means"], axes=[2, 3], keepdims=0)], [x], [y])


COLOURS = [(255, 0, 51), (0, 255, 0), (102, 102, 102)]


def test_an_image_model_takes_files_by_a_line_of_manifest_and_still_its_tensors(tmp_path: Path) -> None:
    model = load(mean_colour(tmp_path), SCALED)
    (spec,) = model.announcement.signatures["serving_default"].inputs
    assert (spec.name, spec.datatype, spec.shape, spec.media) == ("data", "FP32", (-1, 3, 8, 8), "image")
    assert model.announcement.max_batch_size == 16

    raw = np.full((1, 3, 8, 8), 0.25, np.float32)
    *files, tensor = answers_of(model, *(request_for(data=[png(c)]) for c in COLOURS), request_for(data=raw))
    np.testing.assert_allclose(np.concatenate(files), np.array(COLOURS) / 255, rtol=1e-6)
    assert tensor.tolist() == [[0.25] * 3]


def test_a_wrong_image_fails_its_own_request_and_names_its_row(tmp_path: Path) -> None:
    model = load(mean_colour(tmp_path), SCALED)
    good = [request_for(data=[png(colour)]) for colour in COLOURS]
    bad = request_for(data=[png("red"), b"GIF, or not"])
    first, refused, *others = answers_of(model, good[0], bad, *good[1:])
    assert isinstance(refused, InvalidRequest)
    assert str(refused) == "row 1 of 2, from 0: the bytes are not a JPEG, PNG, WebP or GIF image"
    np.testing.assert_allclose(np.concatenate([first, *others]), np.array(COLOURS) / 255, rtol=1e-6)


def test_a_model_for_one_image_answers_several_one_by_one(tmp_path: Path) -> None:
    model = load(mean_colour(tmp_path, batch=1), SCALED)
    (spec,) = model.announcement.signatures["serving_default"].inputs
    assert (spec.shape, model.announcement.max_batch_size) == ((-1, 3, 8, 8), 1)
    assert (
        "Rows run one by one: every tensor of the model's file has a first dimension of 1." in model.announcement.notes
    )
    (answer,) = answers_of(model, request_for(data=[png(colour) for colour in COLOURS]))
    np.testing.assert_allclose(answer, np.array(COLOURS) / 255, rtol=1e-6)


def test_a_model_whose_outputs_are_no_rows_runs_each_request_alone(tmp_path: Path) -> None:
    x, y = info("data", FLOAT, ["N", 3, 8, 8]), info("means", FLOAT, [3])
    folder = save(tmp_path, [node("ReduceMean", ["data"], ["means"], axes=[0, 2, 3], keepdims=0)], [x], [y])
    model = load(folder, SCALED)
    assert model.announcement.max_batch_size == 0
    one, two = answers_of(model, request_for(data=[png("white")]), request_for(data=[png("white"), png("black")]))
    assert (one.tolist(), two.tolist()) == ([1, 1, 1], [0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ({"kind": "decode_image", "input": "image"}, "is for an input 'image', but the model's file has 'data'"),
        ({"kind": "decode_image"}, "say what range the pixels are to have"),
        ({"kind": "decode_image", "scaling": 1}, "unknown field `scaling`"),
        ({"kind": "decode_image", "scale": 1, "size": 9}, r"its images have 8 x 8 pixels, not \[9, 9\]"),
        (TOKENIZED, "must name as its output the input that takes ids: the model's file has 'data'"),
    ],
)
def test_a_step_that_does_not_fit_the_file_is_named(step: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=reason):
        load(mean_colour(tmp_path), step)


# Texts

TEXTS = ["a good film", "not a very very bad film!", "", "film", "unknowns badly Good"]
TABLE = np.random.default_rng(0).standard_normal((len(wordpieces.WORDS), 4)).astype(np.float32)


def encoder(folder: Path, length: Any = "L", *, datatype: Any = INT64, batch: Any = "N", output: str = "mean") -> Path:
    """BERT's inputs to the mean of the tokens' vectors, to each of them, or to the ids themselves."""
    inputs = [info(name, datatype, [batch, length]) for name in ("input_ids", "attention_mask", "token_type_ids")]
    nodes = [
        node("Gather", ["table", "input_ids"], ["vectors"]),
        node("Cast", ["attention_mask"], ["mask"], to=FLOAT),
        node("Unsqueeze", ["mask", "last"], ["each"]),
        node("Mul", ["vectors", "each"], ["kept"]),
        node("ReduceSum", ["kept", "along"], ["sum"], keepdims=0),
        node("ReduceSum", ["each", "along"], ["count"], keepdims=0),
        node("Div", ["sum", "count"], ["mean"]),
        node("Cast", ["token_type_ids"], ["types"], to=FLOAT),
        node("ReduceSum", ["types", "along"], ["segments"], keepdims=1),
    ]
    constants = [constant("table", TABLE), constant("last", np.array([2])), constant("along", np.array([1]))]
    shapes = {"mean": [batch, 4], "kept": [batch, length, 4], "segments": [batch, 1]}
    return save(folder, nodes, inputs, [info(output, FLOAT, shapes[output])], *constants)


def means_of(texts: Sequence[str], length: int = 512) -> Any:
    """What the encoder answers, of what the tokenizer makes when it is called directly."""
    tokenizer = wordpieces.wordpieces()
    tokenizer.enable_truncation(length)
    return np.stack([TABLE[tokenizer.encode(text).ids].mean(axis=0) for text in texts])


@pytest.mark.parametrize("datatype", [INT64, INT32])
def test_a_model_of_berts_kind_takes_texts_by_a_line_of_manifest(datatype: Any, tmp_path: Path) -> None:
    wordpieces.write(tmp_path, wordpieces.wordpieces())
    model = load(encoder(tmp_path, datatype=datatype), TOKENIZED)
    (spec,) = model.announcement.signatures["serving_default"].inputs
    assert (spec.name, spec.datatype, spec.shape, spec.max_bytes) == ("text", "BYTES", (-1,), 65_536)
    assert model.announcement.max_batch_size == 16

    answers = answers_of(model, *(request_for(text=[text]) for text in TEXTS), request_for(text=TEXTS))
    np.testing.assert_allclose(np.concatenate(answers[:-1]), means_of(TEXTS), rtol=1e-5)
    np.testing.assert_allclose(answers[-1], means_of(TEXTS), rtol=1e-5)


def test_an_answer_for_each_token_is_as_long_as_its_text(tmp_path: Path) -> None:
    wordpieces.write(tmp_path, wordpieces.wordpieces())
    model = load(encoder(tmp_path, output="kept"), TOKENIZED)
    answers = answers_of(model, *(request_for(text=[text]) for text in TEXTS))
    ids = [wordpieces.wordpieces().encode(text).ids for text in TEXTS]
    assert [answer.shape for answer in answers] == [(1, len(each), 4) for each in ids]
    for answer, each in zip(answers, ids, strict=True):
        np.testing.assert_array_equal(answer[0], TABLE[each])


@pytest.mark.parametrize("step", [{"max_length": 4}, {}], ids=["by the manifest", "by the file"])
def test_texts_are_cut_to_the_length_that_is_said(step: Any, tmp_path: Path) -> None:
    tokenizer = wordpieces.wordpieces()
    tokenizer.enable_truncation(8 if step else 4)
    wordpieces.write(tmp_path, tokenizer)
    model = load(encoder(tmp_path), TOKENIZED | step)
    (answer,) = answers_of(model, request_for(text=TEXTS))
    np.testing.assert_allclose(answer, means_of(TEXTS, 4), rtol=1e-5)


def test_a_graph_of_one_length_gets_texts_of_that_length(tmp_path: Path) -> None:
    wordpieces.write(tmp_path, wordpieces.wordpieces())
    model = load(encoder(tmp_path, length=6, batch=1), TOKENIZED)
    (answer,) = answers_of(model, request_for(text=TEXTS))
    np.testing.assert_allclose(answer, means_of(TEXTS, 6), rtol=1e-5)
    with pytest.raises(LoadError, match="a max_length of 7 is more than the 6 that the model's file takes"):
        load(encoder(tmp_path, length=6), TOKENIZED | {"max_length": 7})


def test_padding_is_the_tokenizers_own_at_the_side_that_it_says(tmp_path: Path) -> None:
    words = [*wordpieces.WORDS[1:], "[PAD]"]
    wordpieces.write(tmp_path, wordpieces.wordpieces(words, direction="left", pad_id=len(words) - 1))
    x, y = info("ids", INT64, ["N", "L"]), info("tag", INT64, ["N", "L"])
    folder = save(tmp_path, [node("Identity", ["ids"], ["tag"])], [x], [y])
    model = load(folder, TOKENIZED | {"output": "ids", "input": "words"})
    (answer,) = answers_of(model, request_for(words=TEXTS))
    tokenizer = wordpieces.wordpieces(words, direction="left", pad_id=len(words) - 1)
    assert answer.tolist() == [encoding.ids for encoding in tokenizer.encode_batch(TEXTS)]


def test_a_pair_of_texts_is_told_apart_by_types(tmp_path: Path) -> None:
    wordpieces.write(tmp_path, wordpieces.wordpieces())
    model = load(encoder(tmp_path, output="segments"), TOKENIZED | {"pair": "other"})
    assert [spec.name for spec in model.announcement.signatures["serving_default"].inputs] == ["text", "other"]
    alone = [request_for(text=["good"], other=[text]) for text in TEXTS]
    answers = answers_of(model, *alone, request_for(text=["film"] * len(TEXTS), other=TEXTS))
    expected = [[len(wordpieces.wordpieces().encode(text).ids) - 1] for text in TEXTS]
    assert np.concatenate(answers[:-1]).tolist() == expected
    assert answers[-1].tolist() == expected


def test_images_are_held_against_texts_as_many_of_each_as_are_sent(tmp_path: Path) -> None:
    """A model of CLIP's kind: its answer has a row for each image and a column for each text."""
    wordpieces.write(tmp_path, wordpieces.wordpieces())
    inputs = [info("pixels", FLOAT, ["N", 3, 8, 8]), info("input_ids", INT64, ["M", "L"])]
    nodes = [
        node("ReduceMean", ["pixels"], ["means"], axes=[2, 3], keepdims=0),
        node("Equal", ["input_ids", "good"], ["is good"]),
        node("Cast", ["is good"], ["goods"], to=FLOAT),
        node("ReduceSum", ["goods", "along"], ["counts"], keepdims=1),
        node("MatMul", ["counts", "weights"], ["texts"]),
        node("Transpose", ["texts"], ["turned"]),
        node("MatMul", ["means", "turned"], ["logits"]),
    ]
    constants = [
        constant("good", np.array(wordpieces.WORDS.index("good"))),
        constant("along", np.array([1])),
        constant("weights", np.ones((1, 3), np.float32)),
    ]
    folder = save(tmp_path, nodes, inputs, [info("logits", FLOAT, ["N", "M"])], *constants)
    model = load(folder, SCALED | {"input": "pixels"}, TOKENIZED)
    assert model.announcement.max_batch_size == 0
    (answer,) = answers_of(
        model, request_for(pixels=[png("white"), png("black")], text=["good", "a good good film", "bad"])
    )
    np.testing.assert_allclose(answer, [[3, 6, 0], [0, 0, 0]], rtol=1e-6)


def test_a_wrong_text_fails_its_own_request(tmp_path: Path) -> None:
    wordpieces.write(tmp_path, wordpieces.wordpieces())
    model = load(encoder(tmp_path), TOKENIZED | {"max_bytes": 100})
    wrong = [request_for(text=[b"\xff"]), request_for(text=["good", "a" * 101])]
    first, *refused, last = answers_of(model, request_for(text=["good"]), *wrong, request_for(text=["bad"]))
    assert [type(error) for error in refused] == [InvalidRequest] * 2
    assert "the text is not UTF-8" in str(refused[0])
    assert "row 1 of 2, from 0: a text of 101 bytes is too long: at most 100 are taken" in str(refused[1])
    np.testing.assert_allclose(np.concatenate([first, last]), means_of(["good", "bad"]), rtol=1e-5)


def test_a_worker_without_the_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wordpieces.write(tmp_path, wordpieces.wordpieces())
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # as where it is not installed
    reason = r"needs the library tokenizers, which is not installed; .* pip install -e '\.\[worker-tokenizers\]'"
    with pytest.raises(LoadError, match=reason):
        load(encoder(tmp_path), TOKENIZED)


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    encoder(tmp_path)
    with pytest.raises(LoadError, match=r"tokenizer\.json"):
        load(tmp_path, TOKENIZED)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(LoadError, match=r"tokenizer\.json: "):
        load(tmp_path, TOKENIZED)
    with pytest.raises(LoadError, match="must be a file beside the manifest"):
        load(tmp_path, TOKENIZED | {"tokenizer": "../tokenizer.json"})
