"""ONNX files of all kinds through the backend, compared with ONNX Runtime called directly."""

import os
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import DTYPES, TensorSpec
from tests.support.onnxmodels import FLOAT, INT32, INT64, STRING, constant, info, node, save
from worker.backends.base import Device, LoadError
from worker.backends.onnx import external_data
from worker.backends.onnx.backend import OnnxBackend, load
from worker.backends.onnx.datatypes import NARROW
from worker.loading import model

CPU = Device()
SEQUENCE = helper.make_tensor_sequence_value_info


def written(folder: Path, graph: Any, *, opset: int = 21, ir_version: int = 10, **others: Any) -> Path:
    """A version's folder with the graph as `model.onnx`."""
    folder.mkdir(parents=True, exist_ok=True)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3), *others.pop("opsets", [])]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, **others)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    return folder


def graph(nodes: list[Any], inputs: list[Any], outputs: list[Any], *constants: Any) -> Any:
    return helper.make_graph(nodes, "g", inputs, outputs, list(constants))


def inputs_of(backend: OnnxBackend) -> tuple[TensorSpec, ...]:
    return backend.signatures["serving_default"].inputs


def outputs_of(backend: OnnxBackend) -> tuple[TensorSpec, ...]:
    return backend.signatures["serving_default"].outputs


def answer(backend: OnnxBackend, **inputs: Any) -> dict[str, Any]:
    return backend.run("serving_default", inputs)


def refusal(folder: Path) -> str:
    with pytest.raises(LoadError) as raised:
        load(folder, CPU)
    return str(raised.value)


X = np.array([[1.0, -2.0], [3.0, 4.0]], np.float32)


# Inputs that may be left out


def test_an_initializer_that_is_listed_as_an_input_may_be_sent(tmp_path: Path) -> None:
    three = constant("k", np.array([3.0], np.float32))
    inputs = [info("x", FLOAT, ["N", 2]), info("k", FLOAT, [1])]
    backend = load(save(tmp_path, [node("Mul", ["x", "k"], ["y"])], inputs, [info("y", FLOAT, ["N", 2])], three), CPU)
    assert inputs_of(backend)[1] == TensorSpec(name="k", datatype="FP32", shape=(1,), optional=True)
    assert (answer(backend, x=X)["y"] == X * 3).all()
    assert (answer(backend, x=X, k=np.array([5.0], np.float32))["y"] == X * 5).all()


def test_a_file_that_lists_all_its_weights_as_inputs_has_its_real_inputs_only(tmp_path: Path) -> None:
    names = [f"w{i}" for i in range(17)]
    nodes = [node("Sum", ["x", *names], ["y"])]
    weights = [constant(name, np.array([1.0], np.float32)) for name in names]
    inputs = [info("x", FLOAT, ["N", 2]), *(info(name, FLOAT, [1]) for name in names)]
    backend = load(save(tmp_path, nodes, inputs, [info("y", FLOAT, ["N", 2])], *weights), CPU)
    assert [spec.name for spec in inputs_of(backend)] == ["x"]
    assert "lists 17 of its weights as inputs" in backend.notes[0]
    assert (answer(backend, x=X)["y"] == X + 17).all()


def test_a_model_without_inputs_answers(tmp_path: Path) -> None:
    nodes = [node("Constant", [], ["y"], value=constant("v", np.array([1.0, 2.0], np.float32)))]
    backend = load(save(tmp_path, nodes, [], [info("y", FLOAT, [2])]), CPU)
    assert inputs_of(backend) == ()
    assert answer(backend)["y"].tolist() == [1.0, 2.0]


def test_an_input_of_an_optional_type_may_be_left_out(tmp_path: Path) -> None:
    optional = helper.make_value_info("x", helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [2])))
    nodes = [node("OptionalHasElement", ["x"], ["y"])]
    backend = load(written(tmp_path, graph(nodes, [optional], [info("y", TensorProto.BOOL, [])])), CPU)
    assert inputs_of(backend) == (TensorSpec(name="x", datatype="FP32", shape=(2,), optional=True),)
    assert answer(backend)["y"] == np.array(False)
    assert answer(backend, x=np.ones(2, np.float32))["y"] == np.array(True)


