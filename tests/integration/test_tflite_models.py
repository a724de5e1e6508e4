"""TFLite files of all kinds through the backend, with the real runtime."""

import os
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from millrace import rpc
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import TensorSpec
from tests.support.tflitefiles import Kind, Operator, TfliteFile, adding, counting, recurrent
from worker.backends.base import Device, LoadError
from worker.backends.tflite.backend import TfliteBackend, load
from worker.loading import model

CPU = Device()
X = np.array([[1.0, -2.0]], np.float32)


def written(folder: Path, content: bytes) -> Path:
    """A version's folder with this file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.tflite").write_bytes(content)
    return folder


def loaded(folder: Path, content: bytes) -> TfliteBackend:
    return load(written(folder, content), CPU)


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(LoadError) as raised:
        loaded(folder, content)
    assert str(folder) not in str(raised.value)
    return str(raised.value)


def answer(backend: TfliteBackend, signature: str = "serving_default", **inputs: Any) -> dict[str, Any]:
    return backend.run(signature, inputs)


def shapes(specs: tuple[TensorSpec, ...]) -> dict[str, tuple[int, ...]]:
    return {spec.name: spec.shape for spec in specs}


# Signatures


@pytest.mark.parametrize(
    ("names", "inputs", "output"),
    [
        (["x", "y"], ["x"], "y"),
        (["serving_default_x:0", "StatefulPartitionedCall:0"], ["serving_default_x"], "StatefulPartitionedCall"),
        (["call:0", "call:1", "y"], ["call:0", "call:1"], "y"),
        (["x", "x", "y"], ["x", "x_1"], "y"),
        (["", ""], ["input_0"], "output_0"),
    ],
)
def test_a_file_without_a_signature_gets_one_of_its_tensors(
    tmp_path: Path, names: list[str], inputs: list[str], output: str
) -> None:
    backend = loaded(tmp_path, adding(names).content())
    signature = backend.signatures["serving_default"]
    assert [spec.name for spec in signature.inputs] == inputs
    assert [spec.name for spec in signature.outputs] == [output]
    outputs = backend.run("serving_default", dict.fromkeys(inputs, X))
    assert (outputs[output] == 2 * X).all()


def test_signatures_in_the_metadata_name_the_tensors(tmp_path: Path) -> None:
    definition = rpc.message("tensorflow.SignatureDef")(method_name="tensorflow/serving/predict")
    definition.inputs["image"].name, definition.outputs["scores"].name = "x:0", "y"
    file = adding(["x", "y"])
    file.metadata(
        "signature_defs_metadata", bytes(flexbuffers.Dumps({"classify": definition.SerializeToString().decode()}))
    )
    backend = loaded(tmp_path, file.content())
    assert (answer(backend, "classify", image=X)["scores"] == 2 * X).all()


def test_several_signatures_are_served_by_their_names(tmp_path: Path) -> None:
    file = adding(["x", "code"])
    other = file.graph()
    code, x = other.tensor("code", (1, 2)), other.tensor("x", (1, 2))
    other.operator(Operator.NEG, [code], [x])
    other.ends([code], [x])
    file.signature("encode", {"x": 0}, {"code": 1})
    file.signature("decode", {"code": 0}, {"x": 1}, subgraph=1)
    backend = loaded(tmp_path, file.content())
    assert set(backend.signatures) == {"encode", "decode"}
    assert (answer(backend, "encode", x=X)["code"] == 2 * X).all()
    assert (answer(backend, "decode", code=X)["x"] == -X).all()
    assert (answer(backend, "encode", x=2 * X)["code"] == 4 * X).all()


def test_a_lone_signature_answers_as_the_default_too(tmp_path: Path) -> None:
    file = adding(["a", "b"])
    file.signature("main", {"x": 0}, {"y": 1})
    backend = loaded(tmp_path, file.content())
    assert (answer(backend, "main", x=X)["y"] == 2 * X).all()
    assert (answer(backend, x=X)["y"] == 2 * X).all()
    assert backend.notes == ["Signature 'main' is the only one, so it answers as 'serving_default', too."]


def test_a_signature_with_a_tensor_that_nobody_can_send_is_left_out_and_named(tmp_path: Path) -> None:
    file = adding(["x", "y"])
    file.signature("plain", {"x": 0}, {"y": 1})
    other = file.graph()
    z, real = other.tensor("z", (1, 2), "c8"), other.tensor("real", (1, 2))
    other.operator(Operator.REAL, [z], [real])
    other.ends([z], [real])
    file.signature("complex", {"z": 0}, {"real": 1}, subgraph=1)
    backend = loaded(tmp_path, file.content())
    assert set(backend.signatures) == {"plain", "serving_default"}
    assert "Signature 'complex' is left out: tensors of type complex64 are not supported." in backend.notes


# Shapes


def test_a_free_first_dimension_is_resized_and_a_fixed_one_is_not_batched(tmp_path: Path) -> None:
    free = written(tmp_path / "free" / "1", adding({"x": (-1, 2), "y": (-1, 2)}).content())
    backend = load(free, CPU)
    assert shapes(backend.signatures["serving_default"].inputs) == {"x": (-1, 2)}
    for rows in (1, 5, 0, 2):
        x = np.arange(2.0 * rows, dtype=np.float32).reshape(rows, 2)
        assert (answer(backend, x=x)["y"] == 2 * x).all()
    fixed = written(tmp_path / "fixed" / "1", adding().content())
    announced = {
        folder.parent.name: model.load(folder, folder.parent.name, 1, device=CPU, backend="auto", max_batch_size=8)
        for folder in (free, fixed)
    }
    assert announced["free"].announcement.max_batch_size == 8
    assert announced["fixed"].announcement.max_batch_size == 0
    assert announced["fixed"].announcement.signatures["serving_default"].inputs[0].shape == (1, 2)


def test_scalars_are_taken(tmp_path: Path) -> None:
    backend = loaded(tmp_path, adding({"x": (), "y": ()}).content())
    assert answer(backend, x=np.array(3.0, np.float32))["y"] == np.float32(6)


def reshaping(shape: tuple[int, ...], taken: tuple[int, ...]) -> TfliteFile:
    """A model that gives its strings another shape."""
    file = TfliteFile()
    graph, options = file.graph(), schema.ReshapeOptionsT()
    s, y = graph.tensor("s", shape, Kind.STRING), graph.tensor("y", taken, Kind.STRING)
    wanted = graph.tensor("shape", (len(taken),), "i4", data=taken)
    options.newShape = list(taken)
    graph.operator(Operator.RESHAPE, [s, wanted], [y], options, schema.BuiltinOptions.ReshapeOptions)
    graph.ends([s], [y])
    return file


@pytest.mark.parametrize("value", [b"ab", b"a\x00\xff\x00", "é".encode(), b"x" * 1000])
@pytest.mark.parametrize("has_signature", [False, True])
def test_strings_are_bytes_on_both_sides(tmp_path: Path, value: bytes, has_signature: bool) -> None:
    for shape, given in (((), value), ((1,), [value]), ((2, 2), [[value, b""], [b"c", value]])):
        array = np.array(given, object)
        file = reshaping(shape, (array.size,))
        if has_signature:
            file.signature("serving_default", {"s": 0}, {"y": 1})
        outputs = answer(loaded(tmp_path, file.content()), s=array)
        assert outputs["y"].tolist() == array.ravel().tolist()


def test_an_empty_string_as_a_scalar_is_refused_for_litert_would_take_another(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="input 's' is a scalar, and LiteRT takes no empty string as one"):
        answer(loaded(tmp_path, reshaping((), (1,)).content()), s=np.array(b"", object))


def test_a_request_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    backend = loaded(tmp_path, adding({"x": (-1, 2), "z": (2,), "y": (-1, 2)}).content())
    good = {"x": X, "z": X[0]}
    with pytest.raises(InvalidRequest, match="Got value of type FLOAT64 but expected type FLOAT32"):
        answer(backend, **good | {"x": X.astype(np.float64)})
    assert (answer(backend, **good)["y"] == 2 * X).all()
    with pytest.raises(InvalidRequest, match="the inputs are x, z, got x"):
        answer(backend, x=X)
    assert (answer(backend, **good)["y"] == 2 * X).all()


@pytest.mark.parametrize("kind", ["BILINEAR", "NEAREST_NEIGHBOR"])
def test_what_would_end_the_process_is_refused(tmp_path: Path, kind: str) -> None:
    file = TfliteFile()
    graph = file.graph()
    options = schema.ResizeBilinearOptionsT() if kind == "BILINEAR" else schema.ResizeNearestNeighborOptionsT()
    number = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
    x, size = graph.tensor("x", (-1, -1, -1, 1)), graph.tensor("size", (2,), "i4", data=[4, 4])
    y = graph.tensor("y", (-1, 4, 4, 1))
    graph.operator(getattr(Operator, f"RESIZE_{kind}"), [x, size], [y], options, number)
    graph.ends([x], [y])
    backend = loaded(tmp_path, file.content())
    for rows in (0, 2):
        assert answer(backend, x=np.ones((rows, 3, 3, 1), np.float32))["y"].shape == (rows, 4, 4, 1)
    with pytest.raises(InvalidRequest, match=f"input 'x' is empty, and RESIZE_{kind} of this runtime takes no empty"):
        answer(backend, x=np.ones((1, 0, 3, 1), np.float32))


# State


@pytest.mark.parametrize(("make", "start"), [(counting, [[100.0, 200.0]]), (recurrent, [[0.0]])])
def test_no_request_is_answered_with_what_another_left_behind(tmp_path: Path, make: Any, start: Any) -> None:
    backend = loaded(tmp_path, make().content())
    assert backend.notes == [
        "The model keeps state from run to run. Here each request begins with the state of the file."
    ]
    first = np.array(start, np.float32)
    begun = threading.Barrier(4)

    def call(number: int) -> bool:
        begun.wait(10)
        given = np.full_like(first, number)
        return all((answer(backend, x=given)["y"] == first + given).all() for _ in range(25))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(1, 5)))


@pytest.mark.parametrize(("make", "start"), [(counting, [[100.0, 200.0]]), (recurrent, [[0.0]])])
def test_a_refused_request_leaves_a_model_with_state_as_it_was(tmp_path: Path, make: Any, start: Any) -> None:
    backend, first = loaded(tmp_path, make().content()), np.array(start, np.float32)
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            answer(backend, x=np.ones((1, 7), np.float32))
        assert (answer(backend, x=np.ones_like(first))["y"] == first + 1).all()


def test_rows_that_run_one_by_one_have_no_common_state(tmp_path: Path) -> None:
    backend = loaded(tmp_path, counting().content())
    x = np.array([[1.0, 2.0], [10.0, 20.0], [0.0, 0.0]], np.float32)
    assert (answer(backend, x=x)["y"] == x + np.array([100, 200], np.float32)).all()


def test_a_variable_that_is_only_filled_at_the_start_is_no_state(tmp_path: Path) -> None:
    file = TfliteFile()
    graph, start = file.graph(), file.graph()
    variable, once = schema.VarHandleOptionsT(), schema.CallOnceOptionsT()
    variable.container, variable.sharedName, once.initSubgraphIndex = "", "v", 1
    x, handle = graph.tensor("x", (1, 2)), graph.tensor("handle", (), Kind.RESOURCE)
    old, y = graph.tensor("old", (1, 2)), graph.tensor("y", (1, 2))
    graph.operator(Operator.CALL_ONCE, [], [], once, schema.BuiltinOptions.CallOnceOptions)
    graph.operator(Operator.VAR_HANDLE, [], [handle], variable, schema.BuiltinOptions.VarHandleOptions)
    graph.operator(Operator.READ_VARIABLE, [handle], [old])
    graph.operator(Operator.ADD, [old, x], [y], schema.AddOptionsT(), schema.BuiltinOptions.AddOptions)
    graph.ends([x], [y])
    value, first = start.tensor("v", (1, 2), data=[[5.0, 6.0]]), start.tensor("h", (), Kind.RESOURCE)
    start.operator(Operator.VAR_HANDLE, [], [first], variable, schema.BuiltinOptions.VarHandleOptions)
    start.operator(Operator.ASSIGN_VARIABLE, [first, value], [])
    backend = loaded(tmp_path, file.content())
    assert backend.notes == []
    assert (answer(backend, x=X)["y"] == X + np.array([5, 6], np.float32)).all()


# Metadata


def test_the_scale_and_zero_point_of_quantized_tensors_are_told(tmp_path: Path) -> None:
    file = TfliteFile()
    graph = file.graph()
    q = graph.tensor("q", (1, 2), "u1", quantized=(0.5, 128))
    y = graph.tensor("y", (1, 2))
    graph.operator(Operator.DEQUANTIZE, [q], [y])
    graph.ends([q], [y])
    backend = loaded(tmp_path, file.content())
    (spec,) = backend.signatures["serving_default"].inputs
    assert spec == TensorSpec(name="q", datatype="UINT8", shape=(1, 2), graph_name="q", scale=0.5, zero_point=128)
    assert backend.notes == ["Tensor 'q' is quantized: its real values are 0.5 x (value -128)."]
    assert answer(backend, q=np.array([[128, 130]], np.uint8))["y"].tolist() == [[0.0, 1.0]]


class Description:
    """A `ModelMetadata` as TensorFlow Lite's metadata writer makes it."""

    def __init__(self) -> None:
        self._builder = flatbuffers.Builder()

    def table(self, fields: Mapping[int, Any]) -> int:
        """A table; a field is a text, a list of tables or floats, another table (`int`), or a byte (`bytes`)."""
        builder, made = self._builder, {}
        for number, value in fields.items():
            if isinstance(value, str):
                made[number] = builder.CreateString(value)
            elif isinstance(value, list):
                made[number] = self._list(value)
            else:
                made[number] = value
        builder.StartObject(8)
        for number, value in made.items():
            if isinstance(value, bytes):
                builder.PrependInt8Slot(number, value[0], 0)
            else:
                builder.PrependUOffsetTRelativeSlot(number, value, 0)
        return int(builder.EndObject())

    def _list(self, values: list[Any]) -> int:
        self._builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            if isinstance(value, float):
                self._builder.PrependFloat32(value)
            else:
                self._builder.PrependUOffsetTRelative(value)
        return int(self._builder.EndVector())

    def content(self, root: int) -> bytes:
        self._builder.Finish(root, b"M001")
        return bytes(self._builder.Output())


