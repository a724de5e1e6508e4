"""What an ONNX file shows of its rows, held against the runtime: what is said to be apart is apart."""

import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from onnx import helper

from millrace.protocol.tensors import Signature, TensorSpec
from tests.support.onnxmodels import FLOAT, INT64, constant, info, node, save
from worker.backends.base import Arrays
from worker.graphs import rowaxes
from worker.graphs.rowaxes import Findings
from worker.loading import trial
from worker.preprocessing.preparation import Preparation

# Steps of generated graphs. Each takes the tensors of rank 1 to 4 made before, and a number to choose by, and returns
# nodes whose last output is the new tensor.
_CONSTANTS = [
    constant("weights", np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)),
    constant("row", np.arange(4, dtype=np.float32)),
    constant("three", np.arange(12, dtype=np.float32).reshape(3, 4)),
    constant("two", np.float32(2)),
    constant("none", np.array([], np.int64)),
    *(constant(f"i{number}", np.array([number], np.int64)) for number in (-1, 0, 1, 2, 4, 9)),
    *(constant(f"s{number}", np.array(number, np.int64)) for number in (-1, 0, 1)),
    constant("flat", np.array([-1], np.int64)),
    constant("pairs", np.array([-1, 2], np.int64)),
    constant("as rows", np.array([0, -1], np.int64)),
    constant("one row", np.array([1, -1], np.int64)),
    constant("cube", np.array([-1, 2, 2], np.int64)),
    constant("far", np.array([2**62], np.int64)),
    constant("unpadded", np.array([0, 0, 0, 0], np.int64)),
    constant("padded rows", np.array([0, 0, 1, 0], np.int64)),
    constant("padded columns", np.array([0, 1, 0, 0], np.int64)),
    constant("twice down", np.array([2, 1], np.int64)),
    constant("twice across", np.array([1, 2], np.int64)),
    constant("lstm w", np.random.default_rng(2).standard_normal((1, 8, 4)).astype(np.float32)),
    constant("lstm r", np.random.default_rng(3).standard_normal((1, 8, 2)).astype(np.float32)),
    constant("kernel", np.ones((2, 2, 1), np.float32)),
]
_Step = Callable[[str, str, str], list[Any]]


def _one(operator: str, *more: str, **attributes: Any) -> _Step:
    """An operator over one tensor and constants."""
    return lambda x, _, y: [node(operator, [x, *more], [y], **attributes)]


def _two(operator: str, **attributes: Any) -> _Step:
    return lambda x, other, y: [node(operator, [x, other], [y], **attributes)]


def _less_reduced(operator: str, axis: int) -> _Step:
    return lambda x, _, y: [node(operator, [x], [f"r{y}"], axes=[axis]), node("Sub", [x, f"r{y}"], [y])]


def _by_count(x: str, _: str, y: str) -> list[Any]:
    """Reshaped as the number of rows, computed in the graph, and what is left."""
    shape = [
        node("Shape", [x], [f"s{y}"]),
        node("Gather", [f"s{y}", "s0"], [f"n{y}"]),
        node("Unsqueeze", [f"n{y}", "i0"], [f"u{y}"]),
        node("Concat", [f"u{y}", "i-1"], [f"t{y}"], axis=0),
    ]
    return [*shape, node("Reshape", [x, f"t{y}"], [y])]


def _times_count(x: str, _: str, y: str) -> list[Any]:
    """Multiplied by the number of rows."""
    counted = [node("Shape", [x], [f"s{y}"]), node("Gather", [f"s{y}", "i0"], [f"n{y}"])]
    return [*counted, node("Cast", [f"n{y}"], [f"f{y}"], to=FLOAT), node("Mul", [x, f"f{y}"], [y])]


