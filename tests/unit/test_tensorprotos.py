"""TensorProto to tensor and back, in both of its encodings."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from millrace import rpc
from millrace.protocol.errors import InvalidRequest, NotSupported
from millrace.protocol.tensors import DTYPES, Tensor, decode_strings
from millrace.rpc import tensorprotos, wire

TensorProto = rpc.message("tensorflow.TensorProto")
NUMERIC = [name for name in DTYPES if name != "BYTES"]


def proto(datatype: str, shape: tuple[int, ...], **fields: Any) -> Any:
    made = TensorProto(dtype=tensorprotos.number_of(datatype), **fields)
    for size in shape:
        made.tensor_shape.dim.add(size=size)
    return made


def read(made: Any) -> Any:
    return tensorprotos.to_tensor(made, "x").to_numpy()


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    datatype = draw(st.sampled_from(list(DTYPES)))
    if datatype == "BYTES":
        array = np.empty(shape, object)
        array.ravel()[:] = draw(st.lists(st.binary(max_size=300), min_size=array.size, max_size=array.size))
        return Tensor.from_numpy(array)
    return Tensor.from_numpy(draw(arrays.arrays(DTYPES[datatype], shape)))


@given(tensors(), st.booleans())
def test_what_is_written_reads_back_the_same_in_either_encoding(tensor: Tensor, as_content: bool) -> None:
    written = TensorProto.FromString(b"".join(tensorprotos.to_wire(tensor, as_content=as_content)))
    back = tensorprotos.to_tensor(written, "x")
    assert (back.datatype, back.shape, bytes(back.data)) == (tensor.datatype, tensor.shape, bytes(tensor.data))


@pytest.mark.parametrize("datatype", NUMERIC)
def test_one_value_stands_for_all_elements(datatype: str) -> None:
    value = np.ones(1, DTYPES[datatype])
    one = TensorProto.FromString(b"".join(tensorprotos.to_wire(Tensor.from_numpy(value), as_content=False)))
    one.tensor_shape.dim[0].size = 3
    assert read(one).tolist() == [1, 1, 1]


def test_the_last_value_stands_for_those_that_are_missing_and_none_for_zeros() -> None:
    assert read(proto("FP32", (2, 2), float_val=[1, 2])).tolist() == [[1, 2], [2, 2]]
    assert read(proto("INT64", (2,))).tolist() == [0, 0]
    assert read(proto("BYTES", (3,), string_val=[b"a", b"b"])).tolist() == [b"a", b"b", b"b"]
    assert read(proto("BYTES", (2,))).tolist() == [b"", b""]


def test_strings_in_tensor_content_are_lengths_and_then_bytes() -> None:
    content = b"".join([wire.varint(1), wire.varint(300), b"a", b"b" * 300])
    tensor = tensorprotos.to_tensor(proto("BYTES", (2,), tensor_content=content), "x")
    assert decode_strings(tensor.data) == [b"a", b"b" * 300]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (proto("FP32", (2,), float_val=[1, 2, 3]), "3 values for 2 elements"),
        (proto("FP32", (2,), tensor_content=b"1234"), "4 bytes in tensor_content"),
        (proto("FP32", (-1,), float_val=[1]), "no valid shape"),
        (proto("FP32", (1,) * 33, float_val=[1]), "no valid shape"),
        (proto("UINT8", (1,), int_val=[256]), "outside of its type's range"),
        (proto("INT8", (1,), int_val=[-129]), "outside of its type's range"),
        (proto("FP32", (2**40,), float_val=[1]), "at most"),
        (proto("BYTES", (2**20,), string_val=[b"x" * 100]), "at most"),
        (proto("BYTES", (2**21,)), "at most"),
        (proto("BYTES", (2,), tensor_content=b"\x01"), "ends inside the lengths"),
        (proto("BYTES", (2**40,), tensor_content=b"\x01"), "ends inside the lengths"),
        (proto("BYTES", (1,), tensor_content=b"\xff" * 9), "ends inside the lengths"),
        (proto("BYTES", (1,), tensor_content=b"\x02a"), "other lengths"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused_by_name(wrong: Any, text: str) -> None:
    with pytest.raises(InvalidRequest, match="tensor 'x'") as refusal:
        tensorprotos.to_tensor(wrong, "x")
    assert text in str(refusal.value)


def test_an_unknown_rank_is_refused() -> None:
    made = proto("FP32", (), float_val=[1])
    made.tensor_shape.unknown_rank = True
    with pytest.raises(InvalidRequest, match="no valid shape"):
        tensorprotos.to_tensor(made, "x")


@pytest.mark.parametrize("name", ["DT_BFLOAT16", "DT_COMPLEX64", "DT_RESOURCE", "DT_QINT8"])
def test_a_type_that_is_not_carried_is_named(name: str) -> None:
    with pytest.raises(NotSupported, match=name):
        tensorprotos.to_tensor(TensorProto(dtype=rpc.enum("tensorflow.DataType")[name]), "x")


@given(st.integers(0, 2**64 - 1))
def test_a_varint_is_protobufs(value: int) -> None:
    message = TensorProto(uint64_val=[value]).SerializeToString()
    assert message.endswith(wire.varint(value))