AXIS_LABELS, VOCABULARY, NORMALIZATION, BERT = b"\x02", b"\x05", b"\x01", b"\x04"


def described(files: list[dict[int, Any]], *steps: tuple[bytes, dict[int, Any]]) -> bytes:
    """A description with these files of the output, and these steps before the input."""
    made = Description()
    units = []
    for kind, options in steps:
        listed = {
            number: [made.table(value) for value in values] if isinstance(values[0], dict) else values
            for number, values in options.items()
        }
        units.append(made.table({0: kind, 1: made.table(listed)}))
    given = made.table({0: "image", 4: units})
    output = made.table({0: "probability", 6: [made.table(file) for file in files]})
    graph = made.table({2: [given], 3: [output]})
    return made.content(made.table({0: "a classifier", 3: [graph]}))


def with_metadata(description: bytes, packed: Mapping[str, bytes]) -> bytes:
    file = adding()
    file.metadata("TFLITE_METADATA", description)
    return file.content(packed)


def test_labels_that_are_packed_in_the_file_are_announced(tmp_path: Path) -> None:
    german = {0: "de.txt", 2: AXIS_LABELS, 3: "de"}
    english = {0: "en.txt", 2: AXIS_LABELS, 3: "en"}
    packed = {"de.txt": b"Katze\nHund\n", "en.txt": b"\xef\xbb\xbfcat\r\ndog\r\n"}
    content = with_metadata(described([german, english]), packed)
    folder = written(tmp_path / "m" / "1", content)
    announcement = model.load(folder, "m", 1, device=CPU, backend="auto", max_batch_size=8).announcement
    assert announcement.labels == ("cat", "dog")
    assert "The file holds 2 labels of output 'y' in en.txt." in announcement.notes