def _plus_place(x: str, _: str, y: str) -> list[Any]:
    """Each row's place added to it."""
    nodes = [node("Shape", [x], [f"s{y}"]), node("Gather", [f"s{y}", "s0"], [f"n{y}"])]
    nodes += [node("Range", ["s0", f"n{y}", "s1"], [f"g{y}"]), node("Cast", [f"g{y}"], [f"c{y}"], to=FLOAT)]
    return [*nodes, node("Unsqueeze", [f"c{y}", "i1"], [f"v{y}"]), node("Add", [x, f"v{y}"], [y])]


def _expanded(x: str, _: str, y: str) -> list[Any]:
    return [node("Shape", [x], [f"s{y}"]), node("Expand", ["two", f"s{y}"], [f"e{y}"]), node("Mul", [x, f"e{y}"], [y])]


def _quantized(x: str, _: str, y: str) -> list[Any]:
    names = [f"{letter}{y}" for letter in "qsz"]
    return [node("DynamicQuantizeLinear", [x], names), node("DequantizeLinear", names, [y])]


def _top(axis: int) -> _Step:
    return lambda x, _, y: [node("TopK", [x, "i1"], [y, f"p{y}"], axis=axis)]


def _cast(operator: str, **attributes: Any) -> _Step:
    """An operator whose result is whole numbers."""
    return lambda x, _, y: [node(operator, [x], [f"w{y}"], **attributes), node("Cast", [f"w{y}"], [y], to=FLOAT)]


def _product_with_itself(x: str, _: str, y: str) -> list[Any]:
    return [node("Transpose", [x], [f"t{y}"]), node("MatMul", [x, f"t{y}"], [y])]


def _recurrent(x: str, _: str, y: str, turned: int = 0) -> list[Any]:
    inner = [node("Unsqueeze", [x, "i1" if turned else "i0"], [f"u{y}"])]
    inner += [node("LSTM", [f"u{y}", "lstm w", "lstm r"], [f"l{y}"], hidden_size=2)]
    return [*inner, node("Reshape", [f"l{y}", "pairs"], [y])]


def _of_condition(x: str, _: str, y: str) -> list[Any]:
    """One branch for all rows, by their sum."""
    branch = {
        name: helper.make_graph([node(name, [x], [f"{name}{y}"])], name, [], [info(f"{name}{y}", FLOAT, None)])
        for name in ("Neg", "Relu")
    }
    condition = [node("ReduceSum", [x], [f"k{y}"], keepdims=0), node("Greater", [f"k{y}", "two"], [f"c{y}"])]
    return [*condition, node("If", [f"c{y}"], [y], then_branch=branch["Neg"], else_branch=branch["Relu"])]


STEPS: dict[str, _Step] = {
    **{operator: _one(operator) for operator in ("Neg", "Relu", "Sigmoid", "Exp", "Identity", "Floor")},
    **{f"{operator} rows": _less_reduced(operator, 0) for operator in ("ReduceMean", "ReduceMax", "ReduceL2")},
    **{f"{operator} columns": _less_reduced(operator, 1) for operator in ("ReduceMean", "ReduceMax", "ReduceL2")},
    **{f"{operator} last": _less_reduced(operator, -1) for operator in ("ReduceMin", "ReduceProd")},
    **{f"softmax {axis}": _one("Softmax", axis=axis) for axis in (0, 1, -1)},
    **{f"cumulated {axis}": _one("CumSum", f"s{axis}") for axis in (0, 1, -1)},
    **{f"top {axis}": _top(axis) for axis in (0, 1, -1)},
    **{f"flatten {axis}": _one("Flatten", axis=axis) for axis in (0, 1, 2)},
    **{name: _one("Reshape", name) for name in ("flat", "pairs", "as rows", "one row", "cube")},
    **{name: _one("Pad", name) for name in ("unpadded", "padded rows", "padded columns")},
    **{name: _one("Tile", name) for name in ("twice down", "twice across")},
    **{f"joined {axis}": _two("Concat", axis=axis) for axis in (0, 1)},
    **{operator: _two(operator) for operator in ("Add", "Mul", "MatMul", "Max", "Pow")},
    **{f"with {name}": _one("Add", name) for name in ("row", "two", "three")},
    **{f"picked {axis}": _one("Gather", "i0", axis=axis) for axis in (0, 1)},
    **{f"cut {axis}": _one("Slice", "i0", "i1", f"i{axis}") for axis in (0, 1)},
    **{f"kept {axis}": _one("Slice", "i0", "far", f"i{axis}") for axis in (0, 1)},
    **{f"largest {axis}": _cast("ArgMax", axis=axis) for axis in (0, 1)},
    **{f"unsqueezed {axis}": _one("Unsqueeze", f"i{axis}") for axis in (0, 1, 2)},
    **{f"gemm {a}{b}": _one("Gemm", "weights", "row", transA=a, transB=b) for a in (0, 1) for b in (0, 1)},
    "squeezed": _one("Squeeze"),
    "transposed": _one("Transpose"),
    "turned": _one("Transpose", perm=[1, 0, 2]),
    "layer norm": _one("LayerNormalization", "row"),
    "mean variance": _one("MeanVarianceNormalization", axes=[0]),
    "convolved": _one("Conv", "kernel"),
    "weights": _one("MatMul", "weights"),
    "with itself": _product_with_itself,
    "by count": _by_count,
    "times count": _times_count,
    "plus place": _plus_place,
    "expanded": _expanded,
    "quantized": _quantized,
    "found": _cast("NonZero"),
    "time first": _recurrent,
    "time second": lambda x, other, y: _recurrent(x, other, y, 1),
    "condition": _of_condition,
}


