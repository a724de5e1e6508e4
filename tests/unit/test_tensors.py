"""Tensors as bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import (
    DTYPES,
    Tensor,
    concatenate_rows,
    datatype_of,
    decode_strings,
    encode_strings,
    read_layout,
    split_rows,
    string_tensor,
)

NUMERIC = sorted(name for name in DTYPES if name != "BYTES")


@pytest.mark.parametrize("datatype", NUMERIC)
def test_numbers_come_back_as_they_went(datatype: str) -> None:
    array = np.array([[0, 1, 2], [3, 4, 5]]).astype(DTYPES[datatype])
    tensor = Tensor.from_numpy(array)
    assert tensor.datatype == datatype
    assert len(tensor.data) == array.nbytes
    np.testing.assert_array_equal(tensor.to_numpy(), array)


@given(st.lists(st.binary()))
def test_strings_come_back_as_they_went(elements: list[bytes]) -> None:
    assert decode_strings(encode_strings(elements)) == elements


def test_strings_have_the_wire_form_of_the_open_inference_protocol() -> None:
    assert encode_strings(["ab", b"\xff"]) == b"\x02\x00\x00\x00ab\x01\x00\x00\x00\xff"


@pytest.mark.parametrize("data", [b"\x01", b"\x05\x00\x00\x00abc", b"\x00\x00\x00\x00\x01\x00\x00"])
def test_truncated_strings_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="BYTES data end inside"):
        decode_strings(data)


def test_data_that_do_not_fill_the_shape_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="3 bytes do not fill FP32"):
        Tensor("FP32", (1,), b"abc").to_numpy()
    with pytest.raises(InvalidRequest, match=r"expected 2 strings for shape \[2\], got 1"):
        Tensor("BYTES", (2,), encode_strings(["one"])).to_numpy()


@pytest.mark.parametrize("element", [np.array([b"a"], object), np.ones(2), None, 1.5, bytearray(b"a"), [b"a"]])
def test_an_object_that_is_no_string_is_refused_and_its_memory_is_not_sent(element: object) -> None:
    array = np.empty(2, object)
    array[:] = [b"a", b"b"]
    array[1] = element
    with pytest.raises(InvalidRequest, match=f"a string tensor has an element of type {type(element).__name__}"):
        Tensor.from_numpy(array)


def test_text_of_numpy_is_taken() -> None:
    for array in (np.array(["é", "b"]), np.array([b"a", b"b"]), np.array([np.str_("é"), np.bytes_(b"b")], object)):
        assert Tensor.from_numpy(array).to_numpy()[1] == b"b"


def test_a_type_that_is_not_carried_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="complex128"):
        datatype_of(np.dtype(complex))


def test_big_endian_arrays_travel_little_endian() -> None:
    tensor = Tensor.from_numpy(np.array([1.5, -2.0], ">f4"))
    assert bytes(tensor.data) == np.array([1.5, -2.0], "<f4").tobytes()


@st.composite
def tensors_and_counts(draw: st.DrawFn) -> tuple[Tensor, list[int]]:
    counts = draw(st.lists(st.integers(0, 4), min_size=1, max_size=6))
    shape = (sum(counts), *draw(st.lists(st.integers(0, 3), max_size=2)))
    if draw(st.booleans()):
        texts = draw(st.lists(st.binary(max_size=5), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
        return Tensor("BYTES", shape, encode_strings(texts)), counts
    return Tensor.from_numpy(draw(hnp.arrays(np.int16, shape))), counts


@given(tensors_and_counts())
def test_rows_that_are_split_and_put_together_are_the_same(case: tuple[Tensor, list[int]]) -> None:
    tensor, counts = case
    parts = split_rows(tensor, counts)
    assert [part.shape[0] for part in parts] == counts
    whole = concatenate_rows(parts)
    assert whole.shape == tensor.shape
    assert bytes(whole.data) == bytes(tensor.data)


def _naive(elements: list[bytes], rows: int) -> tuple[list[int], int]:
    sizes = np.array([4 + len(element) for element in elements]).reshape(rows, -1)
    return np.cumsum(sizes.sum(axis=1)).tolist(), max(map(len, elements))


@st.composite
def large_strings(draw: st.DrawFn) -> tuple[list[bytes], tuple[int, int]]:
    """More strings than are walked again: all of one length, or of any."""
    rows, columns = draw(st.integers(1, 60)), draw(st.integers(6, 12))
    count = rows * columns
    length = draw(st.none() | st.integers(0, 3))
    texts = st.binary(max_size=4) if length is None else st.binary(min_size=length, max_size=length)
    few = draw(st.lists(texts, min_size=5, max_size=5))
    return [few[i % 5] for i in range(count)], (rows, columns)


@given(large_strings())
def test_a_walk_over_strings_finds_the_rows_and_the_longest(case: tuple[list[bytes], tuple[int, int]]) -> None:
    elements, shape = case
    layout = read_layout(encode_strings(elements), shape)
    assert (np.frombuffer(layout.row_ends, "<i8").tolist(), layout.longest) == _naive(elements, shape[0])
    assert decode_strings(encode_strings(elements)) == elements


@given(large_strings(), st.integers(1, 59))
def test_large_tensors_of_strings_keep_their_layout(case: tuple[list[bytes], tuple[int, int]], cut: int) -> None:
    elements, shape = case
    tensor = string_tensor(elements, shape)
    assert (tensor.layout is not None) == (len(elements) > 256)
    counts = [min(cut, shape[0]), shape[0] - min(cut, shape[0])]
    parts = split_rows(tensor, counts)
    for part in parts:
        if part.layout:
            assert part.layout.row_ends == read_layout(part.data, part.shape).row_ends
    whole = concatenate_rows(parts)
    assert whole == tensor
    if tensor.layout and whole.layout:
        assert whole.layout == tensor.layout


def test_a_tensor_is_walked_once() -> None:
    tensor = string_tensor([b"a" * (i % 3) for i in range(1000)], (1000,))
    assert tensor.layout
    # Where the layout is known the elements are not looked at, so nobody sees that they are no strings.
    blind = Tensor("BYTES", tensor.shape, b"\xff" * len(tensor.data), tensor.layout)
    parts = split_rows(blind, [400, 600])
    assert [len(part.data) for part in parts] == [len(part.data) for part in split_rows(tensor, [400, 600])]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0" * 4 * 299, r"shape \[300\] needs 300 strings, got 299"),
        (b"\0" * 4 * 301, r"needs 300 strings, got 301"),
        (b"\0" * (4 * 299 + 2), "end inside a length"),
        (b"\0" * 4 * 299 + b"\x09\0\0\0abc", "end inside an element"),
    ],
)
def test_strings_that_do_not_fill_the_shape_are_counted(data: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_layout(data, (300,))
