"""The worker's loop: real brokers, real threads, and models that break in every way."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from onnx import TensorProto, helper

from millrace import rpc
from millrace.artifacts import manifest as manifests
from millrace.artifacts.configs import TritonConfig, read_triton_config
from millrace.artifacts.manifest import Batching, LookUpWords, Manifest, NameWords, Tokenize
from millrace.artifacts.vocabulary import Vocabulary
from millrace.broker.base import Append, Broker, ConsumerLink, Delivery, Limits
from millrace.broker.keys import Queue
from millrace.broker.memory import MemoryBroker, MemoryConsumerLink
from millrace.broker.redis import RedisBroker
from millrace.protocol import codec
from millrace.protocol.errors import DeadlineExceeded, InvalidRequest, MillraceError, ModelFailed, Unavailable
from millrace.protocol.messages import ReplyBlock
from millrace.protocol.tensors import Signature, Tensor, TensorSpec
from serving.queueing.producer import Producer
from serving.queueing.requests import InferenceRequest, InferenceResponse
from tests.support.onnxmodels import save
from tests.support.running import ROOT, RedisServer, until
from tests.support.workers import local_worker
from tests.support.working import (
    QUEUE,
    SIGNATURE,
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
    shown,
    text_request,
    wrong_batch_size,
)
from worker.backends.base import Arrays, Device, LoadError, RowErrors
from worker.loading import model as models
from worker.loading.model import Model
from worker.preprocessing import preparation
from worker.preprocessing.preparation import Preparation
from worker.process import Worker
from worker.running.batcher import Cost
from worker.running.loop import Instance
from worker.running.quarantine import Quarantine
from worker.settings import WorkerSettings


def test_requests_are_answered_each_with_its_own_rows(broker: Broker) -> None:
    backend = Scripted(doubles)
    with serving(broker, model_of(backend)):
        answers = ask(broker, request_of([[1]]), request_of([[2], [3]]), request_of([[4]]))
    assert [shown(answer) for answer in answers] == [[[2]], [[4], [6]], [[8]]]
    assert backend.runs == [4]


def test_rows_of_different_shape_are_run_apart(broker: Broker) -> None:
    with serving(broker, model_of(Scripted(doubles))):
        answers = ask(broker, request_of([[1]]), request_of([[1, 2]]), request_of([[3]]))
    assert [shown(answer) for answer in answers] == [[[2]], [[2, 4]], [[6]]]


def test_a_request_larger_than_a_batch_comes_back_whole(broker: Broker) -> None:
    rows = [[float(i)] for i in range(50)]
    with serving(broker, model_of(Scripted(doubles))):
        (answer,) = ask(broker, request_of(rows))
    assert shown(answer) == [[2 * value] for (value,) in rows]


def test_a_model_without_batching_gets_each_request_as_it_is(broker: Broker) -> None:
    backend = Scripted(doubles)
    with serving(broker, model_of(backend, max_batch_size=0)):
        answers = ask(broker, request_of([[1, 2], [3, 4]], largest=0), request_of([[5]], largest=0))
    assert [shown(answer) for answer in answers] == [[[2, 4], [6, 8]], [[10]]]
    assert backend.runs == [2, 1]


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (raises_in_infer, "model 'm' failed: ValueError: cannot stand 666$"),
        (wrong_batch_size, r"output 'y' has shape \[0, 1\] for a batch of 1 rows"),
    ],
)
def test_one_bad_request_fails_alone(broker: Broker, compute: Callable[[Any], Any], message: str) -> None:
    with serving(broker, model_of(Scripted(compute))):
        first, bad, last = ask(broker, request_of([[1]]), request_of([[666]]), request_of([[3]]))
        (after,) = ask(broker, request_of([[4]]))
    assert [shown(first), shown(last), shown(after)] == [[[2]], [[6]], [[8]]]
    with pytest.raises(ModelFailed, match=message):
        raise bad  # type: ignore[misc]


def test_a_request_that_expired_on_the_queue_is_never_computed(broker: Broker) -> None:
    backend = Scripted(doubles)
    (late,) = ask(broker, request_of([[1]], timeout_s=0.02))
    assert isinstance(late, DeadlineExceeded)
    with serving(broker, model_of(backend)):
        (answer,) = ask(broker, request_of([[2]]))
    assert shown(answer) == [[4]]
    assert backend.runs == [1]


def test_a_request_that_expires_while_an_earlier_batch_runs_is_never_computed(broker: Broker) -> None:
    """Three shapes, so three batches of one take; the first runs until the second's deadline has passed."""
    computed: list[int] = []
    deadline_s = 0.3
    ends = 0.0

    def slow_at_first(x: Any) -> Any:
        computed.append(x.shape[1])
        if x.shape[1] == 1:
            until(lambda: time.monotonic() > ends, what="the second request's deadline")
        return x

    ends = time.monotonic() + deadline_s + 0.1
    put(broker, request_of([[1]]), request_of([[1, 2]], timeout_s=deadline_s), request_of([[1, 2, 3]]))
    with serving(broker, model_of(Scripted(slow_at_first))):
        until(lambda: is_empty(broker), what="an empty queue")
    assert computed == [1, 3]


def test_a_request_whose_caller_went_away_is_never_computed(broker: Broker) -> None:
    """Of four items of one block two are cancelled; the others get the answers of their own rows."""
    computed: list[float] = []

    def remembers(x: Any) -> Any:
        computed.extend(x[:, 0])
        return x * 2

    async def run() -> ReplyBlock:
        async with connected(broker) as link:
            await link.append([block_of(link, request_of([[1], [2], [3], [4], [5]]), [1, 2, 1, 1])], Limits(10, 10**6))
            await link.cancel(QUEUE, [(number, int(link.clock.now_ms()) + 60_000) for number in (1, 3)])
            with serving(broker, model_of(Scripted(remembers))):
                (reply,) = await link.replies()
        return codec.decode_reply(reply)

    reply = asyncio.run(run())
    assert computed == [1, 4]
    assert [item.id for item in reply.items] == [0, 2]
    assert reply.tensors["y"].to_numpy().tolist() == [[2], [8]]
    assert is_empty(broker)


def test_a_block_that_everybody_left_is_finished_without_a_run(broker: Broker) -> None:
    async def leave() -> None:
        async with connected(broker) as link:
            await link.append([block_of(link, request_of([[1], [2]]), [1, 1])], Limits(10, 10**6))
            await link.cancel(QUEUE, [(number, int(link.clock.now_ms()) + 60_000) for number in (0, 1)])

    asyncio.run(leave())
    backend = Scripted(doubles)
    with serving(broker, model_of(backend)):
        until(lambda: is_empty(broker), what="an empty queue")
    assert backend.runs == []


