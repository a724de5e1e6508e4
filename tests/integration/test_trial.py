"""Rows run together only where a trial shows that they may, and padding never shows in an answer."""

import asyncio
import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from millrace.artifacts import manifest as manifests
from millrace.artifacts.configs import read_triton_config
from millrace.artifacts.manifest import Batching, LookUpWords, Manifest, Tokenize
from millrace.artifacts.vocabulary import Vocabulary
from millrace.broker.base import Limits
from millrace.broker.memory import MemoryBroker
from millrace.protocol import codec
from millrace.protocol.errors import InvalidRequest, Unavailable
from millrace.protocol.messages import ReplyBlock
from millrace.protocol.tensors import Signature, Tensor, TensorSpec, encode_strings
from serving.queueing.requests import InferenceRequest, InferenceResponse
from tests.support.onnxmodels import FLOAT, INT32, STRING, constant, info, node, save
from tests.support.working import ask, block_of, connected, request_of, serving, text_request
from worker.backends.base import Arrays, Device
from worker.loading import model as models
from worker.loading import trial
from worker.loading.model import Model
from worker.preprocessing.preparation import Preparation

ROWS = [[-1.0, 2.0, 0.5, 3.0], [40.0, -7.0, 8.0, 1.0], [0.01, 0.02, -0.03, 0.04]]


def load(folder: Path, **options: Any) -> Model:
    return models.load(folder, "m", 1, device=Device(), backend="auto", **({"max_batch_size": 16} | options))


X, Y = info("x", FLOAT, ["N", 4]), info("y", FLOAT, ["M", 4])
ROW_AXIS = constant("rows", np.array([0], np.int64))
MIXING: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {
    "softmax": ([node("Softmax", ["x"], ["y"], axis=0)], []),
    "time first": ([node("CumSum", ["x", "first"], ["y"])], [constant("first", np.array(0, np.int64))]),
    "dynamic quantization": (
        [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        [],
    ),
    "mean": (
        [node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1), node("Sub", ["x", "mean"], ["y"])],
        [],
    ),
    "sorted": (
        [
            node("Shape", ["x"], ["shape"]),
            node("Gather", ["shape", "first"], ["count"]),
            node("TopK", ["x", "count"], ["y", "places"], axis=0),
        ],
        [constant("first", np.array([0], np.int64))],
    ),
    "filter": (
        [
            node("ReduceSum", ["x", "columns"], ["sums"], keepdims=0),
            node("Greater", ["sums", "zero"], ["kept"]),
            node("Compress", ["x", "kept"], ["y"], axis=0),
        ],
        [constant("columns", np.array([1], np.int64)), constant("zero", np.float32(0))],
    ),
}


def answers_of(model: Model, *requests: InferenceRequest) -> list[Any]:
    """The outputs of requests that are asked together, by name, as lists; errors as they are."""
    broker = MemoryBroker()
    with serving(broker, model):
        answers = ask(broker, *requests)
    return [
        {name: tensor.to_numpy().tolist() for name, tensor in answer.outputs.items()}
        if isinstance(answer, InferenceResponse)
        else answer
        for answer in answers
    ]


@pytest.mark.parametrize("kind", MIXING)
def test_a_model_that_mixes_rows_is_not_batched_and_says_so(kind: str, tmp_path: Path) -> None:
    nodes, constants = MIXING[kind]
    model = load(save(tmp_path, nodes, [X], [Y], *constants))
    assert model.announcement.max_batch_size == 0
    assert "Requests are not batched: output 'y'" in " ".join(model.announcement.notes)
    requests = [request_of([row], largest=0) for row in ROWS]
    alone = [answers_of(model, request)[0] for request in requests]
    assert answers_of(model, *requests) == alone


def test_config_pbtxt_is_taken_at_its_word(tmp_path: Path) -> None:
    nodes, constants = MIXING["softmax"]
    (tmp_path / "config.pbtxt").write_text("max_batch_size: 4")
    model = load(save(tmp_path / "1", nodes, [X], [Y], *constants), config=read_triton_config(tmp_path))
    assert model.announcement.max_batch_size == 4


