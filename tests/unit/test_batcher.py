"""Batches: in order, not too large, nothing lost, nothing twice."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from millrace.broker.base import Delivery
from millrace.protocol.messages import RequestItem
from worker.batcher import ReadyBlock, form_batches

NUMBERS = st.integers(0, 3)


@st.composite
def blocks(draw: st.DrawFn) -> ReadyBlock:
    counts = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    items = tuple(RequestItem(draw(st.integers()), "t", rows, 0) for rows in counts)
    inputs = {
        "ids": np.zeros((sum(counts), draw(st.integers(1, 3))), np.int32),
        "fixed": np.zeros((sum(counts), draw(st.integers(1, 2))), draw(st.sampled_from([np.float32, np.int8]))),
    }
    return ReadyBlock(
        delivery=Delivery(b"1-0", "normal", b"", sum(counts)),
        reply_to="r",
        signature=draw(st.sampled_from(["a", "b"])),
        items=items,
        inputs=inputs,
        queue_ms=0.0,
        taken=0.0,
    )


@given(st.lists(blocks(), max_size=12), st.integers(1, 16))
def test_every_block_is_in_one_batch_in_order_and_batches_are_not_too_large(
    given: list[ReadyBlock], largest: int
) -> None:
    batches = form_batches(given, largest, lambda name: name == "ids")
    placed = [block for batch in batches for block in batch.blocks]
    assert sorted(map(id, placed)) == sorted(map(id, given))
    for batch in batches:
        positions = [next(i for i, block in enumerate(given) if block is placed) for placed in batch.blocks]
        assert positions == sorted(positions)
        assert batch.rows == sum(block.rows for block in batch.blocks)
        assert batch.rows <= largest or len(batch.blocks) == 1


@given(st.lists(blocks(), max_size=12))
def test_only_blocks_that_can_run_together_share_a_batch(given: list[ReadyBlock]) -> None:
    for batch in form_batches(given, 16, lambda name: name == "ids"):
        assert len({block.signature for block in batch.blocks}) == 1
        assert len({(b.inputs["fixed"].dtype, b.inputs["fixed"].shape[1:]) for b in batch.blocks}) == 1


@given(st.lists(blocks(), min_size=2, max_size=12))
def test_a_batch_is_filled_before_the_next_of_its_kind_begins(given: list[ReadyBlock]) -> None:
    batches = form_batches(given, 8, lambda _: False)

    def kind(block: ReadyBlock) -> object:
        return block.signature, tuple((a.dtype.str, a.shape[1:]) for a in block.inputs.values())

    for before, after in itertools.pairwise(batches):
        if kind(before.blocks[0]) == kind(after.blocks[0]):
            assert before.rows + after.blocks[0].rows > 8
