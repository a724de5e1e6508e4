"""Group commit, splitting and joining, deadlines: the producer over a broker whose append a test can hold back."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from millrace.broker.base import Append, Delivery, Heartbeat, Held, Limits, Reply
from millrace.broker.fragments import read_reference
from millrace.broker.keys import Queue
from millrace.broker.memory import MemoryBroker, MemoryProducerLink
from millrace.protocol import codec
from millrace.protocol.errors import (
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    MillraceError,
    PayloadTooLarge,
    QueueFull,
    Unavailable,
)
from millrace.protocol.messages import ModelAnnouncement, ReplyBlock, ReplyItem, RequestBlock, WorkerAnnouncement
from millrace.protocol.tensors import Tensor
from serving.queueing.producer import Producer
from serving.queueing.requests import InferenceRequest, InferenceResponse

QUEUE = Queue("m", 1)


class GatedLink(MemoryProducerLink):
    """A link that records each append and lets it through only while the gate is open."""

    def __init__(self, broker: MemoryBroker, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(broker, "api", clock)
        self.gate = asyncio.Event()
        self.gate.set()
        self.appends: list[list[RequestBlock]] = []
        self.stored: list[int] = []
        self.in_flight: list[int] = []
        self._now = 0
        self.cancels: list[tuple[Queue, list[tuple[int, int]]]] = []
        self.is_broken = False
        self.has_stream = True

    async def append(self, appends: Sequence[Append], limits: Limits) -> list[Held]:
        if blocks := [block for append in appends for _, block in append.blocks if not read_reference(block)]:
            self.appends.append([codec.decode_request(block) for block in blocks])
        async with self._sending():
            return await super().append(appends, limits)

    async def store(self, queue: Queue, fragments_id: str, fragment: bytes, expires_ms: int) -> None:
        self.stored.append(len(fragment))
        async with self._sending():
            await super().store(queue, fragments_id, fragment, expires_ms)

    @asynccontextmanager
    async def _sending(self) -> AsyncIterator[None]:
        self._now += 1
        self.in_flight.append(self._now)
        try:
            await self.gate.wait()
            if self.is_broken:
                raise Unavailable("broken")
            yield
        finally:
            self._now -= 1

    async def cancel(self, queue: Queue, items: Sequence[tuple[int, int]]) -> None:
        self.cancels.append((queue, list(items)))
        await super().cancel(queue, items)

    async def heartbeat(self) -> Heartbeat:
        return (await super().heartbeat())._replace(had_stream=self.has_stream)


class Bench:
    """A producer on a gated link, and a worker that answers each row with its double."""

    def __init__(
        self,
        workers: int,
        max_queue_rows: int,
        producer_clock: Callable[[], float],
        link_clock: Callable[[], float],
        grace_s: float,
    ) -> None:
        self.broker_s = 0.0
        self.broker = MemoryBroker(lambda: time.monotonic() + self.broker_s)
        self.link = GatedLink(self.broker, link_clock)
        self.producer = Producer(
            self.link,
            limits=Limits(max_queue_rows, 10**8),
            heartbeat_s=0.01,
            clock=producer_clock,
            grace_s=grace_s,
        )
        self.consumer = self.broker.consumer(QUEUE, "c")
        model = ModelAnnouncement(name="m", version=1, state="AVAILABLE")
        for number in range(workers):
            self.broker.worker().announce(WorkerAnnouncement(worker=str(number), expires_ms=2**60, models=(model,)))

    def submit(
        self, *values: float, timeout_s: float = 5.0, largest: int = 8, caller: str = ""
    ) -> "asyncio.Task[InferenceResponse]":
        request = self.request(*values, timeout_s=timeout_s, largest=largest, caller=caller)
        return asyncio.create_task(self.producer.submit(request))

    def request(self, *values: float, timeout_s: float = 5.0, largest: int = 8, caller: str = "") -> InferenceRequest:
        tensor = Tensor.from_numpy(np.array(values, np.float32))
        return self.request_of(tensor, timeout_s=timeout_s, largest=largest, caller=caller)

    def submit_tensor(self, tensor: Tensor, largest: int) -> "asyncio.Task[InferenceResponse]":
        return asyncio.create_task(self.producer.submit(self.request_of(tensor, largest=largest)))

    async def held(self) -> Held:
        """What the queue holds."""
        (held,) = await MemoryProducerLink.append(self.link, [Append(QUEUE, "normal", ())], Limits(2**50, 2**50))
        return held

    def request_of(
        self, tensor: Tensor, timeout_s: float = 5.0, largest: int = 8, caller: str = ""
    ) -> InferenceRequest:
        return InferenceRequest(
            model="m",
            version=1,
            signature="serving_default",
            inputs={"x": tensor},
            rows=tensor.shape[0] if largest else 1,
            max_batch_size=largest,
            timeout_s=timeout_s,
            trace="t",
            caller=caller,
        )

    def waiting(self) -> list[Delivery]:
        """The blocks that wait, which are taken."""
        return self.consumer.exchange([], [], count=100, block_ms=0)

    def answer(
        self,
        delivery: Delivery,
        outputs: "np.typing.NDArray[Any] | None",
        error: str = "",
        times_ms: tuple[float, float, float] = (0.0, 0.0, 1.0),
    ) -> None:
        """Answer every item of a block, with rows of the outputs or the error; after times in queue, batch and run."""
        queue_ms, batch_ms, compute_ms = times_ms
        block = codec.decode_request(delivery.block)
        items = tuple(
            ReplyItem(item.id, 0 if error else item.rows, queue_ms, batch_ms, "INTERNAL" if error else "", error)
            for item in block.items
        )
        reply = ReplyBlock(
            worker="w",
            compute_ms=compute_ms,
            batch_rows=delivery.rows,
            items=items,
            tensors={} if outputs is None else {"y": Tensor.from_numpy(outputs)},
        )
        self.consumer.exchange([Reply(block.reply_to, codec.encode_reply(reply))], [delivery], count=0, block_ms=0)

    def work(self, error: str = "") -> list[list[float]]:
        """Answer every block that waits; the values of each."""
        served = []
        for delivery in self.waiting():
            values = codec.decode_request(delivery.block).tensors["x"].to_numpy()
            served.append(values.ravel().tolist())
            self.answer(delivery, None if error else values * 2, error)
        return served

    def sent(self) -> list[list[list[float]]]:
        """The values of each block of each append so far."""
        return [[block.tensors["x"].to_numpy().ravel().tolist() for block in blocks] for blocks in self.link.appends]


@asynccontextmanager
async def bench(
    workers: int = 1,
    max_queue_rows: int = 1000,
    producer_clock: Callable[[], float] = time.perf_counter,
    link_clock: Callable[[], float] = time.monotonic,
    grace_s: float = 2.0,
) -> AsyncIterator[Bench]:
    made = Bench(workers, max_queue_rows, producer_clock, link_clock, grace_s)
    await made.producer.start()
    while not made.producer.is_connected:
        await asyncio.sleep(0)
    yield made
    await made.producer.stop()


async def turns(count: int = 5) -> None:
    """Let the event loop run what is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