# Outputs that are no tensors


def test_a_sequence_beside_a_tensor_is_left_out_and_named(tmp_path: Path) -> None:
    nodes = [node("Neg", ["x"], ["y"]), node("SplitToSequence", ["x"], ["seq"], axis=0)]
    outputs = [info("y", FLOAT, ["N", 2]), SEQUENCE("seq", FLOAT, None)]
    backend = load(save(tmp_path, nodes, [info("x", FLOAT, ["N", 2])], outputs), CPU)
    assert [spec.name for spec in outputs_of(backend)] == ["y"]
    assert backend.notes == ["Output 'seq' is left out: it is a seq(tensor(float)), and only tensors are answered."]
    assert (answer(backend, x=X)["y"] == -X).all()


def test_sequences_alone_are_refused_by_name(tmp_path: Path) -> None:
    nodes = [node("SplitToSequence", ["x"], ["seq"], axis=0)]
    only = save(tmp_path / "a", nodes, [info("x", FLOAT, ["N", 2])], [SEQUENCE("seq", FLOAT, None)])
    assert "no output that is a tensor. Output 'seq' is left out" in refusal(only)
    taken = graph([node("SequenceLength", ["s"], ["n"])], [SEQUENCE("s", FLOAT, None)], [info("n", INT64, [])])
    assert "input 's' is a seq(tensor(float)), which no caller can send" in refusal(written(tmp_path / "b", taken))


def classifier(folder: Path, keys: list[Any], *, scores_too: bool = False) -> Path:
    """Logistic regression as scikit-learn's converter writes it, with a dictionary of scores for each row."""
    kind, attribute = (STRING, "classlabels_strings") if isinstance(keys[0], str) else (INT64, "classlabels_int64s")
    numbers = {"coefficients": [1.0, 0.0, 0.0, 1.0, 1.0, 1.0], "intercepts": [0.0, 0.5, 0.0], "multi_class": 0}
    classes = {attribute.replace("int64s", "ints"): keys}
    nodes = [
        node("LinearClassifier", ["x"], ["label", "p"], domain="ai.onnx.ml", **numbers, **classes),
        node("ZipMap", ["p"], ["probability"], domain="ai.onnx.ml", **{attribute: keys}),
    ]
    scores = helper.make_map_type_proto(kind, helper.make_tensor_type_proto(FLOAT, []))
    rows = helper.make_value_info("probability", helper.make_sequence_type_proto(scores))
    outputs = [info("label", kind, ["N"]), rows, *([info("p", FLOAT, ["N", 3])] if scores_too else [])]
    return written(folder, graph(nodes, [info("x", FLOAT, ["N", 2])], outputs))


@pytest.mark.parametrize("scores_too", [False, True])
@pytest.mark.parametrize("keys", [["a", "b", "ü"], [7, -1, 2]])
def test_a_dictionary_of_scores_for_each_row_becomes_a_tensor_with_a_column_for_each_class(
    tmp_path: Path, keys: list[Any], scores_too: bool
) -> None:
    folder = classifier(tmp_path / "m" / "1", keys, scores_too=scores_too)
    x = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    direct = onnxruntime.InferenceSession(folder / "model.onnx").run(["label", "probability"], {"x": x})
    loaded = model.load(folder, "m", 1, device=CPU, backend="auto", max_batch_size=8)
    signature = loaded.announcement.signatures["serving_default"]
    assert {spec.name: spec.shape for spec in signature.outputs}["probability"] == (-1, 3)
    assert loaded.announcement.labels == tuple(map(str, keys))
    assert "has a column for each class" in " ".join(loaded.announcement.notes)
    outputs = loaded.run("serving_default", {"x": x}, 5)
    assert outputs["probability"].tolist() == [[row[key] for key in keys] for row in direct[1]]
    assert outputs["label"].tolist() == [value.encode() if isinstance(value, str) else value for value in direct[0]]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ("{0: 'cat', 1: 'dog'}", ("cat", "dog")),
        ("{0: 'cat', 2: 'dog'}", ()),
        ("{0: 'cat', 1: 2}", ()),
        ("[" * 100_000, ()),
        ("__import__('os').getcwd()", ()),
    ],
)
def test_labels_in_the_metadata_of_ultralytics_are_read(tmp_path: Path, names: str, labels: tuple[str, ...]) -> None:
    made = graph([node("Neg", ["x"], ["y"])], [info("x", FLOAT, ["N", 2])], [info("y", FLOAT, ["N", 2])])
    folder = written(tmp_path, made)
    content = onnx.load(folder / "model.onnx")
    helper.set_model_props(content, {"names": names, "task": "classify"})
    onnx.save(content, folder / "model.onnx")
    assert tuple(load(folder, CPU).labels) == labels


