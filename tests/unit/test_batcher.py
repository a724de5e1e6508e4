"""Batches: not too large, little padding, what is urgent in front, nothing lost, nothing twice."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from millrace.broker.base import Delivery
from millrace.protocol.messages import RequestItem
from worker.running.batcher import Batch, Cost, form_batches
from worker.running.piece import Piece, TakenBlock

LSTM = Cost(batch=0.1, step=0.001, element=0.001)
costs = st.builds(Cost, *[st.floats(0, 1)] * 3)


def piece_of(
    inputs: Mapping[str, Any], counts: list[int], length: int = 0, signature: str = "a", to: str = "r"
) -> Piece:
    items = tuple(RequestItem(number, "t", rows, 100 + number) for number, rows in enumerate(counts))
    block = TakenBlock(
        delivery=Delivery(b"1-0", "normal", b"", sum(counts)),
        reply_to=to,
        signature=signature,
        queue_ms=0.0,
        taken=0.0,
        unanswered=len(items),
    )
    due_ms = min(item.deadline_ms for item in items)
    return Piece(block=block, items=items, inputs=dict(inputs), rows=sum(counts), length=length, due_ms=due_ms)


@st.composite
def pieces(draw: st.DrawFn) -> Piece:
    counts = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    length = draw(st.integers(1, 400))
    inputs = {
        "ids": np.zeros((sum(counts), length), np.int32),
        "fixed": np.zeros((sum(counts), draw(st.integers(1, 2))), draw(st.sampled_from([np.float32, np.int8]))),
    }
    return piece_of(inputs, counts, length, draw(st.sampled_from("ab")), draw(st.sampled_from("rst")))


def text(length: int, rows: int = 1) -> Piece:
    return piece_of({"ids": np.zeros((rows, length), np.int32)}, [rows], length)


def formed(given: list[Piece], largest: int = 32, cost: Cost = LSTM) -> list[Batch]:
    return form_batches(given, largest, lambda name: name == "ids", cost)


@given(st.lists(pieces(), max_size=12), st.integers(1, 16), costs)
def test_every_piece_is_in_one_batch_and_batches_are_not_too_large(
    given: list[Piece], largest: int, cost: Cost
) -> None:
    batches = formed(given, largest, cost)
    placed = [piece for batch in batches for piece in batch.pieces]
    assert sorted(map(id, placed)) == sorted(map(id, given))
    for batch in batches:
        assert batch.rows == sum(piece.rows for piece in batch.pieces)
        assert batch.rows <= largest or len(batch.pieces) == 1


@given(st.lists(pieces(), max_size=12), costs)
def test_only_pieces_that_can_run_together_share_a_batch(given: list[Piece], cost: Cost) -> None:
    for batch in formed(given, 16, cost):
        assert len({piece.block.signature for piece in batch.pieces}) == 1
        assert len({(p.inputs["fixed"].dtype, p.inputs["fixed"].shape[1:]) for p in batch.pieces}) == 1


@given(st.lists(pieces(), max_size=12), costs)
def test_batches_come_in_the_order_of_their_first_pieces(given: list[Piece], cost: Cost) -> None:
    places = {id(piece): place for place, piece in enumerate(given)}
    firsts = [min(places[id(piece)] for piece in batch.pieces) for batch in formed(given, 16, cost)]
    assert firsts == sorted(firsts)


@given(st.lists(pieces(), max_size=12), costs)
def test_what_goes_to_one_caller_lies_side_by_side(given: list[Piece], cost: Cost) -> None:
    for batch in formed(given, 16, cost):
        callers = [caller for caller, _ in itertools.groupby(batch.pieces, lambda piece: piece.block.reply_to)]
        assert len(callers) == len(set(callers))


def test_callers_that_take_turns_lie_side_by_side_in_the_order_of_their_requests() -> None:
    given = [piece_of({"x": np.zeros((1, 2))}, [1], to=caller) for caller in "srsrrs"]
    (batch,) = formed(given)
    assert [piece.block.reply_to for piece in batch.pieces] == list("rrrsss")
    assert batch.pieces == [given[place] for place in (1, 3, 4, 0, 2, 5)]


@given(st.lists(st.integers(1, 6), max_size=12))
def test_rows_of_one_shape_stay_in_order_and_fill_each_batch_before_the_next(counts: list[int]) -> None:
    given = [piece_of({"x": np.zeros((rows, 2))}, [rows]) for rows in counts]
    batches = formed(given, 8)
    assert [piece for batch in batches for piece in batch.pieces] == given
    for before, after in itertools.pairwise(batches):
        assert before.rows + after.pieces[0].rows > 8


@given(st.lists(st.integers(1, 400), max_size=64), costs)
def test_padding_never_costs_more_than_another_batch(lengths: list[int], cost: Cost) -> None:
    for batch in formed([text(length) for length in lengths], 32, cost):
        longest = max(piece.length for piece in batch.pieces)
        padding = sum(piece.rows * (longest - piece.length) for piece in batch.pieces)
        assert padding * cost.element <= cost.batch + cost.step * longest


def test_mixed_lengths_share_batches_with_little_padding() -> None:
    lengths = [round(5 * 80 ** (number * 37 % 128 / 127)) for number in range(128)]  # 5 to 400, even in ratio
    batches = formed([text(length) for length in lengths])
    padded = sum(batch.rows * max(piece.length for piece in batch.pieces) for batch in batches)
    assert padded < 1.3 * sum(lengths)
    assert len(batches) < 16


def test_a_model_that_pays_nothing_for_padding_gets_full_batches() -> None:
    batches = formed([text(length) for length in (1, 400) * 16], 32, Cost(batch=0.1))
    assert [batch.rows for batch in batches] == [32]


@given(pieces(), st.sets(st.integers(0, 3)))
def test_a_piece_without_some_items_keeps_the_rows_of_the_others(piece: Piece, dropped: set[int]) -> None:
    rows = np.arange(piece.rows)
    numbered = piece_of({"row": rows}, [item.rows for item in piece.items])
    left = numbered.without(lambda item: item.id in dropped)
    kept = [item for item in piece.items if item.id not in dropped]
    ends = list(itertools.accumulate((item.rows for item in piece.items), initial=0))
    expected = [row for item in kept for row in range(ends[item.id], ends[item.id + 1])]
    assert (left.inputs["row"].tolist() if left else []) == expected
    if left:
        assert [item.id for item in left.items] == [item.id for item in kept]
        assert (left.rows, left.due_ms) == (len(expected), min(item.deadline_ms for item in kept))
