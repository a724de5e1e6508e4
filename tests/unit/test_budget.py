"""The one count of all bytes that wait, and its limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.transport.budget import SMALL_BYTES, Budget, Reservation

MB = 2**20


def reserved(budget: Budget, bytes_: int) -> Reservation:
    reservation = budget.reserve(bytes_)
    assert reservation is not None
    return reservation


def test_what_is_reserved_is_counted_until_it_is_released() -> None:
    budget = Budget(1000)
    first, second = reserved(budget, 300), reserved(budget, 500)
    assert (budget.used, budget.peak, budget.limit) == (800, 800, 1000)
    first.release()
    assert (budget.used, budget.peak) == (500, 800)
    first.release()
    assert (budget.used, first.bytes, second.bytes) == (500, 0, 500)


def test_without_room_nothing_is_reserved() -> None:
    budget = Budget(1000)
    reservation = reserved(budget, 900)
    assert budget.reserve(101) is None
    assert budget.used == 900
    assert reserved(budget, 100).bytes == 100
    assert not reservation.grow(1)
    assert (budget.used, reservation.bytes) == (1000, 900)


def test_a_reservation_grows_and_shrinks() -> None:
    budget = Budget(1000)
    reservation = reserved(budget, 100)
    assert reservation.grow(400)
    assert (budget.used, budget.peak, reservation.bytes) == (500, 500, 500)
    reservation.shrink_to(200)
    assert (budget.used, reservation.bytes) == (200, 200)
    reservation.shrink_to(300)
    assert (budget.used, reservation.bytes) == (200, 200)
    reservation.release()
    assert (budget.used, budget.peak) == (0, 500)


@pytest.mark.parametrize("is_grown", [False, True])
def test_large_reservations_leave_room_for_small_ones(is_grown: bool) -> None:
    budget = Budget(8 * MB)
    large = reserved(budget, SMALL_BYTES + 1 if is_grown else 7 * MB)
    if is_grown:
        assert large.grow(7 * MB - large.bytes)
        assert not large.grow(1)
    assert budget.reserve(SMALL_BYTES + 1) is None
    small = [reserved(budget, SMALL_BYTES) for _ in range(MB // SMALL_BYTES)]
    assert budget.reserve(1) is None
    assert not small[0].grow(1)
    small.pop().release()
    assert budget.reserve(SMALL_BYTES) is not None


@given(
    st.lists(st.tuples(st.sampled_from(["reserve", "grow", "shrink", "release"]), st.integers(0, 4 * MB)), max_size=60)
)
def test_the_count_is_the_sum_and_never_above_the_limit(steps: list[tuple[str, int]]) -> None:
    budget, held = Budget(8 * MB), list[Reservation]()
    for step, bytes_ in steps:
        if step == "reserve":
            held += [reservation] if (reservation := budget.reserve(bytes_)) else []
        elif held and step == "grow":
            held[bytes_ % len(held)].grow(bytes_)
        elif held and step == "shrink":
            held[bytes_ % len(held)].shrink_to(bytes_ // 2)
        elif held:
            held[bytes_ % len(held)].release()
        assert budget.used == sum(reservation.bytes for reservation in held)
        assert budget.used <= budget.peak <= budget.limit