# Types that NumPy lacks


@pytest.mark.parametrize(
    ("name", "datatype", "values", "expected"),
    [
        ("BFLOAT16", "FP32", [1.0, -2.25, 1.703, 3e38], [1.0, -2.25, 1.703125, 3.0040553e38]),
        ("FLOAT8E4M3FN", "FP32", [1.0, -2.25, 1.7, 448.0], [1.0, -2.25, 1.75, 448.0]),
        ("FLOAT8E5M2", "FP32", [1.0, -2.5, 1.7, 57344.0], [1.0, -2.5, 1.75, 57344.0]),
        ("INT4", "INT8", [-8, 0, 3, 7], [-8, 0, 3, 7]),
        ("UINT4", "UINT8", [0, 1, 14, 15], [0, 1, 14, 15]),
    ],
)
def test_a_type_that_numpy_lacks_is_sent_and_answered_in_the_next_wider_one(
    tmp_path: Path, name: str, datatype: str, values: list[float], expected: list[float]
) -> None:
    kind, shape = getattr(TensorProto, name), ["N", 2]
    nodes = [node("Cast", ["z"], ["y"], to=kind), node("Cast", ["x"], ["f"], to=FLOAT)]
    inputs = [info("x", kind, shape), info("z", FLOAT, shape)]
    made = graph(nodes, inputs, [info("y", kind, shape), info("f", FLOAT, shape)])
    backend = load(written(tmp_path, made), CPU)
    assert [spec.datatype for spec in (*inputs_of(backend), *outputs_of(backend))] == [
        datatype,
        "FP32",
        datatype,
        "FP32",
    ]
    assert f"Input 'x' is {name} in the model" in backend.notes[0]
    assert f"Output 'y' is {name} in the model" in backend.notes[1]
    x = np.array(values, DTYPES[datatype]).reshape(2, 2)
    outputs = answer(backend, x=x, z=x.astype(np.float32))
    np.testing.assert_allclose(outputs["y"].ravel(), expected, rtol=1e-6)
    np.testing.assert_allclose(outputs["f"].ravel(), expected, rtol=1e-6)
    assert outputs["y"].dtype == DTYPES[datatype]
    empty = answer(backend, x=x[:0], z=np.zeros((0, 2), np.float32))
    assert [empty["y"].shape, empty["f"].shape] == [(0, 2), (0, 2)]


def test_an_integer_that_does_not_fit_is_the_callers_error(tmp_path: Path) -> None:
    made = graph(
        [node("Cast", ["x"], ["y"], to=FLOAT)], [info("x", TensorProto.INT4, ["N"])], [info("y", FLOAT, ["N"])]
    )
    backend = load(written(tmp_path, made), CPU)
    with pytest.raises(InvalidRequest, match=r"input 'x' takes integers from -8 to 7"):
        answer(backend, x=np.array([8], np.int8))


