"""The requests that `millrace check` prints: what they say when a shell or Python reads them."""

import json
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import millrace_client  # noqa: F401 - its class is replaced below
import numpy as np
import numpy.typing as npt
import pytest

from worker.check.report import Example
from worker.check.requests import Request, examples, unsaid

URL, GRPC = "http://h:1", "h:2"
Inputs = Mapping[str, npt.NDArray[Any]]


def request(inputs: Inputs, **options: Any) -> Request:
    kinds = {"O": "BYTES", "f": "FP32", "b": "BOOL", "i": "INT64"}
    datatypes = {name: kinds[array.dtype.kind] for name, array in inputs.items()}
    given: dict[str, Any] = {"model": "m", "signature": "serving_default", "is_batched": True} | options
    return Request(inputs=inputs, datatypes=datatypes, **given)


def written(inputs: Inputs, **options: Any) -> dict[str, Example]:
    return {example.protocol: example for example in examples(request(inputs, **options), URL, GRPC)}


def sent(text: str) -> tuple[str, Any]:
    """The URL and the body that a shell would send; what makes the body is run."""
    words = shlex.split(text)
    if words[0] == "python3":
        printed: list[str] = []
        exec(words[2], {"print": printed.append})
        assert words[3:6] == ["|", "curl", "-s"]
        assert words[7:] == ["-d", "@-"]
        return words[6], json.loads(printed[0])
    assert words[:2] == ["curl", "-s"]
    return words[2], json.loads(words[4])


ROW = np.array([[1.5, -2.0]], np.float32)


def test_rows_are_instances_and_whole_requests_are_inputs() -> None:
    assert sent(written({"x": ROW})["TensorFlow Serving, REST"].text) == (
        "http://h:1/v1/models/m:predict",
        {"instances": [[1.5, -2.0]]},
    )
    assert sent(written({"x": ROW}, is_batched=False)["TensorFlow Serving, REST"].text)[1] == {
        "inputs": {"x": [[1.5, -2.0]]}
    }


def test_several_inputs_are_named_in_each_row() -> None:
    both = {"a": ROW, "flag": np.array([True])}
    assert sent(written(both)["TensorFlow Serving, REST"].text)[1] == {"instances": [{"a": [1.5, -2.0], "flag": True}]}
    assert sent(written(both)["Open Inference Protocol, REST"].text)[1] == {
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1.5, -2.0]},
            {"name": "flag", "datatype": "BOOL", "shape": [1], "data": [True]},
        ]
    }


@pytest.mark.parametrize(
    "array",
    [np.zeros((1, 28, 28), np.float32), np.full((40,), True), np.full((20, 2), 'it\'s "é"'.encode(), object)],
)
def test_many_values_are_an_expression_that_makes_them(array: npt.NDArray[Any]) -> None:
    expected = [[v.decode() for v in row] for row in array] if array.dtype.kind == "O" else array.tolist()
    text = written({"it's": array})["TensorFlow Serving, REST"].text
    assert len(text) < 250
    assert sent(text)[1] == {"instances": expected}
    oip = sent(written({"it's": array})["Open Inference Protocol, REST"].text)[1]["inputs"][0]
    assert np.array(oip["data"]).reshape(oip["shape"]).tolist() == expected
    assert "np.full(" in written({"it's": array})["millrace_client"].text


def test_names_are_escaped_where_they_are_part_of_a_url() -> None:
    of = written({"x": ROW}, model="it's a+b/é")
    assert sent(of["TensorFlow Serving, REST"].text)[0] == "http://h:1/v1/models/it%27s%20a%2Bb%2F%C3%A9:predict"
    assert sent(of["Open Inference Protocol, REST"].text)[0] == "http://h:1/v2/models/it%27s%20a%2Bb%2F%C3%A9/infer"


def test_another_signature_is_named_and_open_inference_has_no_example_of_it() -> None:
    of = written({"x": ROW}, signature="encode")
    assert sent(of["TensorFlow Serving, REST"].text)[1]["signature_name"] == "encode"
    assert "signature_name = 'encode'" in of["TensorFlow Serving, gRPC"].text
    assert "signature='encode'" in of["millrace_client"].text
    assert not [protocol for protocol in of if protocol.startswith("Open")]
    assert "Open Inference Protocol" in " ".join(unsaid(request({"x": ROW}, signature="encode")))


def test_what_a_protocol_has_no_form_for_is_said() -> None:
    empty, image = {"past": np.zeros((1, 0, 4), np.float32)}, {"image": np.array([b"\x89PNG\xff"], object)}
    assert "TensorFlow Serving, REST" not in written(empty)
    assert sent(written(empty)["Open Inference Protocol, REST"].text)[1]["inputs"][0]["data"] == []
    assert "dimension of 0" in " ".join(unsaid(request(empty)))
    assert sent(written(image)["TensorFlow Serving, REST"].text)[1] == {"instances": [{"b64": "iVBOR/8="}]}
    assert "Open Inference Protocol, REST" not in written(image)
    assert "binary" in " ".join(unsaid(request(image)))


def test_python_examples_compile_and_carry_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Client:
        def __init__(self, url: str, **options: Any) -> None:
            assert url == URL

        def __enter__(self) -> "Client":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def predict(self, model: str, inputs: Any) -> "Client":
            asked.append((model, inputs))
            return self

        outputs = "answered"

    monkeypatch.setattr(sys.modules["millrace_client"], "Client", Client)
    inputs = {
        "a": ROW,
        "n": np.array([3, 4]),
        "s": np.array([[b"\xff", b"x"]], object),
        "z": np.zeros((1, 0), np.int64),
    }
    of = written(inputs, model="it's")
    for example in of.values():
        if example.kind == "python":
            compile(example.text, example.protocol, "exec")
    exec(of["millrace_client"].text, {})
    ((model, given),) = asked
    assert model == "it's"
    for name, array in inputs.items():
        assert (given[name].dtype, given[name].tolist()) == (array.dtype, array.tolist())
