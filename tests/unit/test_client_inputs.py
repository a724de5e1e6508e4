"""What `Client.predict` takes, and what of it reaches the server; answers come from a scripted server."""

import base64
import enum
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from millrace_client import Client, InvalidRequest, ModelMetadata, NotFound, Prediction
from millrace_client.testing import Answer, ScriptedServer

PNG = b"\x89PNG\r\n\x1a\n and so on"
DIGITS = {
    "name": "digits",
    "versions": ["1"],
    "platform": "onnx",
    "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 28, 28, 1]}],
    "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}],
    "parameters": {"labels": ["a", "b", "c"], "media": {"image": "image"}, "description": "three letters"},
}
SENTIMENT = {
    "name": "sentiment",
    "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
    "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}],
    "parameters": {"labels": ["negative", "positive"]},
}
WORD2VEC = {
    "name": "word2vec",
    "inputs": [
        {"name": "tokens", "datatype": "BYTES", "shape": [-1, -1]},
        {"name": "weights", "datatype": "FP32", "shape": [-1, -1]},
    ],
    "outputs": [
        {"name": "neighbors", "datatype": "BYTES", "shape": [-1, -1]},
        {"name": "similarities", "datatype": "FP32", "shape": [-1, -1]},
    ],
    "parameters": {"optional_inputs": ["weights"]},
}
BARE = {"name": "bare", "platform": "elsewhere"}
OIP_ANSWER = Answer(
    document={
        "model_name": "m",
        "model_version": "7",
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [2, 3], "data": [0.1, 0.7, 0.2, 0.5, 0.2, 0.3]}
        ],
    }
)
TFS_ANSWER = Answer(document={"outputs": [[0.25, 0.5, 0.25]]})


def asked(
    document: dict[str, Any], inputs: object, answer: Answer = OIP_ANSWER, **options: Any
) -> tuple[str, Any, Prediction]:
    """The path and the body that the inputs become, and the prediction."""
    name = document["name"]
    script = {f"GET /v2/models/{name}": [Answer(document=document)]}
    for path in (f"/v2/models/{name}/infer", f"/v1/models/{name}:predict", f"/v1/models/{name}/versions/2:predict"):
        script[f"POST {path}"] = [answer]
    if "version" in options:
        script[f"GET /v2/models/{name}/versions/{options['version']}"] = [Answer(document=document)]
    with ScriptedServer(script) as server, Client(server.url) as client:
        prediction = client.predict(name, inputs, **options)
    return server.received[-1].path, server.received[-1].json(), prediction


def sent(document: dict[str, Any], inputs: object) -> dict[str, Any]:
    """The one tensor that the inputs become, in Open Inference form."""
    (tensor,) = asked(document, inputs)[1]["inputs"]
    return tensor


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ((28, 28), 1),
        ((28, 28, 1), 1),
        ((1, 28, 28, 1), 1),
        ((5, 28, 28, 1), 5),
        ((5, 28, 28), 5),
        ((28, 28, 28), 28),
        ((0, 28, 28, 1), 0),
    ],
)
def test_an_image_may_leave_out_the_row_dimension_and_the_channel(given: tuple[int, ...], rows: int) -> None:
    tensor = sent(DIGITS, np.arange(np.prod(given)).reshape(given))
    assert tensor["shape"] == [rows, 28, 28, 1]
    assert tensor["datatype"] == "FP32"
    assert tensor["data"] == list(range(rows * 784))


@pytest.mark.parametrize("given", [(27, 28), (28,), (1, 1, 28, 28, 1), (28, 28, 3), (784,)])
def test_a_shape_that_does_not_fit_is_refused_before_it_is_sent(given: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match=r"takes image FP32 \[-1,28,28,1\] or image file, not shape") as caught:
        asked(DIGITS, np.zeros(given))
    assert caught.value.status is None


@pytest.mark.parametrize(
    ("given", "shape", "data"),
    [
        ("fine", [1], ["fine"]),
        (["fine", "für alle ☺"], [2], ["fine", "für alle ☺"]),
        (("a", "b"), [2], ["a", "b"]),
        (np.array(["a", "bcd"]), [2], ["a", "bcd"]),
        (np.array(["a", "bcd"], object), [2], ["a", "bcd"]),
        (b"bytes that are text", [1], ["bytes that are text"]),
        (["ends in a nul\0"], [1], ["ends in a nul\0"]),
        ("", [1], [""]),
    ],
)
def test_text_is_one_row_and_a_list_of_texts_is_one_row_each(given: object, shape: list[int], data: list[str]) -> None:
    assert sent(SENTIMENT, given) == {"name": "text", "datatype": "BYTES", "shape": shape, "data": data}


@pytest.mark.parametrize(
    ("given", "shape"),
    [("king", [1, 1]), (["king", "man"], [1, 2]), ([["king", "man"], ["queen", "woman"]], [2, 2])],
)
def test_words_are_one_row_unless_they_are_rows_already(given: object, shape: list[int]) -> None:
    assert sent(WORD2VEC, given)["shape"] == shape