@pytest.mark.parametrize("rows_per_request", [1, 8])
def test_high_priority_runs_first_and_low_is_not_starved(broker: Broker, rows_per_request: int) -> None:
    """A long queue of both: the first rows to run are high, and low ones run before the high ones are all done."""
    computed: list[float] = []

    def remembers(x: Any) -> Any:
        computed.extend(x[:, 0])
        return x

    low, high = ([[value]] * rows_per_request for value in (0.0, 1.0))
    put(broker, *[request_of(low)] * 40, *[replace(request_of(high), priority="high")] * 40)
    with serving(broker, model_of(Scripted(remembers))):
        until(lambda: is_empty(broker), what="an empty queue")
    assert len(computed) == 80 * rows_per_request
    assert set(computed[:8]) == {1.0}
    assert computed.index(0.0) <= 8 * rows_per_request
    last_high = len(computed) - computed[::-1].index(1.0)
    assert computed[:last_high].count(0.0) >= 0.8 * computed.count(0.0)


def test_nothing_waits_while_there_is_something_to_do(broker: Broker) -> None:
    """Without a queue delay, the worker waits on the queue only when it holds nothing, and nowhere else."""
    waits: list[tuple[int, int]] = []  # blocks in hand, and ms that the queue may let the worker wait
    in_hand = 0
    consumer = broker.consumer

    def watched(queue: Queue, name: str) -> Any:
        link = consumer(queue, name)
        exchange = link.exchange

        def recorded(replies: Any, finished: Any, *, count: int, block_ms: int, **options: Any) -> Any:
            nonlocal in_hand
            in_hand -= len(finished)
            waits.append((in_hand, block_ms))
            taken = exchange(replies, finished, count=count, block_ms=block_ms, **options)
            in_hand += len(taken)
            return taken

        link.exchange = recorded  # type: ignore[method-assign]
        return link

    broker.consumer = watched  # type: ignore[method-assign, assignment]
    with serving(broker, model_of(Scripted(doubles))):
        ask(broker, *(request_of([[1.0] * (1 + n % 4)]) for n in range(40)))
    assert any(held for held, _ in waits)
    assert {block_ms for held, block_ms in waits if held} == {0}


def test_a_worker_waits_for_a_fuller_batch_where_the_model_asks_for_it(broker: Broker) -> None:
    backend = Scripted(doubles)

    async def run() -> None:
        producer = Producer(broker.producer("api"), limits=Limits(1000, 10**8), grace_s=60)
        await producer.start()
        while not producer.is_connected:
            await asyncio.sleep(0.001)
        first = asyncio.create_task(producer.submit(request_of([[1]])))
        await asyncio.sleep(0.01)  # a second block, within the delay
        second = asyncio.create_task(producer.submit(request_of([[2]])))
        await asyncio.gather(first, second)
        await producer.stop()

    with serving(broker, model_of(backend, delay_ms=150.0)):
        asyncio.run(run())
    assert backend.runs == [2]


def test_a_full_batch_does_not_wait_for_the_models_delay(broker: Broker) -> None:
    started = time.monotonic()
    with serving(broker, model_of(Scripted(doubles), max_batch_size=2, delay_ms=20_000.0)):
        (answer,) = ask(broker, request_of([[1], [2]], largest=2))
    assert shown(answer) == [[2], [4]]
    assert time.monotonic() - started < 10


class Counting(MemoryConsumerLink):
    """A link that remembers how many blocks it was asked for."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker, QUEUE, "w")
        self.counts: list[int] = []

    def exchange(self, *args: Any, count: int, **options: Any) -> list[Delivery]:
        self.counts += [count] * bool(count)
        return super().exchange(*args, count=count, **options)


@pytest.mark.parametrize(("pads", "batches"), [(False, 1), (True, 4)])
def test_about_a_batch_is_taken_and_a_few_where_there_are_lengths_to_choose_from(pads: bool, batches: int) -> None:
    """By the size of the blocks before: at first of one row each, then of two."""
    broker = MemoryBroker()
    link = Counting(broker)
    model = model_of_texts(Sums()) if pads else model_of(Scripted(doubles))
    instance = Instance(model, link, worker="w", clock=broker.worker().clock, lease_ms=10_000)
    put(broker, request_of_texts([[1], [2]], [0.0, 0.0]) if pads else request_of([[1], [2]]))
    thread = threading.Thread(target=instance.run)
    thread.start()
    until(lambda: len(link.counts) > 1, what="the exchange after the one that took the block")
    instance.drain()
    thread.join(30)
    assert link.counts[:2] == [8 * batches, 4 * batches]


def test_the_block_of_a_worker_that_died_is_answered_by_another(broker: Broker) -> None:
    def take_and_die() -> None:
        while not broker.consumer(QUEUE, "dead-0").exchange([], [], count=1, block_ms=100):
            pass

    thief = threading.Thread(target=take_and_die)
    thief.start()
    answers: list[InferenceResponse | BaseException] = []
    asking = threading.Thread(target=lambda: answers.extend(ask(broker, request_of([[1], [2]]))))
    asking.start()
    thief.join()
    with serving(broker, model_of(Scripted(doubles))):
        asking.join()
    assert [shown(answer) for answer in answers] == [[[2], [4]]]


class Away(MemoryConsumerLink):
    """A link to a queue that is out of reach for its first attempts."""

    attempts = 0
    fails = 3

    def exchange(self, *args: Any, **options: Any) -> list[Delivery]:
        self.attempts += 1
        if self.attempts <= self.fails:
            raise Unavailable("it is away")
        return super().exchange(*args, **options)


def instance_over(link: ConsumerLink, broker: Broker) -> Instance:
    return Instance(model_of(Scripted(doubles)), link, worker="w", clock=broker.worker().clock, lease_ms=200)


def test_a_queue_that_is_out_of_reach_is_asked_again_after_pauses_that_grow() -> None:
    broker = MemoryBroker()
    instance = instance_over(Away(broker, QUEUE, "w"), broker)
    thread = threading.Thread(target=instance.run)
    started = time.monotonic()
    thread.start()
    (answer,) = ask(broker, request_of([[1]]))
    instance.drain()
    thread.join(30)
    assert shown(answer) == [[2]]
    assert time.monotonic() - started >= 0.05 + 0.1 + 0.2


def test_who_drains_does_not_wait_for_a_queue_that_is_out_of_reach() -> None:
    """It tries once to say what it has left to say; then it is over."""
    broker = MemoryBroker()
    link = Away(broker, QUEUE, "w")
    link.fails = 10**9
    instance = instance_over(link, broker)
    instance.drain()
    instance.run()
    assert link.attempts == 1


def test_a_request_that_three_workers_died_of_is_given_up(broker: Broker) -> None:
    answers: list[InferenceResponse | BaseException] = []
    asking = threading.Thread(target=lambda: answers.extend(ask(broker, request_of([[666]]))))
    asking.start()
    taken: list[Any] = []
    while not taken:
        taken = broker.consumer(QUEUE, "dead-0").exchange([], [], count=1, block_ms=100)
    for number in (1, 2):
        claimed: list[Any] = []
        while not claimed:
            claimed = broker.consumer(QUEUE, f"dead-{number}").claim(lease_ms=10, count=1)
    backend = Scripted(raises_in_infer)
    with serving(broker, model_of(backend)):
        asking.join()
    assert backend.runs == []
    if isinstance(broker, MemoryBroker):
        assert [letter.error for letter in broker.operator().dead_letters(QUEUE)] == [
            "the request was given up after 3 workers failed on it"
        ]
    with pytest.raises(ModelFailed, match="given up after 3 workers failed on it"):
        raise answers[0]  # type: ignore[misc]


def take_and_die(broker: Broker) -> None:
    """Take a block from the queue, and never finish it."""
    while not broker.consumer(QUEUE, "dead").exchange([], [], count=1, block_ms=100):
        pass


def run_until_it_dies(redis_server: RedisServer, consumer: str) -> None:
    """A worker's process that takes what there is, and claims, until a 666 ends it."""
    command = [sys.executable, "-m", "tests.support.dying", redis_server.url, consumer]
    assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == 66


