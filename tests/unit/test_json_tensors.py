"""JSON to tensors: the fast path reads what the slow one reads, or leaves it alone."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from millrace.protocol.errors import InvalidRequest, PayloadTooLarge
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import Signature, TensorSpec
from serving.models.registry import ServedModel
from serving.protocols import json_numbers, json_tensors
from serving.protocols.limits import NotQuick, ReadLimits
from serving.protocols.oip import rest as oip

needs_simdjson = pytest.mark.skipif(
    not isinstance(json_numbers.READER, json_numbers.Simdjson), reason="simdjson has no wheel for this Python"
)
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
    assert _significant(text) <= _significant(np.format_float_scientific(np.float32(value)))


def _significant(number: str) -> int:
    return len(number.partition("e")[0].replace("-", "").replace(".", "").strip("0"))


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


@pytest.mark.parametrize(
    ("value", "declared", "shape"),
    [
        ([], (-1, 4), (0, 4)),
        ([[[], []]], (-1, 2, -1, 4), (1, 2, 0, 4)),
        ([[]], (-1, -1), (1, 0)),
        ([], (-1,), (0,)),
        ([[], []], (), (2, 0)),
    ],
)
def test_the_axes_behind_an_empty_list_are_the_signatures(
    value: Any, declared: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    for datatype in ("FP32", "INT64", "BOOL", "BYTES"):
        spec = TensorSpec(name="x", datatype=datatype, shape=declared)
        assert json_tensors.to_tensor(value, spec).shape == shape


def test_axes_behind_an_empty_list_that_nobody_knows_are_refused() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, -1))
    with pytest.raises(InvalidRequest, match="JSON cannot say how large the axes behind it are"):
        json_tensors.to_tensor([], spec)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (2, 0), (1, 2, 0, 4)])
def test_empty_tensors_are_written_as_empty_lists(shape: tuple[int, ...]) -> None:
    assert json.loads(json_tensors.dumps_array(np.zeros(shape, np.float32))) == np.zeros(shape).tolist()


# Where simdjson has no wheel, orjson reads the same.

SIMDJSON, ORJSON = json_numbers.Simdjson(), json_numbers.Orjson()
pairs = st.sampled_from(["d", "i", "u"])
anything = st.recursive(
    st.integers(-(2**65), 2**65) | st.floats() | st.booleans() | st.none() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
)
broken = st.tuples(
    st.sampled_from(["replace", "insert"]), st.integers(0, 10_000), st.sampled_from(list('[]{},.:1-e tf"\\'))
)


def _broken(body: bytes, change: tuple[str, int, str] | None) -> bytes:
    """The body with one character replaced or put in."""
    if change is None or not body:
        return body
    how, place, character = change
    place %= len(body)
    return body[:place] + character.encode() + body[place + (how == "replace") :]


def _flat(value: Any) -> list[Any]:
    """The numbers of lists in lists, whatever their lengths."""
    return [number for each in value for number in _flat(each)] if isinstance(value, list) else [value]


def _or_none(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except json_numbers.UNREADABLE:
        return None


@needs_simdjson
@given(anything, pairs, st.none() | broken)
def test_either_reader_gives_the_same_numbers_or_one_of_them_declines(value: Any, kind: Any, change: Any) -> None:
    body = _broken(json.dumps({"data": value}).encode(), change)
    theirs = _or_none(lambda: SIMDJSON.numbers(SIMDJSON.parse(body, "data")["data"], kind))
    ours = _or_none(lambda: ORJSON.numbers(ORJSON.parse(body, "data")["data"], kind))
    if ours is not None and theirs is not None:
        assert (ours.dtype, ours.tobytes()) == (theirs.dtype, theirs.tobytes())
    if ours is not None and theirs is None:
        slow = json_tensors.to_tensor(_flat(json.loads(body)["data"]), IMAGE)
        assert kind == "d"  # numbers above 64 bits, which simdjson declines
        assert bytes(slow.data) == ours.astype(np.float32).tobytes()


@needs_simdjson
@given(
    st.sampled_from(["FP32", "FP64", "INT8", "INT64", "UINT8", "UINT64"]),
    hnp.array_shapes(min_dims=1, max_dims=4, max_side=4),
    st.data(),
    st.sampled_from([None, 1]),
    st.none() | broken,
)
def test_either_reader_takes_the_same_rows_and_declines_the_same(
    datatype: str, shape: tuple[int, ...], data: st.DataObject, indent: int | None, change: Any
) -> None:
    whole = st.integers(-(2**63), 2**64 - 1) if "64" in datatype else st.integers(-200, 300)
    fractions = st.floats(allow_nan=False, allow_infinity=False)
    elements = data.draw(
        st.lists(whole | fractions if datatype[0] == "F" else whole, min_size=(size := math.prod(shape)), max_size=size)
    )
    rows = np.array(elements, object).reshape(shape).tolist()
    body = _broken(json.dumps({"instances": rows}, indent=indent).encode(), change)
    spec = TensorSpec(
        name="x", datatype=datatype, shape=(-1, *[data.draw(st.sampled_from([-1, n])) for n in shape[1:]])
    )
    theirs, ours = (json_tensors.fast_rows(body, spec, reader) for reader in (SIMDJSON, ORJSON))
    assert (theirs and (theirs[1].shape, bytes(theirs[1].data))) == (ours and (ours[1].shape, bytes(ours[1].data)))


@needs_simdjson
@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [[1],2[3]]}',
        b'{"instances": [1[],[2]]}',
        b'{"instances": [[]1,[2]]}',
        b'{"instances": [[1 2],[3]]}',
        b'{"instances": [[1],[2]]5}',
        b'{"instances": [[1],[2]]}5',
        b'{"instances"5: [[1],[2]]}',
        b'{"inst ances": [[1],[2]]}',
        b'{"inst1ances": [[1],[2]]}',
        b'5{"instances": [[1],[2]]}',
        b'{"instances": [[1.],[2]]}',
        b'{"instances": [[01],[2]]}',
        b'{"instances": [[1e400],[2]]}',
        b'{"instances": [[-],[2]]}',
        b'{"instances": [[],[2]]}',
    ],
)
def test_neither_reader_takes_what_is_no_json(body: bytes) -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 1))
    assert [json_tensors.fast_rows(body, spec, reader) for reader in (SIMDJSON, ORJSON)] == [None, None]


def test_without_simdjson_long_rows_are_read_piece_by_piece() -> None:
    values = np.arange(400_000, dtype=np.float64).reshape(-1, 4)
    body = json.dumps({"inputs": values.tolist()}).encode()
    read = json_tensors.fast_rows(body, TensorSpec(name="x", datatype="FP64", shape=(-1, 4)), ORJSON)
    assert len(body) > 2**21
    assert read is not None
    assert bytes(read[1].data) == values.tobytes()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"data": [%s]}' % b",".join([b"[]"] * 5000), id="empty lists"),
        pytest.param(b'{"data": [1], "others": [%s]}' % b",".join([b"[1]"] * 5000), id="many lists beside the numbers"),
        pytest.param(b'{"data": [true, 1]}', id="a Boolean in a list"),
        pytest.param(b'{"d\\u0061ta": [true, 1]}', id="a Boolean in a list under an escaped key"),
    ],
)
def test_without_simdjson_some_documents_are_left_to_the_slow_way(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - it has no words: nobody reads them
        ORJSON.parse(body, "data")


nested_numbers = st.recursive(
    st.integers(-(2**66), 2**66) | st.floats(), lambda inner: st.lists(inner, max_size=4), max_leaves=30
)
DATA = Signature(inputs=(TensorSpec(name="data", datatype="FP32", shape=(-1,)),), outputs=())
MODEL = ServedModel(ModelAnnouncement(name="m", version=1, state="AVAILABLE", signatures={"serving_default": DATA}))


@needs_simdjson
@given(nested_numbers, st.sampled_from(["FP32", "FP64", "INT64", "UINT64", "INT8"]), st.none() | broken, st.data())
def test_nested_data_of_open_inference_is_answered_alike_with_either_reader(
    value: Any, datatype: str, change: Any, data: st.DataObject
) -> None:
    indent = data.draw(st.sampled_from([None, 1]))
    numbers = [value, *data.draw(st.lists(nested_numbers, max_size=2))]  # ragged, as a list of lists of any depth
    count = len(_flat(numbers))
    item = {"name": "data", "shape": [count], "datatype": datatype, "parameters": {}, "data": numbers}
    if data.draw(st.booleans()):
        del item["parameters"]  # with them an input goes the slow way
    body = _broken(json.dumps({"id": "data", "inputs": [item, {**item, "name": "2"}]}, indent=indent).encode(), change)
    theirs, ours = (_read_infer(body, reader) for reader in (SIMDJSON, ORJSON))
    assert theirs == ours


def _read_infer(body: bytes, reader: json_numbers.NumberReader) -> Any:
    """The tensors of an `/infer` body with that reader, or the words in which it is refused."""
    try:
        inference, wanted = oip.parse_infer(body, None, MODEL, reader=reader)
    except (InvalidRequest, PayloadTooLarge) as error:
        return str(error)
    tensors = {name: (each.datatype, each.shape, bytes(each.data)) for name, each in inference.inputs.items()}
    return tensors, wanted, inference.timeout_ms


@needs_simdjson
@pytest.mark.parametrize(
    "data",
    [
        "[[1],2[3]]",
        "[1[],[2]]",
        "[[]1,[2]]",
        "[[1 2],[3]]",
        "[1],[2,3]",
        "[[1]],[[2]]",
        "[[1],[2,3]",
        "[[1],[2,3]]]",
        "[[1],[2],[3]",
        "[[[1],[2],[3]]",
        "[[1],[2],]",
        "[,[1],[2]]",
        "[[1],[2],[]]",
        "[[1],[2],NaN]",
        '[[1],[2],["3"]]',
        "[[1],[2],[true]]",
        "[[1],[2],[18446744073709551616]]",
        "[[1],[2],[1e999]]",
    ],
)
def test_data_that_is_odd_is_answered_alike_with_either_reader(data: str) -> None:
    body = f'{{"inputs": [{{"name": "data", "datatype": "FP32", "shape": [3], "data": {data}}}]}}'.encode()
    theirs, ours = (_read_infer(body, reader) for reader in (SIMDJSON, ORJSON))
    assert theirs == ours


class _Slow(json_numbers.Orjson):
    """Declines every document, so that each is read the slow way."""

    def parse(self, body: bytes, key: str) -> Any:
        raise ValueError


X = '"name": "x", "datatype": "FP32"'


@pytest.mark.parametrize("reader", [pytest.param(SIMDJSON, marks=needs_simdjson), ORJSON], ids=["simdjson", "orjson"])
@pytest.mark.parametrize(
    "text",
    [
        f'{{"inputs": [{{{X}, "shape": [2], "data": DATA}}]}}',
        f'{{"inputs": [{{{X}, "shape": [1, 2], "data": [DATA]}}], "id": "data"}}',
        f'{{"id": "7", "inputs": [{{{X}, "data": DATA, "shape": [2]}}], "outputs": [{{"name": "y"}}]}}',
        f'{{"parameters": {{"timeout": 5}}, "inputs": [{{{X}, "shape": [2], "data" : DATA }}]}}',
        f'{{"parameters": {{"data": DATA}}, "inputs": [{{{X}, "shape": [2]}}]}}',
        f'{{"inputs": [{{{X}, "shape": [2], "d\\u0061ta": DATA}}]}}',
        f'{{"id": "\\"data\\": [5]", "inputs": [{{{X}, "shape": [2], "data": DATA}}]}}',
        f'{{"id\\"data": DATA, "inputs": [{{{X}, "shape": [0], "d\\u0061ta": []}}]}}',
        f'{{"inputs": [{{{X}, "shape": [3], "data": DATA}}]}}',
        f'{{"inputs": [{{{X}, "shape": [2], "data": DATA]}}]}}',
        f'{{"inputs": [{{{X}, "shape": [2], "data": DATA, DATA}}]}}',
        f'{{"inputs": [{{{X}, "shape": [2], "data": DATA}}]}} DATA',
        f'{{"inputs": [{{{X}, "shape": [2], "parameters": {{}}, "data": DATA}}]}}',
        f'{{"inputs": [{{{X}, "shape": [2], "data": DATA}}, {{{X}, "shape": [2], "data": DATA}}]}}',
        f'\ufeff{{"inputs": [{{{X}, "shape": [2], "data": DATA}}]}}',
        f'{{"inputs": [{{{X}, "shape": [2], "data": {"[" * 101}DATA{"]" * 101}}}]}}',
    ],
)
def test_requests_that_differ_in_their_numbers_alone_each_have_their_own(
    text: str, reader: json_numbers.NumberReader
) -> None:
    for numbers in ("[1, 2.5]", "[3, 4]", "[3, 1e999]", "[3, NaN]", '[3, "4"]', "[[3], 4]"):
        body = text.replace("DATA", numbers).encode()
        assert _read_infer(body, reader) == _read_infer(body, _Slow())


def test_nested_numbers_stay_on_the_fast_path_without_simdjson() -> None:
    body = b'{"inputs": [{"name": "data", "datatype": "INT64", "shape": [5], "data": [[[1], [2]], [3, [4]], 500]}]}'
    document = ORJSON.parse(body, "data")
    assert ORJSON.numbers(document["inputs"][0]["data"], "i").tolist() == [1, 2, 3, 4, 500]
    assert document["inputs"][0]["data"] == [1, 2, 3, 4, 500]  # read as one list, which is what makes it fast


@pytest.mark.parametrize("unit", [b'"data"', b'"data":[1],', b'"data":[', b'"data" ', b'"data":[1]}'])
def test_without_simdjson_the_time_to_read_grows_with_the_body_alone(unit: bytes) -> None:
    body = b"{" + unit * (2_000_000 // len(unit))
    _or_none(lambda: ORJSON.parse(body, "data"))  # a look at the rest of the body at each key would take hours


def test_without_simdjson_a_flag_beside_the_numbers_is_read() -> None:
    document = ORJSON.parse(b'{"data": [1, 2], "parameters": {"binary_data_output": true}}', "data")
    assert ORJSON.numbers(document["data"], "d").tolist() == [1.0, 2.0]
