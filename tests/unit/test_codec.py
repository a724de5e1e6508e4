"""Blocks as bytes: what is written is read, for ever, and garbage is told apart."""

import math
import struct
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.protocol import codec
from millrace.protocol.codec import CodecError
from millrace.protocol.messages import ReplyBlock, ReplyItem, RequestBlock, RequestItem
from millrace.protocol.tensors import DTYPES, StringLayout, Tensor, encode_strings, string_tensor

GOLDEN = Path(__file__).parent.parent / "golden"


def request_block() -> RequestBlock:
    return RequestBlock(
        reply_to="millrace:{api}:replies",
        model="digits",
        version=3,
        signature="serving_default",
        sent_ms=1700000000000.25,
        items=(RequestItem(1, "trace-a", 1, 1700000030000), RequestItem(2, "trace-b", 2, 1700000030000)),
        tensors={
            "image": Tensor.from_numpy(np.arange(6, dtype=np.float32).reshape(3, 2)),
            "text": Tensor("BYTES", (3,), encode_strings(["a", "", "long"])),
        },
    )


def reply_block() -> ReplyBlock:
    return ReplyBlock(
        worker="w1",
        compute_ms=1.5,
        batch_rows=8,
        items=(ReplyItem(1, 1, 0.5, 0.25), ReplyItem(2, 0, 0.0, 0.0, "INVALID_ARGUMENT", "no such word")),
        tensors={"scores": Tensor.from_numpy(np.array([[0.5, 0.25]], np.float32))},
    )


def _same(read: RequestBlock | ReplyBlock, written: RequestBlock | ReplyBlock) -> None:
    assert read.items == written.items
    assert {n: (t.datatype, t.shape, bytes(t.data)) for n, t in read.tensors.items()} == {
        n: (t.datatype, t.shape, bytes(t.data)) for n, t in written.tensors.items()
    }
    fields = {name for name in written.__struct_fields__ if name not in ("items", "tensors")}
    assert {name: getattr(read, name) for name in fields} == {name: getattr(written, name) for name in fields}


def test_a_request_block_comes_back_as_it_went() -> None:
    _same(codec.decode_request(codec.encode_request(request_block())), request_block())


def test_a_reply_block_comes_back_as_it_went() -> None:
    _same(codec.decode_reply(codec.encode_reply(reply_block())), reply_block())


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TIMES = st.floats(allow_nan=False)


@st.composite
def tensors_of(draw: st.DrawFn, rows: int) -> dict[str, Tensor]:
    """Up to three tensors of any datatype, with that many rows."""
    tensors = {}
    for name in draw(st.sets(TEXT, max_size=3)):
        datatype = draw(st.sampled_from(sorted(DTYPES)))
        shape = (rows, *draw(st.lists(st.integers(0, 3), max_size=2)))
        elements = math.prod(shape)
        if datatype == "BYTES":
            data = encode_strings(draw(st.lists(st.binary(max_size=9), min_size=elements, max_size=elements)))
        else:
            size = elements * DTYPES[datatype].itemsize
            data = draw(st.binary(min_size=size, max_size=size))
        tensors[name] = Tensor(datatype, shape, data)
    return tensors


@given(st.data())
def test_any_request_block_comes_back_as_it_went(data: st.DataObject) -> None:
    item = st.builds(RequestItem, st.integers(0, 2**63), TEXT, st.integers(0, 3), st.integers(0, 2**53))
    items = tuple(data.draw(st.lists(item, max_size=4)))
    block = RequestBlock(
        reply_to=data.draw(TEXT),
        model=data.draw(TEXT),
        version=data.draw(st.integers(0, 2**31)),
        signature=data.draw(TEXT),
        sent_ms=data.draw(TIMES),
        items=items,
        tensors=data.draw(tensors_of(sum(item.rows for item in items))),
    )
    _same(codec.decode_request(codec.encode_request(block)), block)


@given(st.data())
def test_any_reply_block_comes_back_as_it_went(data: st.DataObject) -> None:
    item = st.builds(ReplyItem, st.integers(0, 2**63), st.integers(0, 3), TIMES, TIMES, TEXT, TEXT)
    items = tuple(data.draw(st.lists(item, max_size=4)))
    block = ReplyBlock(
        worker=data.draw(TEXT),
        compute_ms=data.draw(TIMES),
        batch_rows=data.draw(st.integers(0, 2**31)),
        items=items,
        tensors=data.draw(tensors_of(sum(item.rows for item in items))),
    )
    _same(codec.decode_reply(codec.encode_reply(block)), block)


def test_blocks_of_version_1_are_readable_for_ever() -> None:
    _same(codec.decode_request((GOLDEN / "request-v1.bin").read_bytes()), request_block())
    _same(codec.decode_reply((GOLDEN / "reply-v1.bin").read_bytes()), reply_block())


def test_numbers_start_where_processors_want_them() -> None:
    block = codec.decode_request(codec.encode_request(request_block()))
    assert block.tensors["image"].to_numpy().flags.aligned


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    for decode in (codec.decode_request, codec.decode_reply):
        with pytest.raises(CodecError):
            decode(data)


def test_a_head_that_is_nested_too_deeply_is_refused() -> None:
    head = msgspec.msgpack.encode(["r", "m", 1, "s", 0.0, [], []])
    head = b"\x98" + head[1:] + b"\x91" * 100_000  # one element more than we know, to be skipped
    with pytest.raises(CodecError, match="unreadable head"):
        codec.decode_request(struct.pack("<2sBBI", b"MR", 1, 1, len(head)) + head)


@given(st.data())
def test_a_damaged_block_is_read_or_refused_and_never_crashes(data: st.DataObject) -> None:
    blocks = [codec.encode_request(request_block()), codec.encode_reply(reply_block())]
    block = bytearray(data.draw(st.sampled_from(blocks)))
    for _ in range(data.draw(st.integers(1, 4))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(block)))
    for decode in (codec.decode_request, codec.decode_reply):
        for damaged in (bytes(block), bytes(block[:cut])):
            try:
                decode(damaged)
            except CodecError:
                continue


def test_rows_that_nobody_asked_for_are_refused() -> None:
    block = request_block()
    with pytest.raises(CodecError, match="rows"):
        codec.decode_request(
            codec.encode_request(
                RequestBlock(
                    reply_to=block.reply_to,
                    model=block.model,
                    version=block.version,
                    signature=block.signature,
                    sent_ms=block.sent_ms,
                    items=block.items[:1],
                    tensors=block.tensors,
                )
            )
        )


def _block_of(tensor: Tensor) -> RequestBlock:
    return msgspec.structs.replace(
        request_block(), items=(RequestItem(1, "t", tensor.shape[0], 1),), tensors={"text": tensor}
    )


def test_where_the_rows_of_strings_end_travels_along() -> None:
    tensor = string_tensor([b"a" * (i % 7) for i in range(900)], (300, 3))
    assert tensor.layout
    read = codec.decode_request(codec.encode_request(_block_of(tensor))).tensors["text"]
    assert read == tensor
    assert read.layout
    assert read.layout.row_ends == tensor.layout.row_ends


@pytest.mark.parametrize("ends", [[4], [8, 8, 9], [4, 3, 12], [-4, 8, 12], [4, 8, 12, 12]])
def test_rows_that_cannot_be_are_refused(ends: list[int]) -> None:
    layout = StringLayout(np.array(ends, "<i8").tobytes())
    with pytest.raises(CodecError, match="rows"):
        codec.decode_request(codec.encode_request(_block_of(Tensor("BYTES", (3,), bytes(12), layout))))