def test_neighbours_of_a_request_that_ends_the_process_are_answered(redis_server: RedisServer) -> None:
    """A block of three whose middle one kills: its second delivery answers the last, its third the first."""
    broker = RedisBroker(redis_server.url)
    answers: list[InferenceResponse | BaseException] = []
    requests = [request_of([[value]], timeout_s=60) for value in (1, 666, 3)]
    asking = threading.Thread(target=lambda: answers.extend(ask(broker, *requests)))
    asking.start()
    take_and_die(broker)
    for number in (1, 2):
        run_until_it_dies(redis_server, f"dies-{number}")
    with serving(broker, model_of(Scripted(doubles))):  # would answer a 666, too
        asking.join()
    assert [shown(answer) for answer in answers] == [[[2]], ModelFailed, [[6]]]


def test_a_suspect_runs_while_no_other_instance_of_its_process_does(broker: Broker) -> None:
    """Else nobody could say who ended the process. A fresh block runs while another instance holds the suspect."""
    seen: list[tuple[float, int]] = []  # what each run was given, and how many ran then
    under_way, lock = 0, threading.Lock()
    entered, leave = threading.Event(), threading.Event()

    def notes(x: Any) -> Any:
        nonlocal under_way
        with lock:
            under_way += 1
            seen.append((float(x[0, 0]), under_way))
        if x[0, 0] == 1:
            entered.set()
            assert leave.wait(30)
        with lock:
            under_way -= 1
        return x

    quarantine = Quarantine()
    put(broker, request_of([[1]]))
    with serving(broker, model_of(Scripted(notes)), "first", quarantine):
        try:
            assert entered.wait(30)
            put(broker, request_of([[666]]))
            while not broker.consumer(QUEUE, "dead").exchange([], [], count=1, block_ms=100):
                pass
            broker.worker().release(QUEUE, "dead", is_suspect=True)
            with serving(broker, model_of(Scripted(notes)), "second", quarantine):
                until(lambda: quarantine.suspects_waiting, what="the suspect to wait")
                leave.set()
                until(lambda: is_empty(broker), what="an empty queue")
        finally:
            leave.set()
    assert seen == [(1, 1), (666, 1)]


def test_what_was_computed_is_answered_before_a_block_that_may_end_the_process_runs(broker: Broker) -> None:
    """A suspect waits in its run until the reply to a fresh block that was taken with it has come."""
    entered, leave = threading.Event(), threading.Event()

    def waits(x: Any) -> Any:
        if (x == 666).any():
            entered.set()
            assert leave.wait(30)
        return x * 2

    put(broker, request_of([[666]]))
    while not broker.consumer(QUEUE, "dead").exchange([], [], count=1, block_ms=100):
        pass
    broker.worker().release(QUEUE, "dead", is_suspect=True)

    async def run() -> list[bytes]:
        async with connected(broker) as link:
            await link.append([block_of(link, request_of([[1]]), [1])], Limits(10, 10**6))
            with serving(broker, model_of(Scripted(waits))):
                try:
                    assert await asyncio.to_thread(entered.wait, 30)
                    async with asyncio.timeout(10):
                        return await link.replies()
                finally:
                    leave.set()

    (reply,) = asyncio.run(run())
    assert codec.decode_reply(reply).tensors["y"].to_numpy().tolist() == [[2]]


