"""What counts as the same answer of a shadow."""

import asyncio

import numpy as np
import pytest

from millrace.protocol.errors import DeadlineExceeded, InvalidRequest, ModelFailed, NoWorker, QueueFull
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import Tensor, encode_strings
from serving.models.agreement import Comparisons, agreeing
from serving.models.registry import ServedModel


def model(*labels: str, max_batch_size: int = 8) -> ServedModel:
    return ServedModel(
        ModelAnnouncement(name="m", version=2, state="AVAILABLE", labels=labels, max_batch_size=max_batch_size)
    )


def floats(*rows: object, kind: type = np.float32) -> dict[str, Tensor]:
    return {"y": Tensor.from_numpy(np.array(rows, kind))}


def texts(*rows: str) -> dict[str, Tensor]:
    return {"y": Tensor("BYTES", (len(rows),), encode_strings(rows))}


@pytest.mark.parametrize(
    ("of", "mine", "copied", "found"),
    [
        (model("a", "b"), floats([0.9, 0.1], [0.4, 0.6]), floats([0.6, 0.4], [0.6, 0.4]), (1, 1)),
        (model(), floats([0.9, 0.1], [0.4, 0.6]), floats([0.903, 0.1001], [0.6, 0.4]), (1, 1)),
        (model(), floats(np.nan, np.inf, 1.0), floats(np.nan, np.inf, np.nan), (2, 1)),
        (model(), floats(1.0, 2.0), floats(1.0, 2.0, kind=np.float64), (2, 0)),
        (model(), floats(1, 2, kind=np.int64), floats(1, 3, kind=np.int64), (1, 1)),
        (model(), texts("a", "b", "c"), texts("a", "b", "d"), (2, 1)),
        (model(), floats(1.0, 2.0), floats([1.0], [2.0]), (0, 2)),
        (model(), floats(1.0, 2.0), {"z": floats(1.0, 2.0)["y"]}, (0, 2)),
        (model(), floats(1.0, 2.0), floats(1, 2, kind=np.int64), (0, 2)),
        (model(max_batch_size=0), floats(1.0, 2.0, 3.0), floats(1.0, 2.0, 4.0), (0, 1)),
    ],
)
def test_rows_agree(
    of: ServedModel, mine: dict[str, Tensor], copied: dict[str, Tensor], found: tuple[int, int]
) -> None:
    assert agreeing(of, mine, copied) == found


def test_answers_are_compared_in_whichever_order_they_come_and_large_ones_not_at_all() -> None:
    async def run() -> tuple[list[tuple[int, int]], int]:
        counted: list[tuple[int, int]] = []
        comparisons = Comparisons()

        def count(agreed: int, differed: int) -> None:
            counted.append((agreed, differed))

        first, second, failed, large = (comparisons.begin(model(), 2, count) for _ in range(4))
        first.answered(floats(1.0, 2.0))
        first.copy_answered(floats(1.0, 3.0))
        second.copy_answered(floats(1.0))
        second.answered(floats(1.0))
        failed.copy_answered(floats(1.0))
        big = floats(*np.zeros(200_000))
        large.answered(big)
        large.copy_answered(big)
        async with asyncio.timeout(10):
            while len(counted) < 2:
                await asyncio.sleep(0)
        return counted, comparisons.left_out

    counted, left_out = asyncio.run(run())
    assert sorted(counted) == [(1, 0), (1, 1)]
    assert left_out == 1


@pytest.mark.parametrize("is_first", [True, False])
def test_the_rows_of_a_copy_that_fails_differ_where_the_request_is_answered_and_the_load_is_not_why(
    is_first: bool,
) -> None:
    counted: list[tuple[int, int]] = []
    errors = (InvalidRequest("no"), ModelFailed("broken"), QueueFull("load", 1.0), NoWorker("gone"), DeadlineExceeded())
    for error in errors:
        comparison = Comparisons().begin(model(), 3, lambda agreed, differed: counted.append((agreed, differed)))
        if is_first:
            comparison.copy_failed(error)
            comparison.answered(floats(1.0, 2.0, 3.0))
        else:
            comparison.answered(floats(1.0, 2.0, 3.0))
            comparison.copy_failed(error)
    assert counted == [(0, 3), (0, 3)]
    Comparisons().begin(model(), 3, lambda *_: counted.append((9, 9))).copy_failed(InvalidRequest("no"))
    assert counted == [(0, 3), (0, 3)]