def test_a_type_that_the_runtime_lacks_is_named(tmp_path: Path) -> None:
    shape = ["N"]
    nodes = [node("Softmax", ["x"], ["y"])]
    made = graph(nodes, [info("x", TensorProto.BFLOAT16, shape)], [info("y", TensorProto.BFLOAT16, shape)])
    assert "Could not find an implementation" in (reason := refusal(written(tmp_path, made)))
    assert "no kernel of that operator in that version (the number in brackets) for the model's data types" in reason


# Shapes


def test_scalars_empty_tensors_and_unknown_ranks_are_as_the_runtime_has_them(tmp_path: Path) -> None:
    nodes = [node("Identity", [name], [name.upper()]) for name in "abcd"]
    kinds = {"a": (FLOAT, []), "b": (STRING, []), "c": (STRING, ["N", 2]), "d": (INT32, None)}
    inputs = [info(name, *kind) for name, kind in kinds.items()]
    outputs = [info(name.upper(), *kind) for name, kind in kinds.items()]
    backend = load(save(tmp_path, nodes, inputs, outputs), CPU)
    assert [spec.unknown_rank for spec in inputs_of(backend)] == [False, False, False, True]
    given = {
        "a": np.array(3.0, np.float32),
        "b": np.array("é".encode(), object),
        "c": np.empty((0, 2), object),
        "d": np.zeros((2, 0, 3), np.int32),
    }
    found = answer(backend, **given)
    assert {name: array.shape for name, array in found.items()} == {"A": (), "B": (), "C": (0, 2), "D": (2, 0, 3)}
    assert found["A"] == np.float32(3)
    assert found["B"].item() == "é".encode()
    assert answer(backend, **given | {"d": np.array(7, np.int32)})["D"].shape == ()


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_what_would_end_the_process_is_refused(tmp_path: Path, kind: str, gates: int) -> None:
    weights = constant("w", np.ones((1, gates, 2), np.float32)), constant("r", np.ones((1, gates, 1), np.float32))
    nodes = [node(kind, ["x", "w", "r"], ["y"], hidden_size=1)]
    made = graph(nodes, [info("x", FLOAT, ["S", "N", 2])], [info("y", FLOAT, None)], *weights)
    backend = load(written(tmp_path, made), CPU)
    assert answer(backend, x=np.ones((3, 1, 2), np.float32))["y"].shape == (3, 1, 1, 1)
    for shape in ((0, 1, 2), (3, 0, 2)):
        with pytest.raises(InvalidRequest, match=f"input 'x' is empty, and {kind} of this runtime takes no empty"):
            answer(backend, x=np.ones(shape, np.float32))


def test_a_file_in_onnx_runtimes_own_format_is_known_by_its_bytes(tmp_path: Path) -> None:
    made = written(
        tmp_path / "onnx", graph([node("Neg", ["x"], ["y"])], [info("x", FLOAT, ["N"])], [info("y", FLOAT, ["N"])])
    )
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.onnx")
    options.log_severity_level = 4
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(made / "model.onnx", options)
    assert answer(load(tmp_path, CPU), x=X[0])["y"].tolist() == [-1.0, 2.0]


# What is not loaded, and what to do


def test_the_operators_of_another_domain_are_named(tmp_path: Path) -> None:
    nodes = [node("Foo", ["x"], ["h"], domain="com.example"), node("Bar", ["h"], ["y"], domain="com.example")]
    made = graph(nodes, [info("x", FLOAT, ["N"])], [info("y", FLOAT, ["N"])])
    reason = refusal(written(tmp_path / "m" / "1", made, opsets=[helper.make_opsetid("com.example", 1)]))
    assert (
        reason
        == (
            "m/1/model.onnx: Fatal error: com.example:Bar(-1) is not a registered function/op. The model has operators "
            "that ONNX Runtime lacks: Bar, Foo of the domain 'com.example'; export the model without them."
        )
        or "com.example:Foo(-1)" in reason
    )
    assert "Bar, Foo of the domain 'com.example'" in reason