def test_what_the_file_says_of_its_input_is_told(tmp_path: Path) -> None:
    normalized = (NORMALIZATION, {0: [127.5], 1: [127.5]})
    tokenized = (BERT, {0: [{0: "vocab.txt"}]})
    content = with_metadata(described([], normalized, tokenized), {"vocab.txt": b"[PAD]\n[UNK]\nthe"})
    assert loaded(tmp_path, content).notes == [
        "By the file's metadata, input 'x' is (value - 127.5) / 127.5 of the raw data.",
        "By the file's metadata, a BERT tokenizer makes input 'x' of text.",
        "The file holds a vocabulary of 3 lines in vocab.txt.",
    ]


def test_labels_without_a_description_are_known_by_their_name(tmp_path: Path) -> None:
    backend = loaded(tmp_path, adding().content({"labelmap.txt": b"person\n\ncar", "other.bin": b"\0"}))
    assert backend.labels == ("person", "", "car")
    assert backend.notes == ["The file holds 3 labels in labelmap.txt.", "The file holds other.bin."]


@pytest.mark.parametrize("document", ["{'task': 'detect', 'names': {0: 'cat', 1: 'dog'}}", '{"names": ["cat", "dog"]}'])
def test_labels_in_the_metadata_of_ultralytics_are_read(tmp_path: Path, document: str) -> None:
    backend = loaded(tmp_path, adding().content({"temp_meta.txt": document.encode()}))
    assert backend.labels == ("cat", "dog")
    assert backend.notes == ["The file holds 2 labels in temp_meta.txt."]