def _model(steps: Sequence[tuple[str, int, int]]) -> Any:
    """The model that applies the steps, each to tensors made before; the last one's result is the output."""
    made, nodes = ["x"], []
    for place, (name, one, other) in enumerate(steps):
        x, second = made[-1 - one % len(made)], made[-1 - other % len(made)]
        nodes += STEPS[name](x, second, f"t{place}")
        made.append(f"t{place}")
    nodes.append(node("Identity", [made[-1]], ["y"]))
    graph = helper.make_graph(nodes, "g", [info("x", FLOAT, ["N", 4])], [info("y", FLOAT, None)], _CONSTANTS)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _found(model: Any, folder: Path) -> Findings:
    onnx.save(model, folder / "model.onnx")
    return rowaxes.of_file(folder / "model.onnx")


def _session(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _are_apart(session: Any, rng: np.random.Generator) -> bool:
    """Whether rows of all sizes are answered in batches as they are alone."""
    for count in (2, 3, 5):
        rows = (rng.standard_normal((count, 4)) * 10.0 ** rng.integers(-1, 2, (count, 1))).astype(np.float32)
        (together,) = session.run(["y"], {"x": rows})
        alone = [session.run(["y"], {"x": row[np.newaxis]})[0] for row in rows]
        if any(one.shape[:1] != (1,) for one in alone) or together.shape != (count, *alone[0].shape[1:]):
            return False
        if not np.allclose(together, np.concatenate(alone), rtol=1e-3, atol=1e-4, equal_nan=True):
            return False
    return True


_PROGRAMS = st.lists(
    st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=5
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@settings(max_examples=400, suppress_health_check=[HealthCheck.filter_too_much])
@given(_PROGRAMS, st.integers(0, 2**32 - 1))
def test_whatever_graph_is_said_to_keep_rows_apart_does(
    folder: Path, steps: list[tuple[str, int, int]], seed: int
) -> None:
    model = _model(steps)
    found = _found(model, folder)
    try:
        session = _session(model)
        apart = _are_apart(session, np.random.default_rng(seed))
    except Exception:  # the runtime refuses the graph, or these rows
        assume(False)
    event(f"said apart {found.are_apart}, said mixed {bool(found.mixed)}, is apart {apart}")
    if found.are_apart:
        assert apart


class OfSession:
    """A backend of a session, as far as a trial needs one."""

    platform = "onnxruntime_onnx"
    fault = ""
    notes: Sequence[str] = ()
    labels: Sequence[str] = ()
    mixed_rows: Mapping[str, str] = {}
    axes: Mapping[str, Sequence[str]] = {}
    keeps_state = ""

    def __init__(self, session: Any) -> None:
        x = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
        y = TensorSpec(name="y", datatype="FP32", shape=(-1,))
        self.signatures: Mapping[str, Signature] = {"serving_default": Signature(inputs=(x,), outputs=(y,))}
        self.session = session

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        return {"y": self.session.run(["y"], inputs)[0]}

    def close(self) -> None:
        """Nothing is held."""


@settings(max_examples=150, suppress_health_check=[HealthCheck.filter_too_much])
@given(_PROGRAMS, st.integers(0, 2**32 - 1))
def test_whatever_graph_a_file_and_a_trial_pass_keeps_rows_apart(
    folder: Path, steps: list[tuple[str, int, int]], seed: int
) -> None:
    model = _model(steps)
    found = _found(model, folder)
    assume(not found.mixed)
    try:
        backend = OfSession(_session(model))
        passed = not trial.of_model(backend, backend.signatures, Preparation(), 16).reason
    except Exception:  # the runtime refuses the graph
        assume(False)
    event(f"passed {passed}, said apart {found.are_apart}")
    if passed:
        assert _are_apart(backend.session, np.random.default_rng(seed))


# Single operators and patterns of exporters, each with what is to be found


def _of_nodes(
    folder: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], *constants: Any, opset: int = 17
) -> Findings:
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(constants))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return _found(helper.make_model(graph, opset_imports=imports, ir_version=9), folder)


