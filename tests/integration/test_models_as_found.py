"""Models as strangers bring them: every protocol answers as the runtime called directly, alone and among others."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.support.everyprotocol import Arrays, EveryProtocol, Refused
from tests.support.onnxmodels import FLOAT, INT64, STRING, constant, info, node, save
from tests.support.running import Parts, until

NONE = np.zeros(0, np.int64)


def _floats(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# name -> (nodes, inputs, outputs, constants), requests, whether rows are batched
MODELS: dict[str, tuple[tuple[Any, ...], list[Arrays], bool]] = {
    "free-height-and-width": (
        (
            [node("Conv", ["x", "w"], ["y"])],
            [info("x", FLOAT, ["N", 3, "H", "W"])],
            [info("y", FLOAT, ["N", 1, "h", "w"])],
            [constant("w", np.ones((1, 3, 3, 3), np.float32))],
        ),
        [{"x": _floats(1, 3, size, size + 1, seed=size)} for size in (3, 5, 8)],
        True,
    ),
    "top-5": (
        (
            [node("TopK", ["x", "k"], ["v", "i"])],
            [info("x", FLOAT, ["N", "T"])],
            [info("v", FLOAT, ["N", 5]), info("i", INT64, ["N", 5])],
            [constant("k", np.array([5]))],
        ),
        [{"x": _floats(rows, 9, seed=rows)} for rows in (1, 2)],
        True,
    ),
    "numerals": (
        ([node("Cast", ["s"], ["y"], to=FLOAT)], [info("s", STRING, ["N"])], [info("y", FLOAT, ["N"])], []),
        [{"s": np.array([b"1.5", b"-2"], object)}],
        True,
    ),
    "baked-state": (
        (
            [node("Concat", ["x", "h"], ["y"], axis=1)],
            [info("x", FLOAT, ["N", 2])],
            [info("y", FLOAT, ["M", 4])],
            [constant("h", np.zeros((1, 2), np.float32))],
        ),
        [{"x": _floats(1, 2)}],
        False,
    ),
    "filter": (
        (
            [node("Greater", ["x", "z"], ["p"]), node("Compress", ["x", "p"], ["y"], axis=0)],
            [info("x", FLOAT, ["N"])],
            [info("y", FLOAT, ["M"])],
            [constant("z", np.float32(0))],
        ),
        [{"x": np.array(x, np.float32)} for x in ([1, -2, 3], [-1.0], [])],
        False,
    ),
    "softmax-of-rows": (
        ([node("Softmax", ["x"], ["y"], axis=0)], [info("x", FLOAT, ["N"])], [info("y", FLOAT, ["N"])], []),
        [{"x": _floats(rows, seed=rows)} for rows in (1, 3)],
        False,
    ),
    "nodes-and-edges": (
        (
            [node("ReduceSum", ["e", "a"], ["s"], keepdims=0), node("Add", ["n", "s"], ["y"])],
            [info("n", FLOAT, ["nodes", 2]), info("e", FLOAT, ["edges", 2])],
            [info("y", FLOAT, ["nodes", 2])],
            [constant("a", np.array([0]))],
        ),
        [{"n": _floats(2, 2), "e": _floats(3, 2)}, {"n": _floats(1, 2), "e": _floats(0, 2)}],
        False,
    ),
    "dot-products": (
        (
            [node("Transpose", ["d"], ["t"]), node("MatMul", ["q", "t"], ["y"])],
            [info("q", FLOAT, ["n", 2]), info("d", FLOAT, ["m", 2])],
            [info("y", FLOAT, ["n", "m"])],
            [],
        ),
        [{"q": _floats(2, 2), "d": _floats(2, 2, seed=1)}, {"q": _floats(1, 2), "d": _floats(3, 2)}],
        False,
    ),
    "key-value-cache": (
        (
            [node("Concat", ["past", "new"], ["present"], axis=2)],
            [info("past", FLOAT, ["B", 2, "P", 4]), info("new", FLOAT, ["B", 2, "S", 4])],
            [info("present", FLOAT, ["B", 2, "Q", 4])],
            [],
        ),
        [{"past": _floats(1, 2, past, 4), "new": _floats(1, 2, 1, 4, seed=1)} for past in (0, 3)],
        True,
    ),
    "dynamic-quantization": (
        (
            [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])],
            [info("x", FLOAT, ["N", 4])],
            [info("y", FLOAT, ["N", 4])],
            [],
        ),
        [{"x": _floats(1, 4, seed=seed) * 10**seed} for seed in range(3)],
        False,
    ),
    "time-first": (
        (
            [node("CumSum", ["x", "a"], ["y"])],
            [info("x", FLOAT, ["seq_len", 2])],
            [info("y", FLOAT, ["seq_len", 2])],
            [constant("a", np.int64(0))],
        ),
        [{"x": _floats(steps, 2, seed=steps)} for steps in (1, 4)],
        False,
    ),
    "no-inputs": (
        (
            [node("Constant", [], ["y"], value=constant("v", np.array([1.0, 2.0], np.float32)))],
            [],
            [info("y", FLOAT, [2])],
            [],
        ),
        [{}],
        False,
    ),
    "scalar": (
        (
            [node("Mul", ["x", "k"], ["y"]), node("Neg", ["k"], ["n"])],
            [info("x", FLOAT, ["N", 2]), info("k", FLOAT, [])],
            [info("y", FLOAT, ["N", 2]), info("n", FLOAT, [])],
            [],
        ),
        [{"x": _floats(2, 2), "k": np.array(3, np.float32)}],
        False,
    ),
    "empty-strings": (
        ([node("Identity", ["s"], ["y"])], [info("s", STRING, ["N", "T"])], [info("y", STRING, ["N", "T"])], []),
        [{"s": np.array([[b"a", b""]], object)}, {"s": np.empty((2, 0), object)}],
        True,
    ),
    "detections": (
        (
            [
                node("Shape", ["x"], ["shape"]),
                node("ReduceSum", ["x", "columns"], ["score"], keepdims=0),
                node("NonZero", ["score"], ["where"]),
                node("Transpose", ["where"], ["kept"]),
                node("GatherND", ["x", "kept"], ["boxes"]),
            ],
            [info("x", FLOAT, ["N", 3])],
            [info("boxes", FLOAT, ["found", 3]), info("kept", INT64, ["found", 1])],
            [constant("columns", np.array([1]))],
        ),
        [{"x": np.array([[0, 0, 0], [1, 2, 3]], np.float32)}, {"x": np.zeros((2, 3), np.float32)}],
        False,
    ),
}


def _make(folder: Path) -> dict[str, Any]:
    """Write them all; the runtime's own sessions by name."""
    sessions = {}
    for name, ((nodes, inputs, outputs, constants), _, _) in MODELS.items():
        path = save(folder / name / "1", nodes, inputs, outputs, *constants) / "model.onnx"
        sessions[name] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return sessions


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _make(tmp_path_factory.mktemp("found") / "models")


