"""The requests of a load test: made from a model's metadata, or given as files; and how answers are judged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from millrace_client import InvalidRequest, ModelMetadata, TensorSpec
from millrace_client.exchange import Request, Response
from millrace_client.load.judging import Judge
from millrace_client.load.payloads import PayloadOptions, payloads
from millrace_client.load.targets import PROTOCOLS, ProtocolName, Question, target
from millrace_client.load.tuning import Candidate, Measured, Search
from millrace_client.protocol import InferenceResult


def model(*inputs: TensorSpec) -> ModelMetadata:
    return ModelMetadata(name="mine", versions=("1",), platform="", inputs=inputs, outputs=())


def spec(datatype: str, *shape: int, name: str = "x", **more: Any) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape, **more)


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT8", "INT64", "UINT64", "FP16", "FP32", "FP64", "BYTES"])
@pytest.mark.parametrize("fill", ["random", "zeros"])
def test_a_payload_has_the_declared_type_and_shape(datatype: str, fill: Any) -> None:
    made = payloads(model(spec(datatype, -1, 3)), PayloadOptions(batch=4, fill=fill))
    assert {tensors[0].array.shape for tensors in made} == {(4, 3)}
    assert {tensors[0].datatype for tensors in made} == {datatype}
    assert len(made) == (1 if fill == "zeros" else 16)


def test_payloads_are_the_same_every_time_and_differ_among_themselves() -> None:
    one, again = (payloads(model(spec("FP32", -1, 5)), PayloadOptions()) for _ in range(2))
    assert all(np.array_equal(a[0].array, b[0].array) for a, b in zip(one, again, strict=True))
    assert len({tensors[0].array.tobytes() for tensors in one}) == 16


def test_texts_have_mixed_lengths_and_matrices_hold_words() -> None:
    texts = payloads(model(spec("BYTES", -1)), PayloadOptions())
    assert len({len(tensors[0].array[0].split()) for tensors in texts}) > 3
    (tokens, weights) = payloads(model(spec("BYTES", -1, -1), spec("FP32", -1, -1, name="w")), PayloadOptions())[0]
    assert tokens.array.shape == weights.array.shape == (1, 2)
    assert all(word and " " not in word for word in tokens.array.flat)


def test_optional_inputs_are_left_out_and_images_have_pixels() -> None:
    image = spec("FP32", -1, 8, 8, 1, media="image")
    made = payloads(model(image, spec("FP32", -1, name="o", is_optional=True)), PayloadOptions())
    assert [tensor.name for tensor in made[0]] == ["x"]
    assert 200 < max(tensors[0].array.max() for tensors in made) <= 255


def test_open_dimensions_have_to_be_given() -> None:
    open_image = model(spec("FP32", -1, -1, -1, 3))
    with pytest.raises(InvalidRequest, match="--shape x:"):
        payloads(open_image, PayloadOptions())
    made = payloads(open_image, PayloadOptions(shapes={"x": (2, 2, 3)}, batch=5))
    assert made[0][0].array.shape == (5, 2, 2, 3)


def test_given_arrays_are_sent_in_batches(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.arange(10, dtype=np.float32).reshape(5, 2))
    made = payloads(model(spec("FP32", -1, 2)), PayloadOptions(data=tmp_path / "rows.npz", batch=2))
    assert [tensors[0].array.tolist() for tensors in made] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_given_lines_and_images_are_requests(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('"a film"\n{"x": ["two", "rows"]}\n')
    texts = payloads(model(spec("BYTES", -1)), PayloadOptions(data=tmp_path / "texts.jsonl"))
    assert [tensors[0].array.tolist() for tensors in texts] == [["a film"], ["two", "rows"]]
    (tmp_path / "b.png").write_bytes(b"second")
    (tmp_path / "a.jpg").write_bytes(b"first")
    images = payloads(model(spec("FP32", -1, 8, 8, 1, media="image")), PayloadOptions(data=tmp_path))
    assert [tensors[0].array.tolist() for tensors in images] == [[b"first"], [b"second"]]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "x", "takes a .npz file"),
        ("a.jsonl", "{", "line 1 is not JSON"),
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", '{"y": 1}', "one value for each input"),
    ],
)
def test_data_that_cannot_be_used_are_explained(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidRequest, match=words):
        payloads(model(spec("FP32", -1)), PayloadOptions(data=tmp_path / name))


def test_a_host_is_any_url_or_address() -> None:
    urls = {
        (host, protocol): target(host, protocol, "m").url for host in ("a:1", "http://a:1") for protocol in PROTOCOLS
    }
    assert {url for (_, protocol), url in urls.items() if protocol.endswith("grpc")} == {"grpc://a:1"}
    assert {url for (_, protocol), url in urls.items() if not protocol.endswith("grpc")} == {"http://a:1"}
    assert target("https://a/prefix/", "tfs-rest", "m/3").url == "https://a/prefix"
    assert target("a", "oip-json", "m/3").version == "3"


SIGNATURE = {
    "inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}, {"size": "2"}]}}},
    "outputs": {"y": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}]}}},
}


def answers(request: Request) -> Response:
    document: Any = {"metadata": {"signature_def": {"signature_def": {"serving_default": SIGNATURE}}}}
    if request.path.startswith("/v2"):
        document = {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}], "outputs": []}
    return Response(status=200, headers={}, body=json.dumps(document).encode())


@pytest.mark.parametrize(
    ("protocol", "path"),
    [
        ("tfs-rest", "/v1/models/m:predict"),
        ("oip-json", "/v2/models/m/infer"),
        ("oip-binary", "/v2/models/m/infer"),
    ],
)
def test_a_question_is_in_the_form_of_its_protocol(protocol: ProtocolName, path: str) -> None:
    (question, *_) = target("a", protocol, "m").questions(PayloadOptions(), answers)
    assert question.request.path == path
    assert isinstance(question.request.body, bytes)
    assert (b"binary_data_size" in question.request.body) == (protocol == "oip-binary")


def judged(values: Any, expected: Any = None, *, dtype: Any = np.float32) -> str | None:
    def result(given: Any) -> InferenceResult:
        return InferenceResult(outputs={"y": np.array(given, dtype)}, version=None)

    question = Question(
        model="m",
        request=Request(method="POST", path="/"),
        read=lambda _: result(values),
        outputs=(spec("FP32", -1, 2, name="y"),),
    )
    judge = Judge(question, None if expected is None else result(expected))
    return judge.fault(Response(status=200, headers={}, body=b""))


def test_answers_are_judged_by_shape_type_and_value() -> None:
    assert judged([[1, 2]]) is None
    assert judged([[1, 2]], [[1.0005, 2]]) is None
    assert judged([[float("nan"), 2]], [[float("nan"), 2]]) is None
    assert "shape" in str(judged([[1, 2, 3]]))
    assert "float64" in str(judged([[1, 2]], dtype=np.float64))
    assert "alone" in str(judged([[1, 2]], [[1.1, 2]]))
    assert "alone" in str(judged([[1, 2]], [[1, 2], [1, 2]]))


def test_an_answer_that_cannot_be_read_is_wrong() -> None:
    (question, *_) = target("a", "oip-json", "m").questions(PayloadOptions(), answers)
    assert "not JSON" in str(Judge(question).fault(Response(status=200, headers={}, body=b"<html>")))


def test_the_search_for_settings_finds_the_best_and_gives_up_early_on_what_is_far_behind() -> None:
    """A made-up machine: the best batch size is 16, two workers help, more instances make it worse."""
    measured: list[tuple[Candidate, int]] = []

    def measure(candidate: Candidate, users: int) -> Measured:
        measured.append((candidate, users))
        rate = 1000 / (1 + abs(np.log2(candidate.max_batch_size / 16)) / 5) * candidate.workers / candidate.instances
        return Measured(users, rate, 20.0, 1.0)

    closed: list[None] = []
    limits = {"max_batch_size": 256, "workers": 2, "instances": 4, "threads": 2}
    search = Search(measure, lambda: closed.append(None), 50.0, limits, 60.0, clock=lambda: 0.0)
    best = search.run(Candidate(64, 2, 1, 1))
    assert best.candidate == Candidate(16, 1, 1, 2)
    assert len(closed) == len(search.trials)
    behind = [trial for trial in search.trials.values() if trial.note == "far behind"]
    assert behind
    assert all(len(trial.measured) == 1 for trial in behind)


def test_settings_that_miss_the_objective_are_never_the_best() -> None:
    def measure(candidate: Candidate, users: int) -> Measured:
        return Measured(users, 100.0 * candidate.max_batch_size, 10.0 * candidate.max_batch_size, 1.0)

    search = Search(measure, lambda: None, 45.0, {"max_batch_size": 256}, 60.0, clock=lambda: 0.0)
    best = search.run(Candidate(1, 1, 1, 1))
    assert best.candidate.max_batch_size == 4
    assert Search(measure, lambda: None, 5.0, {"max_batch_size": 4}, 60.0).run(Candidate(1, 1, 1, 1)).best is None
