"""Examples in, classes and values out."""

import contextlib
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import rpc
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import Signature, Tensor, TensorSpec
from serving.protocols import json_tensors
from serving.protocols.examples import (
    ScoredClasses,
    classifications,
    inputs_of,
    regressions,
    top_classes,
    with_context,
)


def _spec(name: str, datatype: str = "FP32", shape: tuple[int, ...] = (-1,), **more: Any) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape, **more)


def _pairs(found: ScoredClasses) -> list[list[tuple[str, float]]]:
    rows = json.loads(json_tensors.dumps_array(found.scores))
    return [list(zip(found.names_of(row), scores, strict=True)) for row, scores in enumerate(rows)]


def _signature(*inputs: TensorSpec, outputs: tuple[TensorSpec, ...] = ()) -> Signature:
    return Signature(inputs=inputs, outputs=outputs)


def _tensor(values: Any, dtype: Any = np.float32) -> Tensor:
    return Tensor.from_numpy(np.array(values, dtype))


@pytest.mark.parametrize(
    ("spec", "values", "expected"),
    [
        (_spec("x"), [[1], [2.5]], [1.0, 2.5]),
        (_spec("x", shape=(-1, 2)), [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        (_spec("x", shape=(-1, 2, 2)), [[1, 2, 3, 4]], [[[1, 2], [3, 4]]]),
        (_spec("x", shape=(-1, -1, 2)), [[1, 2, 3, 4]], [[[1, 2], [3, 4]]]),
        (_spec("x", "INT8"), [[-128], [127]], [-128, 127]),
        (_spec("x", "BOOL"), [[0], [1]], [False, True]),
        (_spec("x", "BYTES"), [[b"a"], [b"\xff"]], [b"a", b"\xff"]),
        (_spec("x", shape=(-1, 28, 28, 1), media="image"), [[b"PNG"], [b"PNG"]], [b"PNG", b"PNG"]),
        (_spec("x"), [[1e300]], [math.inf]),
    ],
)
def test_a_feature_fills_the_rows_of_its_input(spec: TensorSpec, values: Any, expected: Any) -> None:
    tensors = inputs_of([{"x": row, "unknown": [1]} for row in values], _signature(spec))
    assert tensors["x"].to_numpy().tolist() == expected


def test_optional_features_may_be_left_out_of_all_examples_but_not_of_some() -> None:
    signature = _signature(_spec("a"), _spec("b", optional=True))
    assert inputs_of([{"a": [1]}], signature).keys() == {"a"}
    assert inputs_of([{"a": [1], "b": [2]}], signature).keys() == {"a", "b"}
    with pytest.raises(InvalidRequest, match=r"Feature: b .* is required"):
        inputs_of([{"a": [1], "b": [2]}, {"a": [1]}], signature)


@pytest.mark.parametrize(
    ("spec", "values", "message"),
    [
        (_spec("x"), [[]], r"Feature: x \(data type: float\) is required but could not be found"),
        (_spec("x"), [[1, 2]], r"Number of float values != expected. values size: 2 but output shape: \[\]"),
        (_spec("x", shape=(-1, 3)), [[1, 2]], r"values size: 2 but output shape: \[3\]"),
        (_spec("x", shape=(-1, -1)), [[1], [1, 2]], r"values size: 1, 2 but output shape: \[-1\]"),
        (_spec("x", shape=(-1, -1, 2)), [[1, 2, 3]], "values size: 3"),
        (_spec("x", shape=(-1, -1, -1)), [[1, 2]], "values size: 2"),
        (_spec("x", shape=(-1, -1, 0)), [[1, 2]], "values size: 2"),
        (_spec("x"), [[b"a"]], "Data types don't match. Expected type: float"),
        (_spec("x", "INT32"), [[1.5]], "Data types don't match. Expected type: int32"),
        (_spec("x", "BYTES"), [[1]], "Data types don't match. Expected type: string"),
        (_spec("x", "INT8"), [[128]], "out of the range of int8"),
        (_spec("x", "UINT64"), [[-1]], "out of the range of uint64"),
        (_spec("x", "BOOL"), [[2]], "out of the range of bool"),
        (_spec("x"), [[10**400]], "out of the range of float"),
    ],
)
def test_features_that_do_not_fit_are_named(spec: TensorSpec, values: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        inputs_of([{"x": row} for row in values], _signature(spec))


SERIALIZED = _signature(_spec("inputs", "BYTES"))


def test_an_input_called_inputs_takes_the_examples_themselves() -> None:
    examples: Any = [{"a": [1, -2], "b": [1, 2.5]}, {"c": [b"x"], "none": []}]
    encoded = inputs_of(examples, SERIALIZED)["inputs"].to_numpy().tolist()
    first, second = (rpc.message("tensorflow.Example").FromString(raw).features.feature for raw in encoded)
    assert list(first["a"].int64_list.value) == [1, -2]
    assert list(first["b"].float_list.value) == [1.0, 2.5]
    assert list(second["c"].bytes_list.value) == [b"x"]
    plain = inputs_of([{"inputs": [b"text"]}], SERIALIZED)
    assert plain["inputs"].to_numpy().tolist() == [b"text"]
    with pytest.raises(InvalidRequest, match=r"Feature: text .* is required"):
        inputs_of([{"txt": [b"x"]}], _signature(_spec("text", "BYTES")))


@pytest.mark.parametrize("values", [[b"x", 1], [2**63], [1.5, b"x"], [1.5, 10**400]])
def test_features_that_no_example_can_hold_are_refused(values: Any) -> None:
    with pytest.raises(InvalidRequest, match="Feature: a cannot be put into an example"):
        inputs_of([{"a": values}], SERIALIZED)


def test_no_examples_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="Input is empty"):
        inputs_of([], _signature(_spec("x")))


def test_a_context_cannot_make_a_small_request_large() -> None:
    assert with_context({"x": [1], "y": [2]}, [{}, {"x": [3]}]) == [{"x": [1], "y": [2]}, {"x": [3], "y": [2]}]
    contexts: list[Any] = [{"x": [0] * 992}, {"x": [bytes(7936)]}, {str(number): [] for number in range(125)}]
    for context in contexts:
        with pytest.raises(InvalidRequest, match="a context of 8000 bytes is too large for 10000 examples"):
            with_context(context, [{}] * 10_000)


@pytest.mark.parametrize(
    ("datatype", "shared", "own"),
    [("FP32", [1.5, 2], [3, 4]), ("INT8", [1, 2], [3, 4]), ("BYTES", [b"a", b""], [b"b", b"c"])],
)
def test_examples_have_the_features_of_their_context_or_their_own(datatype: str, shared: Any, own: Any) -> None:
    given = with_context({"x": shared}, [{}, {"x": own}, {}, {"x": list(shared)}])
    tensor = inputs_of(given, _signature(_spec("x", datatype, (-1, 2))))["x"]
    assert tensor.to_numpy().tolist() == [shared, own, shared, shared]


def test_each_value_of_a_context_is_looked_at_once_however_many_examples_have_it() -> None:
    looked_at = 0

    class Number(float):
        def __float__(self) -> float:
            nonlocal looked_at
            looked_at += 1
            return 1.0

    inputs = inputs_of(with_context({"x": list[float]([Number()])}, [{}] * 1000), _signature(_spec("x")))
    assert inputs["x"].shape == (1000,)
    assert looked_at <= 1


datatypes = st.sampled_from(["FP16", "FP32", "FP64", "INT8", "INT64", "UINT16", "UINT64", "BOOL", "BYTES"])
values = (
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4)
    | st.lists(st.floats(), max_size=4)
    | st.lists(st.binary(max_size=3), max_size=4)
)


@given(
    st.lists(st.dictionaries(st.sampled_from(["a", "b"]), values, max_size=2), max_size=3),
    datatypes,
    st.lists(st.integers(-1, 3), max_size=2).map(lambda row: (-1, *row)),
    st.booleans(),
)
def test_whatever_features_are_sent_they_are_read_or_refused(
    examples: Any, datatype: str, shape: tuple[int, ...], optional: bool
) -> None:
    signature = _signature(_spec("a", datatype, shape, optional=optional), _spec("b"))
    with contextlib.suppress(InvalidRequest):
        for name, tensor in inputs_of(examples, signature).items():
            assert tensor.to_numpy().shape[0] == len(examples), name


PROBABILITIES = _spec("probabilities", shape=(-1, 2))
PLAIN = _signature(_spec("x"), outputs=(PROBABILITIES,))


def test_the_labels_name_the_classes_of_a_plain_signature() -> None:
    outputs = {"probabilities": _tensor([[0.9, 0.1], [0.25, 0.75]])}
    assert _pairs(classifications(outputs, PLAIN, ["no", "yes"])) == [
        [("no", 0.9), ("yes", 0.1)],
        [("no", 0.25), ("yes", 0.75)],
    ]
    for labels in ((), ["one"]):
        assert _pairs(classifications(outputs, PLAIN, labels))[1] == [("0", 0.25), ("1", 0.75)]


def test_of_several_outputs_the_one_with_a_score_for_each_label_classifies() -> None:
    signature = _signature(_spec("x"), outputs=(_spec("vector", shape=(-1, 3)), PROBABILITIES, _spec("y")))
    outputs = {"vector": _tensor([[1, 2, 3]]), "probabilities": _tensor([[0.5, 1.5]]), "y": _tensor([1])}
    assert _pairs(classifications(outputs, signature, ["a", "b"])) == [[("a", 0.5), ("b", 1.5)]]
    with pytest.raises(InvalidRequest, match="No classification outputs found in signature"):
        classifications(outputs, signature, [])
    with pytest.raises(InvalidRequest, match="No classification outputs found in signature"):
        classifications({"y": _tensor([1])}, _signature(_spec("x"), outputs=(_spec("y"),)), [])


def test_classes_and_scores_of_a_signature_made_for_them_are_taken_as_they_are() -> None:
    classes, scores = _tensor([["a", "b"]], object), _tensor([[0.5, 0.1]])
    assert _pairs(classifications({"classes": classes, "scores": scores}, PLAIN, [])) == [[("a", 0.5), ("b", 0.1)]]
    assert _pairs(classifications({"classes": classes}, PLAIN, [])) == [[("a", 0.0), ("b", 0.0)]]
    assert _pairs(classifications({"scores": scores}, PLAIN, ["ignored", "here"])) == [[("", 0.5), ("", 0.1)]]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"classes": _tensor([[1, 2]])}, "classes Tensor of DT_STRING"),
        ({"scores": _tensor([["a"]], object)}, "scores Tensor of DT_FLOAT"),
        ({"scores": _tensor([1.0])}, "shape"),
        ({"classes": _tensor([["a"]], object), "scores": _tensor([[1, 2]])}, "shape"),
    ],
)
def test_classes_and_scores_that_cannot_be_are_refused(outputs: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        classifications(outputs, PLAIN, [])


def test_a_value_a_row_is_a_regression() -> None:
    flat = _signature(_spec("x"), outputs=(_spec("y"), _spec("s", "BYTES")))
    assert regressions({"y": _tensor([0.5, 2]), "s": _tensor(["a", "b"], object)}, flat).tolist() == [0.5, 2.0]
    column = _signature(_spec("x"), outputs=(_spec("y", shape=(-1, 1)),))
    assert regressions({"y": _tensor([[1.5], [2]])}, column).tolist() == [1.5, 2.0]
    both = _signature(_spec("x"), outputs=(_spec("y"), _spec("outputs")))
    assert regressions({"y": _tensor([1]), "outputs": _tensor([2])}, both).tolist() == [2.0]
    with pytest.raises(InvalidRequest, match="No regression outputs found in signature"):
        regressions({"probabilities": _tensor([[1, 2]])}, PLAIN)
    with pytest.raises(InvalidRequest, match="Expected output Tensor shape"):
        regressions({"outputs": _tensor([[1, 2]])}, PLAIN)


@pytest.mark.parametrize(
    ("values", "dtype", "count", "labels", "has_rows", "expected"),
    [
        ([[0.1, 0.7, 0.2]], np.float32, 2, (), True, [[b"0.700000:1", b"0.200000:2"]]),
        ([[1, 3], [5, 4]], np.int64, 1, ("a", "b"), True, [[b"3:1:b"], [b"5:0:a"]]),
        ([[1, 3], [5, 4]], np.uint8, 9, (), False, [b"5:2", b"4:3", b"3:1", b"1:0"]),
        ([[2, 2, 1]], np.float16, 2, (), True, [[b"2.000000:0", b"2.000000:1"]]),
        ([1.5, 2.5], np.float64, 1, ("only",), True, [[b"1.500000:0:only"], [b"2.500000:0:only"]]),
        ([[1.0, 2.0]], np.float32, 1, ("too", "many", "labels"), True, [[b"2.000000:1"]]),
        ([2**64 - 1, 2**64 - 2], np.uint64, 1, (), False, [b"18446744073709551615:0"]),
    ],
)
def test_the_largest_values_come_first_with_index_and_label(
    values: Any, dtype: Any, count: int, labels: Any, has_rows: bool, expected: Any
) -> None:
    assert top_classes(_tensor(values, dtype), count, labels, has_rows=has_rows).to_numpy().tolist() == expected


@pytest.mark.parametrize("values", [_tensor([[True]], np.bool_), _tensor([["a"]], object)])
def test_what_is_no_number_has_no_largest_values(values: Tensor) -> None:
    with pytest.raises(InvalidRequest, match=f"unsupported type '{values.datatype}'"):
        top_classes(values, 1, (), has_rows=True)