@pytest.mark.parametrize(
    ("description", "packed"),
    [(b"\xff\xff\xff\x7f rubbish", {}), (b"\x04", {"a.bin": b"a"}), (b"", {"labels.txt": b"a" * (2**24 + 1)})],
)
def test_metadata_that_cannot_be_read_does_not_keep_a_model_from_serving(
    tmp_path: Path, description: bytes, packed: dict[str, bytes]
) -> None:
    backend = loaded(tmp_path, with_metadata(description, packed))
    assert backend.labels == ()
    assert "The file's metadata cannot be read: " in " ".join(backend.notes)
    assert (answer(backend, x=X)["y"] == 2 * X).all()


# What is not loaded, and what to do


def custom(name: str) -> bytes:
    file = TfliteFile()
    graph = file.graph()
    x, y = graph.tensor("x", (1, 2)), graph.tensor("y", (1, 2))
    graph.operator(name, [x], [y])
    graph.ends([x], [y])
    return file.content()


@pytest.mark.parametrize("name", ["Landmarks2Matrix", "CUSTOM_OP"])
def test_custom_operators_are_named(tmp_path: Path, name: str) -> None:
    reason = refusal(tmp_path / "m" / "1", custom(name))
    assert reason.startswith(f"m/1/model.tflite: Encountered unresolved custom op: {name}.")
    assert reason.endswith(f"The model has the custom operators {name}; export it without them")