def test_one_value_is_enough_when_one_input_is_required_and_a_dict_names_several() -> None:
    _, body, _ = asked(WORD2VEC, {"tokens": ["king", "man"], "weights": [1, -1]})
    assert [(tensor["name"], tensor["shape"], tensor["data"]) for tensor in body["inputs"]] == [
        ("tokens", [1, 2], ["king", "man"]),
        ("weights", [1, 2], [1.0, -1.0]),
    ]


@pytest.mark.parametrize(
    ("document", "given", "message"),
    [
        (DIGITS, "seven.png", r"not text; give a file as pathlib\.Path or bytes"),
        (DIGITS, {"picture": 1}, "no input 'picture'; its inputs are: image FP32"),
        (WORD2VEC, {"weights": [1.0]}, r"input 'tokens', which is missing; .* weights FP32 \[-1,-1\] \(optional\)"),
        (SENTIMENT, [1.0], r"takes text BYTES \[-1\], not numbers \(float64\)"),
        (SENTIMENT, [["a"], ["b", "c"]], "are its lists equally long"),
        (SENTIMENT, ["a", None], "holds NoneType among text"),
        (DIGITS, [[1.0], [2.0, 3.0]], "differ in length"),
        (DIGITS, np.zeros((28, 28), complex), "complex128 cannot be sent"),
        (DIGITS, np.zeros((28, 28), "datetime64[s]"), "cannot be sent"),
        (BARE, 1.0, "needs a dict of inputs by name: none are declared"),
        (BARE, {"x": np.zeros(1, np.longdouble)}, "cannot be sent"),
    ],
)
def test_inputs_that_the_model_cannot_take_are_refused_with_what_it_takes(
    document: dict[str, Any], given: object, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        asked(document, given)


@pytest.mark.parametrize(
    ("datatype", "given", "data"),
    [
        ("UINT8", [[0, 255]], [0, 255]),
        ("INT64", [[-(2**62), 1]], [-(2**62), 1]),
        ("INT32", [[1.0, 2.0]], [1, 2]),
        ("BOOL", [[1, 0]], [True, False]),
        ("FP32", np.array([[0.1, 1]], np.float32), [float(np.float32(0.1)), 1.0]),
        ("FP64", [[1e300, 2]], [1e300, 2.0]),
        ("BF16", [[0.5, 1.5]], [0.5, 1.5]),
    ],
)
def test_numbers_are_sent_as_the_declared_datatype(datatype: str, given: Any, data: list[Any]) -> None:
    document = {"name": "m", "inputs": [{"name": "x", "datatype": datatype, "shape": [-1, 2]}]}
    assert sent(document, given) == {"name": "x", "datatype": datatype, "shape": [1, 2], "data": data}


@pytest.mark.parametrize(("datatype", "given"), [("UINT8", 256), ("INT32", 0.5), ("BOOL", 2), ("INT64", float("nan"))])
def test_numbers_that_an_integer_type_cannot_hold_are_refused(datatype: str, given: float) -> None:
    document = {"name": "m", "inputs": [{"name": "x", "datatype": datatype, "shape": [-1]}]}
    with pytest.raises(InvalidRequest, match=f"{datatype} cannot hold"):
        asked(document, given)


def test_nan_and_infinity_travel_both_ways_as_literals() -> None:
    document = {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}]}
    answer = Answer(raw=b'{"outputs":[{"name":"y","datatype":"FP32","shape":[3],"data":[NaN,Infinity,-Infinity]}]}')
    _, body, prediction = asked(document, [np.nan, np.inf, -np.inf], answer)
    assert json.dumps(body["inputs"][0]["data"]) == "[NaN, Infinity, -Infinity]"
    np.testing.assert_array_equal(prediction.outputs["y"], np.array([np.nan, np.inf, -np.inf], np.float32))


