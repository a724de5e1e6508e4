"""The queue in the memory of one process: the same promises as `redis.py`, for tests and for embedding.

The API's event loop and the workers' threads share one `MemoryBroker`. Nothing outlives it.
"""

import asyncio
import itertools
import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from millrace.broker.base import (
    USAGE_TTL_MS,
    Append,
    BrokerClock,
    DeadLetter,
    Delivery,
    Heartbeat,
    Held,
    Limits,
    Reply,
    Room,
    moved,
)
from millrace.broker.clock import Clock
from millrace.broker.depth import QueueDepth, StreamDepth, entry_ms
from millrace.broker.fragments import Reference, read_reference
from millrace.broker.keys import BULK, PRIORITIES, Queue, replies
from millrace.protocol.desired_state import DesiredState
from millrace.protocol.messages import WorkerAnnouncement


def _size(block: bytes) -> int:
    """What a block, or the one that it refers to, counts for."""
    reference = read_reference(block)
    return reference.size if reference else len(block)


def _stream_depth(waiting: Sequence[Delivery], working: Sequence[Delivery]) -> StreamDepth:
    both = [*waiting, *working]
    oldest_ms = min((entry_ms(delivery.entry_id) for delivery in both), default=0)
    return StreamDepth(len(both), len(working), oldest_ms)


@dataclass(slots=True)
class _Lease:
    consumer: str
    renewed_ms: float
    delivery: Delivery


@dataclass(slots=True)
class _QueueState:
    waiting: dict[str, list[Delivery]] = field(default_factory=lambda: {name: [] for name in PRIORITIES})
    held: dict[bytes, _Lease] = field(default_factory=dict)
    dead: list[DeadLetter] = field(default_factory=list)
    cancelled: dict[tuple[str, int], int] = field(default_factory=dict)  # (reply stream, item) -> deadline
    fragments: dict[str, tuple[float, list[bytes]]] = field(default_factory=dict)  # with the time they expire
    urgent: "_Counted" = field(default_factory=lambda: _Counted())
    bulk: "_Counted" = field(default_factory=lambda: _Counted())

    def counted(self, priority: str) -> "_Counted":
        return self.bulk if priority == BULK else self.urgent


@dataclass(slots=True)
class _Counted:
    """What counts together: of bulk, or of all else. `kept` is room for blocks that follow."""

    kept: dict[Room, None] = field(default_factory=dict)
    rows: int = 0
    bytes: int = 0

    def add(self, rows: int, size: int) -> None:
        """Count what was appended, or with negative numbers what left."""
        self.rows, self.bytes = self.rows + rows, self.bytes + size

    def give_up_expired(self, now_ms: float) -> None:
        """Give up the room whose time has passed."""
        for room in [room for room in self.kept if room.expires_ms <= now_ms]:
            del self.kept[room]
            self.add(-room.rows, -room.bytes)