def test_operators_of_tensorflow_are_named_where_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    reason = refusal(tmp_path / "m" / "1", custom("FlexMatrixInverse"))
    assert reason == (
        "m/1/model.tflite: the model has operators of TensorFlow (FlexMatrixInverse), and TensorFlow is not "
        "installed; serve the SavedModel that the file was made of"
    )


def test_operators_of_tensorflow_run_where_it_brings_them(tmp_path: Path) -> None:
    """The wheels of TensorFlow 2.19.1 and 2.21.0 bring no Flex delegate, so this is what their users see."""
    pytest.importorskip("tensorflow")
    reason = refusal(tmp_path / "m" / "1", custom("FlexMatrixInverse"))
    assert "(FlexMatrixInverse), and the installed TensorFlow brings none for TFLite (its Flex delegate)" in reason


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "`git lfs pull`"),
        (adding().content()[:200], "m/1/model.tflite: "),
    ],
)
def test_a_file_that_is_no_model_says_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in refusal(tmp_path / "m" / "1", content)


def test_a_file_may_be_overwritten_or_cut_short_while_it_is_served(tmp_path: Path) -> None:
    file = TfliteFile()
    graph = file.graph()
    x, w = graph.tensor("x", (1, 20_000)), graph.tensor("w", (1, 20_000), data=np.ones((1, 20_000)))
    y = graph.tensor("y", (1, 20_000))
    graph.operator(Operator.ADD, [x, w], [y], schema.AddOptionsT(), schema.BuiltinOptions.AddOptions)
    graph.ends([x], [y])
    path = written(tmp_path, file.content()) / "model.tflite"
    backend = load(tmp_path, CPU)
    assert str(path) not in Path("/proc/self/maps").read_text()
    path.write_bytes(bytes(path.stat().st_size))
    os.truncate(path, 10)
    assert (answer(backend, x=np.zeros((1, 20_000), np.float32))["y"] == 1).all()
