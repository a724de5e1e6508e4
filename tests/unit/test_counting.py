"""Messages counted on the wire: as many fields as the message has, and no more than the limits."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import rpc
from millrace.rpc.counting import Malformed, TooManyFields, count_fields, top_fields

InferRequest = rpc.message("inference.ModelInferRequest")
PredictRequest = rpc.message("tensorflow.serving.PredictRequest")


def _fields(message: Any) -> int:
    """How many fields a message has on the wire, counted by its object."""
    count = 0
    for field, value in message.ListFields():
        if field.is_repeated and field.message_type:
            count += sum(1 + _fields(item) for item in value)
        elif field.is_repeated and field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            count += len(value)
        else:
            count += 1 + (_fields(value) if field.message_type else 0)
    return count


names = st.text(min_size=1, max_size=5)
short = st.lists(st.binary(max_size=3), max_size=4)


@given(
    names,
    st.lists(
        st.tuples(names, st.lists(st.integers(0, 2**60), max_size=4), st.lists(st.binary(max_size=3), max_size=4))
    ),
    st.lists(st.binary(max_size=3), max_size=5),
)
def test_the_fields_of_a_message_are_counted(name: str, inputs: list[Any], raw: list[bytes]) -> None:
    message = InferRequest(model_name=name, raw_input_contents=raw)
    for tensor_name, shape, contents in inputs:
        tensor = message.inputs.add(name=tensor_name, shape=shape)
        if contents:
            tensor.contents.bytes_contents.extend(contents)
    data = message.SerializeToString()
    count = count_fields(InferRequest, data, {}, 10_000)
    assert count == _fields(message)
    if count > 1:
        with pytest.raises(TooManyFields):
            count_fields(InferRequest, data, {}, count - 1)


@given(st.binary(max_size=200))
def test_whatever_the_bytes_they_are_counted_or_malformed(data: bytes) -> None:
    with contextlib.suppress(Malformed, TooManyFields):
        assert count_fields(InferRequest, data, {}, 1000) <= 1000
    top_fields(data, 100)


@pytest.mark.parametrize(
    ("data", "field", "limit"),
    [
        (b"\x32\x00" * 11, "outputs", 10),
        (b"\x2a\x0d\x1a\x0b" + b"\x01" * 11, "shape", 10),
        (b"\x2a\x16" + b"\x18\x01" * 11, "shape", 10),
        (b"\x3a\x00" * 11, "raw_input_contents", 10),
    ],
)
def test_a_repeated_field_has_its_limit_packed_or_not(data: bytes, field: str, limit: int) -> None:
    with pytest.raises(TooManyFields) as caught:
        count_fields(InferRequest, data, {field: limit}, 1000)
    assert (caught.value.field, caught.value.limit) == (field, limit)
    assert count_fields(InferRequest, data, {field: 11}, 1000)


def test_the_walk_ends_with_the_first_field_too_many() -> None:
    endless = b"\x32\x00" * 1000 + b"\xff"  # what is behind is no message
    with pytest.raises(TooManyFields):
        count_fields(InferRequest, endless, {"outputs": 10}, 10**6)
    with pytest.raises(Malformed):
        count_fields(InferRequest, endless, {}, 10**6)


def test_the_fields_of_a_message_are_found_without_looking_into_them() -> None:
    message = PredictRequest(output_filter=["a", "b"])
    message.model_spec.name = "m"
    data = message.SerializeToString()
    found = top_fields(data, 10)
    assert found
    assert b"".join(data[start:end] for _, start, _, end in found) == data
    assert [data[content:end] for number, _, content, end in found if number == 3] == [b"a", b"b"]
    assert top_fields(data, 2) is None
    assert top_fields(data[:-1], 10) is None