def test_a_manifest_keeps_rows_apart_whose_model_mixes_them(tmp_path: Path) -> None:
    nodes, constants = MIXING["softmax"]
    folder = save(tmp_path, nodes, [X], [Y], *constants)
    tensor = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
    signature = Signature(inputs=(tensor,), outputs=(replace(tensor, name="y"),))
    manifests.write(folder, Manifest(name="m", version=1, signatures={"serving_default": signature}))
    model = load(folder)
    assert model.announcement.max_batch_size == 1
    assert "Rows run one by one: output 'y'" in " ".join(model.announcement.notes)
    assert answers_of(model, request_of(ROWS, largest=1)) == [{"y": [[1.0] * 4] * 3}]


SEPARATE = {
    "neg": [node("Neg", ["x"], ["y"])],
    "relu": [node("Relu", ["x"], ["y"])],
    "softmax of columns": [node("Softmax", ["x"], ["y"], axis=1)],
    "sum of columns": [node("ReduceSum", ["x", "columns"], ["s"], keepdims=1), node("Add", ["x", "s"], ["y"])],
    "weights": [node("MatMul", ["x", "weights"], ["y"])],
}
WEIGHTS = constant("weights", np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32))
COLUMNS = constant("columns", np.array([1], np.int64))
STEPS = {**SEPARATE, **{kind: nodes for kind, (nodes, _) in MIXING.items() if kind not in ("sorted", "filter")}}


