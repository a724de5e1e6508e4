"""Bulk at a worker: the same items whatever happens, and how it gets there."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from jobs.rows import Answer, Block, Rows
from millrace.broker.base import Broker, Limits
from millrace.broker.keys import ONLY_BULK
from millrace.calling.call import Call
from millrace.calling.caller import QueueCaller
from millrace.protocol.errors import NoWorker, PayloadTooLarge, QueueFull
from millrace.protocol.messages import WorkerAnnouncement
from millrace.protocol.tensors import Tensor
from serving.queueing.requests import InferenceResponse
from tests.support.running import until
from tests.support.working import (
    QUEUE,
    Scripted,
    ask,
    block_of,
    connected,
    doubles,
    is_empty,
    model_of,
    put,
    raises_in_infer,
    request_of,
    serving,
)
from worker.loading.model import Model
from worker.running.loop import Instance
from worker.running.status import InstanceStatus


class Stopping:
    """Doubles, but the first run waits until `go_on`. `seen` are the first numbers of each run."""

    def __init__(self) -> None:
        self.has_begun, self.go_on = threading.Event(), threading.Event()
        self.seen: list[float] = []

    def __call__(self, x: Any) -> Any:
        self.seen.append(float(x[0, 0]))
        self.has_begun.set()
        assert self.go_on.wait(30)
        return x * 2


@contextmanager
def instance_of(broker: Broker, model: Model, **options: Any) -> Iterator[None]:
    link, clock = broker.consumer(QUEUE, "w-0"), broker.worker().clock
    instance = Instance(model, link, worker="w", clock=clock, lease_ms=60_000, **options)
    thread = threading.Thread(target=instance.run)
    thread.start()
    yield
    instance.drain()
    thread.join(30)
    assert not thread.is_alive()


def put_bulk(broker: Broker, rows: list[float], items: list[int]) -> None:
    """A block of bulk for whose answers nobody waits."""

    async def run() -> None:
        async with connected(broker) as link:
            request = replace(request_of([[value] for value in rows]), priority="bulk")
            (held,) = await link.append([block_of(link, request, items)], Limits(10**6, 10**9))
            assert not held.is_refused

    asyncio.run(run())


def test_callers_come_between_the_items_of_a_block_of_bulk(broker: Broker) -> None:
    compute = Stopping()
    put_bulk(broker, [1, 1, 2, 2, 3], [2, 2, 1])
    with instance_of(broker, model_of(Scripted(compute))):
        assert compute.has_begun.wait(30)
        put(broker, request_of([[10]]), request_of([[11]]))
        compute.go_on.set()
        until(lambda: len(compute.seen) == 4)
    assert compute.seen == [1, 10, 2, 3]


def test_an_instance_for_bulk_leaves_callers_to_others(broker: Broker) -> None:
    backend, status = Scripted(doubles), InstanceStatus()
    status.takes = ONLY_BULK
    put(broker, request_of([[7]]))
    put_bulk(broker, [1, 1, 1], [2, 1])
    with instance_of(broker, model_of(backend), status=status):
        until(lambda: len(backend.runs) == 2)
    assert backend.runs == [2, 1]
    assert not is_empty(broker)


def test_bulk_never_shares_a_run_with_others_and_keeps_its_items_when_it_is_lost(broker: Broker) -> None:
    put_bulk(broker, [1, 1, 1, 1, 1], [2, 2, 1])
    put_bulk(broker, [2, 2], [2])
    assert broker.consumer(QUEUE, "dead-0").exchange([], [], count=9, block_ms=0)
    broker.worker().release(QUEUE, "dead-0", is_suspect=True)
    put(broker, request_of([[7]]))
    backend = Scripted(doubles)
    with serving(broker, model_of(backend)):
        until(lambda: len(backend.runs) == 5)
    assert sorted(backend.runs) == [1, 1, 2, 2, 2]


def test_what_callers_wait_for_bulk_is_no_sign_of_a_long_queue(broker: Broker) -> None:
    compute, answers = Stopping(), list[Any]()
    put_bulk(broker, [1], [1])
    with instance_of(broker, model_of(Scripted(compute))):
        assert compute.has_begun.wait(30)
        caller = threading.Thread(target=lambda: answers.extend(ask(broker, request_of([[10]]))))
        caller.start()
        until(lambda: not is_empty(broker))
        sent = time.monotonic()
        until(lambda: time.monotonic() - sent > 0.1)
        compute.go_on.set()
        caller.join()
    (answer,) = answers
    assert isinstance(answer, InferenceResponse)
    assert answer.timings.batch_ms > 50 > answer.timings.queue_ms


# Calls


def call_of(caller: QueueCaller, rows: int, width: int = 1, **fields: Any) -> Call:
    array = np.arange(rows * width, dtype=np.float32).reshape(rows, width)
    plain: dict[str, Any] = {
        "queue": QUEUE,
        "signature": "serving_default",
        "tensors": {"x": Tensor.from_numpy(array)},
        "rows": rows,
        "max_batch_size": 8,
        "deadline_ms": int(caller.now_ms() + 20_000),
    }
    return Call(**(plain | fields))


def announced(broker: Broker, model: Model, worker: str = "w") -> None:
    link = broker.worker()
    link.announce(WorkerAnnouncement(worker=worker, expires_ms=2**50, models=(model.announcement,)))
    link.close()


def test_a_call_of_bulk_is_cut_into_blocks_and_items_and_answered_in_order(broker: Broker) -> None:
    backend = Scripted(doubles)
    model = model_of(backend)
    announced(broker, model)

    async def run() -> list[Any]:
        caller = QueueCaller(broker.producer("caller"))
        await caller.refresh()
        parts = await caller.answers(call_of(caller, 21, priority="bulk"))
        large = await caller.answers(call_of(caller, 5, 300_000, priority="bulk"))
        await caller.close()
        assert all(
            (2 * np.arange(1_500_000).reshape(5, -1)[i] == part["y"].to_numpy()).all() for i, part in enumerate(large)
        )
        return [value for part in parts for (value,) in part["y"].to_numpy()]

    with serving(broker, model):
        assert asyncio.run(run()) == [2 * value for value in range(21)]
    assert backend.runs == [8, 8, 5, 1, 1, 1, 1, 1]


def test_calls_of_bulk_have_limits_of_their_own_and_say_so(broker: Broker) -> None:
    async def run() -> None:
        caller = QueueCaller(broker.producer("caller"))
        await caller.refresh()
        limits = Limits(rows=10, bytes=10**6)
        first = asyncio.create_task(caller.answers(call_of(caller, 8, priority="bulk", limits=limits)))
        second = call_of(caller, 8, priority="bulk", limits=limits)
        while not first.done():
            try:
                await asyncio.wait_for(caller.answers(second), 0.05)
            except QueueFull:
                break
            except TimeoutError:
                continue
        with pytest.raises(PayloadTooLarge, match="11 rows"):
            await caller.answers(call_of(caller, 11, priority="bulk", limits=limits))
        with pytest.raises(NoWorker, match="no live worker has model 'm' version 1"):
            await caller.answers(call_of(caller, 1, priority="bulk", needs_worker=True))
        first.cancel()
        await caller.close()

    put(broker, request_of([[1]] * 8))
    asyncio.run(run())


# A job's rows


def test_a_jobs_rows_are_answered_in_order_and_wait_where_other_jobs_have_all_room(broker: Broker) -> None:
    """A row that is refused costs no other its answer."""
    model = model_of(Scripted(raises_in_infer))
    announced(broker, model)
    put_bulk(broker, [0] * 8192, [8192])
    numbers = [[float(number) for number in range(first, first + 50)] for first in range(640, 840, 50)]
    batches = [
        [Block(range(50), {"x": Tensor.from_numpy(np.array(rows, np.float32).reshape(-1, 1))})] for rows in numbers
    ]

    async def run() -> list[Answer]:
        caller = QueueCaller(broker.producer("job"))
        await caller.refresh()
        rows = Rows(caller, model.announcement, "serving_default", 60.0)
        found = [answer async for answers in rows.answers(iter(batches)) for answer in answers]
        await caller.close()
        return found

    answers: list[Answer] = []
    job = threading.Thread(target=lambda: answers.extend(asyncio.run(run())))
    job.start()
    with serving(broker, model):
        job.join(60)
    assert [answer.error for answer in answers if answer.error] == ["model 'm' failed: ValueError: cannot stand 666"]
    found = [value for answer in answers if answer.outputs for (value,) in answer.outputs["y"].to_numpy()]
    assert found == [2.0 * number for number in range(640, 840) if number != 666]
    assert is_empty(broker)