@pytest.mark.parametrize("error", [SystemExit("bye"), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_what_would_end_a_program_is_an_error_of_its_request(broker: Broker, error: BaseException) -> None:
    def exits(x: Any) -> Any:
        if (x == 666).any():
            raise error
        return x * 2

    with serving(broker, model_of(Scripted(exits))):
        first, bad, last = ask(broker, request_of([[1]]), request_of([[666]]), request_of([[3]]))
        (after,) = ask(broker, request_of([[4]]))
    assert [shown(answer) for answer in (first, last, after)] == [[[2]], [[6]], [[8]]]
    with pytest.raises(ModelFailed, match=f"model 'm' failed: {type(error).__name__}"):
        raise bad  # type: ignore[misc]


def test_a_keyboard_interrupt_of_the_main_thread_ends_the_loop() -> None:
    def interrupted(x: Any) -> Any:
        raise KeyboardInterrupt

    broker = MemoryBroker()
    put(broker, request_of([[1]]))
    instance = Instance(
        model_of(Scripted(interrupted)),
        broker.consumer(QUEUE, "w-0"),
        worker="w",
        clock=broker.worker().clock,
        lease_ms=200,
    )
    with pytest.raises(KeyboardInterrupt):
        instance.run()


def test_rows_that_a_backend_blames_fail_alone_and_the_others_run_once_more(broker: Broker) -> None:
    def blames(x: Any) -> Any:
        if bad := {row: InvalidRequest(f"row {row} is 666") for row in np.flatnonzero(x[:, 0] == 666).tolist()}:
            raise RowErrors(bad)
        return x * 2

    backend = Scripted(blames)
    requests = [request_of(rows) for rows in ([[1], [2]], [[3], [666]], [[4]], [[666]])]
    with serving(broker, model_of(backend)):
        answers = ask(broker, *requests)
    assert [shown(answer) for answer in answers] == [[[2], [4]], InvalidRequest, [[8]], InvalidRequest]
    assert [str(answer) for answer in answers[1::2]] == ["row 3 is 666", "row 5 is 666"]
    assert backend.runs == [6, 3]


def test_a_backend_that_blames_rows_that_there_are_not_fails_every_request(broker: Broker) -> None:
    def blames(x: Any) -> Any:
        raise RowErrors({7: InvalidRequest("row 7 is wrong"), -1: InvalidRequest("row -1, too")})

    with serving(broker, model_of(Scripted(blames))):
        answers = ask(broker, request_of([[1]]), request_of([[2]]))
    assert [shown(answer) for answer in answers] == [ModelFailed, ModelFailed]


def test_what_a_caller_did_wrong_is_one_line_without_a_trace(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    def refuses(x: Any) -> Any:
        if (x == 666).any():
            raise InvalidRequest("no 666, please")
        return x

    backend = Scripted(refuses)
    with caplog.at_level("INFO"), serving(broker, model_of(backend)):
        (alone,) = ask(broker, request_of([[666]]))
        together = ask(broker, request_of([[1]]), request_of([[666]]))
    assert [shown(answer) for answer in (alone, *together)] == [InvalidRequest, [[1]], InvalidRequest]
    assert [record.message for record in caplog.records] == ["a request was refused"] * 2
    assert not any(record.exc_info for record in caplog.records)
    assert backend.runs == [1, 2, 1, 1]


def test_blocks_that_are_claimed_one_by_one_are_claimed_without_a_pause() -> None:
    """On an idle queue: as many turns of waiting as blocks would be 0.05 s each at this lease."""
    broker, waits = MemoryBroker(), list[int]()
    put(broker, *[request_of([[1]])] * 5)
    for name in ("dead", "dead too"):
        taken: list[Delivery] = []
        consumer = broker.consumer(QUEUE, name)
        while len(taken) < 5:
            taken += consumer.claim(lease_ms=20, count=5) or consumer.exchange([], [], count=5, block_ms=0)

    class Recording(MemoryConsumerLink):
        def exchange(self, *args: Any, count: int, block_ms: int, **options: Any) -> list[Delivery]:
            if count:
                waits.append(block_ms)
            return super().exchange(*args, count=count, block_ms=block_ms, **options)

    instance = Instance(
        model_of(Scripted(doubles)),
        Recording(broker, QUEUE, "w"),
        worker="w",
        clock=broker.worker().clock,
        lease_ms=200,
    )
    thread = threading.Thread(target=instance.run)
    thread.start()
    until(lambda: is_empty(broker), what="an empty queue")
    instance.drain()
    thread.join(30)
    first = waits.index(0, 1)  # the turn after the one that claimed the first block
    assert waits[first : first + 5] == [0] * 5
    assert max(waits) <= 50  # a fourth of the lease, after which the next claim is due


def test_many_blocks_of_a_dead_worker_are_taken_over_together(broker: Broker) -> None:
    answers: list[InferenceResponse | BaseException] = []
    requests = [request_of([[float(i)] * (1 + i % 5)]) for i in range(60)]  # five shapes, so many blocks
    asking = threading.Thread(target=lambda: answers.extend(ask(broker, *requests)))
    asking.start()
    taken: list[Any] = []
    while len(taken) < 10:
        taken += broker.consumer(QUEUE, "dead-0").exchange([], [], count=100, block_ms=100)
    with serving(broker, model_of(Scripted(doubles))):
        asking.join()
    assert all(isinstance(answer, InferenceResponse) for answer in answers)


@pytest.mark.parametrize(
    "compute", [lambda x: x.astype(np.complex64), lambda x: np.array([object()] * len(x))], ids=["complex", "objects"]
)
def test_an_output_that_cannot_travel_is_the_models_error(broker: Broker, compute: Callable[[Any], Any]) -> None:
    with serving(broker, model_of(Scripted(compute))):
        answers = ask(broker, request_of([[1]]), request_of([[2]]))
    assert all(isinstance(answer, ModelFailed) and "an output cannot be sent" in str(answer) for answer in answers)


def test_an_input_that_cannot_be_unpacked_is_the_requests_error(broker: Broker) -> None:
    bad = request_of([[1]])
    bad = replace(bad, inputs={"x": Tensor("BYTES", (1, 1), b"\xff\xff\xff\xff")})
    with serving(broker, model_of(Scripted(doubles))):
        first, second = ask(broker, bad, request_of([[2]]))
    assert isinstance(first, InvalidRequest | ModelFailed)
    assert shown(second) == [[4]]


def test_a_block_that_cannot_be_read_is_buried_and_the_rest_served(broker: Broker) -> None:
    async def put_garbage() -> None:
        link = broker.producer("garbage")
        await link.heartbeat()
        await link.append([Append(QUEUE, "normal", ((7, b"garbage"),))], Limits(10, 100))
        await link.close()

    asyncio.run(put_garbage())
    with serving(broker, model_of(Scripted(doubles))):
        (answer,) = ask(broker, request_of([[1]]))
    assert shown(answer) == [[2]]


def test_a_block_without_requests_is_buried(broker: Broker) -> None:
    async def put_empty() -> None:
        async with connected(broker) as link:
            await link.append([block_of(link, request_of(np.zeros((0, 1))), [])], Limits(10, 10**6))

    asyncio.run(put_empty())
    operator = broker.operator()
    with serving(broker, model_of(Scripted(doubles))):
        until(lambda: list(operator.dead_letters(QUEUE)), what="a dead letter")
    assert [letter.error for letter in operator.dead_letters(QUEUE)] == ["the block holds no requests"]
    operator.close()


@pytest.mark.parametrize("error", [Unavailable("it is away"), DeadlineExceeded("it took too long")], ids=repr)
def test_what_a_model_depends_on_fails_the_whole_batch_at_once(broker: Broker, error: MillraceError) -> None:
    """To ask once for each request would be no use, and the more load the more of it."""

    def depends(x: Any) -> Any:
        raise error

    backend = Scripted(depends)
    with serving(broker, model_of(backend)):
        answers = ask(broker, request_of([[1]]), request_of([[2]]), request_of([[3]]))
    assert [shown(answer) for answer in answers] == [type(error)] * 3
    assert backend.runs == [3]


class Buries(MemoryConsumerLink):
    """A link that cannot bury at first, and must not be asked for cancelled requests: there are none."""

    attempts = 0

    def bury(self, delivery: Delivery, error: str) -> None:
        self.attempts += 1
        if self.attempts == 1:
            raise Unavailable("it is away")
        super().bury(delivery, error)

    def cancelled(self, items: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        raise AssertionError("nothing was cancelled")


def test_a_block_that_cannot_be_buried_yet_is_left_to_be_claimed_again() -> None:
    broker = MemoryBroker()
    link = Buries(broker, QUEUE, "w")

    async def put_garbage() -> None:
        async with connected(broker) as sender:
            await sender.append([Append(QUEUE, "normal", ((7, b"garbage"),))], Limits(10, 100))

    asyncio.run(put_garbage())
    instance = instance_over(link, broker)
    thread = threading.Thread(target=instance.run)
    thread.start()
    until(lambda: is_empty(broker), what="an empty queue")
    (answer,) = ask(broker, request_of([[1]]))
    instance.drain()
    thread.join(30)
    assert link.attempts == 2
    assert shown(answer) == [[2]]


def test_replies_say_how_long_requests_waited_and_ran() -> None:
    """By clocks that are passed in: a run takes 2 s, a block waited 5 s on the queue, a second batch for the first."""
    broker, now_s = MemoryBroker(), [100.0]

    def slow(x: Any) -> Any:
        now_s[0] += 2.0
        return x

    async def run() -> list[ReplyBlock]:
        async with connected(broker) as link:
            for row in ([1.0], [1.0, 2.0]):
                append = block_of(link, request_of([row], timeout_s=60), [1])
                block = codec.decode_request(append.blocks[0][1])
                late = replace(block, sent_ms=block.sent_ms - 5000)
                await link.append([Append(QUEUE, "normal", ((1, codec.encode_request(late)),))], Limits(10, 10**6))
            instance = Instance(
                model_of(Scripted(slow)),
                broker.consumer(QUEUE, "w"),
                worker="w",
                clock=broker.worker().clock,
                lease_ms=10_000,
                monotonic=lambda: now_s[0],
            )
            thread = threading.Thread(target=instance.run)
            thread.start()
            replies: list[bytes] = []
            while len(replies) < 2:
                replies += await link.replies()
            instance.drain()
            await asyncio.to_thread(thread.join, 30)
        return [codec.decode_reply(reply) for reply in replies]

    replies = asyncio.run(run())
    assert [reply.compute_ms for reply in replies] == [2000, 2000]
    assert [reply.items[0].batch_ms for reply in replies] == [0, 2000]
    assert all(5000 <= reply.items[0].queue_ms < 60_000 for reply in replies)


def test_draining_answers_what_was_taken(broker: Broker) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(x: Any) -> Any:
        entered.set()
        assert leave.wait(10)
        return x

    answers: list[InferenceResponse | BaseException] = []
    with serving(broker, model_of(Scripted(slow))) as instance:
        asking = threading.Thread(target=lambda: answers.extend(ask(broker, request_of([[1]]))))
        asking.start()
        assert entered.wait(10)
        instance.drain()
        leave.set()
        asking.join()
    assert shown(answers[0]) == [[1]]


# Preprocessing


def _manifest(**steps: Any) -> Manifest:
    return Manifest(name="m", version=1, signatures={"serving_default": SIGNATURE}, **steps)


def test_texts_become_ids_padded_to_the_longest(tmp_path: Path) -> None:
    Vocabulary(["<pad>", "<unk>", "good", "film"]).write(tmp_path / "vocabulary.txt")
    step = Tokenize(input="text", output="ids", max_length=3, keep="end")
    prepared = preparation.load(tmp_path, _manifest(preprocessing=(step,)))
    rows = [prepared.before({"text": np.array([text], object)}) for text in (b"good", b"a b good film")]
    assert prepared.join("ids", [row["ids"] for row in rows]).tolist() == [[2, 0, 0], [1, 2, 3]]
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        prepared.before({"text": np.array([b"\xff"], object)})


def test_words_become_ids_and_back_and_padding_weighs_nothing(tmp_path: Path) -> None:
    Vocabulary(["king", "man", "queen"]).write(tmp_path / "vocabulary.txt")
    steps = _manifest(
        preprocessing=(LookUpWords(input="tokens", output="ids", weights="weights"),),
        postprocessing=(NameWords(output="neighbors"),),
    )
    prepared = preparation.load(tmp_path, steps)
    one = prepared.before({"tokens": np.array([[b"King"]], object)})
    two = prepared.before({"tokens": np.array([[b"king", b"man"]], object), "weights": np.array([[1, -1]], np.float32)})
    assert prepared.join("ids", [one["ids"], two["ids"]]).tolist() == [[0, 0], [0, 1]]
    assert prepared.join("weights", [one["weights"], two["weights"]]).tolist() == [[1, 0], [1, -1]]
    assert prepared.after({"neighbors": np.array([[2, 0]])})["neighbors"].tolist() == [[b"queen", b"king"]]
    with pytest.raises(InvalidRequest, match="unknown word 'xyzzy': it is not among the 3 words of model 'm'"):
        prepared.before({"tokens": np.array([[b"king", b"xyzzy"]], object)})
    with pytest.raises(InvalidRequest, match="must have the same shape"):
        prepared.before({"tokens": np.array([[b"king"]], object), "weights": np.ones((1, 2), np.float32)})


def test_a_bad_row_fails_its_own_request_before_the_batch(broker: Broker) -> None:
    def refuse(row: Arrays) -> Arrays:
        if row["x"][0] == b"666":
            raise InvalidRequest("no 666, please")
        return {"x": row["x"].astype(np.float32).reshape(-1, 1)}

    backend = Scripted(doubles)
    model = model_of(backend)
    model.preparation = Preparation([refuse], raw=["x"])
    with serving(broker, model):
        answers = ask(broker, *(text_request(*texts) for texts in (["1"], ["2", "666"], ["3"])))
    assert [shown(answer) for answer in answers] == [[[2]], InvalidRequest, [[6]]]
    assert str(answers[1]) == "row 1 of 2, from 0: no 666, please"
    assert backend.runs == [2]


def test_a_row_of_too_many_words_is_refused_before_it_is_walked(broker: Broker, tmp_path: Path) -> None:
    """What the tensor says of its shape is enough: its strings could not even be unpacked."""
    Vocabulary(["king"]).write(tmp_path / "vocabulary.txt")
    model = model_of(Scripted(doubles))
    steps = _manifest(preprocessing=(LookUpWords(input="x", output="ids", weights="weights"),))
    model.preparation = preparation.load(tmp_path, steps)
    words = Tensor("BYTES", (1, preparation.MAX_WORDS + 1), b"")
    with serving(broker, model):
        (answer,) = ask(broker, replace(request_of([[0.0]]), inputs={"x": words}))
    with pytest.raises(InvalidRequest, match=r"input 'x' has 4097 strings a row: at most 4096 are taken"):
        raise answer  # type: ignore[misc]


def test_an_unknown_word_is_named_and_no_more_than_its_beginning(tmp_path: Path) -> None:
    Vocabulary(["king"]).write(tmp_path / "vocabulary.txt")
    steps = _manifest(preprocessing=(LookUpWords(input="tokens", output="ids", weights="weights"),))
    prepared = preparation.load(tmp_path, steps)
    with pytest.raises(InvalidRequest, match=f"^unknown word '{'x' * 60}…': it is not among the 1 words") as raised:
        prepared.before({"tokens": np.array([[b"king", b"x" * 1_000_000, b"also unknown"]], object)})
    assert len(str(raised.value)) < 200


def test_a_request_that_expires_while_it_is_prepared_is_not_prepared_to_its_end(broker: Broker) -> None:
    """Its rows may be large images, each of which takes long."""
    prepared: list[bytes] = []
    deadline_s = 0.3
    ends = time.monotonic() + deadline_s + 0.1

    def slow(row: Arrays) -> Arrays:
        prepared.append(row["x"][0])
        if row["x"][0] == b"1":
            until(lambda: time.monotonic() > ends, what="the request's deadline")
        return {"x": row["x"].astype(np.float32).reshape(-1, 1)}

    put(broker, text_request("1", "2", "3", timeout_s=deadline_s))
    backend = Scripted(doubles)
    model = model_of(backend)
    model.preparation = Preparation([slow], raw=["x"])
    with serving(broker, model):
        until(lambda: is_empty(broker), what="an empty queue")
    assert prepared == [b"1"]
    assert backend.runs == []


# Rows of different length


def in_words(row: Arrays) -> Arrays:
    """A preparation: text of numbers becomes those numbers."""
    return row | {"x": np.array([row["x"][0].split()], np.float32)}


class Sums:
    """A backend with two inputs, whose answer is each row's sum and weight; it cannot stand 666."""

    platform = "scripted"

    def __init__(self) -> None:
        weight = TensorSpec(name="weight", datatype="FP32", shape=(-1,))
        self.signatures = {"serving_default": Signature(inputs=(*SIGNATURE.inputs, weight), outputs=SIGNATURE.outputs)}
        self.runs: list[tuple[int, int]] = []

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        self.runs.append(inputs["x"].shape)
        return {"y": np.stack([raises_in_infer(inputs["x"]).sum(1), inputs["weight"]], 1)}


def model_of_texts(backend: Sums) -> Model:
    model = model_of(backend)  # type: ignore[arg-type]
    model.preparation = Preparation([in_words], raw=["x"], padding={"x": 0})
    model.cost = Cost(batch=0.01, step=0.0001, element=0.001)
    return model


def request_of_texts(texts: Sequence[Sequence[int]], weights: Sequence[float]) -> InferenceRequest:
    request = text_request(*(" ".join(map(str, text)) for text in texts))
    return replace(request, inputs=request.inputs | {"weight": Tensor.from_numpy(np.array(weights, np.float32))})


def test_texts_of_similar_length_share_a_batch_and_each_caller_gets_its_own(broker: Broker) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.permutation([5, 6, 7, 50, 60, 200] * 5)
    put(broker, *(request_of_texts([[1] * length], [0.0]) for length in lengths))
    backend = Sums()
    with serving(broker, model_of_texts(backend)):
        until(lambda: is_empty(broker), what="an empty queue")
        answers = ask(broker, *(request_of_texts([[1] * length], [float(i)]) for i, length in enumerate(lengths)))
    assert [shown(answer) for answer in answers] == [[[2 * length, i]] for i, length in enumerate(lengths)]
    of_the_queue = backend.runs[: next(i + 1 for i, n in enumerate(accumulate(r for r, _ in backend.runs)) if n == 30)]
    assert sum(rows * longest for rows, longest in of_the_queue) < 1.3 * sum(lengths)
    assert len(of_the_queue) < 12


def test_in_a_batch_or_alone_the_answer_is_the_same() -> None:
    """Requests of 1 to 5 rows of 1 to 30 numbers and a weight each; those with a 666 fail, and nobody else."""
    broker, backend = MemoryBroker(), Sums()
    number = st.one_of(st.integers(1, 9), st.sampled_from([1] * 30 + [666]))
    rows = st.lists(st.lists(number, min_size=1, max_size=30), min_size=1, max_size=5)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(rows, min_size=1, max_size=12))
    def holds(requests: list[list[list[int]]]) -> None:
        weights = [[float(10 * i + j) for j in range(len(texts))] for i, texts in enumerate(requests)]
        expected = [
            ModelFailed
            if any(666 in text for text in texts)
            else [[2 * sum(text), weight] for text, weight in zip(texts, weighed, strict=True)]
            for texts, weighed in zip(requests, weights, strict=True)
        ]
        assert [shown(answer) for answer in ask(broker, *map(request_of_texts, requests, weights))] == expected

    with serving(broker, model_of_texts(backend)):
        holds()
    assert max(rows for rows, _ in backend.runs) > 1


def test_the_bundled_lstm_answers_in_a_batch_as_it_does_alone() -> None:
    model = models.load(ROOT / "models/sentiment/1", "sentiment", 1, device=Device(), backend="onnx", max_batch_size=32)
    rng = np.random.default_rng(0)
    rows = [model.preparation.before({"text": np.array([b"good bad film " * n], object)}) for n in (1, 2, 30, 130)]
    rows += [{"ids": rng.integers(1, 20_000, (1, length), np.int32)} for length in (1, 5, 399, 400)]
    together = model.run("serving_default", {"ids": model.preparation.join("ids", [row["ids"] for row in rows])}, 8)
    alone = [model.run("serving_default", row, 1)["probabilities"] for row in rows]
    np.testing.assert_allclose(together["probabilities"], np.concatenate(alone), atol=1e-6)
    assert model.cost.batch > 0
    assert model.cost.element > 0


def test_the_rows_of_a_block_reach_the_model_without_a_copy() -> None:
    """A block that runs alone is read where it lies, and its answer is written from the model's own memory."""
    seen, outputs = [], []

    def keeps(x: Any) -> Any:
        seen.append(x)
        outputs.append(x * 2)
        return outputs[-1]

    broker = MemoryBroker()
    taken: list[Delivery] = []
    consumer = broker.consumer

    def watched(queue: Queue, name: str) -> Any:
        link = consumer(queue, name)
        exchange = link.exchange

        def kept(*arguments: Any, **options: Any) -> Any:
            deliveries = exchange(*arguments, **options)
            taken.extend(deliveries)
            return deliveries

        link.exchange = kept  # type: ignore[method-assign]
        return link

    broker.consumer = watched  # type: ignore[method-assign, assignment]
    with serving(broker, model_of(Scripted(keeps), max_batch_size=64)):
        (answer,) = ask(broker, request_of(np.arange(640).reshape(64, 10), largest=64))
    assert np.shares_memory(seen[0], np.frombuffer(taken[0].block, np.uint8))
    assert shown(answer) == outputs[0].tolist()


# Loading


def _load(folder: Path, name: str = "tiny") -> Model:
    return models.load(folder, name, 1, device=Device(), backend="auto", max_batch_size=16)


def test_a_model_without_a_manifest_is_servable(make_onnx: Callable[..., Path], tmp_path: Path) -> None:
    model = _load(make_onnx(tmp_path))
    assert model.announcement.max_batch_size == 16
    assert model.announcement.signatures["serving_default"].inputs[0].shape == (-1, 3)


def test_a_model_with_fixed_shapes_is_not_batched(make_onnx: Callable[..., Path], tmp_path: Path) -> None:
    assert _load(make_onnx(tmp_path, batched=False)).announcement.max_batch_size == 0


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "model.onnx").write_bytes(b""), r"model\.onnx was changed after it was published"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest\.json"),
        (lambda folder: (folder / "vocabulary.txt").unlink(), r"vocabulary\.txt"),
        (
            lambda folder: (folder / "model.tflite").write_bytes(b"x"),
            r"model\.tflite was added after the version was pub",
        ),
    ],
)
def test_a_broken_version_says_what_is_wrong(
    make_onnx: Callable[..., Path], tmp_path: Path, break_it: Callable[[Path], Any], message: str
) -> None:
    folder = make_onnx(tmp_path)
    Vocabulary(["a"]).write(folder / "vocabulary.txt")
    tiny = Signature(inputs=SIGNATURE.inputs, outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 2)),))
    step = Tokenize(input="x", output="x", max_length=3)
    manifests.write(
        folder, Manifest(name="tiny", version=1, signatures={"serving_default": tiny}, preprocessing=(step,))
    )
    break_it(folder)
    with pytest.raises(LoadError, match=message):
        _load(folder)


