"""What every broker promises, held against each of them: a real Redis, a real Redis Cluster, and memory."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from millrace.broker.base import Append, Broker, Delivery, Held, Limits, Reply, Room
from millrace.broker.depth import QueueDepth, StreamDepth
from millrace.broker.fragments import Reference, read_reference
from millrace.broker.keys import DEAD_LETTERS_BYTES, ONLY_BULK, PRIORITIES, URGENT, USAGE, Queue, consumer_name
from millrace.broker.memory import MemoryBroker
from millrace.broker.redis import RedisBroker
from millrace.protocol.desired_state import DesiredState
from millrace.protocol.errors import Unavailable
from millrace.protocol.messages import ModelAnnouncement, WorkerAnnouncement
from tests.support.running import RedisServer, until

QUEUE = Queue("m", 1)
pytestmark = pytest.mark.usefixtures("redis_server")


@pytest.fixture(params=["redis", "cluster", "memory"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    if request.param == "memory":
        yield MemoryBroker()
    else:
        server = {"redis": "redis_server", "cluster": "redis_cluster"}[request.param]
        yield RedisBroker(request.getfixturevalue(server).url)


def appended(broker: Broker, *appends: Append, limit: int = 100, limit_bytes: int = 10**6) -> list[Held | None]:
    """None for each that was admitted, what the queue holds for each that was refused."""

    async def run() -> list[Held | None]:
        link = broker.producer("api")
        try:
            await link.heartbeat()
            answers = await link.append(appends, Limits(limit, limit_bytes))
            return [held if held.is_refused else None for held in answers]
        finally:
            await link.close()

    return asyncio.run(run())


def full(rows: int, size: int) -> Held:
    return Held(rows, size, is_refused=True)


def one(block: bytes, rows: int = 1, priority: str = "normal") -> Append:
    return Append(QUEUE, priority, ((rows, block),))


def take(broker: Broker, consumer: str = "c", *, count: int = 10, block_ms: int = 0) -> list[Delivery]:
    return broker.consumer(QUEUE, consumer).exchange([], [], count=count, block_ms=block_ms)


def blocks(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.block for delivery in deliveries]


def test_blocks_are_delivered_once_in_order_and_high_priority_first(broker: Broker) -> None:
    appended(broker, one(b"1"), one(b"2"), one(b"3", priority="high"))
    assert blocks(take(broker)) == [b"3", b"1", b"2"]
    assert take(broker, "another") == []


def test_bulk_is_taken_one_block_at_a_time_and_only_where_nothing_else_waits(broker: Broker) -> None:
    appended(broker, *(one(block, priority="bulk") for block in (b"b1", b"b2")), one(b"n"), one(b"h", priority="high"))
    consumer = broker.consumer(QUEUE, "c")
    taken = [blocks(consumer.exchange([], [], count=10, block_ms=block_ms)) for block_ms in (0, 10_000)]
    assert taken == [[b"h", b"n"], [b"b1"]]
    appended(broker, one(b"n2"))
    taken = [blocks(consumer.exchange([], [], count=10, block_ms=block_ms)) for block_ms in (10_000, 10_000, 0)]
    assert taken == [[b"n2"], [b"b2"], []]


def test_a_consumer_that_wants_no_bulk_gets_none(broker: Broker) -> None:
    appended(broker, one(b"b", priority="bulk"))
    consumer = broker.consumer(QUEUE, "c")
    assert [consumer.exchange([], [], count=9, block_ms=ms, priorities=URGENT) for ms in (0, 20)] == [[], []]
    appended(broker, one(b"n"))
    assert blocks(consumer.exchange([], [], count=9, block_ms=0, priorities=URGENT)) == [b"n"]
    assert blocks(consumer.exchange([], [], count=9, block_ms=0)) == [b"b"]


def test_a_consumer_of_bulk_takes_nothing_else_and_waits_for_it(broker: Broker) -> None:
    consumer, taken = broker.consumer(QUEUE, "c"), list[Delivery]()
    appended(broker, one(b"n"))

    def take(block_ms: int) -> list[Delivery]:
        return consumer.exchange([], [], count=9, block_ms=block_ms, priorities=ONLY_BULK)

    assert take(20) == []
    waiting = threading.Thread(target=lambda: taken.extend(take(20_000)))
    waiting.start()
    appended(broker, one(b"b1", priority="bulk"), one(b"b2", priority="bulk"))
    waiting.join()
    assert blocks(taken) == [b"b1"]


def test_whoever_takes_nothing_of_bulk_learns_that_there_is_some(broker: Broker) -> None:
    consumer, seen = broker.consumer(QUEUE, "c"), []
    for block in (one(b"n"), one(b"b", priority="bulk")):
        appended(broker, block)
        consumer.exchange([], [], count=9, block_ms=20, priorities=URGENT)
        seen.append(consumer.has_bulk)
    assert seen == [False, True]


def test_lost_blocks_are_claimed_by_who_takes_their_priority(broker: Broker) -> None:
    appended(broker, one(b"n"), one(b"b", priority="bulk"))
    dead = broker.consumer(QUEUE, "dead")
    assert [blocks(dead.exchange([], [], count=9, block_ms=0)) for _ in range(2)] == [[b"n"], [b"b"]]
    consumer = broker.consumer(QUEUE, "c")
    claimed = [
        [blocks(consumer.claim(lease_ms=0, count=9, priorities=priorities)) for _ in range(2)]
        for priorities in (ONLY_BULK, URGENT)
    ]
    assert [found[0] for found in claimed] == [[b"b"], [b"n"]]


def test_a_consumer_that_serves_others_finds_bulk_that_came_meanwhile(broker: Broker) -> None:
    """It was not asked for bulk while there was none; that it learns of it costs no exchange more."""
    consumer = broker.consumer(QUEUE, "c")
    for number in range(3):
        appended(broker, one(str(number).encode()))
        assert len(consumer.exchange([], [], count=9, block_ms=10_000)) == 1
    appended(broker, one(b"b", priority="bulk"), one(b"n"))
    assert blocks(consumer.exchange([], [], count=9, block_ms=10_000)) == [b"n"]
    assert blocks(consumer.exchange([], [], count=9, block_ms=10_000)) == [b"b"]


def test_an_idle_consumer_is_woken_by_bulk(broker: Broker) -> None:
    consumer, taken = broker.consumer(QUEUE, "c"), list[Delivery]()
    assert consumer.exchange([], [], count=9, block_ms=10) == []
    waiting = threading.Thread(target=lambda: taken.extend(consumer.exchange([], [], count=9, block_ms=20_000)))
    waiting.start()
    started = time.monotonic()
    appended(broker, one(b"b", priority="bulk"))
    waiting.join()
    assert blocks(taken) == [b"b"]
    assert time.monotonic() - started < 19


def test_bulk_and_the_rest_take_no_room_of_each_other(broker: Broker) -> None:
    bulk = one(b"123", 10, priority="bulk")
    assert appended(broker, bulk, one(b"1", 10, priority="high"), limit=10) == [None, None]
    assert appended(broker, bulk, one(b"1"), limit=10) == [full(10, 3), full(10, 1)]
    consumer = broker.consumer(QUEUE, "c")
    consumer.exchange([], consumer.exchange([], [], count=9, block_ms=0), count=0, block_ms=0)
    assert appended(broker, one(b"1", 4), bulk, limit=10) == [None, full(10, 3)]
    consumer.exchange([], consumer.exchange([], [], count=9, block_ms=0), count=0, block_ms=0)
    consumer.exchange([], consumer.exchange([], [], count=9, block_ms=0), count=0, block_ms=0)
    assert appended(broker, bulk, one(b"1", 10), limit=10) == [None, None]


def test_room_for_bulk_that_follows_is_kept_apart(broker: Broker) -> None:
    kept = room(6, 60)
    large_bulk = Append(QUEUE, "bulk", ((1, b"1"),), keeps=kept)
    assert appended(broker, large_bulk, one(b"x", 9), one(b"b", 9, "bulk"), limit=10) == [None, None, full(7, 61)]
    assert appended(broker, Append(QUEUE, "bulk", (), kept), one(b"b", 9, "bulk"), limit=10) == [None, None]


def test_lost_bulk_is_claimed_block_by_block_when_nothing_else_is(broker: Broker) -> None:
    appended(broker, one(b"n"), one(b"b1", priority="bulk"), one(b"b2", priority="bulk"))
    dead = broker.consumer(QUEUE, "dead")
    for _ in range(3):
        assert dead.exchange([], [], count=9, block_ms=0)
    broker.worker().release(QUEUE, "dead", is_suspect=False)
    consumer = broker.consumer(QUEUE, "next")
    claimed = [consumer.claim(lease_ms=60_000, count=9) for _ in range(4)]
    assert [blocks(each) for each in claimed] == [[b"n"], [b"b1"], [b"b2"], []]
    assert {delivery.deliveries for each in claimed for delivery in each} == {1}
    consumer.exchange([], [delivery for each in claimed for delivery in each], count=0, block_ms=0)
    assert appended(broker, one(b"x", 10, "bulk"), one(b"x", 10), limit=10) == [None, None]


def test_a_block_that_waits_for_its_first_worker_is_not_lost(broker: Broker) -> None:
    appended(broker, one(b"early"))
    assert blocks(take(broker)) == [b"early"]


def test_no_more_than_count_are_taken(broker: Broker) -> None:
    appended(broker, *(one(str(i).encode()) for i in range(5)))
    assert blocks(take(broker, count=2)) == [b"0", b"1"]
    assert blocks(take(broker, count=9)) == [b"2", b"3", b"4"]


def test_a_waiting_consumer_is_woken_by_a_block(broker: Broker) -> None:
    taken: list[Delivery] = []
    waiting = threading.Thread(target=lambda: taken.extend(take(broker, block_ms=10_000)))
    waiting.start()
    started = time.monotonic()
    appended(broker, one(b"x"))
    waiting.join()
    assert blocks(taken) == [b"x"]
    assert time.monotonic() - started < 9


def test_waiting_ends_empty_handed_in_time(broker: Broker) -> None:
    assert take(broker, block_ms=30) == []


def test_a_full_queue_refuses_and_keeps_what_it_has(broker: Broker) -> None:
    assert appended(broker, one(b"1", 6), one(b"2", 5), one(b"3", 4), limit=10) == [None, full(6, 1), None]
    assert blocks(take(broker)) == [b"1", b"3"]


def test_blocks_of_one_append_are_admitted_together_or_not_at_all(broker: Broker) -> None:
    both = Append(QUEUE, "normal", ((5, b"1"), (6, b"2")))
    assert appended(broker, both, limit=10) == [full(0, 0)]
    assert take(broker) == []
    assert appended(broker, both, limit=11) == [None]
    assert blocks(take(broker)) == [b"1", b"2"]


def test_rows_in_work_count_until_they_are_finished(broker: Broker) -> None:
    appended(broker, one(b"1", 10), limit=10)
    consumer = broker.consumer(QUEUE, "c")
    (delivery,) = consumer.exchange([], [], count=1, block_ms=0)
    assert appended(broker, one(b"2"), limit=10) == [full(10, 1)]
    consumer.exchange([], [delivery], count=0, block_ms=0)
    assert appended(broker, one(b"2", 10), limit=10) == [None]


def test_bytes_are_bounded_as_rows_are(broker: Broker) -> None:
    assert appended(broker, one(b"12345"), one(b"123456"), limit_bytes=10) == [None, full(1, 5)]
    consumer = broker.consumer(QUEUE, "c")
    consumer.exchange([], consumer.exchange([], [], count=9, block_ms=0), count=0, block_ms=0)
    assert appended(broker, one(b"123456"), limit_bytes=10) == [None]


def test_an_append_is_told_what_the_queue_holds_with_it(broker: Broker) -> None:
    async def run() -> list[Held]:
        link = broker.producer("api")
        await link.heartbeat()
        held = await link.append([one(b"123", 2), one(b"45", 3), one(b"6", 9)], Limits(10, 100))
        await link.close()
        return held

    assert asyncio.run(run()) == [Held(2, 3), Held(5, 5), full(5, 5)]


def room(rows: int, size: int, for_ms: int = 60_000) -> Room:
    return Room("api:1", rows, size, int(time.time() * 1000) + for_ms)


def large(block: bytes, *, takes: Room | None = None, keeps: Room | None = None) -> Append:
    """A part of a large request; no block is none."""
    return Append(QUEUE, "normal", ((1, block),) if block else (), takes, keeps)


def test_room_for_the_rest_of_a_request_counts_from_its_first_append_on(broker: Broker) -> None:
    all_, some, last = room(5, 50), room(4, 40), room(1, 10)
    assert appended(broker, large(b"1", keeps=all_), one(b"2", 5), limit=10) == [None, full(6, 51)]
    assert appended(broker, one(b"2", 4), limit=10) == [None]
    assert appended(broker, large(b"1" * 10, takes=all_, keeps=some), one(b"x"), limit=10) == [None, full(10, 52)]
    between = Append(QUEUE, "normal", ((2, b"1" * 20), (1, b"1" * 10)), some, last)
    assert appended(broker, between, large(b"1" * 10, takes=last), one(b"x"), limit=10) == [None, None, full(10, 52)]
    consumer = broker.consumer(QUEUE, "c")
    taken = consumer.exchange([], [], count=99, block_ms=0)
    assert sum(delivery.rows for delivery in taken) == 10
    consumer.exchange([], taken, count=0, block_ms=0)
    assert appended(broker, one(b"x", 10), limit=10) == [None]


def test_a_request_without_room_for_all_of_it_is_refused_whole(broker: Broker) -> None:
    assert appended(broker, large(b"1", keeps=room(10, 10)), limit=10) == [full(0, 0)]
    assert appended(broker, large(b"1", keeps=room(9, 100)), limit=10, limit_bytes=100) == [full(0, 0)]
    assert take(broker) == []
    assert appended(broker, one(b"x", 10), limit=10) == [None]


def test_room_is_given_back_once(broker: Broker) -> None:
    kept, left = room(9, 90), room(6, 60)
    appended(broker, large(b"1", keeps=kept), limit=10)
    part = Append(QUEUE, "normal", ((3, b"1" * 30),), kept, left)
    assert appended(broker, part, large(b"", takes=left), large(b"", takes=left), limit=10) == [None] * 3
    assert appended(broker, one(b"x", 7), one(b"x", 6), limit=10) == [full(4, 31), None]


def test_room_that_nobody_took_in_time_is_given_up_when_it_is_needed(broker: Broker) -> None:
    lost, kept = room(6, 60, for_ms=-1), Room("api:2", 2, 20, int(time.time() * 1000) + 60_000)
    appended(broker, large(b"1", keeps=lost), large(b"2", keeps=kept), limit=10)
    assert appended(broker, one(b"x", 7), one(b"x", 6), limit=10) == [full(4, 22), None]
    assert appended(broker, large(b"1" * 20, takes=kept), limit=10) == [None]


def test_room_that_nobody_took_in_time_does_not_make_a_queue_look_half_full(broker: Broker) -> None:
    async def run() -> list[Held]:
        link = broker.producer("api")
        await link.heartbeat()
        lost = large(b"1", keeps=room(6, 60, for_ms=-1))
        held = await link.append([lost, one(b"2"), lost, one(b"2")], Limits(20, 120))
        await link.close()
        return held

    assert asyncio.run(run()) == [Held(7, 61), Held(2, 2), Held(9, 63), Held(4, 4)]


def test_what_comes_too_late_for_its_room_must_find_new_room(broker: Broker) -> None:
    lost = room(6, 60, for_ms=-1)
    appended(broker, large(b"1", keeps=lost), limit=10)
    assert appended(broker, one(b"x", 8), limit=10) == [None]
    assert appended(broker, large(b"2", takes=lost, keeps=room(5, 50)), limit=10) == [full(9, 2)]
    assert appended(broker, large(b"2", takes=lost), limit=10) == [None]
    assert appended(broker, one(b"x"), limit=10) == [full(10, 3)]


def stored(broker: Broker, *fragments: bytes, for_ms: int = 60_000) -> bytes:
    """The reference to a block in fragments."""

    async def run() -> bytes:
        link = broker.producer("api")
        await link.heartbeat()
        for fragment in fragments:
            await link.store(QUEUE, "f", fragment, int(time.time() * 1000) + for_ms)
        await link.close()
        return Reference("f", len(fragments), sum(map(len, fragments))).encoded()

    return asyncio.run(run())


def test_a_block_in_fragments_is_delivered_whole_and_counts_as_it_is(broker: Broker) -> None:
    reference = stored(broker, b"123", b"45")
    assert appended(broker, one(b"a"), one(reference), one(b"b"), one(b"c" * 4), limit_bytes=10) == [
        *(None, None, None),
        full(3, 7),
    ]
    assert blocks(take(broker, "dead")) == [b"a", b"12345", b"b"]
    consumer, claimed = broker.consumer(QUEUE, "c"), list[Delivery]()
    until(lambda: claimed.extend(consumer.claim(lease_ms=20, count=5)) or len(claimed) == 3)
    assert blocks(claimed) == [b"a", b"12345", b"b"]
    consumer.exchange([], claimed, count=0, block_ms=0)
    assert appended(broker, one(b"d" * 10), limit_bytes=10) == [None]
    assert consumer.claim(lease_ms=0, count=5) == []


def test_a_block_whose_fragments_are_gone_is_not_delivered_and_leaves_the_queue(broker: Broker) -> None:
    expired, incomplete = stored(broker, b"123", for_ms=-1), Reference("other", 2, 6).encoded()
    appended(broker, one(expired), one(incomplete), one(b"x"))
    assert blocks(take(broker)) == [b"x"]
    assert appended(broker, one(b"y" * 10), limit_bytes=10) == [full(1, 1)]
    assert appended(broker, one(b"y" * 9), limit_bytes=10) == [None]


def test_a_large_reply_comes_whole_and_keeps_no_small_one_waiting(broker: Broker) -> None:
    large = bytes(range(256)) * 20_000

    async def run() -> list[bytes]:
        link = broker.producer("api")
        await link.heartbeat()
        sent = [Reply(link.reply_to, block) for block in (b"1", large, b"2")]
        broker.consumer(QUEUE, "c").exchange(sent, [], count=0, block_ms=0)
        received: list[bytes] = []
        while len(received) < 3:
            received += await link.replies()
        assert [received[0], received[2]] == [b"1", b"2"]
        if reference := read_reference(received[1]):
            received[1] = await link.fetch(reference) or b""
            assert await link.fetch(reference) is None
        await link.close()
        return received

    assert asyncio.run(run())[1] == large


def depth(broker: Broker, queue: Queue = QUEUE) -> QueueDepth:
    async def run() -> QueueDepth:
        link = broker.producer("watches")
        try:
            return (await link.depths([queue]))[0]
        finally:
            await link.close()

    return asyncio.run(run())


def test_an_operator_sees_what_waits_and_what_is_in_work(broker: Broker) -> None:
    nothing = {name: StreamDepth() for name in PRIORITIES}
    assert depth(broker) == QueueDepth(queue=QUEUE, streams=nothing)
    appended(broker, one(b"1", 2, "high"), one(b"22", 3), one(b"333", 4), one(b"b", 5, "bulk"))
    before_a_worker = depth(broker)
    assert [before_a_worker.streams[name].waiting for name in PRIORITIES] == [1, 2, 1]
    assert (before_a_worker.rows, before_a_worker.bytes) == (9, 6)
    assert (before_a_worker.bulk_rows, before_a_worker.bulk_bytes) == (5, 1)
    consumer = broker.consumer(QUEUE, "c")
    taken = consumer.exchange([], [], count=1, block_ms=0)
    in_work = depth(broker)
    assert [in_work.streams[name].working for name in PRIORITIES] == [1, 1, 0]
    assert in_work.streams["normal"].oldest_ms <= in_work.streams["bulk"].oldest_ms
    age_ms = time.time() * 1000 - in_work.streams["high"].oldest_ms
    assert 0 <= age_ms < 60_000
    consumer.bury(taken[0], "why")
    consumer.exchange([], taken, count=0, block_ms=0)
    left = depth(broker)
    assert (left.rows, left.dead_letters, left.streams["high"]) == (4, 1, StreamDepth())


def test_finishing_twice_counts_once(broker: Broker) -> None:
    appended(broker, one(b"1", 4), one(b"2", 4), limit=10)
    consumer = broker.consumer(QUEUE, "c")
    first, _ = consumer.exchange([], [], count=2, block_ms=0)
    for _ in range(2):
        consumer.exchange([], [first], count=0, block_ms=0)
    assert appended(broker, one(b"3", 7), limit=10) == [full(4, 1)]


def test_a_block_whose_consumer_fell_silent_is_claimed_with_its_count(
    broker: Broker,
) -> None:
    appended(broker, one(b"x"))
    take(broker, "dead")
    alive = broker.consumer(QUEUE, "alive")
    assert alive.claim(lease_ms=60_000, count=5) == []
    claimed: list[Delivery] = []
    until(lambda: claimed.extend(alive.claim(lease_ms=20, count=5)) or claimed)
    assert [(d.block, d.rows, d.deliveries) for d in claimed] == [(b"x", 1, 2)]
    until(lambda: claimed.extend(broker.consumer(QUEUE, "third").claim(lease_ms=20, count=5)) or len(claimed) > 1)
    assert claimed[-1].deliveries == 3


def test_a_block_that_was_claimed_and_lost_again_is_claimed_alone(broker: Broker) -> None:
    appended(broker, one(b"1"), one(b"2"))
    take(broker, "dead")
    claimed: list[Delivery] = []

    def claim() -> bool:
        claimed[:] = broker.consumer(QUEUE, "next").claim(lease_ms=20, count=5)
        return bool(claimed)

    until(claim)
    assert [(d.block, d.deliveries) for d in claimed] == [(b"1", 2), (b"2", 2)]
    until(claim)
    assert [(d.block, d.deliveries) for d in claimed] == [(b"1", 3)]


def test_blocks_that_were_claimed_and_lost_again_come_one_at_a_time_whatever_their_priority(broker: Broker) -> None:
    appended(broker, one(b"high", priority="high"), one(b"normal"))
    take(broker, "dead")
    claimed: list[Delivery] = []
    until(lambda: claimed.extend(broker.consumer(QUEUE, "next").claim(lease_ms=20, count=5)) or len(claimed) >= 2)
    second = broker.consumer(QUEUE, "second")
    claimed.clear()
    until(lambda: claimed.extend(second.claim(lease_ms=20, count=5)) or claimed)
    assert [(d.block, d.priority, d.deliveries) for d in claimed] == [(b"high", "high", 3)]
    second.exchange([], claimed, count=0, block_ms=0)
    claimed.clear()
    until(lambda: claimed.extend(second.claim(lease_ms=20, count=5)) or claimed)
    assert [(d.block, d.priority, d.deliveries) for d in claimed] == [(b"normal", "normal", 3)]


def test_what_a_consumer_holds_is_renewed_and_nothing_of_others(broker: Broker) -> None:
    appended(broker, one(b"mine"), one(b"mine too", priority="high"))
    take(broker, "slow")
    appended(broker, one(b"mine as well", priority="bulk"))
    take(broker, "slow")
    appended(broker, one(b"lost"))
    take(broker, "dead")
    worker, other = broker.worker(), broker.consumer(QUEUE, "other")
    claimed: list[Delivery] = []

    def beat() -> bool:
        worker.renew([(QUEUE, "slow"), (Queue("unknown", 1), "slow")])
        claimed.extend(other.claim(lease_ms=200, count=5))
        return bool(claimed)

    until(beat)
    assert blocks(claimed) == [b"lost"]


def test_a_finished_block_is_never_claimed(broker: Broker) -> None:
    appended(broker, one(b"x"))
    consumer = broker.consumer(QUEUE, "c")
    (delivery,) = consumer.exchange([], [], count=1, block_ms=0)
    consumer.exchange([], [delivery], count=0, block_ms=0)
    assert broker.consumer(QUEUE, "d").claim(lease_ms=0, count=5) == []


def test_only_the_holder_of_a_lease_can_renew_it(broker: Broker) -> None:
    """The first consumer goes on renewing what the second has claimed; the third claims it all the same."""
    appended(broker, one(b"x"))
    take(broker, "first")
    second, third = broker.consumer(QUEUE, "second"), broker.consumer(QUEUE, "third")
    until(lambda: second.claim(lease_ms=10, count=1))
    claimed: list[Delivery] = []

    def beat() -> bool:
        broker.worker().renew([(QUEUE, "first")])
        claimed.extend(third.claim(lease_ms=100, count=1))
        return bool(claimed)

    until(beat)
    assert [(d.block, d.deliveries) for d in claimed] == [(b"x", 3)]


@pytest.mark.parametrize("is_suspect", [True, False])
def test_what_a_dead_consumer_held_is_claimed_at_once_and_counted_only_where_it_may_be_to_blame(
    broker: Broker, is_suspect: bool
) -> None:
    appended(broker, one(b"high", 2, priority="high"), one(b"normal", 3))
    take(broker, "dead")
    appended(broker, one(b"in work"))
    take(broker, "alive")
    broker.worker().release(QUEUE, "dead", is_suspect=is_suspect)
    claimed = broker.consumer(QUEUE, "next").claim(lease_ms=60_000, count=5)
    count = 2 if is_suspect else 1
    assert [(d.block, d.rows, d.deliveries) for d in claimed] == [(b"high", 2, count), (b"normal", 3, count)]
    broker.consumer(QUEUE, "next").exchange([], claimed, count=0, block_ms=0)
    assert appended(broker, one(b"more", 100), limit=100) == [full(1, 7)]


def test_nothing_is_released_of_a_consumer_that_holds_nothing(broker: Broker) -> None:
    worker = broker.worker()
    worker.release(QUEUE, "unknown", is_suspect=True)
    appended(broker, one(b"x"))
    take(broker, "alive")
    worker.release(QUEUE, "unknown", is_suspect=True)
    assert broker.consumer(QUEUE, "next").claim(lease_ms=60_000, count=5) == []


def test_an_item_that_is_settled_is_answered_and_whoever_claims_its_block_knows(broker: Broker) -> None:
    async def run() -> list[bytes]:
        link = broker.producer("asks")
        await link.heartbeat()
        await link.append([one(b"x")], Limits(10, 100))
        take(broker, "dead")
        worker = broker.worker()
        worker.live()
        worker.settle(QUEUE, Reply(link.reply_to, b"why"), 7, int(link.clock.now_ms()) + 60_000)
        worker.release(QUEUE, "dead", is_suspect=False)
        second = broker.consumer(QUEUE, "next")
        assert blocks(second.claim(lease_ms=60_000, count=1)) == [b"x"]
        assert second.cancelled_count == 1
        assert second.cancelled([(link.reply_to, 7), (link.reply_to, 8)]) == {(link.reply_to, 7)}
        replies = await link.replies()
        await link.close()
        return replies

    assert asyncio.run(run()) == [b"why"]


def test_queues_with_blocks_are_seen_whether_these_wait_or_are_in_work(broker: Broker) -> None:
    worker = broker.worker()
    if not worker.can_watch:
        pytest.skip("in a Cluster, queues lie on several servers")
    others = [Queue("m", 2), Queue("other", 1)]
    assert worker.watch([QUEUE, *others], 10) == set()
    seen: list[set[Queue]] = []
    watching = threading.Thread(target=lambda: seen.append(worker.watch([QUEUE, *others], 30_000)))
    watching.start()
    appended(broker, one(b"x"))
    watching.join()
    assert seen == [{QUEUE}]
    consumer = broker.consumer(QUEUE, "c")
    taken = consumer.exchange([], [], count=1, block_ms=0)
    assert worker.watch([QUEUE, *others], 10) == {QUEUE}
    consumer.exchange([], taken, count=0, block_ms=0)
    assert worker.watch([QUEUE, *others], 10) == set()


def test_after_a_lost_connection_a_consumer_takes_under_a_new_name(own_redis: RedisServer) -> None:
    """What was on its way to the lost connection must not be renewed with what is taken afterwards."""
    broker = RedisBroker(own_redis.url)
    consumer = broker.consumer(QUEUE, "c")
    consumer.exchange([], [], count=1, block_ms=0)
    with redis.Redis.from_url(own_redis.url) as client:
        client.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(Unavailable):
            consumer.exchange([], [], count=1, block_ms=0)
        appended(broker, one(b"x"))
        client.xreadgroup("workers", "c", {QUEUE.requests("normal"): ">"})  # as if it had arrived nowhere
        appended(broker, one(b"y"))
        assert blocks(consumer.exchange([], [], count=1, block_ms=0)) == [b"y"]
    assert consumer.losses == 1
    worker, claimed = broker.worker(), list[Delivery]()

    def beat() -> bool:
        worker.renew([(QUEUE, consumer_name("c", consumer.losses))])
        claimed.extend(broker.consumer(QUEUE, "next").claim(lease_ms=200, count=5))
        return bool(claimed)

    until(beat)
    assert blocks(claimed) == [b"x"]


def test_replies_reach_the_process_that_asked_and_only_once(broker: Broker) -> None:
    async def run() -> None:
        mine, other = broker.producer("mine"), broker.producer("other")
        await mine.heartbeat()
        await other.heartbeat()
        consumer = broker.consumer(QUEUE, "c")
        for block in (b"1", b"2"):
            consumer.exchange([Reply(mine.reply_to, block)], [], count=0, block_ms=0)
        received: list[bytes] = []
        while len(received) < 2:
            received += await mine.replies()
        consumer.exchange([Reply(mine.reply_to, b"3"), Reply(other.reply_to, b"4")], [], count=0, block_ms=0)
        assert received + await mine.replies() == [b"1", b"2", b"3"]
        assert await other.replies() == [b"4"]
        await mine.close()
        await other.close()

    asyncio.run(run())


def test_a_consumer_learns_which_items_were_cancelled(broker: Broker) -> None:
    mine, others = broker.producer("mine"), broker.producer("others")
    consumer = broker.consumer(QUEUE, "c")

    async def cancel() -> None:
        await mine.heartbeat()
        later_ms = int(mine.clock.now_ms()) + 60_000
        await mine.cancel(QUEUE, [(1, later_ms), (2, later_ms)])
        await mine.cancel(QUEUE, [(3, later_ms)])
        await mine.close()

    consumer.exchange([], [], count=1, block_ms=0)
    assert consumer.cancelled_count == 0
    asyncio.run(cancel())
    appended(broker, one(b"x"))
    assert blocks(consumer.exchange([], [], count=1, block_ms=0)) == [b"x"]
    assert consumer.cancelled_count == 3
    asked = [(mine.reply_to, 1), (others.reply_to, 1), (mine.reply_to, 3), (mine.reply_to, 4)]
    assert consumer.cancelled(asked) == {(mine.reply_to, 1), (mine.reply_to, 3)}
    assert consumer.cancelled([]) == set()
    other_queue = broker.consumer(Queue("m", 2), "c")
    other_queue.exchange([], [], count=1, block_ms=0)
    assert other_queue.cancelled_count == 0
    assert other_queue.cancelled(asked) == set()


def test_a_cancellation_is_forgotten_after_its_deadline(broker: Broker) -> None:
    link, consumer = broker.producer("api"), broker.consumer(QUEUE, "c")

    async def cancel() -> None:
        await link.heartbeat()
        now_ms = int(link.clock.now_ms())
        await link.cancel(QUEUE, [(1, now_ms - 1), (2, now_ms + 60_000)])
        await link.cancel(QUEUE, [(3, now_ms + 60_000)])
        await link.close()

    asyncio.run(cancel())
    consumer.exchange([], [], count=1, block_ms=0)
    assert consumer.cancelled_count == 2
    assert consumer.cancelled([(link.reply_to, number) for number in (1, 2, 3)]) == {
        (link.reply_to, 2),
        (link.reply_to, 3),
    }


def test_a_reply_to_a_process_that_is_gone_is_dropped(broker: Broker) -> None:
    async def run() -> None:
        gone = broker.producer("gone")
        await gone.heartbeat()
        await gone.close()
        sent = [Reply(gone.reply_to, b"x"), Reply(gone.reply_to, bytes(300_000))]
        broker.consumer(QUEUE, "c").exchange(sent, [], count=0, block_ms=0)
        again = broker.producer("gone")
        assert not (await again.heartbeat()).had_stream
        broker.consumer(QUEUE, "c").exchange([Reply(again.reply_to, b"y")], [], count=0, block_ms=0)
        assert await again.replies() == [b"y"]
        await again.close()

    asyncio.run(run())


def test_a_block_that_is_given_up_is_kept_with_its_error_until_it_is_dropped(broker: Broker) -> None:
    operator = broker.operator()
    assert operator.dead_letter_queues() == []
    others = Queue("another/odd}name", 12)
    appended(broker, *(one(str(i).encode()) for i in range(40)), Append(others, "normal", ((1, b"x"),)))
    for queue in (QUEUE, others):
        consumer = broker.consumer(queue, "c")
        for delivery in consumer.exchange([], [], count=100, block_ms=0):
            consumer.bury(delivery, f"why {delivery.block.decode()} – so")
    assert operator.dead_letter_queues() == [others, QUEUE]
    letters = list(operator.dead_letters(QUEUE))
    assert [letter.block for letter in letters] == [str(i).encode() for i in range(40)]
    first = letters[0]
    assert (first.queue, first.error, first.deliveries, first.consumer) == (QUEUE, "why 0 – so", 1, "c")
    assert abs(first.buried_ms - time.time() * 1000) < 60_000
    assert operator.drop_dead_letters(QUEUE, [first.entry_id, letters[7].entry_id]) == 2
    assert operator.drop_dead_letters(QUEUE, [first.entry_id]) == 0
    assert len(list(operator.dead_letters(QUEUE))) == 38
    assert operator.drop_dead_letters(QUEUE) == 38
    assert operator.dead_letter_queues() == [others]
    assert operator.drop_dead_letters(others) == 1
    assert operator.drop_dead_letters(others) == 0
    assert operator.dead_letter_queues() == []


def test_what_is_wanted_of_a_model_reaches_workers_and_api_processes(broker: Broker) -> None:
    control = DesiredState(model="m", generation=5, labels={"stable": 1}, weights={1: 0.5, 2: 0.5})

    async def run() -> list[DesiredState]:
        link = broker.producer("api")
        try:
            assert await link.write_desired_state(control, replaces=0) is None
            return (await link.heartbeat()).desired_states
        finally:
            await link.close()

    assert asyncio.run(run()) == [control]
    link = broker.worker()
    workers, desired_states = link.announce(WorkerAnnouncement(worker="w", expires_ms=2**50, models=()))
    assert ([worker.worker for worker in workers], desired_states) == (["w"], [control])
    link.close()


def test_of_two_who_change_the_same_document_one_is_told_to_read_again(broker: Broker) -> None:
    mine, other = DesiredState(model="m", generation=7), DesiredState(model="m", generation=8)

    async def run() -> None:
        link = broker.producer("api")
        assert await link.write_desired_state(mine, replaces=0) is None
        assert await link.write_desired_state(other, replaces=0) == mine
        assert await link.write_desired_state(other, replaces=7) is None
        await link.close()

    asyncio.run(run())


def test_a_document_that_is_put_back_does_not_undo_a_newer_one(broker: Broker) -> None:
    older, newer = DesiredState(model="m", generation=8), DesiredState(model="m", generation=9, is_loaded=False)
    gone = DesiredState(model="gone", generation=1)

    async def run() -> list[DesiredState]:
        worker, link = broker.worker(), broker.producer("api")
        worker.put_back([newer])
        worker.put_back([older, gone])
        await link.put_back([older, gone])
        desired_states = (await link.heartbeat()).desired_states
        worker.close()
        await link.close()
        return desired_states

    assert sorted(asyncio.run(run()), key=lambda control: control.model) == [gone, newer]


def test_blocks_are_counted_from_their_arrival_until_they_are_finished(broker: Broker) -> None:
    link, consumer = broker.worker(), broker.consumer(QUEUE, "c")
    assert link.block_count(QUEUE) == 0
    appended(broker, one(b"1"), one(b"2", priority="high"))
    assert link.block_count(QUEUE) == 2
    taken = consumer.exchange([], [], count=9, block_ms=0)
    assert link.block_count(QUEUE) == 2
    consumer.exchange([], taken, count=0, block_ms=0)
    assert link.block_count(QUEUE) == 0
    consumer.close()
    link.close()


def test_live_workers_are_known_and_gone_ones_are_not(broker: Broker) -> None:
    def announcement(name: str, for_ms: int) -> WorkerAnnouncement:
        expires_ms = int(time.time() * 1000) + for_ms
        model = ModelAnnouncement(name="m", version=1, state="AVAILABLE")
        return WorkerAnnouncement(worker=name, expires_ms=expires_ms, models=(model,))

    async def live() -> list[str]:
        link = broker.producer("api")
        await link.heartbeat()
        workers = (await link.heartbeat()).workers
        await link.close()
        return sorted(worker.worker for worker in workers)

    link = broker.worker()
    for name, for_ms in (("stays", 60_000), ("leaves", 60_000), ("died", -1)):
        link.announce(announcement(name, for_ms))
    link.withdraw("leaves")
    assert asyncio.run(live()) == ["stays"]
    assert [worker.worker for worker in link.live()] == ["stays"]


class OddClock:
    """A machine's clock: wrong by `ahead_s` and running by `drift` too fast."""

    def __init__(self, ahead_s: float, drift: float) -> None:
        self.ahead_s, self._drift = ahead_s, drift

    def __call__(self) -> float:
        return time.monotonic() * (1 + self._drift) + self.ahead_s