class MemoryBroker:
    """The queues, the reply inboxes and the announcements, behind one lock."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._began_ms = time.time() * 1000 - clock() * 1000
        self._changed = threading.Condition()
        self._queues: dict[Queue, _QueueState] = defaultdict(_QueueState)
        self._inboxes: dict[str, MemoryProducerLink] = {}
        self._workers: dict[str, WorkerAnnouncement] = {}
        self._desired_states: dict[str, DesiredState] = {}
        self._usages: dict[str, tuple[float, bytes]] = {}
        self._ids = itertools.count(1)

    def producer(self, api: str, *, clock: Clock = time.monotonic) -> "MemoryProducerLink":
        """See `Broker`."""
        return MemoryProducerLink(self, api, clock)

    def consumer(self, queue: Queue, consumer: str) -> "MemoryConsumerLink":
        """See `Broker`."""
        return MemoryConsumerLink(self, queue, consumer)

    def worker(self, *, clock: Clock = time.monotonic) -> "MemoryWorkerLink":
        """See `Broker`."""
        return MemoryWorkerLink(self, clock)

    def operator(self) -> "MemoryOperatorLink":
        """See `Broker`."""
        return MemoryOperatorLink(self)

    def _now_ms(self) -> float:
        """The broker's time."""
        return self._began_ms + self._clock() * 1000

    def _set(self, clock: BrokerClock) -> None:
        now_s = clock.read()
        clock.sample(self._now_ms(), now_s, now_s)

    def _append(self, append: Append, limits: Limits) -> Held:
        with self._changed:
            state = self._queues[append.queue]
            held = state.counted(append.priority)
            rows = sum(rows for rows, _ in append.blocks) + (append.keeps.rows if append.keeps else 0)
            size = sum(_size(block) for _, block in append.blocks) + (append.keeps.bytes if append.keeps else 0)
            is_kept = append.takes in held.kept
            if append.takes and is_kept:
                del held.kept[append.takes]
                rows, size = rows - append.takes.rows, size - append.takes.bytes

            def is_beyond(part: float) -> bool:
                return held.rows + rows > limits.rows * part or held.bytes + size > limits.bytes * part

            if not is_kept and is_beyond(0.5):
                held.give_up_expired(self._now_ms())
                if is_beyond(1):
                    return Held(held.rows, held.bytes, is_refused=True)
            if append.keeps:
                held.kept[append.keeps] = None
            held.add(rows, size)
            state.waiting[append.priority] += [
                Delivery(b"%d-%d" % (self._now_ms(), next(self._ids)), append.priority, block, rows)
                for rows, block in append.blocks
            ]
            self._changed.notify_all()
            return Held(held.rows, held.bytes)

    def _store(self, queue: Queue, fragments_id: str, fragment: bytes, expires_ms: float) -> None:
        with self._changed:
            now_ms, state = self._now_ms(), self._queues[queue]
            state.fragments = {name: kept for name, kept in state.fragments.items() if kept[0] > now_ms}
            stored = state.fragments.setdefault(fragments_id, (expires_ms, []))[1]
            state.fragments[fragments_id] = expires_ms, [*stored, fragment]

    def _whole(self, state: _QueueState, delivery: Delivery) -> Delivery | None:
        """The delivery with its block, in the place of a reference; None, and all forgotten, where that is gone."""
        reference = read_reference(delivery.block)
        if reference is None:
            return delivery
        expires_ms, fragments = state.fragments.get(reference.id, (0.0, []))
        if expires_ms <= self._now_ms() or len(fragments) != reference.count:
            state.fragments.pop(reference.id, None)
            state.counted(delivery.priority).add(-delivery.rows, -reference.size)
            return None
        return replace(delivery, block=b"".join(fragments), fragments=reference.id)

    def _take(
        self, queue: Queue, consumer: str, count: int, block_ms: int, priorities: Sequence[str]
    ) -> list[Delivery]:
        with self._changed:
            state = self._queues[queue]
            if block_ms:
                self._changed.wait_for(lambda: any(state.waiting[name] for name in priorities), block_ms / 1000)
            counts = {name: count for name in priorities if name != BULK}
            if BULK in priorities and not any(state.waiting[name] for name in counts):
                counts = {BULK: 1}
            waiting = [delivery for name, most in counts.items() for delivery in state.waiting[name][:most]]
            taken = [whole for delivery in waiting if (whole := self._whole(state, delivery))]
            for name, most in counts.items():
                del state.waiting[name][:most]
            now_ms = self._now_ms()
            state.held.update({delivery.entry_id: _Lease(consumer, now_ms, delivery) for delivery in taken})
            return taken

    def _finish(self, queue: Queue, delivery: Delivery) -> None:
        with self._changed:
            state = self._queues[queue]
            if state.held.pop(delivery.entry_id, None):
                state.counted(delivery.priority).add(-delivery.rows, -delivery.size)
                state.fragments.pop(delivery.fragments, None)

    def _claim(
        self, queue: Queue, consumer: str, lease_ms: int, count: int, priorities: Sequence[str]
    ) -> list[Delivery]:
        with self._changed:
            now_ms = self._now_ms()
            state = self._queues[queue]
            lost = [
                held
                for held in state.held.values()
                if now_ms - held.renewed_ms >= lease_ms and held.delivery.priority in priorities
            ]
            lost = sorted(lost, key=lambda held: PRIORITIES.index(held.delivery.priority))[:count]
            alone = (i for i, held in enumerate(lost) if held.delivery.deliveries > 1 or held.delivery.is_bulk)
            lost = lost[: max(1, next(alone, len(lost)))]
            for held in lost:
                held.delivery = replace(held.delivery, deliveries=held.delivery.deliveries + 1)
                held.consumer, held.renewed_ms = consumer, now_ms
            return [held.delivery for held in lost]

    def _renew(self, queue: Queue, consumer: str) -> None:
        with self._changed:
            for held in self._queues[queue].held.values():
                if held.consumer == consumer:
                    held.renewed_ms = self._now_ms()

    def _release(self, queue: Queue, consumer: str, *, is_suspect: bool) -> None:
        with self._changed:
            for held in self._queues[queue].held.values():
                if held.consumer == consumer:
                    held.consumer, held.renewed_ms = "", -math.inf
                    deliveries = held.delivery.deliveries - (0 if is_suspect else 1)
                    held.delivery = replace(held.delivery, deliveries=deliveries)

    def _watch(self, queues: Sequence[Queue], block_ms: int) -> set[Queue]:
        with self._changed:
            busy: set[Queue] = set()

            def look() -> bool:
                busy.update(queue for queue in queues if self._block_count_of(queue))
                return bool(busy)

            self._changed.wait_for(look, block_ms / 1000)
            return busy

    def _bury(self, queue: Queue, consumer: str, delivery: Delivery, error: str) -> None:
        letter = DeadLetter(
            queue=queue,
            entry_id=str(next(self._ids)),
            buried_ms=int(self._now_ms()),
            block=delivery.block,
            error=error,
            deliveries=delivery.deliveries,
            consumer=consumer,
        )
        with self._changed:
            self._queues[queue].dead.append(letter)

    def _cancel(self, queue: Queue, reply_to: str, items: Sequence[tuple[int, int]], now_ms: float) -> None:
        with self._changed:
            state = self._queues[queue]
            cancelled = state.cancelled | {(reply_to, number): deadline_ms for number, deadline_ms in items}
            state.cancelled = {item: deadline_ms for item, deadline_ms in cancelled.items() if deadline_ms > now_ms}

    def _announce(self, announcement: WorkerAnnouncement) -> None:
        self._workers[announcement.worker] = announcement

    def _live(self) -> list[WorkerAnnouncement]:
        now_ms = self._now_ms()
        return [worker for worker in list(self._workers.values()) if worker.expires_ms > now_ms]

    def _write_desired_state(self, control: DesiredState, replaces: int) -> DesiredState | None:
        with self._changed:
            stored = self._desired_states.get(control.model)
            if stored and stored.generation > replaces:
                return stored
            self._desired_states[control.model] = control
            return None

    def _put_back(self, desired_states: Sequence[DesiredState]) -> None:
        for control in desired_states:
            self._write_desired_state(control, control.generation - 1)

    def _forget(self, desired_states: Sequence[DesiredState]) -> None:
        with self._changed:
            for control in desired_states:
                stored = self._desired_states.get(control.model)
                if stored and stored.generation <= control.generation:
                    del self._desired_states[control.model]

    def _block_count(self, queue: Queue) -> int:
        with self._changed:
            return self._block_count_of(queue)

    def _block_count_of(self, queue: Queue) -> int:
        state = self._queues[queue]
        return len(state.held) + sum(map(len, state.waiting.values()))

    def _depth(self, queue: Queue) -> QueueDepth:
        with self._changed:
            state = self._queues[queue]
            working = [held.delivery for held in state.held.values()]
            return QueueDepth(
                queue=queue,
                rows=state.urgent.rows,
                bytes=state.urgent.bytes,
                bulk_rows=state.bulk.rows,
                bulk_bytes=state.bulk.bytes,
                dead_letters=len(state.dead),
                streams={
                    name: _stream_depth(waiting, [delivery for delivery in working if delivery.priority == name])
                    for name, waiting in state.waiting.items()
                },
            )

    def _reply(self, reply: Reply) -> None:
        with self._changed:
            inbox = self._inboxes.get(reply.reply_to)
        if inbox:
            inbox.deliver(reply.block)