def test_a_manifest_that_promises_another_output_is_refused(make_onnx: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_onnx(tmp_path)
    manifests.write(folder, _manifest())
    with pytest.raises(LoadError, match="has an output 'y' that the model's file lacks"):
        _load(folder)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "y"}, "has an input 'y' that the model's file lacks"),
        ({"datatype": "INT64"}, r"'x' that is INT64 \[-1, 3\], but FP32 \[-1, 3\] in the model's file"),
        ({"shape": (-1, 4)}, r"'x' that is FP32 \[-1, 4\], but"),
        ({"shape": (-1, 3, 1)}, r"'x' that is FP32 \[-1, 3, 1\], but"),
        (None, "lacks the input 'x' of the model's file"),
    ],
)
def test_a_manifest_whose_requests_could_only_fail_is_refused(
    make_onnx: Callable[..., Path], tmp_path: Path, spec: dict[str, Any] | None, message: str
) -> None:
    folder = make_onnx(tmp_path)
    x = {"name": "x", "datatype": "FP32", "shape": (-1, 3)}
    inputs = () if spec is None else (TensorSpec(**(x | spec)),)
    scores = TensorSpec(name="scores", datatype="FP32", shape=(-1, 2))
    signatures = {"serving_default": Signature(inputs=inputs, outputs=(scores,))}
    manifests.write(folder, Manifest(name="m", version=1, signatures=signatures))
    with pytest.raises(LoadError, match=message):
        _load(folder)