@pytest.fixture(scope="module")
def callers(sessions: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[EveryProtocol]:
    folder = tmp_path_factory.mktemp("running")
    models = next(tmp_path_factory.getbasetemp().glob("found*/models"))
    with (
        Parts(folder, models, MILLRACE_WORKER_MODEL_PROCESSES="2") as parts,
        EveryProtocol(parts.urls[0], f"127.0.0.1:{parts.grpc_ports[0]}") as every,
    ):
        until(lambda: all(every.is_available(name) for name in MODELS), what="all models to be served")
        yield every


def _direct(session: Any, inputs: Arrays) -> Arrays:
    names = [output.name for output in session.get_outputs()]
    given = {name: a.astype(str).astype(object) if a.dtype == object and a.size else a for name, a in inputs.items()}
    values = session.run(names, {name: _texts(array) for name, array in given.items()})
    return dict(zip(names, values, strict=True))


def _texts(array: Any) -> Any:
    if array.dtype != object:
        return array
    flat = [value.decode() if isinstance(value, bytes) else value for value in array.ravel()]
    return np.array(flat, object).reshape(array.shape)


def _check(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        if array.dtype == object:
            texts = [value.encode() for value in array.ravel()]
            assert [found[name].shape, found[name].ravel().tolist()] == [array.shape, texts]
        else:
            assert found[name].shape == array.shape
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_every_protocol_answers_as_the_runtime(name: str, callers: EveryProtocol, sessions: dict[str, Any]) -> None:
    _, requests, is_batched = MODELS[name]
    assert (callers.config(name)["max_batch_size"] > 0) is is_batched
    assert is_batched or any("Requests are not batched" in note for note in callers.status(name)["notes"])
    assert callers.status(name).get("warmed", True)
    for inputs in requests:
        expected = _direct(sessions[name], inputs)
        for protocol, infer in callers.infer.items():
            if protocol.startswith("TFS REST") and _is_lost_in_json(inputs, expected):
                continue
            _check(infer(name, inputs), expected)


def _is_lost_in_json(inputs: Arrays, outputs: Arrays) -> bool:
    """Whether nested lists alone cannot say a shape."""
    return any(0 in array.shape[:-1] for array in [*inputs.values(), *outputs.values()])


@pytest.mark.parametrize("name", MODELS)
def test_32_mixed_requests_at_once_are_each_answered_as_if_alone(
    name: str, callers: EveryProtocol, sessions: dict[str, Any]
) -> None:
    _, requests, _ = MODELS[name]
    mixed = [requests[i % len(requests)] for i in range(32)]
    protocols = [infer for protocol, infer in callers.infer.items() if not protocol.startswith("TFS REST")]
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda i: protocols[i % len(protocols)](name, mixed[i]), range(32)))
    for inputs, answer in zip(mixed, answers, strict=True):
        _check(answer, _direct(sessions[name], inputs))


