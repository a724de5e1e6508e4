"""JSON to tensors: the fast path reads what the slow one reads, or leaves it alone."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from millrace.protocol.errors import InvalidRequest, PayloadTooLarge
from millrace.protocol.tensors import TensorSpec
from serving.protocols import json_tensors
from serving.protocols.limits import NotQuick, ReadLimits

IMAGE = TensorSpec(name="image", datatype="FP32", shape=(-1, 2, 3))


def _slow(body: bytes, spec: TensorSpec) -> tuple[Any, ...] | None:
    document = json_tensors.load(body)
    (key,) = document
    try:
        tensor = json_tensors.to_tensor(document[key], spec)
    except InvalidRequest:
        return None
    matches = len(tensor.shape) == len(spec.shape) and tensor.shape[1:] == spec.shape[1:] and tensor.shape[0] > 0
    return (key, tensor.shape, bytes(tensor.data)) if matches else None


def _fast(body: bytes, spec: TensorSpec) -> tuple[Any, ...] | None:
    result = json_tensors.fast_rows(body, spec)
    return result and (result[0], result[1].shape, bytes(result[1].data))


numbers = st.one_of(st.integers(-1000, 1000), st.floats(width=32, allow_nan=False, allow_infinity=False))


@given(
    st.sampled_from(["instances", "inputs"]),
    st.lists(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=2, max_size=2), min_size=1, max_size=4),
    st.sampled_from([None, 2]),
)
def test_regular_lists_take_the_fast_path_and_mean_the_same(key: str, rows: list[Any], indent: int | None) -> None:
    body = json.dumps({key: rows}, indent=indent).encode()
    assert _fast(body, IMAGE) is not None
    assert _fast(body, IMAGE) == _slow(body, IMAGE)


nested = st.recursive(
    numbers | st.booleans() | st.none() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=4)
)


@given(st.one_of(nested, st.lists(st.lists(st.lists(numbers, max_size=3), max_size=2), max_size=3)))
def test_whatever_else_comes_is_left_to_the_slow_path_or_means_the_same(value: Any) -> None:
    body = json.dumps({"instances": value}).encode()
    fast = _fast(body, IMAGE)
    assert fast is None or fast == _slow(body, IMAGE)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"instances": [[[1,2,3],[4,5,6]]], "signature_name": "x"}',
        b'{"instances": [[[1,2,3],[4,5]]]}',
        b'{"instances": [[[1,2],[3,4],[5,6]]]}',
        b'{"instances": [[[1,2,3],[4,5,NaN]]]}',
        b'{"instances": [[[1,2,3],[4,5,true]]]}',
        b'{"instances": []}',
        b'{"instances": 5}',
        b'{"instances": [[[],[4,5,6]],[[1,2,3],[1,2,3]]]}',
        b'{"inst\\u0061nces": [[[1,2,3],[4,5,6]]]}',
    ],
)
def test_the_fast_path_leaves_what_it_is_not_made_for(body: bytes) -> None:
    assert json_tensors.fast_rows(body, IMAGE) is None


def test_whole_numbers_must_fit_their_type_on_both_paths() -> None:
    spec = TensorSpec(name="n", datatype="INT8", shape=(-1, 2))
    assert _fast(b'{"instances": [[-128, 127]]}', spec) == _slow(b'{"instances": [[-128, 127]]}', spec)
    for body in (b'{"instances": [[128, 0]]}', b'{"instances": [[1.5, 0]]}', b'{"instances": [[1.0, 0]]}'):
        assert _fast(body, spec) is None
        with pytest.raises(InvalidRequest, match="is not of expected type: int8"):
            json_tensors.to_tensor(json.loads(body)["instances"], spec)


@pytest.mark.parametrize(
    ("value", "datatype", "message"),
    [
        ([["a"]], "FP32", r'JSON Value: "a" Type: String is not of expected type: float'),
        ([[None]], "FP32", "Type: Null"),
        ([[{"a": 1}]], "FP64", "Type: Object is not of expected type: double"),
        ([[True]], "INT32", "Type: Bool is not of expected type: int32"),
        ([[1]], "BOOL", "Type: Number is not of expected type: bool"),
        ([[1]], "BYTES", "Type: Number is not of expected type: string"),
        ([[1, 2], [3]], "FP32", "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ([[1], 2], "FP32", "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ([1, [2]], "FP32", "Encountered list at unexpected level: 1 expected < 1"),
        ([{"b65": "aGk="}], "BYTES", "not formatted correctly for base64 data"),
        ([{"b64": "%%%"}], "BYTES", "Unable to base64 decode"),
        ([10**400], "FP32", "is not of expected type: float"),
        (["\ud800"], "BYTES", "not valid UTF-8"),
    ],
)
def test_a_value_that_does_not_fit_is_quoted(value: Any, datatype: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        json_tensors.to_tensor(value, TensorSpec(name="x", datatype=datatype, shape=(-1, -1)))


def test_a_long_value_is_quoted_in_part() -> None:
    with pytest.raises(InvalidRequest) as caught:
        json_tensors.to_tensor(["x" * 10_000], TensorSpec(name="x", datatype="FP32", shape=(-1,)))
    assert len(str(caught.value)) < 400


def test_text_and_base64_are_strings() -> None:
    tensor = json_tensors.to_tensor(["é", {"b64": "/w=="}], TensorSpec(name="x", datatype="BYTES", shape=(-1,)))
    assert tensor.to_numpy().tolist() == ["é".encode(), b"\xff"]


def test_a_file_is_taken_where_the_input_names_a_medium() -> None:
    spec = TensorSpec(name="image", datatype="FP32", shape=(-1, 2, 2), media="image")
    tensor = json_tensors.to_tensor([{"b64": "aGk="}], spec)
    assert (tensor.datatype, tensor.shape) == ("BYTES", (1,))


def test_numbers_that_json_lacks_are_read_and_written() -> None:
    tensor = json_tensors.to_tensor(
        json_tensors.load(b"[NaN, Infinity, -Infinity, 1e-7]"), TensorSpec(name="x", datatype="FP32", shape=(-1,))
    )
    written = json_tensors.dumps_array(tensor.to_numpy())
    assert written == b"[NaN,Infinity,-Infinity,1e-7]"


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_decimals_are_the_shortest_that_read_back_the_same(value: float) -> None:
    text = json_tensors.dumps_array(np.array([value], np.float32))[1:-1].decode()
    assert np.float32(text) == np.float32(value) or math.isnan(value)
    whole = len(str(abs(int(value))))  # which has no exponent until 1e16
    assert len(text.replace("-", "").replace(".", "")) <= max(len(f"{value:.9g}".replace(".", "")), min(whole, 16)) + 4


@pytest.mark.parametrize("body", [b"", b"  ", b"{", b"[1,", b'{"a": 1} x', b"\xff", b"[" * 100_000])
def test_malformed_json_is_an_error_of_the_callers(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="JSON Parse error"):
        json_tensors.load(body)


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=4)))
def test_arrays_are_written_as_json_writes_them(array: Any) -> None:
    written = json_tensors.dumps_array(array)
    np.testing.assert_array_equal(np.array(json.loads(written), np.float32).reshape(array.shape), array)


def test_every_number_that_json_lacks_keeps_its_place_in_a_long_array() -> None:
    array = np.arange(400_000, dtype=np.float32).reshape(2, -1)
    array[:, ::3], array[:, 1::5], array[:, 2::7] = np.nan, np.inf, -np.inf
    np.testing.assert_array_equal(np.array(json.loads(json_tensors.dumps_array(array)), np.float32), array)


FREE = TensorSpec(name="x", datatype="FP32", shape=(-1, -1, 2, -1))


@given(hnp.arrays(np.float32, st.tuples(*[st.integers(1, 3)] * 4), elements=st.floats(-9, 9, width=32)))
def test_regular_lists_of_free_sizes_take_the_fast_path(array: Any) -> None:
    fast = _fast(json.dumps({"instances": array.tolist()}).encode(), FREE)
    if array.shape[2] == 2:
        assert fast == ("instances", array.shape, array.tobytes())
    else:
        assert fast is None


@given(st.recursive(numbers, lambda inner: st.lists(inner, max_size=3), max_leaves=12))
def test_other_lists_of_free_sizes_are_left_to_the_slow_path_or_mean_the_same(value: Any) -> None:
    body = json.dumps({"instances": value}).encode()
    fast = _fast(body, FREE)
    assert fast is None or fast == ("instances", *_slow_any(body))


def _slow_any(body: bytes) -> tuple[Any, bytes]:
    tensor = json_tensors.to_tensor(json_tensors.load(body)["instances"], FREE)
    return tensor.shape, bytes(tensor.data)


@pytest.mark.parametrize(
    "body",
    [b"[" + b",".join([b"[]"] * 600) + b"]", b"[" + b"{}," * 600 + b"{}]", b'{"a":[' + b"1," * 1100 + b"1]}"],
)
def test_values_are_counted_before_they_are_built(body: bytes) -> None:
    with pytest.raises(PayloadTooLarge, match="more than 1000 values in JSON, which is the limit"):
        json_tensors.load(body, ReadLimits(max_values=1000))
    with pytest.raises(NotQuick):
        json_tensors.load(body, ReadLimits(max_values=10_000, max_quick=1000))
    json_tensors.load(body, ReadLimits(max_values=10_000))


def test_commas_and_brackets_inside_of_strings_are_no_values() -> None:
    text = 'a, b, [c], {d}, \\" e, ' * 200
    assert json_tensors.load(json.dumps([text, text]).encode(), ReadLimits(max_values=10)) == [text, text]


def test_strings_are_counted_before_they_are_built() -> None:
    body = json.dumps(['\\"', "b"] * 50).encode()
    with pytest.raises(PayloadTooLarge, match="more than 99 strings in JSON"):
        json_tensors.load_first(body, most_strings=99)
    assert len(json_tensors.load_first(body, most_strings=100)) == 100
