"""SavedModels of every age and kind, as TensorFlow Serving's loader takes them. TensorFlow writes them here."""

import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from millrace.artifacts.configs import TritonConfig
from millrace.protocol.errors import InvalidRequest, ModelFailed
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import Signature
from worker import backends
from worker.backends.base import Backend, Device, LoadError
from worker.loading import model as models
from worker.loading import warmup_requests
from worker.preprocessing import preparation

tf: Any = pytest.importorskip("tensorflow")
v1 = tf.compat.v1

SOURCES = "CONTRACT_SUITES_TENSORFLOW_SERVING"  # the variable that names a copy of tensorflow/serving
TESTDATA = Path(os.environ.get(SOURCES, "/nowhere"), "tensorflow_serving/servables/tensorflow/testdata")
WEIGHTS = np.array([[1, 10], [2, 20]], np.float32)

Definitions = Mapping[str, Any]
Signatures = Callable[[], Definitions]


def loaded(folder: Path) -> Backend:
    return backends.load(folder, Device())


def strings(*values: bytes) -> npt.NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def shapes(signature: Signature) -> dict[str, Any]:
    """Of every tensor its datatype and its shape, None for an unknown rank."""
    return {
        spec.name: (spec.datatype, None if spec.unknown_rank else spec.shape)
        for spec in (*signature.inputs, *signature.outputs)
    }


def saved(folder: Path, **functions: tuple[Callable[..., Any], list[Any]]) -> Path:
    """A SavedModel of TensorFlow 2 with a signature for each function."""
    signatures = {
        name: tf.function(function, autograph=False).get_concrete_function(*specs)
        for name, (function, specs) in functions.items()
    }
    tf.saved_model.save(tf.Module(), str(folder), signatures)
    return folder


def saved_by_v1(
    folder: Path, build: Signatures, *tags: list[str], options: Callable[[], dict[str, Any]] = dict
) -> Path:
    """A SavedModel of TensorFlow 1: the signatures that `build` adds to a graph, under each list of tags."""
    graph = tf.Graph()
    config = v1.ConfigProto(graph_options=v1.GraphOptions(place_pruned_graph=True))  # so that any operator can be saved
    with graph.as_default(), v1.Session(graph=graph, config=config) as session:
        signatures = build()
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, tags[0] if tags else ["serve"], signatures, **options())
        for more in tags[1:]:
            builder.add_meta_graph(more, signatures)
        builder.save()
    return folder


def definition(inputs: Definitions, outputs: Definitions, method: str = "predict") -> Any:
    infos = [{name: v1.saved_model.build_tensor_info(of) for name, of in of.items()} for of in (inputs, outputs)]
    return v1.saved_model.build_signature_def(*infos, f"tensorflow/serving/{method}")


