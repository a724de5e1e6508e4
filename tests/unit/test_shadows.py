"""Copies for a shadow: which requests are copied, what becomes of them, and that no caller can tell."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from millrace.broker.base import Delivery, Limits
from millrace.broker.keys import Queue
from millrace.broker.memory import MemoryBroker
from millrace.protocol import codec
from millrace.protocol.messages import ModelAnnouncement, RequestBlock
from millrace.protocol.tensors import Signature, Tensor, TensorSpec
from serving.models.registry import ServedModel, ServedShadow
from serving.models.shadows import Shadows
from serving.monitoring.metrics import Metrics, render
from serving.queueing.admission import Inference
from serving.queueing.pending import Pending
from serving.queueing.producer import Producer
from serving.queueing.requests import InferenceRequest
from serving.transport.budget import Budget

BATCH = 4


def version(number: int, datatype: str = "FP32") -> ServedModel:
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1,))
    return ServedModel(
        ModelAnnouncement(
            name="m",
            version=number,
            state="AVAILABLE",
            signatures={"serving_default": Signature(inputs=(spec,), outputs=())},
            max_batch_size=BATCH,
        )
    )


class Bench:
    """A producer whose requests stay on their queues, and shadows; `chance` is what the next draw gives."""

    def __init__(self, budget_bytes: int = 10**4) -> None:
        self.budget = Budget(budget_bytes)
        self.broker = MemoryBroker()
        self.producer = Producer(self.broker.producer("api"), limits=Limits(1000, 10**6), grace_s=60)
        self.metrics = Metrics()
        self.chance = 0.0
        self.shadows = Shadows(self.producer, self.metrics, lambda: self.chance, self.budget)
        self.errors: list[Exception] = []
        self.callers: list[Pending] = []

    async def ask(self, rows: int = 1, shadow: ServedModel | None = None, share: float = 1.0) -> None:
        """A caller's request, whose copy may go to version 2; it is on its queue when this returns."""
        tensor = Tensor.from_numpy(np.ones(rows, np.float32))
        inference = Inference(version(1), "serving_default", {"x": tensor}, priority="high")
        request = InferenceRequest(
            model="m",
            version=1,
            signature="serving_default",
            inputs={"x": tensor},
            rows=rows,
            max_batch_size=BATCH,
            timeout_s=10,
            trace="trace",
            priority="high",
        )
        self.callers.append(self.producer.send(request, lambda _: None, self.errors.append))
        if comparison := self.shadows.send_copy(ServedShadow(shadow or version(2), share), inference, request):
            comparison.answered({"y": tensor})
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def delivered(self, number: int) -> list[Delivery]:
        """What is on the queue of a version."""
        return self.broker.consumer(Queue("m", number), "c").exchange([], [], count=99, block_ms=0)

    def taken(self, number: int) -> list[RequestBlock]:
        """The blocks on the queue of a version."""
        return [codec.decode_request(delivery.block) for delivery in self.delivered(number)]

    def metrics_text(self) -> str:
        return render(self.metrics.counts, {}).decode()

    def counted(self, outcome: str) -> float:
        text = self.metrics_text()
        line = f'millrace_shadow_requests_total{{model="m",outcome="{outcome}",version="2"}} '
        return sum(float(found.split()[-1]) for found in text.splitlines() if found.startswith(line))


def run(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> Bench:
    """The bench after the test; no caller has met an error."""

    async def body() -> Bench:
        bench = Bench()
        await test(bench)
        return bench

    bench = asyncio.run(body())
    assert bench.errors == []
    return bench


def test_a_copy_goes_to_the_shadow_at_the_lower_priority_and_the_callers_request_as_it_was() -> None:
    bench = run(lambda bench: bench.ask(rows=3))
    (sent,), (copied,) = bench.delivered(1), bench.delivered(2)
    assert (sent.priority, copied.priority) == ("high", "normal")
    mine, copy = codec.decode_request(sent.block), codec.decode_request(copied.block)
    assert (mine.version, copy.version) == (1, 2)
    assert mine.tensors == copy.tensors
    assert mine.items[0].deadline_ms == pytest.approx(copy.items[0].deadline_ms, abs=1000)


@pytest.mark.parametrize(("chance", "copies"), [(0.0, 1), (0.24, 1), (0.25, 0), (0.99, 0)])
def test_no_more_than_the_share_is_copied(chance: float, copies: int) -> None:
    async def test(bench: Bench) -> None:
        bench.chance = chance
        await bench.ask(share=0.25)

    bench = run(test)
    assert (len(bench.taken(1)), len(bench.taken(2))) == (1, copies)


def test_copies_are_shed_while_the_shadow_has_a_full_batch_in_flight() -> None:
    async def test(bench: Bench) -> None:
        for _ in range(BATCH + 3):
            await bench.ask()

    bench = run(test)
    assert sum(len(block.items) for block in bench.taken(2)) == BATCH
    assert sum(len(block.items) for block in bench.taken(1)) == BATCH + 3
    assert bench.counted("shed") == 3


def test_copies_are_shed_first_when_the_callers_requests_pile_up() -> None:
    bench = run(lambda bench: bench.ask(rows=2 * BATCH))
    assert bench.taken(2) == []
    assert bench.counted("shed") == 1


def test_a_shadow_that_takes_other_inputs_fails_alone_and_its_rows_differ() -> None:
    bench = run(lambda bench: bench.ask(rows=3, shadow=version(2, "INT32")))
    assert bench.taken(2) == []
    assert len(bench.taken(1)) == 1
    assert bench.counted("failed") == 1
    assert 'millrace_shadow_rows_total{model="m",outcome="differed",version="2"} 3.0' in bench.metrics_text()


def test_copies_without_an_answer_do_not_hold_a_drain() -> None:
    async def test(bench: Bench) -> None:
        await bench.ask()
        await bench.ask()
        assert bench.producer.snapshot().requests == 4
        for callers in bench.callers:
            bench.producer.withdraw(callers)
        bench.shadows.stop()
        await asyncio.wait_for(bench.producer.drain(60), 5)
        assert bench.producer.snapshot() == (0, 0, 0, 0)
        await bench.ask(shadow=version(2))
        assert bench.producer.snapshot().requests == 1

    bench = run(test)
    assert len(bench.taken(2)) == 2


def test_the_bytes_of_a_copy_are_counted_until_it_is_on_its_queue_and_without_room_it_is_not_made() -> None:
    async def test(bench: Bench) -> None:
        await bench.ask(rows=1)
        assert (bench.budget.peak, bench.budget.used) == (4, 0)
        taken = bench.budget.reserve(10**4)
        await bench.ask(rows=1)
        assert taken
        taken.release()

    bench = run(test)
    assert len(bench.taken(1)) == 2
    assert len(bench.taken(2)) == 1
    assert bench.counted("shed") == 1