X = info("x", FLOAT, ["N", 4])
SEQUENCES = info("x", FLOAT, ["N", "T", 8])
Y = info("y", FLOAT, ["N", "a"])
HEADS = [
    node("Shape", ["x"], ["shape"]),
    node("Gather", ["shape", "0"], ["n"]),
    node("Gather", ["shape", "1"], ["t"]),
    node("Unsqueeze", ["n", "first"], ["n1"]),
    node("Unsqueeze", ["t", "first"], ["t1"]),
    node("Concat", ["n1", "t1", "2 heads", "4 each"], ["as heads"], axis=0),
    node("Reshape", ["x", "as heads"], ["heads"]),
    node("Transpose", ["heads"], ["q"], perm=[0, 2, 1, 3]),
    node("Transpose", ["heads"], ["k"], perm=[0, 2, 3, 1]),
    node("MatMul", ["q", "k"], ["scores"]),
    node("Softmax", ["scores"], ["weights"], axis=-1),
    node("MatMul", ["weights", "q"], ["found"]),
    node("Transpose", ["found"], ["back"], perm=[0, 2, 1, 3]),
    node("Concat", ["n1", "t1", "8 all"], ["as one"], axis=0),
    node("Reshape", ["back", "as one"], ["y"]),
]
HEADS_CONSTANTS = [
    constant("0", np.array(0)),
    constant("1", np.array(1)),
    constant("first", np.array([0])),
    constant("2 heads", np.array([2])),
    constant("4 each", np.array([4])),
    constant("8 all", np.array([8])),
]
LSTM = [constant("w", np.zeros((1, 8, 8), np.float32)), constant("r", np.zeros((1, 8, 2), np.float32))]