def nothing(_: object) -> None:
    """A callback of somebody who does not care."""


def values(response: InferenceResponse) -> list[float]:
    return response.outputs["y"].to_numpy().ravel().tolist()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run_it() -> None:
        asyncio.run(test())

    run_it.__name__ = test.__name__
    return run_it


@run
async def test_the_first_request_is_sent_at_once_and_those_that_come_meanwhile_go_together() -> None:
    async with bench() as b:
        b.link.gate.clear()
        first = b.submit(1)
        await turns()
        rest = [b.submit(2), b.submit(3, 4), b.submit(5)]
        await turns()
        assert b.sent() == [[[1]]]
        b.link.gate.set()
        await turns()
        assert b.sent() == [[[1]], [[2, 3, 4, 5]]]
        b.work()
        assert [values(await task) for task in (first, *rest)] == [[2], [4], [6, 8], [10]]


@run
async def test_requests_of_one_turn_of_the_event_loop_share_a_block() -> None:
    async with bench() as b:
        tasks = [b.submit(i) for i in range(3)]
        await turns()
        assert b.sent() == [[[0, 1, 2]]]
        b.work()
        assert [values(await task) for task in tasks] == [[0], [2], [4]]


@run
async def test_waiting_rows_are_shared_out_among_the_live_workers() -> None:
    async with bench(workers=2) as b:
        tasks = [b.submit(i) for i in range(6)]
        await turns()
        assert b.sent() == [[[0, 1, 2], [3, 4, 5]]]
        b.work()
        assert [values(await task) for task in tasks] == [[0], [2], [4], [6], [8], [10]]


@run
async def test_rows_are_cut_for_as_many_workers_as_other_processes_leave() -> None:
    async with bench(workers=4) as b:
        elsewhere = Append(QUEUE, "normal", ((24, b"x"),))
        await MemoryProducerLink.append(b.link, [elsewhere], Limits(100, 10**6))
        first = [b.submit(i) for i in range(8)]
        await turns()
        assert b.sent() == [[[0, 1], [2, 3], [4, 5], [6, 7]]]  # what others have is told with the answer to this
        second = [b.submit(i) for i in range(8)]
        await turns()
        assert b.sent()[1:] == [[[0, 1, 2, 3], [4, 5, 6, 7]]]  # 16 of 32 rows are ours
        for task in (*first, *second):
            task.cancel()