def test_both_ends_agree_on_the_time_though_their_clocks_and_times_of_day_do_not(broker: Broker) -> None:
    theirs, ours = OddClock(-5000, -1e-4), OddClock(5000, 1e-4)

    async def run() -> None:
        worker, link = broker.worker(clock=theirs), broker.producer("api", clock=ours)
        theirs.ahead_s -= 600  # as where the time of day is wrong by ten minutes
        ours.ahead_s += 600
        worker.announce(WorkerAnnouncement(worker="w", expires_ms=2**50, models=()))
        await link.heartbeat()
        assert link.clock.now_ms() == pytest.approx(worker.clock.now_ms(), abs=50)
        assert link.clock.now_ms() == pytest.approx(time.time() * 1000, abs=1000)
        theirs.ahead_s += 90  # a machine that slept
        worker.live()
        assert worker.clock.now_ms() == pytest.approx(time.time() * 1000, abs=1000)
        worker.close()
        await link.close()

    asyncio.run(run())


def test_a_first_announcement_lives_as_long_as_it_says_whatever_the_time_of_day_was(broker: Broker) -> None:
    clock = OddClock(0, 0)
    link = broker.worker(clock=clock)
    clock.ahead_s += 3600
    now_ms = int(link.clock.now_ms())
    announcement = WorkerAnnouncement(worker="w", sent_ms=now_ms, expires_ms=now_ms + 2000, models=())
    ((announced,), _) = link.announce(announcement)
    assert announced.expires_ms - announced.sent_ms == pytest.approx(2000, abs=1)
    assert announced.sent_ms == pytest.approx(time.time() * 1000, abs=1000)
    link.close()