PATTERNS: dict[str, tuple[tuple[Any, ...], str]] = {
    "attention": ((HEADS, [SEQUENCES], [info("y", FLOAT, ["N", "T", 8])], *HEADS_CONSTANTS), "apart"),
    "rows and time in one axis": (
        (
            [
                node("Reshape", ["x", "flat"], ["f"]),
                node("Softmax", ["f"], ["s"], axis=1),
                node("Shape", ["x"], ["shape"]),
                node("Reshape", ["s", "shape"], ["y"]),
            ],
            [SEQUENCES],
            [info("y", FLOAT, ["N", "T", 8])],
            constant("flat", np.array([-1, 8])),
        ),
        "apart",
    ),
    "LSTM with time second": (
        (
            [node("LSTM", ["x", "w", "r"], ["a", "h"], hidden_size=2, layout=1), node("Squeeze", ["h", "one"], ["y"])],
            [SEQUENCES],
            [info("y", FLOAT, ["N", 2])],
            *LSTM,
            constant("one", np.array([1])),
        ),
        "apart",
    ),
    "LSTM with time first": (
        (
            [node("LSTM", ["x", "w", "r"], ["a"], hidden_size=2), node("ReduceSum", ["a", "one"], ["y"], keepdims=0)],
            [SEQUENCES],
            [info("y", FLOAT, ["N", "T", 2])],
            *LSTM,
            constant("one", np.array([1])),
        ),
        "LSTM runs over rows as over time",
    ),
    "a similarity of rows": (
        ([node("Einsum", ["x", "x"], ["y"], equation="ia,ja->ij")], [X], [Y]),
        "Einsum multiplies rows with one another",
    ),
    "an outer product of each row": (
        ([node("Einsum", ["x", "x"], ["y"], equation="ia,ib->iab")], [X], [info("y", FLOAT, ["N", 4, 4])]),
        "apart",
    ),
    "classical models": (
        (
            [
                node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[0.0], scale=[1.0]),
                node("LinearRegressor", ["s"], ["y"], domain="ai.onnx.ml", coefficients=[1.0] * 4),
            ],
            [X],
            [Y],
        ),
        "apart",
    ),
    "one example as features": (
        (
            [node("Normalizer", ["x"], ["y"], domain="ai.onnx.ml", norm="L2")],
            [info("x", FLOAT, ["N"])],
            [info("y", FLOAT, ["N"])],
        ),
        "Normalizer takes the rows for the features of one example",
    ),
    "places in a batch": (
        (
            [node("MaxPool", ["x"], ["p", "i"], kernel_shape=[1]), node("Cast", ["i"], ["y"], to=FLOAT)],
            [SEQUENCES],
            [info("y", FLOAT, ["N", "T", 8])],
        ),
        "MaxPool gives places in the whole batch",
    ),
    "random": (([node("RandomNormalLike", ["x"], ["y"])], [X], [Y]), "draws random numbers"),
    "an embedding": (
        (
            [node("Gather", ["table", "x"], ["e"]), node("ReduceMean", ["e"], ["y"], axes=[1], keepdims=0)],
            [info("x", INT64, ["N", "T"])],
            [Y],
            constant("table", np.ones((9, 3), np.float32)),
        ),
        "apart",
    ),
    "the class of each row's largest": (
        (
            [
                node("ArgMax", ["x"], ["i"], axis=1, keepdims=0),
                node("ArrayFeatureExtractor", ["classes", "i"], ["c"], domain="ai.onnx.ml"),
                node("Reshape", ["c", "flat"], ["y"]),
            ],
            [X],
            [info("y", INT64, ["N"])],
            constant("classes", np.arange(4).reshape(1, 4)),
            constant("flat", np.array([-1])),
        ),
        "apart",
    ),
    "a table as long as there are rows": (
        (
            [
                node("Shape", ["x"], ["shape"]),
                node("Gather", ["shape", "zero"], ["n"]),
                node("Concat", ["n", "left"], ["to"], axis=0),
                node("Reshape", ["table", "to"], ["t"]),
                node("Add", ["x", "t"], ["y"]),
            ],
            [X],
            [Y],
            constant("zero", np.array([0])),
            constant("left", np.array([-1])),
            constant("table", np.arange(8, dtype=np.float32)),
        ),
        "Reshape shapes a constant by how many rows there are",
    ),
    "a constant for each row": (
        ([node("Add", ["x", "three"], ["y"])], [X], [Y], constant("three", np.ones((3, 4), np.float32))),
        "Add gives each place among the rows a constant of its own",
    ),
    "softmax of old": (([node("Softmax", ["x"], ["y"], axis=0)], [X], [Y]), "Softmax works over axis 0"),
    "graphs": (
        ([node("MatMul", ["a", "x"], ["y"])], [X, info("a", FLOAT, ["N", "N"])], [Y]),
        "dimension 'N' is the first one, and also axis 1 of 'a'",
    ),
    "names that differ": (
        (
            [node("Neg", ["x"], ["y"]), node("Neg", ["z"], ["u"])],
            [X, info("z", FLOAT, ["M", 4])],
            [Y, info("u", FLOAT, ["M", 4])],
        ),
        "the first dimension is 'N' in 'x' and 'M' in 'z'",
    ),
    "names that differ though rows are apart": (
        ([node("Neg", ["x"], ["y"])], [X], [info("y", FLOAT, ["M", 4])]),
        "apart",
    ),
    "unknown, with other names": (
        ([node("Inverse", ["x"], ["y"], domain="com.microsoft")], [X], [info("y", FLOAT, ["M", 4])]),
        "the first dimension is 'N' in 'x' and 'M' in 'y'",
    ),
    "unknown, with names that converters made up": (
        ([node("Inverse", ["x"], ["y"], domain="com.microsoft")], [X], [info("y", FLOAT, ["Inversey_dim_0", 4])]),
        "",
    ),
    "unknown, along time": (
        (
            [node("Inverse", ["x"], ["y"], domain="com.microsoft")],
            [info("x", FLOAT, ["seq_len", 4])],
            [info("y", FLOAT, ["seq_len", 4])],
        ),
        "the first dimension of 'x' is named 'seq_len'",
    ),
    "unknown, and then over rows": (
        (
            [
                node("Inverse", ["x"], ["i"], domain="com.microsoft"),
                node("ReduceMax", ["i"], ["m"], axes=[0]),
                node("Add", ["x", "m"], ["y"]),
            ],
            [X],
            [Y],
        ),
        "ReduceMax may work over rows",
    ),
    "no rows": (
        ([node("Identity", ["c"], ["y"])], [X], [Y], constant("c", np.ones((2, 2), np.float32))),
        "'y' has no rows",
    ),
}