@run
async def test_a_block_holds_no_more_rows_than_a_batch() -> None:
    async with bench() as b:
        tasks = [b.submit(i, i, largest=5) for i in range(4)]
        await turns()
        assert b.sent() == [[[0, 0, 1, 1], [2, 2, 3, 3]]]
        b.work()
        await asyncio.gather(*tasks)


@run
async def test_a_request_larger_than_a_batch_is_cut_and_joined_in_order() -> None:
    async with bench(workers=2) as b:
        numbers = [float(i) for i in range(21)]
        task = b.submit(*numbers, largest=8)
        await turns()
        blocks = [block for blocks in b.sent() for block in blocks]
        assert [len(block) for block in blocks] == [8, 8, 5]
        b.work()
        assert values(await task) == [2 * i for i in numbers]


@run
async def test_a_request_whose_rows_belong_together_is_not_cut() -> None:
    async with bench(workers=2) as b:
        whole = [structs.replace(b.request(*numbers), is_whole=True) for numbers in ([0, 1, 2, 3, 4], [5], [6, 7])]
        tasks = [asyncio.create_task(b.producer.submit(request)) for request in whole]
        large = b.request_of(wide(8, 9, 10), largest=8)
        tasks.append(asyncio.create_task(b.producer.submit(structs.replace(large, is_whole=True))))
        await turns()
        assert b.sent()[0][:2] == [[0, 1, 2, 3, 4], [5, 6, 7]]
        served = b.work()
        assert [len(block) for block in served] == [5, 3, 3 * 100_000]
        assert [values(await task) for task in tasks[:3]] == [[0, 2, 4, 6, 8], [10], [12, 14]]
        assert (await tasks[3]).outputs["y"].shape == (3, 100_000)