class TestRedisAlone:
    """What only Redis can show."""

    def test_nothing_is_left_behind_when_all_is_done(self, redis_server: RedisServer) -> None:
        url = redis_server.url
        broker = RedisBroker(url)
        appended(broker, one(b"1"))
        consumer = broker.consumer(QUEUE, "c")
        (delivery,) = consumer.exchange([], [], count=1, block_ms=0)
        consumer.exchange([], [delivery], count=0, block_ms=0)
        consumer.close()
        with redis.Redis.from_url(url, decode_responses=True) as client:
            assert client.xlen(QUEUE.requests("normal")) == 0
            assert client.hgetall(QUEUE.held) == {"rows": "0", "bytes": "0"}
            assert client.xinfo_consumers(QUEUE.requests("normal"), "workers") == []
            assert set(client.keys()) == {*map(QUEUE.requests, PRIORITIES), QUEUE.held}

    def test_consumers_that_hold_nothing_and_are_long_silent_are_forgotten(self, redis_server: RedisServer) -> None:
        broker = RedisBroker(redis_server.url)
        appended(broker, one(b"1"), one(b"2"))
        idle = broker.consumer(QUEUE, "idle")
        idle.exchange([], idle.exchange([], [], count=1, block_ms=0), count=0, block_ms=0)
        take(broker, "holds")
        broker.consumer(QUEUE, "new", forget_ms=0).exchange([], [], count=0, block_ms=0)
        with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
            left = [consumer["name"] for consumer in client.xinfo_consumers(QUEUE.requests("normal"), "workers")]
        assert left == ["holds"]

    def test_an_entry_of_another_form_is_an_empty_block(self, redis_server: RedisServer) -> None:
        broker, stream = RedisBroker(redis_server.url), QUEUE.requests("normal")
        with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
            client.xadd(stream, {"x": "y"})
            client.xadd(stream, {"b": "y", "r": "many"})
            taken = take(broker, "dead")
            assert [(d.block, d.rows) for d in taken] == [(b"", 0)] * 2
            consumer, claimed = broker.consumer(QUEUE, "c"), list[Delivery]()
            until(lambda: claimed.extend(consumer.claim(lease_ms=20, count=5)) or len(claimed) == 2)
            assert [(d.block, d.rows) for d in claimed] == [(b"", 0)] * 2
            consumer.exchange([], claimed, count=0, block_ms=0)
            assert client.xlen(stream) == 0
            assert client.hgetall(QUEUE.held) == {}

    def test_large_dead_letters_are_fewer(self, redis_server: RedisServer) -> None:
        consumer = RedisBroker(redis_server.url).consumer(QUEUE, "c")
        for _ in range(14):
            consumer.bury(Delivery(b"1-1", "normal", bytes(DEAD_LETTERS_BYTES // 10), 1), "why")
        with redis.Redis.from_url(redis_server.url) as client:
            assert client.xlen(QUEUE.dead) == 10
            client.delete(QUEUE.dead)

    def test_cancellations_expire_with_the_last_deadline(self, redis_server: RedisServer) -> None:
        link = RedisBroker(redis_server.url).producer("api")

        async def cancel() -> int:
            await link.heartbeat()
            now_ms = int(link.clock.now_ms())
            await link.cancel(QUEUE, [(1, now_ms + 90_000), (2, now_ms + 30_000)])
            await link.close()
            return now_ms

        now_ms = asyncio.run(cancel())
        with redis.Redis.from_url(redis_server.url) as client:
            left_ms = client.pttl(QUEUE.cancelled)
            server_ms = client.time()[0] * 1000 + client.time()[1] // 1000
        assert abs(server_ms + left_ms - (now_ms + 90_000)) < 2_000

    def test_a_queue_that_lost_its_memory_is_made_again(self, redis_server: RedisServer) -> None:
        url = redis_server.url
        broker = RedisBroker(url)
        consumer = broker.consumer(QUEUE, "c")
        assert consumer.exchange([], [], count=1, block_ms=0) == []
        with redis.Redis.from_url(url) as client:
            client.flushall()
        assert consumer.exchange([], [], count=1, block_ms=0) == []
        appended(broker, one(b"x"))
        assert blocks(consumer.exchange([], [], count=1, block_ms=0)) == [b"x"]

    def test_an_api_process_notices_that_its_reply_stream_is_gone(self, redis_server: RedisServer) -> None:
        url = redis_server.url

        async def run() -> list[bool]:
            link = RedisBroker(url).producer("api")
            await link.heartbeat()
            kept = [(await link.heartbeat())[1]]
            with redis.Redis.from_url(url) as client:
                client.flushall()
            kept += [(await link.heartbeat())[1], (await link.heartbeat())[1]]
            await link.close()
            return kept

        assert asyncio.run(run()) == [True, False, True]

    def test_a_stall_of_the_event_loop_moves_no_clock_and_ends_no_worker(self, redis_server: RedisServer) -> None:
        broker = RedisBroker(redis_server.url)

        async def run() -> None:
            link, worker = broker.producer("api"), broker.worker()
            await link.heartbeat()
            worker.announce(WorkerAnnouncement(worker="w", expires_ms=int(worker.clock.now_ms()) + 250, models=()))
            beat = asyncio.create_task(link.heartbeat())
            await asyncio.sleep(0)  # its commands are written
            time.sleep(0.5)  # the stall
            assert [worker.worker for worker in (await beat).workers] == ["w"]
            assert link.clock.now_ms() == pytest.approx(time.time() * 1000, abs=50)
            assert (await link.heartbeat()).workers == []
            await link.close()
            worker.close()

        asyncio.run(run())

    def test_what_was_announced_before_is_not_decoded_again(self, redis_server: RedisServer) -> None:
        broker = RedisBroker(redis_server.url)
        worker = broker.worker()

        def announce(*names: str) -> None:
            models = tuple(ModelAnnouncement(name=name, version=1, state="AVAILABLE") for name in names)
            worker.announce(WorkerAnnouncement(worker="w", expires_ms=2**50, models=models))

        async def run() -> None:
            link, desired_state = broker.producer("api"), DesiredState(model="m", generation=1)
            await link.put_back([desired_state])
            announce("a")
            first, second = await link.heartbeat(), await link.heartbeat()
            assert second.workers[0].models is first.workers[0].models
            assert second.desired_states[0] is first.desired_states[0]
            announce("a", "b")
            changed = await link.heartbeat()
            assert [model.name for model in changed.workers[0].models] == ["a", "b"]
            worker.withdraw("w")
            assert (await link.heartbeat()).workers == []
            await link.close()

        asyncio.run(run())
        worker.close()

    def test_room_that_redis_lost_is_as_none(self, redis_server: RedisServer) -> None:
        broker, kept = RedisBroker(redis_server.url), room(5, 50)
        appended(broker, large(b"1", keeps=kept), limit=10)
        with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
            client.flushall()
            assert appended(broker, large(b"2", takes=kept, keeps=room(4, 40)), limit=10) == [None]
            assert client.hgetall(QUEUE.held) == {"rows": "5", "bytes": "41"}
            client.flushall()
            appended(broker, large(b"", takes=kept), limit=10)
            assert client.hgetall(QUEUE.held) == {}

    def test_nothing_is_left_of_large_blocks(self, redis_server: RedisServer) -> None:
        broker, kept = RedisBroker(redis_server.url), room(1, 3)
        appended(broker, large(b"1", keeps=kept))
        appended(broker, large(stored(broker, b"123"), takes=kept))
        with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
            assert 0 < client.pttl(QUEUE.fragments("f")) <= 60_000
            consumer = broker.consumer(QUEUE, "c")
            consumer.exchange([], consumer.exchange([], [], count=9, block_ms=0), count=0, block_ms=0)
            assert client.hgetall(QUEUE.held) == {"rows": "0", "bytes": "0"}
            assert client.keys("*fragments*") + client.keys("*kept*") == []

    def test_nothing_is_kept_for_a_process_that_is_gone(self, redis_server: RedisServer) -> None:
        sent = [Reply("millrace:{gone}:replies", block) for block in (b"x", bytes(300_000))]
        RedisBroker(redis_server.url).consumer(QUEUE, "c").exchange(sent, [], count=0, block_ms=0)
        with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
            assert client.keys("*replies*") == []

    def test_replies_that_were_read_are_trimmed(self, redis_server: RedisServer) -> None:
        async def run() -> None:
            link = RedisBroker(redis_server.url).producer("api")
            await link.heartbeat()
            consumer = RedisBroker(redis_server.url).consumer(QUEUE, "c")
            lengths = []
            with redis.Redis.from_url(redis_server.url) as client:
                for number in range(40):
                    consumer.exchange([Reply(link.reply_to, bytes(10_000 + number))], [], count=0, block_ms=0)
                    assert [len(block) for block in await link.replies()] == [10_000 + number]
                    lengths.append(client.xlen(link.reply_to))
            assert max(lengths) < 12
            await link.close()

        asyncio.run(run())

    def test_after_a_lost_connection_replies_are_read_from_the_first_that_is_there(
        self, redis_server: RedisServer
    ) -> None:
        """A replica that takes over may have lower ids than the server that it follows."""

        async def run() -> None:
            link = RedisBroker(redis_server.url).producer("api")
            await link.heartbeat()
            with redis.Redis.from_url(redis_server.url) as client:
                client.xadd(link.reply_to, {"b": b"first"}, id="5000-0")
                assert await link.replies() == [b"first"]
                client.delete(link.reply_to)
                client.xadd(link.reply_to, {"b": b"second"}, id="3000-0")
                me = client.client_id()
                for other in client.client_list():
                    if int(other["id"]) != me:
                        client.client_kill_filter(_id=other["id"])
            with pytest.raises(Unavailable):
                await link.replies()
            assert await link.replies() == [b"second"]
            await link.close()

        asyncio.run(run())

    def test_large_replies_are_read_in_small_pieces_and_expire(self, redis_server: RedisServer) -> None:
        async def run() -> None:
            link = RedisBroker(redis_server.url).producer("api")
            await link.heartbeat()
            consumer = RedisBroker(redis_server.url).consumer(QUEUE, "c")
            replies = [Reply(link.reply_to, bytes(200_000)) for _ in range(100)]
            consumer.exchange([*replies, Reply(link.reply_to, bytes(5_000_000))], [], count=0, block_ms=0)
            reads = [len(await link.replies()), len(await link.replies())]
            assert sum(reads) == 101
            assert max(reads) * 262_144 < 17 * 10**6
            with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
                (key,) = client.keys("*replies:*")
                assert 0 < client.pttl(key) <= 60_000
                assert max(map(len, client.lrange(key, 0, -1))) <= 1_000_000
            await link.close()

        asyncio.run(run())

    def test_a_full_memory_is_unavailable_and_says_so(self, redis_server: RedisServer) -> None:
        url = redis_server.url
        with redis.Redis.from_url(url) as client:
            client.config_set("maxmemory", 1)
            try:
                with pytest.raises(Unavailable, match="out of memory"):
                    appended(RedisBroker(url), one(b"x"))
            finally:
                client.config_set("maxmemory", 0)

    @pytest.mark.parametrize("url", ["unix:///nowhere/redis.sock", "redis://127.0.0.1:1/0"])
    def test_a_redis_that_is_not_there_is_unavailable(self, url: str) -> None:
        with pytest.raises(Unavailable, match="cannot be reached"):
            appended(RedisBroker(url), one(b"x"))
        with pytest.raises(Unavailable, match="cannot be reached"):
            take(RedisBroker(url))

    def test_a_wrong_password_is_unavailable_and_says_so(self, redis_server: RedisServer) -> None:
        url = redis_server.url.replace("unix://", "unix://user:wrong@")
        with pytest.raises(Unavailable, match=r"(?i)password"):
            appended(RedisBroker(url), one(b"x"))
        with pytest.raises(Unavailable, match=r"(?i)password"):
            take(RedisBroker(url))

    def test_a_password_and_an_acl_user_are_used(self, redis_server: RedisServer) -> None:
        url = redis_server.url
        with redis.Redis.from_url(url) as client:
            client.acl_setuser("queue", enabled=True, passwords=["+secret"], keys=["millrace:*"], commands=["+@all"])
            try:
                broker = RedisBroker(url.replace("unix://", "unix://queue:secret@"))
                appended(broker, one(b"x"))
                assert blocks(take(broker)) == [b"x"]
            finally:
                client.acl_deluser("queue")

    def test_a_server_that_stops_answering_is_given_up_and_found_again(self, tmp_path: Path) -> None:
        """A relay in front of Redis goes deaf while much is on its way, then a good one takes its place."""

        async def run(server: RedisServer) -> None:
            async with relay(server.path) as good:
                link = RedisBroker(f"unix://{good.path}").producer("api")
                await link.heartbeat()
                good.is_deaf = True
                large = Append(QUEUE, "normal", ((1, bytes(4_000_000)),))
                stuck = asyncio.ensure_future(link.append([large], Limits(10, 10**8)))
                with pytest.raises(Unavailable, match="does not answer"):
                    await link.heartbeat()
                with pytest.raises(Unavailable):
                    await stuck
                good.is_deaf = False
                await link.heartbeat()
                assert await link.append([one(b"x")], Limits(10, 10**8)) == [Held(1, 1)]
                await link.close()

        server = RedisServer(tmp_path / "redis.sock")
        server.start()
        try:
            asyncio.run(run(server))
        finally:
            server.kill()


class Relay:
    """Passes bytes on to a Unix socket and back, or while it `is_deaf` takes none."""

    def __init__(self, path: Path, to: Path) -> None:
        self.path, self._to = path, to
        self.is_deaf = False
        self.tasks: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_unix_connection(self._to)
        for source, target in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(self._pass(source, target))
            self.tasks.add(task)

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                while self.is_deaf:
                    await asyncio.sleep(0.01)
                target.write(data)
                await target.drain()
        except ConnectionError:
            return
        finally:
            target.close()


@asynccontextmanager
async def relay(to: Path) -> AsyncIterator[Relay]:
    made = Relay(to.with_name("relay.sock"), to)
    server = await asyncio.start_unix_server(made.accept, made.path)
    yield made
    server.close()
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


def test_api_processes_tell_each_other_what_they_were_asked(broker: Broker) -> None:
    async def run() -> None:
        one, two = broker.producer("one"), broker.producer("two")
        try:
            for link in (one, two):
                await link.heartbeat()
            assert await one.exchange_usage(b"1 a") == {"one": b"1 a"}
            assert await two.exchange_usage(b"2 b") == {"one": b"1 a", "two": b"2 b"}
            assert await one.exchange_usage(b"") == {"one": b"", "two": b"2 b"}
        finally:
            await one.close()
            await two.close()

    asyncio.run(run())


def test_what_another_version_told_of_its_usage_keeps_no_process_from_telling(redis_server: RedisServer) -> None:
    async def run() -> None:
        link = RedisBroker(redis_server.url).producer("one")
        try:
            await link.heartbeat()
            with redis.Redis.from_url(redis_server.url) as client:
                client.hset(USAGE, mapping={"old": b"a form of its own", "older": b""})
                for _ in range(2):
                    assert await link.exchange_usage(b"1 a") == {"one": b"1 a"}
                assert client.hkeys(USAGE) == [b"one"]
        finally:
            await link.close()

    asyncio.run(run())
