"""Learning rates of a training in two parts."""

import pytest

from training import rates


def test_the_second_schedule_begins_at_the_change() -> None:
    pytest.importorskip("keras")
    both = rates.InTurn(rates.warmed_cosine(1.0, 2, 40), rates.warmed_cosine(0.5, 4, 80), change=40)

    assert [float(both(step)) for step in (0, 1, 2)] == pytest.approx([0, 0.5, 1.0])
    assert float(both(39)) < 0.05
    assert [float(both(step)) for step in (40, 42, 44)] == pytest.approx([0, 0.25, 0.5])
    assert 0 <= float(both(119)) < 0.05