# What JSON alone can say


@pytest.mark.parametrize(
    ("model", "body", "answer"),
    [
        ("key-value-cache", {"inputs": {"past": [[[], []]], "new": [[[[1.0] * 4]] * 2]}}, [[[[1.0] * 4]] * 2]),
        ("key-value-cache", {"instances": [{"past": [[], []], "new": [[[1.0] * 4]] * 2}]}, [[[[1.0] * 4]] * 2]),
        ("nodes-and-edges", {"inputs": {"n": [[1.0, 2.0]], "e": []}}, [[1.0, 2.0]]),
        ("filter", {"inputs": []}, []),
        ("no-inputs", {"inputs": {}}, [1.0, 2.0]),
        ("no-inputs", {"instances": [{}]}, [1.0, 2.0]),
        ("scalar", {"inputs": {"x": [[1.0, 2.0]], "k": 3.0}}, {"y": [[3.0, 6.0]], "n": -3.0}),
    ],
)
def test_json_says_shapes_with_the_signatures_help(
    callers: EveryProtocol, model: str, body: dict[str, Any], answer: Any
) -> None:
    (found,) = callers.predict(model, body).values()
    assert found == answer


def test_an_axis_that_json_cannot_say_is_named(callers: EveryProtocol) -> None:
    with pytest.raises(Refused, match="input 's' has an empty list, and JSON cannot say how large the axes behind it"):
        callers.predict("empty-strings", {"inputs": []})


# What the runtime refuses


@pytest.mark.parametrize(
    "protocol", ["TFS REST, columns", "OIP REST, JSON", "OIP REST, binary", "TFS gRPC", "OIP gRPC"]
)
@pytest.mark.parametrize(
    ("model", "inputs", "reason"),
    [
        ("free-height-and-width", {"x": _floats(1, 3, 2, 2)}, "Invalid input shape"),
        ("top-5", {"x": _floats(1, 3)}, "k argument [5] should not be greater than specified axis dim value [3]"),
        ("baked-state", {"x": _floats(2, 2)}, "mismatched dimensions"),
        ("numerals", {"s": np.array([b"seven"], object)}, "Cast"),
    ],
)
def test_what_the_runtime_refuses_is_the_callers_error_in_its_words(
    callers: EveryProtocol, protocol: str, model: str, inputs: Arrays, reason: str
) -> None:
    with pytest.raises(Refused) as caught:
        callers.infer[protocol](model, inputs)
    assert caught.value.status in (400, "INVALID_ARGUMENT")
    assert reason in caught.value.text
    assert "/" not in caught.value.text.replace("://", "")
    assert len(caught.value.text) <= 1000