def wide(*values: float, row_bytes: int = 400_000) -> Tensor:
    """Rows of so many bytes, each full of its value."""
    return Tensor.from_numpy(np.repeat(np.array(values, np.float32)[:, None], row_bytes // 4, axis=1))


def first_values(blocks: Sequence[RequestBlock]) -> list[list[float]]:
    """The value that each row of wide blocks is full of."""
    return [block.tensors["x"].to_numpy()[:, 0].tolist() for block in blocks]


@run
async def test_the_rest_of_a_large_request_follows_its_first_blocks_in_a_window() -> None:
    async with bench() as b:
        task = b.submit_tensor(wide(*range(10)), largest=2)
        b.link.gate.clear()
        await turns()
        assert [first_values(blocks) for blocks in b.link.appends] == [[[0, 1]]]
        b.link.gate.set()
        await turns()
        b.link.gate.clear()
        await turns(20)
        sent = len(b.link.appends)
        small = b.submit(77)
        await turns()
        assert b.sent()[sent:] == [[[77]]]  # nobody waits until it is sent
        b.link.gate.set()
        await turns(30)
        appended = [first_values(blocks) for number, blocks in enumerate(b.link.appends) if number != sent]
        assert appended == [[[2 * i, 2 * i + 1]] for i in range(5)]
        assert max(b.link.in_flight) <= 3  # two and the small one
        b.work()
        assert (await task).outputs["y"].to_numpy()[:, 0].tolist() == [2.0 * i for i in range(10)]
        assert values(await small) == [154]
        assert_nothing_is_left(b)


@run
async def test_no_block_has_more_than_about_a_megabyte_unless_one_row_has() -> None:
    async with bench(max_queue_rows=10_000) as b:
        tasks = [b.submit_tensor(wide(*range(9), row_bytes=300_000), largest=8)]
        tasks += [b.submit_tensor(wide(i, row_bytes=300_000), largest=8) for i in range(5)]
        tasks += [b.submit_tensor(wide(i, row_bytes=1_500_000), largest=8) for i in range(2)]
        await turns(30)
        blocks = [block for append in b.link.appends for block in append]
        sizes = sorted((len(block.tensors["x"].data), block.tensors["x"].shape[0]) for block in blocks)
        assert sizes == [(600_000, 2)] + [(900_000, 3)] * 4 + [(1_500_000, 1)] * 2
        b.work()
        await asyncio.gather(*tasks)


@run
async def test_a_row_of_many_megabytes_travels_in_fragments_of_one() -> None:
    async with bench() as b:
        task = b.submit_tensor(wide(1, 2, row_bytes=5_000_000), largest=2)
        await turns(60)
        assert max(b.link.stored) <= 1_000_000
        assert sum(b.link.stored) > 10_000_000
        assert max(b.link.in_flight) <= 2
        b.work()
        assert (await task).outputs["y"].to_numpy()[:, 0].tolist() == [2, 4]
        assert_nothing_is_left(b)
        assert (await b.held()) == Held(0, 0)


@run
async def test_what_a_large_request_kept_room_for_and_did_not_send_is_given_back() -> None:
    for row_bytes, end in itertools.product((400_000, 3_000_000), ("withdrawn", "deadline", "broken")):
        async with bench() as b:
            timeout_s = 0.05 if end == "deadline" else 5.0
            tensor = wide(*range(12), row_bytes=row_bytes)
            failed: list[MillraceError] = []
            pending = b.producer.send(b.request_of(tensor, timeout_s=timeout_s, largest=2), nothing, failed.append)
            await turns(4)
            b.link.gate.clear()
            await turns()
            assert (await b.held()).rows == 12
            if end == "withdrawn":
                b.producer.withdraw(pending)
            elif end == "deadline":
                while not failed:
                    await asyncio.sleep(0.005)
            b.link.is_broken = end == "broken"
            b.link.gate.set()
            await turns(20)
            b.link.is_broken = False
            b.broker_s += 60  # where it could not be given back, or has fragments, it is given up later
            sent = b.waiting()
            assert sum(delivery.rows for delivery in sent) < 12
            for delivery in sent:
                b.consumer.exchange([], [delivery], count=0, block_ms=0)
            whole = Append(QUEUE, "normal", ((1000, b"x"),))
            (held,) = await MemoryProducerLink.append(b.link, [whole], Limits(1000, 10**9))
            assert not held.is_refused, end
            assert b.producer.snapshot().appends == 0
            assert not pending.inputs
            assert len(asyncio.all_tasks()) == 3  # this one, and the producer's two


@run
async def test_a_request_larger_than_the_whole_queue_is_too_large_and_not_told_to_come_again() -> None:
    async with bench(max_queue_rows=10) as b:
        for request in (
            b.request(*range(11), largest=4),
            b.request_of(wide(1, row_bytes=100_000_004), largest=4),
        ):
            with pytest.raises(PayloadTooLarge, match="holds at most 10 rows and 100000000 bytes"):
                b.producer.send(request, nothing, nothing)
        with pytest.raises(PayloadTooLarge, match=r"1 rows and 100000\d\d\d bytes"):  # with its head
            await b.submit_tensor(wide(1, row_bytes=100_000_000), largest=4)
        assert_nothing_is_left(b)


@run
async def test_a_cut_request_is_refused_whole() -> None:
    async with bench(max_queue_rows=10) as b:
        small, large = b.submit(1, 2, largest=4), b.submit(*range(9), largest=4, caller="another")
        await turns()
        with pytest.raises(QueueFull, match="holds 2 of 10 rows"):
            await large
        assert b.work() == [[1, 2]]
        assert values(await small) == [2, 4]


@run
async def test_without_batching_every_request_is_a_block_of_its_own() -> None:
    async with bench() as b:
        tasks = [b.submit(1, 2, 3, largest=0), b.submit(4, 5, 6, largest=0)]
        await turns()
        assert [block.tensors["x"].shape for block in b.link.appends[0]] == [(1, 3), (1, 3)]
        b.work()
        responses = [await task for task in tasks]
        assert [r.outputs["y"].shape for r in responses] == [(3,), (3,)]
        assert [values(r) for r in responses] == [[2, 4, 6], [8, 10, 12]]


@run
async def test_a_full_queue_refuses_at_once_and_says_when_to_come_again() -> None:
    async with bench(max_queue_rows=3) as b:
        kept = b.submit(1, 2, 3)
        await turns()
        with pytest.raises(QueueFull, match="'m' is full: it holds 3 of 3 rows") as caught:
            await b.submit(4, caller="another")
        assert 0 < caught.value.retry_after_s <= 30
        b.work()
        assert values(await kept) == [2, 4, 6]
        again = b.submit(5)
        await turns()
        b.work()
        assert values(await again) == [10]


@run
async def test_one_caller_cannot_fill_a_queue_for_the_others() -> None:
    async with bench(max_queue_rows=100) as b:
        floods, refused = [], []
        for _ in range(100):
            try:
                floods.append(b.producer.send(b.request(1, 2, caller="flood"), nothing, nothing))
            except QueueFull as error:
                refused.append(error)
            await turns(2)
        assert len(floods) == 25
        assert "more than a fair share of it (1/2: 50 rows, 50000000 bytes)" in str(refused[0])
        assert 0 < refused[0].retry_after_s <= 30
        others = [b.submit(*range(10), largest=4, caller=name) for name in "abcde"]
        await turns()
        for flood in floods[:5]:
            b.producer.withdraw(flood)
        with pytest.raises(QueueFull, match="a fair share"):
            b.producer.send(b.request(1, caller="flood"), nothing, nothing)
        b.work()
        assert [len(values(await other)) for other in others] == [10] * 5


@run
async def test_a_queue_that_others_have_filled_is_shared_too_for_large_requests() -> None:
    async with bench(max_queue_rows=100) as b:
        elsewhere = Append(QUEUE, "normal", ((70, b"x"),))
        await MemoryProducerLink.append(b.link, [elsewhere], Limits(100, 10**6))
        task = b.submit_tensor(wide(*range(20)), largest=2)
        await turns(40)
        with pytest.raises(QueueFull, match="a fair share"):
            b.producer.send(b.request(*range(31)), nothing, nothing)
        b.producer.send(b.request(*range(5)), nothing, nothing)
        task.cancel()


@run
async def test_a_queue_that_others_have_filled_is_shared_too() -> None:
    async with bench(max_queue_rows=100) as b:
        elsewhere = Append(QUEUE, "normal", ((55, b"x"),))
        await MemoryProducerLink.append(b.link, [elsewhere], Limits(100, 10**6))
        for _ in range(4):
            b.producer.send(b.request(*range(10), caller="me"), nothing, nothing)
            await turns()
        with pytest.raises(QueueFull, match="is full: it holds 95 of 100 rows"):
            await b.submit(*range(8), caller="me", largest=8)
        with pytest.raises(QueueFull, match="a fair share"):
            b.producer.send(b.request(*range(11), caller="me"), nothing, nothing)


@run
async def test_a_request_without_an_answer_ends_at_its_deadline_and_a_late_reply_is_dropped() -> None:
    async with bench() as b:
        with pytest.raises(DeadlineExceeded, match="no answer within 20 ms"):
            await b.submit(1, timeout_s=0.02)
        b.work()
        after = b.submit(2)
        await turns()
        b.work()
        assert values(await after) == [4]
        assert_nothing_is_left(b)


@run
async def test_parts_whose_rows_do_not_fit_together_are_an_error_and_no_answer() -> None:
    for first, second in (
        (np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32)),  # as many bytes a row less, and a wrong answer
        (np.zeros((2, 3), np.float32), np.zeros((2, 3), np.int32)),
        (np.zeros((2, 1), np.float32), np.zeros(2, np.float32)),
        (np.zeros((2, 10**6), np.float32), np.zeros((2, 10**6 + 1), np.float32)),  # so large that a thread joins them
    ):
        async with bench() as b:
            task = b.submit(*range(4), largest=2)
            await turns()
            for delivery, array in zip(b.waiting(), (first, second), strict=True):
                b.answer(delivery, array)
            with pytest.raises(Internal, match="do not fit together"):
                await asyncio.wait_for(task, 2)
            assert_nothing_is_left(b)


@run
async def test_rows_that_run_alone_and_are_answered_in_different_shapes_must_be_sent_alone() -> None:
    async with bench() as b:
        task = b.submit(0, 1, largest=1)
        await turns()
        for delivery, array in zip(b.waiting(), (np.zeros((1, 3)), np.zeros((1, 4))), strict=True):
            b.answer(delivery, array)
        with pytest.raises(InvalidRequest, match=r"'m' runs row by row: .* send each row as a request of its own"):
            await asyncio.wait_for(task, 2)
        assert_nothing_is_left(b)


@run
async def test_large_parts_are_joined_beside_the_event_loop() -> None:
    async with bench() as b:
        task = b.submit(*range(4), largest=2)
        await turns()
        parts = [np.full((2, 10**6), number, np.float32) for number in (1, 2)]
        for delivery, part in zip(b.waiting(), parts, strict=True):
            b.answer(delivery, part)
        await turns(1)
        assert not task.done()
        outputs = (await asyncio.wait_for(task, 5)).outputs["y"].to_numpy()
        assert (outputs == np.concatenate(parts)).all()
        told: list[object] = []
        leaver = b.producer.send(b.request(*range(4), largest=2), told.append, told.append)
        await turns()
        for delivery, part in zip(b.waiting(), parts, strict=True):
            b.answer(delivery, part)
        await turns(1)
        b.producer.withdraw(leaver)  # while they are joined
        assert_nothing_is_left(b)
        assert told == []


@run
async def test_a_callback_that_raises_keeps_no_other_from_being_called() -> None:
    async with bench() as b:
        for end in ("deadline", "answer", "worker's error", "lost queue", "append fails", "stop"):
            told: list[int] = []

            def callback(number: int, told: list[int] = told) -> Callable[[object], None]:
                def call(_: object) -> None:
                    told.append(number)
                    if number % 2 == 0:
                        raise RuntimeError("this caller's connection is odd")

                return call

            timeout_s = 0.02 if end == "deadline" else 5.0
            b.link.gate.clear() if end == "append fails" else b.link.gate.set()
            for number in range(5):
                b.producer.send(b.request(number, timeout_s=timeout_s), callback(number), callback(number))
            await turns()
            if end in ("answer", "worker's error"):
                b.work(error="odd" if end == "worker's error" else "")
            elif end == "lost queue":
                b.link.has_stream = False
                await b.producer.refresh()
                b.link.has_stream = True
            elif end == "append fails":
                b.link.is_broken = True
                b.link.gate.set()
            elif end == "stop":
                await asyncio.wait_for(b.producer.stop(), 2)
            async with asyncio.timeout(2):
                while len(told) < 5:
                    await asyncio.sleep(0.005)
            assert sorted(told) == [0, 1, 2, 3, 4], end
            b.link.is_broken = False
            b.waiting()
            assert_nothing_is_left(b)


@run
async def test_the_tensors_of_a_request_are_dropped_when_its_blocks_are_in_the_queue() -> None:
    async with bench() as b:
        sent: list[int] = []
        b.link.gate.clear()
        pendings = [
            b.producer.send(b.request(number, timeout_s=t), nothing, nothing, lambda n=number: sent.append(n))  # type: ignore[misc]
            for number, t in enumerate((5.0, 5.0, 0.02))
        ]
        await turns()
        later = b.producer.send(b.request(3), nothing, nothing, lambda: sent.append(3))
        await turns()
        b.producer.withdraw(pendings[1])
        await asyncio.sleep(0.05)  # the third one's deadline
        assert sent == []  # its block is still on its way
        assert all(pending.inputs for pending in (*pendings, later))
        b.producer.withdraw(later)  # not sent yet
        assert sent == [3]
        b.link.gate.set()
        await turns()
        assert sorted(sent) == [0, 1, 2, 3]
        assert not any(pending.inputs for pending in (*pendings, later))


class OddClock:
    """A machine's clock: wrong by `ahead_s` and running by `drift` too fast."""

    def __init__(self, ahead_s: float, drift: float) -> None:
        self.ahead_s, self._drift = ahead_s, drift

    def __call__(self) -> float:
        return time.monotonic() * (1 + self._drift) + self.ahead_s


@run
async def test_clocks_that_differ_by_minutes_and_drift_mean_the_same_deadline() -> None:
    ours, theirs = OddClock(-600, 1e-4), OddClock(900, -1e-4)
    async with bench(producer_clock=OddClock(12_345, -2e-4), link_clock=ours) as b:
        worker = b.broker.worker(clock=theirs)
        ours.ahead_s += 300  # as where the time of day is wrong
        theirs.ahead_s -= 300
        await b.producer.refresh()
        worker.live()
        task = b.submit(1, timeout_s=7.0)
        await turns()
        ((block,),) = b.link.appends
        assert block.items[0].deadline_ms - worker.clock.now_ms() == pytest.approx(7000, abs=100)
        assert block.sent_ms == pytest.approx(worker.clock.now_ms(), abs=100)
        b.work()
        assert values(await task) == [2]
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(b.submit(2, timeout_s=0.02), 2)


@run
async def test_the_timings_of_a_response_add_up_to_the_time_that_passed() -> None:
    now_s = 50.0
    async with bench(producer_clock=lambda: now_s) as b:
        for queue_ms, in_queue_ms, reply_ms in ((100.0, 100, 200), (9000.0, 300, 0), (-5.0, 0, 300)):
            task = b.submit(1)
            await turns()
            now_s += 0.5
            for delivery in b.waiting():
                b.answer(delivery, np.ones(1, np.float32), times_ms=(queue_ms, 50.0, 150.0))
            t = (await task).timings
            assert (t.queue_ms, t.batch_ms, t.compute_ms, t.reply_ms) == pytest.approx((in_queue_ms, 50, 150, reply_ms))


@run
async def test_the_deadline_travels_with_the_request() -> None:
    async with bench() as b:
        task = b.submit(1, timeout_s=7.0)
        await turns()
        (block,) = b.link.appends[0]
        assert block.items[0].deadline_ms - block.sent_ms == pytest.approx(7000, abs=100)
        b.work()
        await task


@run
async def test_a_caller_that_leaves_before_its_request_is_sent_takes_it_along() -> None:
    async with bench() as b:
        b.link.gate.clear()
        first = b.submit(1)
        await turns()
        leaver, stayer = b.submit(2), b.submit(3)
        await turns()
        leaver.cancel()
        b.link.gate.set()
        await turns()
        assert b.sent() == [[[1]], [[3]]]
        b.work()
        assert values(await first) + values(await stayer) == [2, 6]


@run
async def test_an_append_that_fails_fails_its_requests_and_no_others() -> None:
    async with bench() as b:
        b.link.gate.clear()
        lost = [b.submit(1), b.submit(2)]
        await turns()
        b.link.is_broken = True
        b.link.gate.set()
        for task in lost:
            with pytest.raises(Unavailable, match="broken"):
                await task
        b.link.is_broken = False
        later = b.submit(3)
        await turns()
        b.work()
        assert values(await later) == [6]


@run
async def test_a_queue_that_lost_its_memory_fails_what_was_on_its_way() -> None:
    async with bench() as b:
        lost = b.submit(1)
        await turns()
        b.link.has_stream = False
        with pytest.raises(Unavailable, match="the queue was restarted and lost the request"):
            await lost


@run
async def test_one_items_error_is_its_own() -> None:
    async with bench() as b:
        good, bad = b.submit(1), b.submit(2)
        await turns()
        (delivery,) = b.consumer.exchange([], [], count=1, block_ms=0)
        block = codec.decode_request(delivery.block)
        first, second = block.items
        reply = ReplyBlock(
            worker="w",
            compute_ms=1.0,
            batch_rows=1,
            items=(ReplyItem(second.id, 0, 0.0, 0.0, "INVALID_ARGUMENT", "no"), ReplyItem(first.id, 1, 0.0, 0.0)),
            tensors={"y": Tensor.from_numpy(np.array([9], np.float32))},
        )
        b.consumer.exchange([Reply(block.reply_to, codec.encode_reply(reply))], [], count=0, block_ms=0)
        with pytest.raises(InvalidRequest, match="no"):
            await bad
        assert values(await good) == [9]


@run
async def test_a_part_that_is_answered_twice_counts_once() -> None:
    async with bench() as b:
        task, neighbour = b.submit(1, 2, 3, largest=2), b.submit(4, largest=2)
        await turns()
        replies = []
        for delivery in b.consumer.exchange([], [], count=9, block_ms=0):
            block = codec.decode_request(delivery.block)
            doubled = Tensor.from_numpy(block.tensors["x"].to_numpy() * 2)
            items = tuple(ReplyItem(item.id, item.rows, 0.0, 0.0) for item in block.items)
            reply = ReplyBlock(worker="w", compute_ms=1.0, batch_rows=1, items=items, tensors={"y": doubled})
            replies.append(Reply(block.reply_to, codec.encode_reply(reply)))
        first, second, third = replies
        b.consumer.exchange([first, first, third, second, first], [], count=0, block_ms=0)
        assert values(await task) == [2, 4, 6]
        assert values(await neighbour) == [8]


@run
async def test_a_reply_that_cannot_be_read_hurts_nobody_else() -> None:
    async with bench() as b:
        task = b.submit(1)
        await turns()
        b.consumer.exchange([Reply(b.link.reply_to, b"garbage")], [], count=0, block_ms=0)
        b.work()
        assert values(await task) == [2]


@run
async def test_timings_add_up_to_no_more_than_the_time_that_passed() -> None:
    async with bench() as b:
        task = b.submit(1)
        await turns()
        b.work()
        timings = (await task).timings
        assert timings.compute_ms == 1.0
        assert min(timings.queue_ms, timings.batch_ms, timings.reply_ms) >= 0


@run
async def test_draining_waits_for_what_was_submitted() -> None:
    async with bench() as b:
        task = b.submit(1)
        await turns()
        draining = asyncio.create_task(b.producer.drain(5.0))
        await turns()
        assert not draining.done()
        b.work()
        await draining
        assert values(await task) == [2]


@run
async def test_a_group_is_sent_before_the_last_append_ends_once_it_is_half_of_what_is_open() -> None:
    async with bench() as b:
        b.link.gate.clear()
        tasks = [b.submit(i) for i in range(3)]
        await turns()
        tasks += [b.submit(i) for i in range(3, 10)]
        await turns()
        assert sizes(b) == [3]  # the other seven wait for it
        tasks += [b.submit(i) for i in range(10, 45)]
        await turns()
        assert sizes(b) == [3, 8, 10, 20]  # eight at least, and then half of what is open by then
        b.link.gate.set()
        await turns()
        assert sorted(value for blocks in b.sent() for block in blocks for value in block) == list(range(45))
        b.work()
        assert [values(await task) for task in tasks] == [[2 * i] for i in range(45)]


@run
async def test_a_request_that_is_withdrawn_after_it_was_sent_is_cancelled_and_its_late_reply_dropped() -> None:
    async with bench() as b:
        leaver, stayer = b.submit(1, 2, 3, largest=2), b.submit(4, largest=2)
        await turns()
        numbers = [item.id for block in b.link.appends[0] for item in block.items]
        leaver.cancel()
        await turns()
        ((queue, items),) = b.link.cancels
        assert queue == QUEUE
        assert len(items) == 2
        left = {number for number, _ in items}
        assert left < set(numbers)
        now_ms = b.link.clock.now_ms()
        assert all(deadline_ms - now_ms == pytest.approx(5000, abs=1000) for _, deadline_ms in items)
        asked = [(b.link.reply_to, number) for number in numbers]
        assert b.consumer.cancelled(asked) == {(b.link.reply_to, number) for number in left}
        b.work()  # a worker that had them already
        assert values(await stayer) == [8]
        assert leaver.cancelled()
        assert_nothing_is_left(b)


@run
async def test_a_request_that_would_be_too_late_is_refused_at_once() -> None:
    now_s = 50.0
    async with bench(producer_clock=lambda: now_s) as b:
        first = b.submit(*range(20), largest=2)
        await turns()
        now_s += 0.05  # what the first answer takes, so that rows are known to be slow
        b.work()
        await first
        kept = b.submit(*range(200), timeout_s=60.0, largest=2)
        await turns()
        sent = b.sent()
        with pytest.raises(QueueFull, match="'m' is too long to answer within 10 ms") as caught:
            await b.submit(1, timeout_s=0.01, largest=2)
        assert 0 < caught.value.retry_after_s <= 30
        assert b.sent() == sent
        b.work()
        await kept
        assert_nothing_is_left(b)


@run
async def test_a_caller_that_leaves_in_the_turn_of_an_error_takes_no_answer_from_the_others() -> None:
    async with bench() as b:
        b.link.gate.clear()
        leaver, stayer = b.submit(1), b.submit(2)
        await turns()
        b.link.is_broken = True
        b.link.gate.set()
        leaver.cancel()
        with pytest.raises(Unavailable, match="broken"):
            await asyncio.wait_for(stayer, 2)
        with pytest.raises(asyncio.CancelledError):
            await leaver
        assert_nothing_is_left(b)


@run
async def test_an_append_that_cannot_even_begin_fails_its_requests_and_no_later_ones() -> None:
    async with bench() as b:

        def refuse(*_: object) -> None:
            raise Unavailable("cannot begin")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(b.link, "append", refuse)
            for tasks in ([b.submit(1)], [b.submit(*range(40), largest=2)], [b.submit(i) for i in range(9)]):
                for outcome in await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 2):
                    assert isinstance(outcome, Unavailable)
        assert_nothing_is_left(b)
        later = b.submit(3)
        await turns()
        b.work()
        assert values(await asyncio.wait_for(later, 2)) == [6]