class MemoryProducerLink:
    """The API's side; used on one event loop."""

    def __init__(self, broker: MemoryBroker, api: str, clock: Clock = time.monotonic) -> None:
        self._broker = broker
        self._api = api
        self.reply_to = replies(api)
        self.clock = BrokerClock(clock)
        self._inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def close(self) -> None:
        """See `ProducerLink`."""
        self._broker._inboxes.pop(self.reply_to, None)

    async def append(self, appends: Sequence[Append], limits: Limits) -> list[Held]:
        """See `ProducerLink`."""
        return [self._broker._append(append, limits) for append in appends]

    async def store(self, queue: Queue, fragments_id: str, fragment: bytes, expires_ms: int) -> None:
        """See `ProducerLink`."""
        self._broker._store(queue, fragments_id, fragment, expires_ms)

    async def fetch(self, _reference: Reference, /) -> bytes | None:
        """See `ProducerLink`. Here replies come whole."""
        return None

    async def cancel(self, queue: Queue, items: Sequence[tuple[int, int]]) -> None:
        """See `ProducerLink`."""
        self._broker._cancel(queue, self.reply_to, items, self.clock.now_ms())

    async def replies(self) -> list[bytes]:
        """See `ProducerLink`."""
        return [await self._inbox.get()]

    async def heartbeat(self) -> Heartbeat:
        """See `ProducerLink`."""
        was_there = self.reply_to in self._broker._inboxes
        self._loop = asyncio.get_running_loop()
        self._broker._inboxes[self.reply_to] = self
        self._broker._set(self.clock)
        return Heartbeat(self._broker._live(), was_there, list(self._broker._desired_states.values()))

    async def depths(self, queues: Sequence[Queue]) -> list[QueueDepth]:
        """See `ProducerLink`."""
        return [self._broker._depth(queue) for queue in queues]

    async def exchange_usage(self, usage: bytes) -> dict[str, bytes]:
        """See `ProducerLink`."""
        now_ms = self._broker._now_ms()
        told = self._broker._usages
        told[self._api] = (now_ms + USAGE_TTL_MS, usage)
        return {api: content for api, (expires_ms, content) in told.items() if expires_ms >= now_ms}

    async def write_desired_state(self, control: DesiredState, *, replaces: int) -> DesiredState | None:
        """See `ProducerLink`."""
        return self._broker._write_desired_state(control, replaces)

    async def put_back(self, desired_states: Sequence[DesiredState]) -> None:
        """See `ProducerLink`."""
        self._broker._put_back(desired_states)

    async def forget(self, desired_states: Sequence[DesiredState]) -> None:
        """See `ProducerLink`."""
        self._broker._forget(desired_states)

    def deliver(self, block: bytes) -> None:
        """Put a reply block into the inbox, from any thread."""
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._inbox.put_nowait, block)