@pytest.mark.parametrize("domain", ["ai.onnx.contrib", "com.microsoft.extensions"])
def test_the_package_that_has_tokenizers_is_named(tmp_path: Path, domain: str) -> None:
    if find_spec("onnxruntime_extensions"):
        pytest.skip("the package is installed")
    nodes = [node("BertTokenizer", ["x"], ["y"], domain=domain)]
    made = graph(nodes, [info("x", STRING, ["N"])], [info("y", INT64, ["N"])])
    reason = refusal(written(tmp_path, made, opsets=[helper.make_opsetid(domain, 1)]))
    assert f"BertTokenizer of the domain '{domain}'; install the package onnxruntime-extensions" in reason


def test_functions_that_the_file_defines_are_its_own(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 21)]
    twice = helper.make_function("local", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], opsets)
    made = graph([node("Twice", ["x"], ["y"], domain="local")], [info("x", FLOAT, ["N"])], [info("y", FLOAT, ["N"])])
    folder = written(tmp_path, made, opsets=[helper.make_opsetid("local", 1)], functions=[twice])
    assert answer(load(folder, CPU), x=X[0])["y"].tolist() == [2.0, -4.0]


@pytest.mark.parametrize(
    ("versions", "said", "advice"),
    [
        ({"ir_version": 99}, "Unsupported model IR version: 99", "or lower the file's `ir_version`"),
        ({"opset": 99}, "Opset 99 is under development", "or export the model with a lower opset"),
    ],
)
def test_a_file_that_is_too_new_says_so_in_the_runtimes_words_and_what_to_do(
    tmp_path: Path, versions: dict[str, int], said: str, advice: str
) -> None:
    made = graph([node("Neg", ["x"], ["y"])], [info("x", FLOAT, ["N"])], [info("y", FLOAT, ["N"])])
    reason = refusal(written(tmp_path / "m" / "1", made, **versions))
    assert reason.startswith("m/1/model.onnx: ")
    assert said in reason
    assert f"Install a newer onnxruntime (this is {onnxruntime.__version__}), {advice}" in reason
    assert ".cc:" not in reason


def test_a_request_that_the_runtime_refuses_is_the_callers_error_with_its_whole_reason(tmp_path: Path) -> None:
    made = graph([node("Neg", ["x"], ["y"])], [info("x", FLOAT, ["N", 2])], [info("y", FLOAT, ["N", 2])])
    backend = load(written(tmp_path, made), CPU)
    for given, said in (
        ({"x": X.reshape(1, 4)}, "index: 1 Got: 4 Expected: 2"),
        ({"x": X.ravel()}, "Invalid rank for input: x Got: 1 Expected: 2"),
        ({"x": X.astype(float)}, "Actual: (tensor(double)) , expected: (tensor(float))"),
        ({}, "Required inputs (['x']) are missing"),
        ({"x": X, "z": X}, "Invalid input name: z"),
    ):
        with pytest.raises(InvalidRequest) as raised:
            backend.run("serving_default", given)
        assert said in str(raised.value)


def test_a_file_that_is_refused_leaves_nothing_on_the_standard_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = graph([node("Neg", ["x"], ["y"])], [info("x", TensorProto.COMPLEX64, ["N"])],
                 [info("y", TensorProto.COMPLEX64, ["N"])])  # fmt: skip
    refusal(written(tmp_path / "a", made))
    refusal(written(tmp_path / "b", graph([node("Neg", ["x"], ["y"])], [], [])))
    assert capfd.readouterr() == ("", "")


def test_a_locale_that_the_machine_lacks_is_named_and_what_to_do(tmp_path: Path) -> None:
    nodes = [node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale="xx_YY")]
    reason = refusal(written(tmp_path, graph(nodes, [info("x", STRING, ["N"])], [info("y", STRING, ["N"])])))
    assert "xx_YY" in reason
    assert "install it where the worker runs" in reason


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    assert "`git lfs pull`" in refusal(tmp_path)


# Weights in files of their own