@run
async def test_nothing_is_left_behind_however_requests_end() -> None:
    async with bench(max_queue_rows=12) as b:
        answered, refused = b.submit(1, 2, 3), b.submit(*range(10), largest=4, caller="another")
        await turns()
        b.work()
        b.link.is_broken = True
        broken = b.submit(4)
        await turns()
        b.link.is_broken = False
        late, leaver = b.submit(5, timeout_s=0.01), b.submit(6)
        await turns()
        leaver.cancel()
        b.link.gate.clear()
        unsent, unsent_leaver = b.submit(7, timeout_s=0.01), b.submit(8)
        await turns()
        unsent_leaver.cancel()
        outcomes = await asyncio.gather(
            answered, refused, broken, late, leaver, unsent, unsent_leaver, return_exceptions=True
        )
        kinds = [type(outcome) for outcome in outcomes]
        gone = asyncio.CancelledError
        assert kinds == [InferenceResponse, QueueFull, Unavailable, DeadlineExceeded, gone, DeadlineExceeded, gone]
        b.link.gate.set()
        await turns()
        b.work()
        await turns()
        assert_nothing_is_left(b)


def sizes(b: Bench) -> list[int]:
    """How many rows each append so far had."""
    return [sum(len(block) for block in blocks) for blocks in b.sent()]


def assert_nothing_is_left(b: Bench) -> None:
    assert b.producer.snapshot() == (0, 0, 0, 0)
    assert b.producer.batches_in_flight(QUEUE.model, QUEUE.version) == 0