class MemoryConsumerLink:
    """A worker thread's hold on one queue."""

    def __init__(self, broker: MemoryBroker, queue: Queue, consumer: str) -> None:
        self._broker, self._queue, self._consumer = broker, queue, consumer
        self.cancelled_count = 0
        self.losses = 0
        self.has_bulk = False

    def exchange(
        self,
        replies: Sequence[Reply],
        finished: Sequence[Delivery],
        *,
        count: int,
        block_ms: int,
        priorities: Sequence[str] = PRIORITIES,
    ) -> list[Delivery]:
        """See `ConsumerLink`."""
        for reply in replies:
            self._broker._reply(reply)
        for delivery in finished:
            self._broker._finish(self._queue, delivery)
        if not count:
            return []
        taken = self._broker._take(self._queue, self._consumer, count, block_ms, priorities)
        self.has_bulk = self._broker._queues[self._queue].bulk.rows > 0
        self.cancelled_count = len(self._broker._queues[self._queue].cancelled)
        return taken

    def cancelled(self, items: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        """See `ConsumerLink`."""
        return self._broker._queues[self._queue].cancelled.keys() & set(items)

    def claim(self, *, lease_ms: int, count: int, priorities: Sequence[str] = PRIORITIES) -> list[Delivery]:
        """See `ConsumerLink`."""
        claimed = self._broker._claim(self._queue, self._consumer, lease_ms, count, priorities)
        self.cancelled_count = len(self._broker._queues[self._queue].cancelled)
        return claimed

    def bury(self, delivery: Delivery, error: str) -> None:
        """See `ConsumerLink`."""
        self._broker._bury(self._queue, self._consumer, delivery, error)

    def close(self) -> None:
        """See `ConsumerLink`."""


class MemoryWorkerLink:
    """A worker's heartbeat."""

    def __init__(self, broker: MemoryBroker, clock: Clock) -> None:
        self._broker = broker
        self.clock = BrokerClock(clock)

    def announce(self, announcement: WorkerAnnouncement) -> tuple[list[WorkerAnnouncement], list[DesiredState]]:
        """See `WorkerLink`."""
        before_ms, was_set = self.clock.now_ms(), self.clock.is_set
        self._broker._set(self.clock)
        moved_ms = 0 if was_set else self.clock.now_ms() - before_ms
        self._broker._announce(moved(announcement, moved_ms))
        return self._broker._live(), list(self._broker._desired_states.values())

    def put_back(self, desired_states: Sequence[DesiredState]) -> None:
        """See `WorkerLink`."""
        self._broker._put_back(desired_states)

    def block_count(self, queue: Queue) -> int:
        """See `WorkerLink`."""
        return self._broker._block_count(queue)

    def withdraw(self, worker: str) -> None:
        """See `WorkerLink`."""
        self._broker._workers.pop(worker, None)

    def live(self) -> list[WorkerAnnouncement]:
        """See `WorkerLink`."""
        self._broker._set(self.clock)
        return self._broker._live()

    def renew(self, consumers: Sequence[tuple[Queue, str]]) -> None:
        """See `WorkerLink`."""
        for queue, consumer in consumers:
            self._broker._renew(queue, consumer)

    def release(self, queue: Queue, consumer: str, *, is_suspect: bool) -> None:
        """See `WorkerLink`."""
        self._broker._release(queue, consumer, is_suspect=is_suspect)

    def settle(self, queue: Queue, reply: Reply, item: int, deadline_ms: int) -> None:
        """See `WorkerLink`."""
        self._broker._reply(reply)
        self._broker._cancel(queue, reply.reply_to, [(item, deadline_ms)], self.clock.now_ms())

    @property
    def can_watch(self) -> bool:
        """See `WorkerLink`."""
        return True

    def watch(self, queues: Sequence[Queue], block_ms: int) -> set[Queue]:
        """See `WorkerLink`."""
        return self._broker._watch(queues, block_ms)

    def close(self) -> None:
        """See `WorkerLink`."""


class MemoryOperatorLink:
    """An operator's look at what was given up."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def dead_letter_queues(self) -> list[Queue]:
        """See `OperatorLink`."""
        found = [queue for queue, state in list(self._broker._queues.items()) if state.dead]
        return sorted(found, key=lambda queue: (queue.model, queue.version))

    def dead_letters(self, queue: Queue) -> Iterator[DeadLetter]:
        """See `OperatorLink`."""
        yield from list(self._broker._queues[queue].dead)

    def drop_dead_letters(self, queue: Queue, entry_ids: Sequence[str] | None = None) -> int:
        """See `OperatorLink`."""
        with self._broker._changed:
            state = self._broker._queues[queue]
            kept = [letter for letter in state.dead if entry_ids is not None and letter.entry_id not in entry_ids]
            dropped = len(state.dead) - len(kept)
            state.dead = kept
            return dropped

    def close(self) -> None:
        """See `OperatorLink`."""