def chained(steps: Sequence[str]) -> list[Any]:
    """The steps' nodes, each step taking the answer of the one before."""
    nodes = []
    for number, step in enumerate(steps):
        for one in STEPS[step]:
            copied = type(one)()
            copied.CopyFrom(one)
            names = {"x": f"x{number}" if number else "x", "y": f"x{number + 1}" if number < len(steps) - 1 else "y"}
            own = {"s", "q", "z", "mean"}
            for tensors in (copied.input, copied.output):
                tensors[:] = [names.get(name, f"{name}{number}" if name in own else name) for name in tensors]
            nodes.append(copied)
    return nodes


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_whatever_the_graph_a_batched_row_is_answered_as_if_alone(steps: list[str], random: Any) -> None:
    """Graphs of random steps: those that are batched answer samples of every size alike in a batch and alone."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), chained(steps), [X], [Y], WEIGHTS, COLUMNS, constant("first", np.array(0, np.int64)))
        model = load(Path(folder))
    if set(steps) <= set(SEPARATE):
        assert model.batching.max_batch_size == 16 or "shows nothing" in " ".join(model.announcement.notes)
    if model.batching.max_batch_size:
        rng = np.random.default_rng(random.randrange(2**32))
        rows = (rng.standard_normal((7, 4)) * 10.0 ** rng.integers(-2, 3, (7, 1))).astype(np.float32)
        together = model.run("serving_default", {"x": rows}, 7)["y"]
        alone = [model.run("serving_default", {"x": row[np.newaxis]}, 1)["y"] for row in rows]
        np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("fault", "text"), [("random", "differ from run to run"), ("same", "shows nothing")])
def test_a_model_whose_trial_shows_nothing_is_not_batched(tmp_path: Path, fault: str, text: str) -> None:
    nodes = {
        "random": [node("RandomNormalLike", ["x"], ["y"])],
        "same": [node("Mul", ["x", "nothing"], ["y"])],
    }[fault]
    model = load(save(tmp_path, nodes, [X], [Y], *[constant("nothing", np.float32(0))] * (fault == "same")))
    assert model.announcement.max_batch_size == 0
    assert text in " ".join(model.announcement.notes)


def test_samples_fit_models_that_take_few_ids_or_numerals(tmp_path: Path) -> None:
    """Ids of which there are two, and strings that must be numbers: such models run, and so are batched."""
    table = constant("table", np.array([[1.0], [5.0]], np.float32))
    few = save(
        tmp_path / "few",
        [node("Gather", ["table", "i"], ["y"])],
        [info("i", INT32, ["N"])],
        [info("y", FLOAT, ["N", 1])],
        table,
    )
    assert load(few).announcement.max_batch_size == 16
    signature = Signature(
        inputs=(TensorSpec(name="s", datatype="BYTES", shape=(-1,)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1,)),),
    )
    backend = Computed(signature, lambda inputs: {"y": inputs["s"].astype(np.float32)})
    assert trial.of_model(backend, backend.signatures, Preparation(), 16).reason == ""


def test_a_model_that_depends_on_something_that_is_away_has_no_trial() -> None:
    def away(inputs: Arrays) -> Arrays:
        raise Unavailable("it is away")

    signature = Signature(
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1,)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1,)),),
    )
    backend = Computed(signature, away)
    with pytest.raises(Unavailable):
        trial.of_model(backend, backend.signatures, Preparation(), 16)


@pytest.mark.parametrize(("kind", "is_batched"), [("cpu", False), ("cuda", True)])
def test_a_gpu_may_round_more_than_a_cpu(kind: Literal["cpu", "cuda"], is_batched: bool) -> None:
    """A thousandth, as TF32 does; a hundredth is too much anywhere."""
    signature = Signature(
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1,)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1,)),),
    )

    def reason(rounding: float) -> str:
        def rounded(inputs: Arrays) -> Arrays:
            return {"y": inputs["x"] * np.float32(1 + rounding * (len(inputs["x"]) > 1))}

        backend = Computed(signature, rounded)
        return trial.of_model(backend, backend.signatures, Preparation(), 16, Device(kind)).reason

    assert (reason(0.001) == "") is is_batched
    assert "changes with the rows beside it" in reason(0.01)


def test_requests_that_came_in_one_block_run_apart_where_rows_must_not_run_together(tmp_path: Path) -> None:
    """Another worker may have announced the version as one that batches."""
    nodes, constants = MIXING["softmax"]
    model = load(save(tmp_path, nodes, [X], [Y], *constants))

    async def run() -> list[ReplyBlock]:
        broker, replies = MemoryBroker(), list[bytes]()
        async with connected(broker) as link:
            await link.append([block_of(link, request_of(ROWS), [1, 2])], Limits(100, 10**6))
            with serving(broker, model):
                while len(replies) < 2:
                    replies += await link.replies()
        return [codec.decode_reply(reply) for reply in replies]

    one, two = asyncio.run(run())
    assert one.tensors["y"].to_numpy().tolist() == [[1.0] * 4]
    expected = np.exp(np.array(ROWS[1:], np.float32))
    np.testing.assert_allclose(two.tensors["y"].to_numpy(), expected / expected.sum(0), rtol=1e-5)


RARE: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "above a large number": ("FP32", lambda x: np.where(np.abs(x).max() > 1e5, 0, x)),
    "where a number is missing": ("FP32", lambda x: x + np.isnan(x).any()),
    "where a row is zero": ("FP32", lambda x: x + (x == 0).all(1).any()),
    "above a large whole number": ("INT64", lambda x: x + (x.max() > 200)),
    "beyond 20 rows": ("FP32", lambda x: x[:20] if len(x) > 20 else x),
    "at the 30th row": ("FP32", lambda x: x + (np.arange(len(x)) == 30)[:, np.newaxis]),
}


@pytest.mark.parametrize("when", RARE)
def test_rows_that_mix_rarely_are_found_out(when: str) -> None:
    datatype, compute = RARE[when]
    x, y = (TensorSpec(name=name, datatype=datatype, shape=(-1, 3)) for name in "xy")
    backend = Computed(Signature(inputs=(x,), outputs=(y,)), lambda inputs: {"y": compute(inputs["x"])})
    assert trial.of_model(backend, backend.signatures, Preparation(), 32).reason


class Computed:
    """A backend of one Python function."""

    platform = "scripted"
    fault = ""
    notes: Sequence[str] = ()
    labels: Sequence[str] = ()
    mixed_rows: Mapping[str, str] = {}
    axes: Mapping[str, Sequence[str]] = {}
    keeps_state = ""

    def __init__(self, signature: Signature, compute: Callable[[Arrays], Arrays]) -> None:
        self.signatures: Mapping[str, Signature] = {"serving_default": signature}
        self._compute = compute

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        return self._compute(inputs)

    def close(self) -> None:
        """Nothing is held."""


# Padding


TEXT = TensorSpec(name="x", datatype="BYTES", shape=(-1,))
WORDS = [str(number) for number in range(40)]
IDS, WEIGHED = info("ids", INT32, ["b", "n"]), info("weights", FLOAT, ["b", "n"])
TAG = info("tag", INT32, ["b", "n"])


def padded_model(folder: Path, nodes: Sequence[Any], *constants: Any, how: str = "zero", output: Any = TAG) -> Model:
    """A model of texts of numbers, whose ids are padded with zeros or with the last one."""
    inputs = [IDS] if how == "zero" else [IDS, WEIGHED]
    save(folder, nodes, inputs, [output], *constants)
    Vocabulary(["<pad>", "<unk>", *WORDS] if how == "zero" else WORDS).write(folder / "vocabulary.txt")
    shape = tuple(dim.dim_value or -1 for dim in output.type.tensor_type.shape.dim)
    datatype = {INT32: "INT32", FLOAT: "FP32"}[output.type.tensor_type.elem_type]
    given = TEXT if how == "zero" else replace(TEXT, shape=(-1, -1))
    step: Any = (
        Tokenize(input="x", output="ids", max_length=100)
        if how == "zero"
        else LookUpWords(input="x", output="ids", weights="weights")
    )
    signature = Signature(inputs=(given,), outputs=(TensorSpec(name="tag", datatype=datatype, shape=shape),))
    manifests.write(
        folder,
        Manifest(
            name="m",
            version=1,
            signatures={"serving_default": signature},
            preprocessing=(step,),
            batching=Batching(max_batch_size=8),
        ),
    )
    return load(folder)


def request_of_numbers(model: Model, *texts: Sequence[int]) -> InferenceRequest:
    words = [[str(number) for number in text] for text in texts]
    if model.announcement.signatures["serving_default"].inputs[0].shape == (-1,):
        return text_request(*map(" ".join, words))
    inputs = {"x": Tensor("BYTES", (len(texts), len(texts[0])), encode_strings(itertools.chain(*words)))}
    return replace(request_of([[0.0]]), inputs=inputs, rows=len(texts))


TEXTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16], [17]]


@pytest.mark.parametrize("how", ["zero", "edge"])
def test_an_answer_as_long_as_its_text_is_cut_to_it(tmp_path: Path, how: str) -> None:
    nodes = [node("Identity", ["ids"], ["tag"])]
    if how == "edge":  # the weights take no part
        nodes = [
            node("Cast", ["weights"], ["ones"], to=INT32),
            node("Sub", ["ones", "ones"], ["none"]),
            node("Add", ["ids", "none"], ["tag"]),
        ]
    model = padded_model(tmp_path, nodes, how=how)
    first = 2 if how == "zero" else 0
    expected = [{"tag": [[number + first for number in text]]} for text in TEXTS]
    assert answers_of(model, *(request_of_numbers(model, text) for text in TEXTS)) == expected
    assert model.batching.max_batch_size == 8


def test_rows_of_one_request_are_as_long_as_its_longest(tmp_path: Path) -> None:
    model = padded_model(tmp_path, [node("Identity", ["ids"], ["tag"])])
    requests = [
        request_of_numbers(model, [1], [2, 3]),
        request_of_numbers(model, [4] * 9),
        request_of_numbers(model, [5]),
    ]
    assert answers_of(model, *requests) == [{"tag": [[3, 0], [4, 5]]}, {"tag": [[6] * 9]}, {"tag": [[7]]}]
    assert model.announcement.has_whole_requests  # or its parts would be of different length


def test_texts_of_different_length_share_a_batch_where_answers_are_cut(tmp_path: Path) -> None:
    model = padded_model(tmp_path, [node("Identity", ["ids"], ["tag"])])

    async def run() -> list[ReplyBlock]:
        broker, replies = MemoryBroker(), list[bytes]()
        async with connected(broker) as link:
            for text in TEXTS:
                await link.append([block_of(link, request_of_numbers(model, text), [1])], Limits(100, 10**6))
            with serving(broker, model):
                while len(replies) < len({len(text) for text in TEXTS}):
                    replies += await link.replies()
        return [codec.decode_reply(reply) for reply in replies]

    replies = asyncio.run(run())
    assert {reply.batch_rows for reply in replies} == {len(TEXTS)}
    assert sorted(len(reply.items) for reply in replies) == [1, 1, 2, 2]


PADDING_SHOWS = {
    "reversed": (
        [node("Slice", ["ids", "last", "first", "rows", "back"], ["tag"])],
        [
            constant("last", np.array([-1], np.int64)),
            constant("first", np.array([np.iinfo(np.int64).min], np.int64)),
            constant("rows", np.array([1], np.int64)),
            constant("back", np.array([-1], np.int64)),
        ],
        TAG,
    ),
    "twice as long": ([node("Concat", ["ids", "ids"], ["tag"], axis=1)], [], TAG),
    "a mean that counts padding": (
        [node("Cast", ["ids"], ["f"], to=FLOAT), node("ReduceMean", ["f"], ["tag"], axes=[1], keepdims=1)],
        [],
        info("tag", FLOAT, ["b", 1]),
    ),
    "the batch's length in a padded row": (  # a request of rows of different length has such places of its own
        [
            node("Shape", ["ids"], ["shape"]),
            node("Gather", ["shape", "one"], ["n"]),
            node("Cast", ["n"], ["n32"], to=INT32),
            node("Equal", ["ids", "zero"], ["is padding"]),
            node("Where", ["is padding", "n32", "ids"], ["tag"]),
        ],
        [constant("one", np.array([1], np.int64)), constant("zero", np.array(0, np.int32))],
        TAG,
    ),
    "a square of lengths": (
        [
            node("Unsqueeze", ["ids", "two"], ["column"]),
            node("Unsqueeze", ["ids", "one"], ["row"]),
            node("Mul", ["column", "row"], ["tag"]),
        ],
        [constant("one", np.array([1], np.int64)), constant("two", np.array([2], np.int64))],
        info("tag", INT32, ["b", "n", "m"]),
    ),
    "a length": (
        [
            node("Shape", ["ids"], ["shape"]),
            node("Gather", ["shape", "one"], ["n"]),
            node("Cast", ["n"], ["n32"], to=INT32),
            node("Mul", ["ids", "zero"], ["none"]),
            node("ReduceMax", ["none"], ["m"], axes=[1], keepdims=1),
            node("Add", ["m", "n32"], ["tag"]),
        ],
        [constant("one", np.array([1], np.int64)), constant("zero", np.array(0, np.int32))],
        info("tag", INT32, ["b", 1]),
    ),
}


@pytest.mark.parametrize("kind", PADDING_SHOWS)
def test_a_model_whose_answers_show_padding_runs_row_by_row(kind: str, tmp_path: Path) -> None:
    nodes, constants, output = PADDING_SHOWS[kind]
    model = padded_model(tmp_path, nodes, *constants, output=output)
    assert model.announcement.max_batch_size == 1
    assert "output 'tag'" in " ".join(model.announcement.notes)
    requests = [replace(request_of_numbers(model, text), max_batch_size=1) for text in TEXTS]
    assert answers_of(model, *requests) == [answers_of(model, request)[0] for request in requests]


def two_texts_model(folder: Path, nodes: Sequence[Any], output: Any) -> Model:
    """A model of two texts a row, each with a length of its own."""
    save(folder, nodes, [info("a", INT32, ["b", "n"]), info("c", INT32, ["b", "m"])], [output])
    Vocabulary(["<pad>", "<unk>", *WORDS]).write(folder / "vocabulary.txt")
    shape = tuple(dim.dim_value or -1 for dim in output.type.tensor_type.shape.dim)
    signature = Signature(
        inputs=(TEXT, replace(TEXT, name="z")), outputs=(TensorSpec(name="tag", datatype="INT32", shape=shape),)
    )
    steps = (Tokenize(input="x", output="a", max_length=9), Tokenize(input="z", output="c", max_length=9))
    manifest = Manifest(name="m", version=1, signatures={"serving_default": signature}, preprocessing=steps)
    manifests.write(folder, manifest)
    return load(folder)


def test_an_output_that_is_as_long_as_one_of_two_texts_is_not_cut_by_guess(tmp_path: Path) -> None:
    model = two_texts_model(tmp_path, [node("Identity", ["a"], ["tag"])], TAG)
    assert model.announcement.max_batch_size == 1
    assert "output 'tag' changes its shape" in " ".join(model.announcement.notes)


def test_two_texts_of_different_length_run_together_where_no_answer_shows_it(tmp_path: Path) -> None:
    largest = [node("ReduceMax", [name], [f"most {name}"], axes=[1], keepdims=1) for name in ("a", "c")]
    output = info("tag", INT32, ["b", 1])
    model = two_texts_model(tmp_path, [*largest, node("Add", ["most a", "most c"], ["tag"])], output)
    assert model.announcement.max_batch_size == 32


def test_a_backend_without_batches_that_blames_its_one_row_fails_the_request(tmp_path: Path) -> None:
    folder = save(tmp_path, [node("Identity", ["s"], ["y"])], [info("s", STRING, [2])], [info("y", STRING, [2])])
    with pytest.raises(InvalidRequest, match="takes strings as UTF-8"):
        load(folder).run("serving_default", {"s": np.array([[b"a", b"\xff"]], object)}, 1)