def edited(folder: Path, edit: Callable[[Any], None]) -> Path:
    """The SavedModel after a change to its first graph."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    edit(model.meta_graphs[0])
    path.write_bytes(model.SerializeToString())
    return folder


def with_variable() -> Definitions:
    x = v1.placeholder(tf.float32, [None, 2], "x")
    weights = v1.get_variable("weights", initializer=WEIGHTS, use_resource=False)
    return {"serving_default": definition({"x": x}, {"y": tf.matmul(x, weights)})}


# TensorFlow 1


def test_reference_variables_are_restored(tmp_path: Path) -> None:
    backend = loaded(saved_by_v1(tmp_path, with_variable))
    assert backend.run("serving_default", {"x": np.ones((2, 2), np.float32)})["y"].tolist() == [[3, 30], [3, 30]]
    assert backend.notes == []
    assert backend.keeps_state == ""


@pytest.mark.parametrize("option", ["main_op", "legacy_init_op"])
def test_tables_are_filled_from_the_files_assets(tmp_path: Path, option: str) -> None:
    vocabulary = tmp_path / "vocabulary.txt"
    vocabulary.write_text("a\ngood\nfilm\n")

    def build() -> Definitions:
        initializer = tf.lookup.TextFileInitializer(
            str(vocabulary),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        words = v1.placeholder(tf.string, [None], "words")
        return {
            "serving_default": definition(
                {"words": words}, {"ids": tf.lookup.StaticHashTable(initializer, -1).lookup(words)}
            )
        }

    def options() -> dict[str, Any]:
        assets = v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS)
        return {"assets_collection": assets, option: v1.tables_initializer()}

    folder = saved_by_v1(tmp_path / "1", build, options=options)
    vocabulary.unlink()
    answer = loaded(folder).run("serving_default", {"words": strings(b"film", b"tree", b"a")})
    assert answer["ids"].tolist() == [2, -1, 0]
    (folder / "assets" / "vocabulary.txt").unlink()
    with pytest.raises(LoadError, match=r"vocabulary\.txt; No such file"):
        loaded(folder)


def test_serialized_examples_are_a_vector_where_the_file_tells_no_rank(tmp_path: Path) -> None:
    def build() -> Definitions:
        serialized = v1.placeholder(tf.string, None, "tf_example")
        parsed = v1.parse_example(v1.reshape(serialized, [-1]), {"x": v1.FixedLenFeature([1], tf.float32)})
        direct = v1.placeholder(tf.string, None, "direct")
        again = v1.parse_example(direct, {"x": v1.FixedLenFeature([1], tf.float32)})
        return {
            "regress": definition({"inputs": serialized}, {"outputs": parsed["x"] / 2 + 2}, "regress"),
            "predict": definition({"examples": direct}, {"x": again["x"]}),
        }

    backend = loaded(saved_by_v1(tmp_path, build))
    assert backend.signatures["regress"].method_name == "tensorflow/serving/regress"
    assert backend.signatures["regress"].examples_input == "inputs"
    assert backend.signatures["predict"].examples_input == "examples"
    rows = strings(*[example_of(x=3).SerializeToString()] * 2)
    assert backend.run("regress", {"inputs": rows})["outputs"].tolist() == [[3.5], [3.5]]
    with pytest.raises(InvalidRequest, match=r"Feature: x \(data type: float\) is required but could not be found"):
        backend.run("predict", {"examples": strings(b"")})


def test_the_graph_counts_where_the_files_signature_describes_it_wrongly(tmp_path: Path) -> None:
    def lie(graph: Any) -> None:
        x = graph.signature_def["serving_default"].inputs["x"]
        x.dtype = tf.string.as_datatype_enum
        graph.signature_def["serving_default"].outputs["y"].ClearField("tensor_shape")

    backend = loaded(edited(saved_by_v1(tmp_path, with_variable), lie))
    assert shapes(backend.signatures["serving_default"]) == {"x": ("FP32", (-1, 2)), "y": ("FP32", (-1, 2))}


# Tags


@pytest.mark.parametrize(
    ("tags", "note"),
    [
        ([["serve"]], ""),
        ([["train"], ["serve", "tpu"], ["serve"], ["serve", "gpu"]], "the one with ['serve'] is served"),
        ([["serve", "v1"], ["train"]], "the one with ['serve', 'v1'] is served"),
        ([["train"]], "No graph of the file is tagged 'serve'; the one with the tags ['train'] is served."),
        ([["train"], []], "No graph of the file is tagged 'serve'; the one with the tags [] is served."),
    ],
    ids=str,
)
def test_the_graph_for_serving_is_chosen(tmp_path: Path, tags: list[list[str]], note: str) -> None:
    backend = loaded(saved_by_v1(tmp_path, with_variable, *tags))
    assert backend.run("serving_default", {"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[3, 30]]
    assert [note in said for said in backend.notes] == [True] * bool(note)


def test_graphs_of_which_none_is_for_serving_are_named(tmp_path: Path) -> None:
    folder = saved_by_v1(tmp_path, with_variable, ["train"], ["eval"])
    with pytest.raises(LoadError, match=r"graphs with the tags \['train'\], \['eval'\], and none is tagged 'serve'"):
        loaded(folder)


# TensorFlow 2


def test_a_keras_2_model_compiled_with_adam_is_served(tmp_path: Path) -> None:
    module = tf.Module()
    module.weights = tf.Variable(WEIGHTS)
    module.moments = tf.Variable(WEIGHTS)
    module.optimizer = tf.Module()
    module.serve = tf.function(
        lambda x: {"y": tf.matmul(x, module.weights)}, input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")]
    )
    tf.saved_model.save(module, str(tmp_path), {"serving_default": module.serve})

    def give_slots(graph: Any) -> None:
        nodes = graph.object_graph_def.nodes
        ids = {child.local_name: child.node_id for child in nodes[0].children}
        nodes[ids["optimizer"]].slot_variables.add(
            original_variable_node_id=ids["weights"], slot_name="m", slot_variable_node_id=ids["moments"]
        )

    edited(tmp_path, give_slots)
    with pytest.raises(AttributeError, match="'_UserObject' object has no attribute 'add_slot'"):
        tf.saved_model.load(str(tmp_path))
    assert loaded(tmp_path).run("serving_default", {"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[3, 30]]


def test_a_file_whose_graph_does_not_restore_its_variables_is_served_by_its_functions(tmp_path: Path) -> None:
    """Keras 3 models that `tf.saved_model.save` wrote are like that."""
    module = tf.Module()
    module.weights = tf.Variable(WEIGHTS, name="weights")
    x = tf.TensorSpec([None, 2], tf.float32, "x")
    serve = tf.function(lambda x: {"y": tf.matmul(x, module.weights)}).get_concrete_function(x)
    tf.saved_model.save(module, str(tmp_path), {"serving_default": serve})
    backend = loaded(edited(tmp_path, lambda graph: graph.saver_def.Clear()))
    assert backend.run("serving_default", {"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[3, 30]]
    assert backend.notes[0].startswith("Variable 'weights' gets no value in the file's graph")
    with pytest.raises(InvalidRequest, match="Matrix size-incompatible"):
        backend.run("serving_default", {"x": np.ones((1, 3), np.float32)})
    with pytest.raises(InvalidRequest, match="expected to be a float tensor but is a double tensor"):
        backend.run("serving_default", {"x": np.ones((1, 2))})


def test_a_file_without_its_variables_is_refused(tmp_path: Path) -> None:
    module = tf.Module()
    module.weights = tf.Variable(WEIGHTS, name="weights")
    x = tf.TensorSpec([None, 2], tf.float32, "x")
    serve = tf.function(lambda x: {"y": tf.matmul(x, module.weights)}).get_concrete_function(x)
    tf.saved_model.save(module, str(tmp_path / "new" / "1"), {"serving_default": serve})
    for folder in (tmp_path / "new" / "1", saved_by_v1(tmp_path / "old" / "1", with_variable)):
        shutil.rmtree(folder / "variables")
        with pytest.raises(LoadError, match=r"1/variables/variables\.index is missing, so variable 'weights' has no"):
            loaded(folder)


def test_an_input_with_a_default_may_be_left_out(tmp_path: Path) -> None:
    class Scaled(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x"), tf.TensorSpec([], tf.float32, "scale")])
        def serve(self, x: Any, scale: Any = tf.constant(3.0)) -> dict[str, Any]:  # noqa: B008 - how defaults are told
            return {"y": x * scale}

    model = Scaled()
    tf.saved_model.save(model, str(tmp_path), {"serving_default": model.serve})
    backend = loaded(tmp_path)
    x = np.array([2], np.float32)
    assert [(spec.name, spec.optional) for spec in backend.signatures["serving_default"].inputs] == [
        ("scale", True),
        ("x", False),
    ]
    assert backend.run("serving_default", {"x": x})["y"].tolist() == [6]
    assert backend.run("serving_default", {"x": x, "scale": np.array(5, np.float32)})["y"].tolist() == [10]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Backend:
    """One model with signatures of many kinds."""
    x = tf.TensorSpec([None, 2], tf.float32, "x")
    functions: dict[str, Any] = {
        "words": (lambda text: {"words": tf.strings.split(text)}, [tf.TensorSpec([None], tf.string, "text")]),
        "sparse": (lambda x: {"s": tf.sparse.from_dense(x)}, [x]),
        "beside": (lambda x: {"y": x * 2, "s": tf.sparse.from_dense(x)}, [x]),
        "quantized": (lambda x: {"y": x, "q": tf.quantization.quantize(x, 0.0, 1.0, tf.quint8).output}, [x]),
        "complex": (lambda x: {"y": tf.abs(x)}, [tf.TensorSpec([None], tf.complex64, "x")]),
        "any_rank": (lambda x: {"y": -x}, [tf.TensorSpec(None, tf.float32, "x")]),
        "scalars": (
            lambda s, n: {"s": tf.strings.join([s, b"\0.\0"]), "n": n + 1, "same": s},
            [tf.TensorSpec([], tf.string, "s"), tf.TensorSpec([], tf.int64, "n")],
        ),
        "none": (lambda: {"y": tf.constant([1.0, 2.0])}, []),
    }
    for name in _DTYPES:
        spec = tf.TensorSpec([None, 2], tf.as_dtype(name), "x")
        functions[name] = (lambda x: {"y": tf.reverse(x, [1])}, [spec])
    return loaded(saved(tmp_path_factory.mktemp("kinds"), **functions))


_DTYPES = {
    **{"bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64"},
    **{"int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64"},
    **{"half": "FP16", "float32": "FP32", "float64": "FP64", "bfloat16": "FP32"},
}


@pytest.mark.parametrize("name", _DTYPES)
def test_every_type_of_number_is_answered(kinds: Backend, name: str) -> None:
    signature = kinds.signatures[name]
    assert shapes(signature) == {"x": (_DTYPES[name], (-1, 2)), "y": (_DTYPES[name], (-1, 2))}
    dtype = np.float32 if name == "bfloat16" else tf.as_dtype(name).as_numpy_dtype
    x = np.array([[0, 1], [1, 1]]).astype(dtype)
    answer = kinds.run(name, {"x": x})["y"]
    assert answer.dtype == dtype
    assert answer.tolist() == x[:, ::-1].tolist()


def test_what_cannot_be_announced_is_left_out_by_name_and_the_rest_is_served(kinds: Backend) -> None:
    assert {"words", "sparse", "complex"}.isdisjoint(kinds.signatures)
    assert [note for note in kinds.notes if "bfloat16" not in note] == [
        "Output 's' of signature 'beside' is left out: it is a SparseTensor, which is not one tensor.",
        "Signature 'complex' is left out: its input 'x' has the type DT_COMPLEX64, which is not carried.",
        "Output 'q' of signature 'quantized' is left out: it has the type DT_QUINT8, which is not carried.",
        "Signature 'sparse' is left out: its output 's' is a SparseTensor, which is not one tensor.",
        "Signature 'words' is left out: its output 'words' is a RaggedTensor, which is not one tensor.",
    ]
    assert "Input 'x' of signature 'bfloat16' is DT_BFLOAT16 and goes as FP32, which holds all of it." in kinds.notes
    x = np.ones((1, 2), np.float32)
    assert {name: array.tolist() for name, array in kinds.run("beside", {"x": x}).items()} == {"y": [[2, 2]]}


def test_a_model_of_which_nothing_can_be_announced_is_refused_with_the_reasons(tmp_path: Path) -> None:
    spec = tf.TensorSpec([None], tf.string, "text")
    folder = saved(tmp_path / "m" / "1", serving_default=(lambda text: {"words": tf.strings.split(text)}, [spec]))
    with pytest.raises(LoadError, match=r"^m/1: .*'serving_default' is left out: its output 'words' is a RaggedTensor"):
        loaded(folder)
    tf.saved_model.save(tf.Module(), str(tmp_path / "none"))
    with pytest.raises(LoadError, match="has no signature that can be served: it has none; export it with one"):
        loaded(tmp_path / "none")


def test_tensors_of_any_rank_are_taken(kinds: Backend) -> None:
    assert shapes(kinds.signatures["any_rank"]) == {"x": ("FP32", None), "y": ("FP32", None)}
    for shape in ((), (3,), (2, 0, 1)):
        assert kinds.run("any_rank", {"x": np.ones(shape, np.float32)})["y"].tolist() == (-np.ones(shape)).tolist()


def test_scalars_and_no_inputs_at_all_are_taken(kinds: Backend) -> None:
    s = np.empty((), object)
    s[()] = b"a\0"
    answer = kinds.run("scalars", {"s": s, "n": np.array(4)})
    assert {name: (array.shape, array.item()) for name, array in answer.items()} == {
        "s": ((), b"a\0\0.\0"),
        "n": ((), 5),
        "same": ((), b"a\0"),
    }
    assert kinds.run("none", {})["y"].tolist() == [1, 2]


def test_tensors_bear_the_names_of_the_graph(tmp_path: Path) -> None:
    signature = loaded(saved_by_v1(tmp_path, with_variable)).signatures["serving_default"]
    assert [spec.graph_name for spec in (*signature.inputs, *signature.outputs)] == ["x:0", "MatMul:0"]


def test_an_input_that_is_an_output_too_comes_back(tmp_path: Path) -> None:
    def build() -> Definitions:
        x = v1.placeholder(tf.float32, [None], "x")
        return {"serving_default": definition({"x": x}, {"x_again": x, "y": x + 1})}

    answer = loaded(saved_by_v1(tmp_path, build)).run("serving_default", {"x": np.array([3], np.float32)})
    assert {name: array.tolist() for name, array in answer.items()} == {"x_again": [3], "y": [4]}


# State


def test_signatures_that_keep_state_are_told(tmp_path: Path) -> None:
    module = tf.Module()
    module.count = tf.Variable(0.0)
    step = tf.TensorSpec([], tf.float32, "step")

    def inner(step: Any) -> Any:
        return tf.cond(step > 0, lambda: module.count.assign_add(step), lambda: module.count.read_value())

    signatures = {
        "serving_default": tf.function(lambda step: {"y": step + module.count}).get_concrete_function(step),
        "add": tf.function(lambda step: {"count": inner(step)}).get_concrete_function(step),
    }
    tf.saved_model.save(module, str(tmp_path), signatures)
    backend = loaded(tmp_path)
    assert backend.keeps_state == "signature 'add' changes variables or tables (AssignAddVariableOp)"
    assert backend.notes == [
        "Variables or tables are changed in signature 'add': what one caller sends reaches the answers to others, "
        "as in TensorFlow Serving."
    ]
    two = np.array(2, np.float32)
    assert [backend.run("add", {"step": two})["count"].item() for _ in range(2)] == [2, 4]
    assert backend.run("serving_default", {"step": two})["y"].item() == 6


def test_a_variable_that_only_a_signature_sets_is_told(tmp_path: Path) -> None:
    def build() -> Definitions:
        kept = v1.get_variable("kept", initializer=np.zeros(2, np.float32), use_resource=False)
        lost = v1.Variable(np.zeros(2, np.float32), name="lost", use_resource=False)
        x = v1.placeholder(tf.float32, [2], "x")
        return {"get": definition({}, {"y": lost + kept}), "set": definition({"x": x}, {"y": v1.assign(lost, x)})}

    def options() -> dict[str, Any]:
        return {"saver": v1.train.Saver({"kept": v1.global_variables()[0]})}

    backend = loaded(saved_by_v1(tmp_path, build, options=options))
    assert "Variable 'lost' gets no value when the model is loaded: requests that need it fail." in backend.notes
    with pytest.raises(ModelFailed, match="uninitialized value lost"):
        backend.run("get", {})
    backend.run("set", {"x": np.ones(2, np.float32)})
    assert backend.run("get", {})["y"].tolist() == [1, 1]


def test_a_variables_own_memory_is_not_handed_out(tmp_path: Path) -> None:
    def build() -> Definitions:
        count = v1.get_variable("count", initializer=np.zeros(4, np.float32), use_resource=False)
        one = v1.placeholder(tf.float32, [4], "one")
        return {"get": definition({}, {"y": count}), "add": definition({"one": one}, {"y": v1.assign_add(count, one)})}

    backend = loaded(saved_by_v1(tmp_path, build))
    before = backend.run("get", {})["y"]
    backend.run("add", {"one": np.ones(4, np.float32)})
    assert before.tolist() == [0, 0, 0, 0]
    assert backend.run("get", {})["y"].tolist() == [1, 1, 1, 1]


# Warm-up


def with_examples() -> Definitions:
    serialized = v1.placeholder(tf.string, [None], "tf_example")
    parsed = v1.parse_example(serialized, {name: v1.FixedLenFeature([1], tf.float32) for name in ("a", "b")})
    x = v1.placeholder(tf.float32, [None, 1], "x")
    return {
        "serving_default": definition({"x": x}, {"y": x + 1}),
        "regress": definition({"inputs": serialized}, {"outputs": parsed["a"] + parsed["b"]}, "regress"),
        "classify": definition({"inputs": serialized}, {"scores": parsed["b"]}, "classify"),
    }


def example_of(**features: float) -> Any:
    example = tf.train.Example()
    for name, value in features.items():
        example.features.feature[name].float_list.value.append(value)
    return example


def write_logs(folder: Path, *logs: Any) -> None:
    """TensorFlow Serving's warm-up requests, as its users write them."""
    (folder / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(folder / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for log in logs:
            writer.write(log.SerializeToString())


def test_the_files_warm_up_requests_are_taken_for_every_verb(tmp_path: Path) -> None:
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    folder = saved_by_v1(tmp_path / "m" / "1", with_examples)
    predict, regress, both, unfit = (apis.PredictionLog() for _ in range(4))
    predict.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto([[3.0]]))
    given = regress.regress_log.request
    given.model_spec.signature_name = "regress"
    given.input.example_list_with_context.context.CopyFrom(example_of(a=1, b=2))
    given.input.example_list_with_context.examples.extend([example_of(a=5), example_of()])
    for name in ("regress", "classify"):
        task = both.multi_inference_log.request.tasks.add()
        task.model_spec.signature_name = name
    both.multi_inference_log.request.input.example_list.examples.append(example_of(a=7, b=8))
    unfit.classify_log.request.input.example_list.examples.append(example_of(a=1))
    write_logs(folder, predict, regress, unfit, both)
    backend = loaded(folder)
    found = warmup_requests.read(
        folder, None, TritonConfig(), backend.signatures, preparation.load(folder, None), has_rows=True
    )
    answers = {
        name: [backend.run(name, inputs)[of].tolist() for inputs in found.of(name)]
        for name, of in (("serving_default", "y"), ("regress", "outputs"), ("classify", "scores"))
    }
    assert answers == {"serving_default": [[[4]]], "regress": [[[7], [3]], [[15]]], "classify": [[[8]]]}
    assert found.notes == [
        "A warm-up request of tf_serving_warmup_requests was left out: "
        "signature 'serving_default' takes no serialized examples."
    ]


def test_a_model_that_takes_no_guess_is_warmed_up_by_what_its_files_hold(tmp_path: Path) -> None:
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")

    def picky(word: Any) -> dict[str, Any]:
        tf.debugging.assert_equal(word, b"sesame")
        return {"length": tf.strings.length(word)}

    spec = tf.TensorSpec([None], tf.string, "word")
    folder = saved(tmp_path / "m" / "1", serving_default=(picky, [spec]))

    def load() -> ModelAnnouncement:
        return models.load(folder, "m", 1, device=Device(), backend="auto", max_batch_size=4).announcement

    assert not load().warmed
    log = apis.PredictionLog()
    log.predict_log.request.inputs["word"].CopyFrom(tf.make_tensor_proto([b"sesame"]))
    write_logs(folder, log)
    assert load().warmed


# What a run refuses


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Backend:
    """A model whose signatures refuse some of what they are given."""
    text, name = tf.TensorSpec([None], tf.string, "text"), tf.TensorSpec([], tf.string, "name")
    x = tf.TensorSpec([None], tf.float32, "x")

    def positive(x: Any) -> Any:
        tf.debugging.assert_positive(x, message="only positive numbers")
        return {"y": x}

    return loaded(
        saved(
            tmp_path_factory.mktemp("refusing"),
            positive=(positive, [x]),
            numbers=(lambda text: {"y": tf.strings.to_number(text)}, [text]),
            unpacked=(lambda text: {"y": tf.io.decode_compressed(text, "GZIP")}, [text]),
            file=(lambda name: {"y": tf.io.read_file(name)}, [name]),
            python=(lambda x: {"y": tf.numpy_function(np.negative, [x], tf.float32)}, [x]),
        )
    )


def test_a_request_that_an_operation_refuses_gets_its_whole_reason(refusing: Backend) -> None:
    with pytest.raises(InvalidRequest) as raised:
        refusing.run("positive", {"x": np.array([1, -2], np.float32)})
    assert str(raised.value).startswith("assertion failed: [only positive numbers")
    assert str(raised.value).endswith("[Condition x > 0 did not hold element-wise:] [x (x:0) = ] [1 -2]")
    with pytest.raises(InvalidRequest, match=r"^StringToNumberOp could not correctly convert string: seven$"):
        refusing.run("numbers", {"text": strings(b"7", b"seven")})
    with pytest.raises(InvalidRequest, match=r"^inflate\(\) failed with error"):
        refusing.run("unpacked", {"text": strings(b"no gzip")})
    with pytest.raises(InvalidRequest, match="No such file or directory"):
        refusing.run("file", {"name": np.array(b"/nowhere/at.all", object)})
    with pytest.raises(InvalidRequest, match=r"Type mismatch: actual int64 vs\. expect float"):
        refusing.run("positive", {"x": np.array([1])})


def test_a_model_that_cannot_run_is_no_fault_of_the_request(tmp_path: Path) -> None:
    def rename(graph: Any) -> None:
        for function in graph.graph_def.library.function:
            for node in function.node_def:
                if node.op == "PyFunc":
                    node.attr["token"].s = b"pyfunc_of_another_process"

    x = tf.TensorSpec([None], tf.float32, "x")
    python = (lambda x: {"y": tf.numpy_function(np.negative, [x], tf.float32)}, [x])
    backend = loaded(edited(saved(tmp_path, serving_default=python), rename))
    assert backend.notes == [
        "Python functions, which no file holds, are called in signature 'serving_default': "
        "requests that get there fail."
    ]
    with pytest.raises(ModelFailed, match="Could not find callback with key=pyfunc_of_another_process"):
        backend.run("serving_default", {"x": np.ones(1, np.float32)})


def test_an_operator_that_this_tensorflow_lacks_is_named(tmp_path: Path) -> None:
    def rename(graph: Any) -> None:
        for node in graph.graph_def.node:
            if node.op == "MatMul":
                node.op = "SentencepieceOp"

    folder = edited(saved_by_v1(tmp_path / "m" / "1", with_variable), rename)
    with pytest.raises(LoadError, match=r"m/1: TensorFlow has no operator 'SentencepieceOp'; a library beside it has"):
        loaded(folder)


def test_a_signature_whose_operators_run_on_other_devices_only_is_left_out(tmp_path: Path) -> None:
    def build() -> Definitions:
        size = tf.raw_ops.CudnnRNNParamsSize(num_layers=1, num_units=1, input_size=1, T=tf.float32, S=tf.int32)
        return {**with_variable(), "on_gpus": definition({}, {"size": size})}

    backend = loaded(saved_by_v1(tmp_path, build))
    assert list(backend.signatures) == ["serving_default"]
    assert backend.notes[0].startswith("Signature 'on_gpus' is left out: No OpKernel was registered")


def test_requests_from_several_threads_get_their_own_answers(kinds: Backend) -> None:
    def run(i: int) -> bool:
        x = np.full((1 + i % 5, 2), i, np.float32)
        x[:, 1] = -i
        return np.array_equal(kinds.run("float32", {"x": x})["y"], x[:, ::-1])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(run, range(400)))


