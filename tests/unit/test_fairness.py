"""How much of a queue a caller may have while others want it, too."""

import timeit

import pytest

from millrace.broker.base import Held, Limits
from serving.queueing.fairness import FairShares


def shares_of(**rows: int) -> FairShares:
    """A queue of 100 rows and 1,000 bytes in which each caller has one request of so many rows, a byte a row."""
    shares = FairShares(Limits(100, 1000))
    for caller, count in rows.items():
        shares.add(caller, count, count)
    return shares


@pytest.mark.parametrize(
    ("open_rows", "rows", "excess"),
    [
        ({}, 100, 0),  # nobody is there
        ({"me": 1}, 49, 0),  # half full
        ({"me": 1}, 50, 1),  # beyond a half, the only caller may have a half
        ({"me": 50}, 9, 9),
        ({"other": 90}, 10, 0),  # who has nothing open may always ask
        ({"me": 20, "other": 60}, 13, 0),  # a third
        ({"me": 20, "other": 60}, 14, 1),
        ({"me": 20, "other": 20}, 10, 0),  # half full
        ({"me": 10, "a": 30, "b": 30, "c": 9}, 10, 0),  # a fifth
        ({"me": 10, "a": 30, "b": 30, "c": 9}, 11, 1),
    ],
)
def test_beyond_a_half_nobody_may_have_more_than_a_share(open_rows: dict[str, int], rows: int, excess: int) -> None:
    shares = shares_of(**open_rows)
    assert (shares.add("me", rows, 1) is None) == bool(excess)
    if excess:
        assert shares.excess("me", rows, 1) == excess


def test_a_share_is_given_out_by_all_processes_together() -> None:
    shares = FairShares(Limits(100, 1000), processes=4)
    shares.add("other", 30, 30)
    shares.add("me", 5, 5)
    shares.told(Held(60, 60))
    assert shares.add("me", 3, 3)  # a fourth of a third
    assert shares.add("me", 1, 1) is None
    assert shares.number == 12


def test_bytes_are_shared_as_rows_are() -> None:
    shares = shares_of(me=1)
    assert shares.add("me", 1, 500) is None
    assert shares.add("me", 1, 499)


def test_what_others_have_in_the_queue_counts_for_how_full_it_is() -> None:
    shares = shares_of(me=30, other=1)
    shares.told(Held(60, 0))
    assert shares.add("me", 10, 1) is None
    assert shares.excess("me", 10, 1) == 6
    shares.told(Held(0, 900))
    assert shares.add("me", 10, 1) is None
    shares.told(Held(10, 0))
    assert shares.add("me", 10, 1)


def test_what_has_ended_counts_no_more() -> None:
    shares = FairShares(Limits(100, 1000))
    mine, others = shares.add("me", 40, 40), shares.add("other", 40, 40)
    assert mine
    assert others
    shares.told(Held(80, 0))
    assert shares.add("me", 5, 5) is None
    mine.remove(40, 40)
    assert len(shares) == 1
    assert shares.add("me", 5, 5)
    assert shares.add("me", 5, 5)
    mine = shares.add("me", 5, 5)
    assert mine
    for _ in range(3):
        mine.remove(5, 5)
    others.remove(40, 40)
    assert len(shares) == 0
    assert shares.add("me", 1, 1)  # and the queue is no longer said to be full
    assert shares.add("me", 49, 1)


def test_the_rows_and_bytes_of_a_request_that_has_ended_are_free_again() -> None:
    shares = FairShares(Limits(100, 1000))
    kept = shares.add("me", 1, 1)
    assert kept
    for _ in range(20):
        usage = shares.add("me", 49, 499)
        assert usage
        usage.remove(49, 499)
    assert shares.add("other", 49, 499)  # nor does the queue count as full
    assert shares.add("me", 32, 332)
    assert shares.add("me", 1, 1) is None


def test_a_request_costs_the_same_however_many_callers_there_are() -> None:
    def cost(callers: int) -> float:
        shares = FairShares(Limits(10**9, 10**9))
        for number in range(callers):
            shares.add(str(number), 1, 1)
        shares.told(Held(10**9, 0))

        def request() -> None:
            usage = shares.add("0", 1, 1)
            assert usage
            usage.remove(1, 1)

        return min(timeit.repeat(request, number=1000, repeat=5))

    assert cost(10_000) < 5 * cost(1)