@pytest.mark.parametrize("kind", ["bytes", "path", "list"])
def test_an_image_file_goes_in_base64_in_tensorflow_servings_form(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "seven.png"
    path.write_bytes(PNG)
    given = {"bytes": PNG, "path": path, "list": [path, PNG]}[kind]
    url_path, body, prediction = asked(DIGITS, given, TFS_ANSWER)
    assert url_path == "/v1/models/digits:predict"
    file = {"b64": base64.b64encode(PNG).decode()}
    assert body == {"inputs": {"image": [file] * (2 if kind == "list" else 1)}}
    assert prediction.outputs["probabilities"].dtype == np.float32
    assert prediction.best() == [("b", 0.5)]
    assert prediction.version is None


def test_the_version_that_was_asked_for_is_the_version_of_an_answer_that_does_not_say() -> None:
    path, _, prediction = asked(DIGITS, PNG, TFS_ANSWER, version=2)
    assert path == "/v1/models/digits/versions/2:predict"
    assert prediction.version == "2"


def test_a_file_that_cannot_be_read_is_the_callers_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        asked(DIGITS, tmp_path / "none.png")


def test_another_signature_is_named_in_tensorflow_servings_form_and_its_inputs_go_as_given() -> None:
    answer = Answer(
        document={"outputs": {"a": [1], "b_bytes": [{"b64": base64.b64encode(PNG).decode()}, {"b64": "aGk="}]}}
    )
    path, body, prediction = asked(SENTIMENT, {"x": [[1, 2]], "word": "hi"}, answer, signature="embed")
    assert path == "/v1/models/sentiment:predict"
    assert body == {"signature_name": "embed", "inputs": {"x": [[1, 2]], "word": "hi"}}
    assert prediction.outputs["b_bytes"].tolist() == [PNG, "hi"]
    with pytest.raises(InvalidRequest, match="have to be a dict"):
        asked(SENTIMENT, "hi", signature="embed")


def test_a_server_that_declares_no_inputs_gets_named_tensors_as_they_are() -> None:
    _, body, _ = asked(BARE, {"x": np.zeros((2, 1), np.int16), "t": ["a"]})
    assert body["inputs"] == [
        {"name": "x", "shape": [2, 1], "datatype": "INT16", "data": [0, 0]},
        {"name": "t", "shape": [1], "datatype": "BYTES", "data": ["a"]},
    ]


def test_the_labels_rank_each_row() -> None:
    _, _, prediction = asked(DIGITS, np.zeros((2, 28, 28)))
    assert [[label for label, _ in row] for row in prediction.top(2)] == [["b", "c"], ["a", "c"]]
    assert prediction.best() == [("b", pytest.approx(0.7)), ("a", 0.5)]
    assert len(prediction.top(99)[0]) == 3


def test_without_labels_there_is_no_ranking() -> None:
    _, _, prediction = asked(WORD2VEC, "king")
    assert not prediction.is_labelled
    with pytest.raises(ValueError, match="no labels"):
        prediction.best()


def test_text_outputs_are_arrays_of_str() -> None:
    output = {"name": "t", "datatype": "BYTES", "shape": [2, 1], "data": [["a"], ["b\0"]]}
    _, _, prediction = asked(SENTIMENT, "x", Answer(document={"outputs": [output]}))
    assert prediction.outputs["t"].tolist() == [["a"], ["b\0"]]
    assert isinstance(prediction.outputs["t"][0, 0], str)


def test_an_enum_of_strings_is_text() -> None:
    class Review(enum.StrEnum):
        GOOD = "good"

    assert sent(SENTIMENT, Review.GOOD)["data"] == ["good"]


def similar(positive: Any, negative: Any = (), **options: Any) -> tuple[list[Any], list[tuple[str, float]]]:
    outputs = [
        {"name": "neighbors", "datatype": "BYTES", "shape": [1, 4], "data": ["King", "queen", "prince", "throne"]},
        {"name": "similarities", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 0.75, 0.5, 0.25]},
    ]
    script = {
        "GET /v2/models/word2vec": [Answer(document=WORD2VEC)],
        "POST /v2/models/word2vec/infer": [Answer(document={"outputs": outputs})],
    }
    with ScriptedServer(script) as server, Client(server.url) as client:
        words = client.similar(positive, negative, **options)
    return server.received[-1].json()["inputs"], words


def test_similar_adds_and_takes_away_words_and_never_answers_the_words_themselves() -> None:
    inputs, words = similar(["king", "woman"], "man")
    assert [tensor["data"] for tensor in inputs] == [["king", "woman", "man"], [1.0, 1.0, -1.0]]
    assert [tensor["shape"] for tensor in inputs] == [[1, 3], [1, 3]]
    assert words == [("queen", 0.75), ("prince", 0.5), ("throne", 0.25)]
    assert similar("king", k=1)[1] == [("queen", 0.75)]


def test_a_model_without_neighbours_is_no_model_for_similar() -> None:
    document = {**WORD2VEC, "name": "other"}
    script = {
        "GET /v2/models/other": [Answer(document=document)],
        "POST /v2/models/other/infer": [OIP_ANSWER],
    }
    with (
        ScriptedServer(script) as server,
        Client(server.url) as client,
        pytest.raises(InvalidRequest, match="no word neighbours"),
    ):
        client.similar("king", model="other")


def test_the_metadata_are_typed_and_their_extras_optional() -> None:
    script = {
        "GET /v2/models/digits": [Answer(document=DIGITS)],
        "GET /v2/models/bare/versions/4": [Answer(document=BARE)],
    }
    with ScriptedServer(script) as server, Client(server.url) as client:
        digits, bare = client.metadata("digits"), client.metadata("bare", version=4)
        with pytest.raises(NotFound, match="no route"):
            client.metadata("none")
    assert (digits.labels, digits.description) == (("a", "b", "c"), "three letters")
    assert (digits.inputs[0].media, digits.inputs[0].shape) == ("image", (-1, 28, 28, 1))
    assert bare == ModelMetadata(name="bare", versions=(), platform="elsewhere", inputs=(), outputs=())