# TensorFlow Serving's own models


def test_tensorflow_servings_own_models_are_served(subtests: pytest.Subtests) -> None:
    if not TESTDATA.is_dir():
        pytest.skip(f"{SOURCES} names no copy of tensorflow/serving")
    example = example_of(x=4)
    for folder in sorted(path.parent for path in TESTDATA.glob("*/*/saved_model.pb")):
        with subtests.test(model=folder.parent.name):
            if folder.parent.name == "tf_text_regression":
                if not find_spec("tensorflow_text"):
                    with pytest.raises(LoadError, match="TensorFlow has no operator"):
                        loaded(folder)
                continue
            backend = loaded(folder)
            if folder.parent.name == "saved_model_counter":
                assert backend.run("incr_counter_by", {"delta": np.array(3, np.float32)})["output"].item() == 3
                assert backend.run("get_counter", {})["output"].item() == 3
                continue
            plus = 3 if "three" in folder.parent.name else 2
            for x in (np.array([1, 2, 5], np.float32), np.array([[4]], np.float32)):
                assert backend.run("serving_default", {"x": x})["y"].tolist() == (x / 2 + plus).tolist()
            if "regress_x_to_y" in backend.signatures:
                given = {"inputs": strings(example.SerializeToString())}
                assert backend.run("regress_x_to_y", given)["outputs"].tolist() == [[4]]
                assert backend.run("classify_x_to_y", given)["scores"].tolist() == [[4]]