@pytest.mark.parametrize("kind", PATTERNS)
def test_what_a_file_shows(folder: Path, kind: str) -> None:
    model, expected = PATTERNS[kind]
    found = _of_nodes(folder, *model)
    assert found.are_apart is (expected == "apart")
    assert (expected == "apart" and not found.mixed) or expected in found.mixed


def test_softmax_before_version_13_is_along_all_axes_from_one_on(folder: Path) -> None:
    softmax = [node("Softmax", ["x"], ["y"])]
    assert _of_nodes(folder, softmax, [SEQUENCES], [info("y", FLOAT, ["N", "T", 8])], opset=11).are_apart
    turned = [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("Softmax", ["t"], ["y"])]
    assert "Softmax" in _of_nodes(folder, turned, [SEQUENCES], [info("y", FLOAT, ["N", "T", 8])], opset=11).mixed


@pytest.mark.parametrize("content", [b"", b"no model", b"\x3a\xff\xff\xff\xff\x0f", b"\x08\x09" * 40])
def test_a_file_that_is_no_model_shows_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert rowaxes.of_file(tmp_path / "model.onnx") == Findings()


@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_damage_to_a_file_is_more_than_nothing_shown(folder: Path, noise: bytes, at: int) -> None:
    whole = _model([("Neg", 0, 0), ("condition", 0, 0)]).SerializeToString()
    (folder / "damaged.onnx").write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    assert isinstance(rowaxes.of_file(folder / "damaged.onnx"), Findings)


def test_weights_are_not_read(tmp_path: Path) -> None:
    """Of a file of 40 MB, nearly all of which are weights, next to nothing is read."""
    big = constant("w", np.zeros((4, 2_500_000), np.float32))
    save(tmp_path, [node("MatMul", ["x", "w"], ["y"])], [X], [Y], big)
    tracemalloc.start()
    assert rowaxes.of_file(tmp_path / "model.onnx").are_apart
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000