WEIGHTS = np.arange(4, dtype=np.float32)


def external(location: str) -> Any:
    tensor = TensorProto(name="w", dims=[4], data_type=FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "4096"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def added_weights(folder: Path, location: str = "w.bin") -> Path:
    nodes = [node("Add", ["x", "w"], ["y"])]
    return written(folder, graph(nodes, [info("x", FLOAT, [4])], [info("y", FLOAT, [4])], external(location)))


def branched_weights(folder: Path, location: str = "w.bin") -> Path:
    """A model with its weights in the subgraphs of an If."""
    branches = {
        name: helper.make_graph(
            [node(kind, ["x", "w"], ["r"])], name, [], [info("r", FLOAT, [4])], [external(location)]
        )
        for name, kind in (("then_branch", "Add"), ("else_branch", "Sub"))
    }
    nodes = [node("Constant", [], ["c"], value=constant("c", np.array(True))), node("If", ["c"], ["y"], **branches)]
    return written(folder, graph(nodes, [info("x", FLOAT, [4])], [info("y", FLOAT, [4])]))


def write_data(path: Path, weights: np.ndarray[Any, Any] = WEIGHTS) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(4096) + weights.tobytes())


@pytest.mark.parametrize("make", [added_weights, branched_weights])
@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "data/w.bin"])
def test_weights_beside_the_file_may_be_overwritten_or_cut_short_while_they_are_served(
    tmp_path: Path, make: Any, location: str
) -> None:
    folder = make(tmp_path / "m" / "1", location)
    data = folder / location
    write_data(data)
    backend = load(folder, CPU)
    zeros = np.zeros(4, np.float32)
    assert (answer(backend, x=zeros)["y"] == WEIGHTS).all()
    write_data(data, WEIGHTS + 1)  # in place, as `cp` writes
    assert (answer(backend, x=zeros)["y"] == WEIGHTS).all()
    assert str(data) not in Path("/proc/self/maps").read_text()  # or what follows would end this process
    os.truncate(data, 0)
    assert (answer(backend, x=zeros)["y"] == WEIGHTS).all()


@pytest.mark.parametrize("make", [added_weights, branched_weights])
def test_weights_outside_of_the_versions_folder_are_refused(tmp_path: Path, make: Any) -> None:
    write_data(tmp_path / "w.bin")
    folder = tmp_path / "m" / "1"
    for location in ("../../w.bin", str(tmp_path / "w.bin")):
        reason = refusal(make(folder, location))
        assert f"model.onnx has weights in {location!r}, which is outside of the version's folder" in reason
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    assert "'link.bin', which is outside of the version's folder" in refusal(make(folder, "link.bin"))
    (folder / "inside.bin").symlink_to("real.bin")
    write_data(folder / "real.bin")
    assert (answer(load(make(folder, "inside.bin"), CPU), x=np.zeros(4, np.float32))["y"] == WEIGHTS).all()


def test_weights_that_are_missing_or_too_short_are_named(tmp_path: Path) -> None:
    folder = added_weights(tmp_path / "m" / "1")
    assert "has weights in 'w.bin', which is not there" in refusal(folder)
    (folder / "w.bin").write_bytes(bytes(100))
    assert "out of bounds" in refusal(folder)


@pytest.mark.parametrize("small_bytes", [0, 2**20])
def test_data_files_are_copied_to_the_disk_or_into_memory(tmp_path: Path, small_bytes: int) -> None:
    data = tmp_path / "w.bin"
    write_data(data)
    with external_data.copied({"w.bin": data}, tmp_path, small_bytes=small_bytes) as contents:
        write_data(data, WEIGHTS + 1)
        os.truncate(data, 10)
        assert bytes(contents["w.bin"])[4096:] == WEIGHTS.tobytes()
        assert [path.name for path in tmp_path.iterdir()] == ["w.bin"]