def test_a_batch_that_no_memory_holds_is_refused_before_it_is_tried(
    make_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_onnx(tmp_path)
    (folder.parent / "config.pbtxt").write_text("max_batch_size: 2000000000")
    with pytest.raises(LoadError, match="a batch of 2000000000 rows has an input of 24000000000 bytes"):
        models.load(
            folder,
            "tiny",
            1,
            device=Device(),
            backend="auto",
            max_batch_size=8,
            config=read_triton_config(folder.parent),
        )


@pytest.mark.parametrize("name", ["../vocabulary.txt", "/etc/hostname"])
def test_a_vocabulary_elsewhere_is_refused(make_onnx: Callable[..., Path], tmp_path: Path, name: str) -> None:
    folder = make_onnx(tmp_path)
    (tmp_path / "tiny" / "vocabulary.txt").write_text("a\n")
    manifests.write(folder, _manifest(postprocessing=(NameWords(output="y", vocabulary=name),)))
    with pytest.raises(LoadError, match="must be a file beside the manifest"):
        _load(folder)


def test_a_vocabulary_that_is_not_text_is_named(make_onnx: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_onnx(tmp_path)
    (folder / "vocabulary.txt").write_bytes(b"\xff\xfe")
    manifests.write(folder, _manifest(postprocessing=(NameWords(output="y"),)))
    with pytest.raises(LoadError, match=r"vocabulary\.txt is not UTF-8"):
        _load(folder)


def test_scalars_go_through_a_model_without_batching(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "scalar",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "model.onnx"
    )
    outputs = _load(tmp_path).run("serving_default", {"x": np.array([2.5], np.float32)}, 1)
    assert outputs["y"].tolist() == [5.0]


def test_a_name_that_no_url_can_have_is_refused(make_onnx: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="cannot be served"):
        _load(make_onnx(tmp_path), name="a/b")


# The whole process


def test_a_worker_announces_what_it_loads_and_what_it_cannot_and_leaves_no_trace(
    broker: Broker, make_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    make_onnx(tmp_path, "good", 1)
    make_onnx(tmp_path, "good", 2)
    (tmp_path / "bad" / "1").mkdir(parents=True)

    def announced() -> dict[str, tuple[int, str, str]]:
        async def look() -> dict[str, tuple[int, str, str]]:
            link = broker.producer("looking")
            await link.heartbeat()
            workers = (await link.heartbeat()).workers
            await link.close()
            return {m.name: (m.version, m.state, m.error) for worker in workers for m in worker.models}

        return asyncio.run(look())

    worker = local_worker(WorkerSettings(models=tmp_path, log_level="info"), broker)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        until(lambda: announced().get("good", (0, "", ""))[1] == "AVAILABLE")
        assert announced()["good"] == (2, "AVAILABLE", "")
        until(lambda: announced()["bad"][1] == "END")  # once its files stand still
        version, _, error = announced()["bad"]
        assert version == 1
        assert "holds no model" in error
    finally:
        started = time.monotonic()
        worker.stop()
        thread.join(30)
    assert not thread.is_alive()
    assert announced() == {}
    assert not worker.has_failed
    assert time.monotonic() - started < 20


def test_a_model_that_never_returns_does_not_keep_the_worker(
    make_onnx: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def stuck(*_: object) -> Any:
        entered.set()
        leave.wait()

    make_onnx(tmp_path, "m")
    broker = MemoryBroker()
    settings = WorkerSettings(models=tmp_path, log_level="info", drain_timeout_s=0.1)
    worker = local_worker(settings, broker)
    thread = threading.Thread(target=worker.run)
    thread.start()
    until(lambda: [m.state for w in broker.worker().live() for m in w.models] == ["AVAILABLE"])
    monkeypatch.setattr(Model, "run", stuck)
    asking = threading.Thread(target=lambda: ask(broker, request_of([[1, 2, 3]], timeout_s=2.0)))
    asking.start()
    assert entered.wait(10)
    worker.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert worker.has_failed
    assert "a batch did not end in time" in caplog.text
    leave.set()
    asking.join()


def test_a_run_that_never_ends_holds_up_nobody_but_its_own_batch(
    make_onnx: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One worker of one thread a model hangs on a request, with a second one in hand; another worker answers that."""
    entered, leave = threading.Event(), threading.Event()
    run = Model.run

    def hangs(model: Model, signature: str, inputs: Arrays, rows: int) -> Arrays:
        if (inputs["x"] == 666).any():
            entered.set()
            leave.wait()
        return run(model, signature, inputs, rows)

    for name in ("m", "other"):
        make_onnx(tmp_path, name)
    monkeypatch.setattr(Model, "run", hangs)
    broker = MemoryBroker()
    options = {"models": tmp_path, "log_level": "info", "instances": 1, "max_batch_size": 1, "lease_ms": 200}
    workers = [local_worker(WorkerSettings(**options, drain_timeout_s=5.0), broker) for _ in range(2)]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    answers: list[InferenceResponse | BaseException] = []

    def states(worker: Worker) -> dict[str, tuple[str, str]]:
        live = [announced.models for announced in broker.worker().live() if announced.worker == worker.id]
        return {model.name: (model.state, model.error) for models in live for model in models}

    # Of two priorities a worker takes one block each, so the first one has both in hand.
    bad = replace(request_of([[666, 0, 0]], timeout_s=0.5, largest=1), priority="high")
    good = request_of([[1, 2, 3]], timeout_s=60.0, largest=1)
    asking = threading.Thread(target=lambda: answers.extend(ask(broker, bad, good)))
    asking.start()
    until(lambda: not is_empty(broker), what="the requests to be on the queue")
    threads[0].start()
    assert entered.wait(10)
    (of_another_model,) = ask(broker, replace(request_of([[1, 2, 3]]), model="other"), api="another")
    assert isinstance(of_another_model, InferenceResponse)
    until(lambda: states(workers[0]).get("m") == ("END", "all its instances are stuck in their runs"))
    assert states(workers[0])["other"] == ("AVAILABLE", "")
    assert "an instance is stuck" in caplog.text
    threads[1].start()
    asking.join()
    assert isinstance(answers[0], DeadlineExceeded)
    assert isinstance(answers[1], InferenceResponse)
    until(lambda: is_empty(broker), what="the other worker to drop what expired")
    leave.set()
    until(lambda: states(workers[0])["m"] == ("AVAILABLE", ""), what="the first worker to go on")
    for worker, thread in zip(workers, threads, strict=True):
        worker.stop()
        thread.join(30)
        assert not worker.has_failed


def test_an_error_of_ours_ends_the_worker_and_is_not_silent(
    make_onnx: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaks(MemoryBroker):
        def consumer(self, queue: Queue, consumer: str) -> Any:
            link = super().consumer(queue, consumer)
            link.exchange = lambda *_, **__: 1 / 0  # type: ignore[method-assign, assignment]
            return link

    make_onnx(tmp_path)
    worker = local_worker(WorkerSettings(models=tmp_path, log_level="info"), Breaks())
    worker.run()
    assert worker.has_failed
    assert "an instance failed by an error of ours" in caplog.text


def test_a_triton_configuration_sets_batching_instances_and_labels(
    make_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_onnx(tmp_path, "m")
    (folder.parent / "labels.txt").write_text("no\nyes\n")
    config = _triton(
        folder,
        "max_batch_size: 5 dynamic_batching { max_queue_delay_microseconds: 1500 }"
        'input { name: "x" data_type: TYPE_FP32 dims: 3 }'
        'output { name: "scores" data_type: TYPE_FP32 dims: -1 label_filename: "labels.txt" }'
        "instance_group { count: 3 kind: KIND_CPU } response_cache { enable: true }",
    )
    model = models.load(folder, "m", 1, device=Device(), backend="auto", max_batch_size=16, config=config)
    assert model.batching == Batching(max_batch_size=5, max_queue_delay_ms=1.5)
    assert model.instances == 3
    assert model.announcement.labels == ("no", "yes")
    assert model.announcement.description == "config.pbtxt asks for what is not done: response_cache."


def test_a_triton_configuration_narrows_what_callers_may_send_and_is_announced(tmp_path: Path) -> None:
    free = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "n"]) for name in ("x", "y")]
    folder = save(tmp_path / "m" / "1", [helper.make_node("Identity", ["x"], ["y"])], free[:1], free[1:])
    config = _triton(folder, 'max_batch_size: 5 input { name: "x" data_type: TYPE_FP32 dims: 3 }')
    model = models.load(folder, "m", 1, device=Device(), backend="auto", max_batch_size=16, config=config)
    assert model.announcement.signatures["serving_default"].inputs[0].shape == (-1, 3)
    announced = rpc.message("inference.ModelConfig").FromString(model.announcement.triton_config)
    assert (announced.max_batch_size, list(announced.input[0].dims)) == (5, [3])


def test_a_manifest_wins_over_a_triton_configuration_which_says_so(
    make_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_onnx(tmp_path, "m")
    tiny = Signature(inputs=SIGNATURE.inputs, outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 2)),))
    manifests.write(
        folder,
        Manifest(name="m", version=1, signatures={"serving_default": tiny}, batching=Batching(max_batch_size=7)),
    )
    config = _triton(folder, "max_batch_size: 5")
    model = models.load(folder, "m", 1, device=Device(), backend="auto", max_batch_size=16, config=config)
    assert model.batching.max_batch_size == 7
    assert "the manifest says how requests are grouped" in model.announcement.description


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('input { name: "z" data_type: TYPE_FP32 dims: 3 }', "unexpected inference input 'z'"),
        ('input { name: "x" data_type: TYPE_INT32 dims: 3 }', "declares input 'x' as INT32"),
        ('max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: 4 }', r"as FP32 \[-1, 4\], but the model has"),
        ('output { name: "scores" data_type: TYPE_FP32 dims: [2, 3] }', "declares output 'scores'"),
        ('output { name: "scores" data_type: TYPE_FP32 dims: 2 label_filename: "../x" }', "beside config.pbtxt"),
        ("platform: 'tensorflow_savedmodel'", "has no savedmodel format"),
    ],
)
def test_a_triton_configuration_that_does_not_fit_the_model_is_refused(
    make_onnx: Callable[..., Path], tmp_path: Path, text: str, message: str
) -> None:
    folder = make_onnx(tmp_path, "m")
    with pytest.raises(LoadError, match=message):
        models.load(folder, "m", 1, device=Device(), backend="auto", max_batch_size=16, config=_triton(folder, text))


def _triton(folder: Path, text: str) -> TritonConfig | None:
    (folder.parent / "config.pbtxt").write_text(text)
    return read_triton_config(folder.parent)