def test_a_model_file_may_be_overwritten_while_it_is_served(tmp_path: Path) -> None:
    weights = constant("w", np.ones((2, 100_000), np.float32))
    nodes, inputs = [node("MatMul", ["x", "w"], ["y"])], [info("x", FLOAT, ["N", 2])]
    folder = save(tmp_path, nodes, inputs, [info("y", FLOAT, ["N", 100_000])], weights)
    backend = load(folder, CPU)
    assert str(folder / "model.onnx") not in Path("/proc/self/maps").read_text()
    os.truncate(folder / "model.onnx", 0)
    assert (answer(backend, x=X)["y"][1] == 7).all()


# ONNX's own tests of every operator


def array_of(value: Any) -> np.ndarray[Any, Any]:
    """A value of ONNX's tests; integers of 4 bits one a byte, strings as bytes."""
    array = np.asarray(numpy_helper.to_array(value) if isinstance(value, TensorProto) else value)
    if array.dtype.kind not in "OU":
        return array
    texts = [text if isinstance(text, bytes) else str(text).encode() for text in array.ravel()]
    return np.array([*texts, None], object)[:-1].reshape(array.shape)


def directly(content: bytes, given: dict[str, np.ndarray[Any, Any]], expected: list[Any]) -> dict[str, Any]:
    """ONNX Runtime's own answer; what ONNX's tests expect where a type is in the way that NumPy lacks."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(content, options)
    names = [value.name for value in session.get_outputs()]
    if any(value.type in NARROW for value in (*session.get_inputs(), *session.get_outputs())):
        return {name: array_of(value) for name, value in zip(names, expected, strict=True) if value is not None}
    decode = np.vectorize(bytes.decode, otypes=[object])
    texts = {name: decode(array) for name, array in given.items() if array.dtype == object and array.size}
    answers = zip(names, session.run(names, given | texts), strict=True)
    return {name: array_of(value) for name, value in answers if isinstance(value, np.ndarray)}


def as_the_runtime_knows(made: Any) -> None:
    """Give the model versions that ONNX Runtime knows: the ONNX that is installed may be newer."""
    made.ir_version = min(made.ir_version, 13)
    for opset in made.opset_import:
        opset.version = min(opset.version, 26 if opset.domain == "" else opset.version)


def are_the_same(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> bool:
    if ours.shape != theirs.shape:
        return False
    if ours.dtype == theirs.dtype:
        return ours.tolist() == theirs.tolist() if ours.dtype == object else ours.tobytes() == theirs.tobytes()
    wide = theirs.astype(ours.dtype)  # of a narrow type: ONNX Runtime's kernels round otherwise than ONNX's own
    return np.allclose(ours, wide, rtol=0.02, atol=0.02, equal_nan=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of ONNX's own code that makes the tests
def test_every_operator_that_the_runtime_has_answers_as_it_answers_directly(tmp_path: Path) -> None:
    from onnx.backend.test.case.node import collect_testcases

    counts, wrong = Counter[str](), []
    for case in collect_testcases(None):
        as_the_runtime_knows(case.model)
        content = case.model.SerializeToString()
        (tmp_path / "model.onnx").write_bytes(content)
        try:
            backend = load(tmp_path, CPU)
        except LoadError as error:
            counts["no tensors" if "only tensors" in str(error) else "the runtime refuses"] += 1
            continue
        datatypes = {spec.name: spec.datatype for spec in inputs_of(backend)}
        names = [value.name for value in case.model.graph.input]
        for values, expected in case.data_sets:
            given = {name: array_of(value) for name, value in zip(names, values, strict=False) if value is not None}
            sent = {name: array.astype(DTYPES[datatypes[name]]) for name, array in given.items()}
            try:
                outputs = answer(backend, **sent)
            except InvalidRequest:
                counts["the runtime refuses"] += 1
                continue
            theirs = directly(content, given, expected)
            if all(are_the_same(array, theirs[name]) for name, array in outputs.items()):
                counts["the same"] += 1
            else:
                wrong.append(case.name)
    assert wrong == []
    assert counts["the same"] > 1600, counts
