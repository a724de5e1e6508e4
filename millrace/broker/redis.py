"""The queue on Redis streams (6.2 or later, or Valkey): which commands each side sends.

The keyspace is in `keys.py`, the scripts in `lua/`, the connections in `connections.py`.
"""

import asyncio
import itertools
import time
import uuid
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import hiredis
import msgspec
from pydantic import SecretStr

from millrace.broker.base import (
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
from millrace.broker.connections import GRACE_S, BlockingConnections, Command, Connections, Routed, call, failure, sha
from millrace.broker.discovery import Servers, servers
from millrace.broker.documents import Documents, newer_desired_state
from millrace.broker.fragments import Reference, fragment_count, fragments, read_reference
from millrace.broker.keys import (
    DEAD_LETTERS,
    DEAD_LETTERS_BYTES,
    DEAD_LETTERS_KEPT,
    DESIRED_STATES,
    GROUP,
    PRIORITIES,
    WORKERS,
    Queue,
    consumer_name,
    queue_of_dead_letters,
    replies,
    reply_fragments,
)
from millrace.broker.resp import Argument
from millrace.protocol.desired_state import DesiredState
from millrace.protocol.errors import Unavailable
from millrace.protocol.messages import WorkerAnnouncement

REPLY_STREAM_TTL_MS = 60_000
REPLY_STREAM_ENTRIES = 100_000
_BLOCK_MS = 2_000
_UNTRIMMED_BYTES = 65_536
_LARGE_REPLY_BYTES = 262_144  # from here on a reply travels in fragments
_REPLIES_AT_ONCE = 64  # so that one read brings no more than 16 MB
_EXPIRED_KEPT_MS = 60_000
_LETTERS_AT_ONCE = 16  # a block has up to a megabyte, or one large row
_CONSUMERS_KEPT_MS = 3_600_000
_RELEASED = "released"  # the consumer that holds what others may claim at once
_RELEASED_IDLE_MS = 86_400_000

_TIME: Command = ("TIME",)
_WORKER_SCRIPTS = ("announce", "renew", "release", "desired_state", "reply", "cancel")


def _live(workers: Iterable[WorkerAnnouncement], now_ms: float) -> list[WorkerAnnouncement]:
    """Those that had not expired when the broker's time was `now_ms`: when they were read, not when we come to it."""
    return [worker for worker in workers if worker.expires_ms > now_ms]


def _write_desired_state(control: DesiredState, replaces: int) -> Routed:
    return call("desired_state", [DESIRED_STATES], control.model, replaces, msgspec.json.encode(control))


def _put_back(control: DesiredState) -> Routed:
    return _write_desired_state(control, control.generation - 1)


def _forget(control: DesiredState) -> Routed:
    return call("desired_state", [DESIRED_STATES], control.model, control.generation, b"")


def _milliseconds(told: Sequence[bytes]) -> float:
    """The answer of TIME, seconds and microseconds, in milliseconds."""
    return int(told[0]) * 1000 + int(told[1]) / 1000


class RedisBroker:
    """Makes links to the Redis, the Sentinels or the Cluster that a URL names (`discovery.py`)."""

    def __init__(self, url: str | SecretStr) -> None:
        self._servers = servers(url if isinstance(url, str) else url.get_secret_value())

    def producer(self, api: str, *, clock: Clock = time.monotonic) -> "RedisProducerLink":
        """See `Broker`."""
        return RedisProducerLink(self._servers, api, clock)

    def consumer(self, queue: Queue, consumer: str, *, forget_ms: int = _CONSUMERS_KEPT_MS) -> "RedisConsumerLink":
        """See `Broker`. Consumers that hold nothing and were silent for `forget_ms` are deleted on the way."""
        return RedisConsumerLink(self._servers, queue, consumer, forget_ms)

    def worker(self, *, clock: Clock = time.monotonic) -> "RedisWorkerLink":
        """See `Broker`."""
        return RedisWorkerLink(self._servers, clock)

    def operator(self) -> "RedisOperatorLink":
        """See `Broker`."""
        return RedisOperatorLink(self._servers)


class RedisProducerLink:
    """The API's side: connections to send on, and one that waits for replies. All are made again when lost."""

    def __init__(self, servers: Servers, api: str, clock: Clock) -> None:
        self.reply_to = replies(api)
        self.clock = BrokerClock(clock)
        self._sending = Connections(servers, "append", "cancel", "desired_state", clock=clock)
        self._documents = Documents()
        self._reading = Connections(servers)
        self._last_id: bytes | str = "0"
        self._untrimmed = 0

    async def close(self) -> None:
        """See `ProducerLink`."""
        try:
            if self._sending.is_open:
                await self._sending.execute((self.reply_to, ("DEL", self.reply_to)))
        finally:
            self._sending.lose()
            self._reading.lose()

    def append(self, appends: Sequence[Append], limits: Limits) -> Awaitable[list[Held]]:
        """See `ProducerLink`."""
        return _held(self._sending.begin(*(_append(append, limits) for append in appends)))

    def store(self, queue: Queue, fragments_id: str, fragment: bytes, expires_ms: int) -> Awaitable[None]:
        """See `ProducerLink`."""
        key = queue.fragments(fragments_id)
        return _done(self._sending.begin((key, ("RPUSH", key, fragment)), (key, ("PEXPIREAT", key, expires_ms))))

    async def cancel(self, queue: Queue, items: Sequence[tuple[int, int]]) -> None:
        """See `ProducerLink`."""
        noted = (part for number, deadline_ms in items for part in (deadline_ms, f"{self.reply_to} {number}"))
        now_ms = int(self.clock.now_ms())
        await self._sending.execute(call("cancel", [queue.cancelled], now_ms, *noted))

    async def replies(self) -> list[bytes]:
        """See `ProducerLink`."""
        key = self.reply_to
        read: Command = ("XREAD", "COUNT", _REPLIES_AT_ONCE, "BLOCK", _BLOCK_MS, "STREAMS", key, self._last_id)
        commands = [(key, read)]
        if self._untrimmed >= _UNTRIMMED_BYTES:  # what was read is dropped, in the same round trip, now and then
            self._untrimmed = 0
            commands.insert(0, (key, ("XTRIM", key, "MINID", self._last_id)))
        try:
            answers = await self._reading.execute(*commands, limit_s=_BLOCK_MS / 1000 + GRACE_S)
        except Unavailable:
            self._reading.lose()
            self._last_id, self._untrimmed = "0", 0  # the next server's ids may be behind those of the last one
            raise
        if not answers[-1]:
            return []
        entries = answers[-1][0][1]
        self._last_id = entries[-1][0]
        blocks = [fields[1] for _, fields in entries]
        self._untrimmed += sum(map(len, blocks))
        return blocks

    async def fetch(self, reference: Reference, /) -> bytes | None:
        """See `ProducerLink`. Fragments come one by one, so that no other answer waits for more than one of them."""
        key, fragments = reply_fragments(self.reply_to, reference.id), []
        for number in range(reference.count):
            (found,) = await self._sending.execute((key, ("LRANGE", key, number, number)))
            if not found:
                return None
            fragments.append(found[0])
        await self._sending.execute((key, ("UNLINK", key)))
        return await asyncio.to_thread(b"".join, fragments)  # which lets the event loop run meanwhile

    async def heartbeat(self) -> Heartbeat:
        """See `ProducerLink`."""
        sent_s = self.clock.read()
        told, alive, workers, desired_states = await self._sending.execute(
            (WORKERS, _TIME),
            (self.reply_to, ("PEXPIRE", self.reply_to, REPLY_STREAM_TTL_MS)),
            (WORKERS, ("HVALS", WORKERS)),
            (DESIRED_STATES, ("HVALS", DESIRED_STATES)),
        )
        now_ms = self._sample(told, sent_s)
        if not alive:
            await self._make_reply_stream()
        announced = self._documents.announcements(workers)
        return Heartbeat(_live(announced, now_ms), bool(alive), self._documents.desired_states(desired_states))

    def _sample(self, told: Sequence[bytes], sent_s: float) -> float:
        """Let the clock know an answer of TIME; the broker's time, then."""
        now_ms = _milliseconds(told)
        self.clock.sample(now_ms, sent_s, self._sending.received_s)
        return now_ms

    async def write_desired_state(self, control: DesiredState, *, replaces: int) -> DesiredState | None:
        """See `ProducerLink`."""
        (answer,) = await self._sending.execute(_write_desired_state(control, replaces))
        return newer_desired_state(answer)

    async def put_back(self, desired_states: Sequence[DesiredState]) -> None:
        """See `ProducerLink`."""
        await self._sending.execute(*map(_put_back, desired_states))

    async def forget(self, desired_states: Sequence[DesiredState]) -> None:
        """See `ProducerLink`."""
        await self._sending.execute(*map(_forget, desired_states))

    async def _make_reply_stream(self) -> None:
        self._last_id, self._untrimmed = "0", 0
        key = self.reply_to
        create: Command = ("XGROUP", "CREATE", key, "reader", "$", "MKSTREAM")
        sent_s = self.clock.read()
        # The time once more: before the first answer there was the connection to make.
        told, _, _ = await self._sending.execute(
            (WORKERS, _TIME), (key, create), (key, ("PEXPIRE", key, REPLY_STREAM_TTL_MS))
        )
        self._sample(told, sent_s)


async def _held(answers: Awaitable[list[Any]]) -> list[Held]:
    return [Held(rows, size, not is_admitted) for is_admitted, rows, size in await answers]


async def _done(answers: Awaitable[list[Any]]) -> None:
    await answers


def _append(append: Append, limits: Limits) -> Routed:
    queue = append.queue
    keys = stream, _, _ = queue.requests(append.priority), queue.held, queue.kept
    blocks: Iterable[Argument] = itertools.chain.from_iterable(append.blocks)
    takes, keeps = append.takes, append.keeps
    room = ("", "", 0) if takes is keeps is None else (_room(takes), _room(keeps), keeps.expires_ms if keeps else 0)
    return stream, ("EVALSHA", sha("append"), 3, *keys, limits.rows, limits.bytes, *room, *blocks)  # as `call` does


def _room(room: Room | None) -> str:
    return f"{room.id} {room.rows} {room.bytes}" if room else ""


def _checked(answers: list[Any]) -> list[Any]:
    """The answers. Raises `Unavailable` for an error among them, but for a group that is gone."""
    for answer in answers:
        if isinstance(answer, hiredis.ReplyError) and "NOGROUP" not in str(answer):
            raise failure(answer)
    return answers


def _contents(fields: Sequence[bytes]) -> tuple[bytes, int]:
    """The block of an entry and its rows; an entry that `append` did not write is an empty block of none."""
    if list(fields[::2]) == [b"b", b"r"] and fields[3].isdigit():
        return fields[1], int(fields[3])
    return b"", 0


class RedisConsumerLink:
    """A worker thread's hold on one queue."""

    def __init__(self, servers: Servers, queue: Queue, consumer: str, forget_ms: int) -> None:
        self._connections = BlockingConnections(servers, "reply", "store", "finish", "claim")
        self._forget_ms = forget_ms
        self._queue = queue
        self._name = consumer
        self._streams = tuple(queue.requests(priority) for priority in PRIORITIES)
        self._has_group = False
        self._has_lost_connection = False
        self.cancelled_count = 0
        self.losses = 0

    def exchange(
        self, replies: Sequence[Reply], finished: Sequence[Delivery], *, count: int, block_ms: int
    ) -> list[Delivery]:
        """See `ConsumerLink`. Replies travel before their blocks are finished; one whose reader is gone is dropped."""
        sent = self._replies(replies)
        if sent and self._connections.is_spread:  # no order between servers: the replies must be there first
            self._execute(*sent)
            sent = []
        commands = sent + self._finish(finished)
        if count:
            if self._has_lost_connection:
                self._has_lost_connection, self.losses = False, self.losses + 1
            wait = ("BLOCK", block_ms) if block_ms else ()
            take: Command = ("XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", count, *wait)
            commands.append((self._streams[0], (*take, "STREAMS", *self._streams, ">", ">")))
            commands.append((self._queue.cancelled, ("ZCARD", self._queue.cancelled)))
        answers = self._execute(*commands, wait_ms=block_ms if count else 0)
        if not count or not answers:
            return []
        taken, self.cancelled_count = answers[-2:]
        return self._whole(self._deliveries(taken or ()))

    def cancelled(self, items: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        """See `ConsumerLink`."""
        if not items:
            return set()
        key = self._queue.cancelled
        (scores,) = self._execute((key, ("ZMSCORE", key, *(f"{reply_to} {number}" for reply_to, number in items))))
        return {item for item, score in zip(items, scores, strict=True) if score is not None}

    def claim(self, *, lease_ms: int, count: int) -> list[Delivery]:
        """See `ConsumerLink`."""
        claim = call("claim", self._streams, GROUP, self._consumer, lease_ms, count)
        answers = self._execute(claim, (self._queue.cancelled, ("ZCARD", self._queue.cancelled)))
        if not answers or not answers[0]:
            return []
        claimed, self.cancelled_count = answers
        return self._whole(
            [
                Delivery(entry_id, PRIORITIES[stream - 1], *_contents(fields), deliveries)
                for stream, entry_id, deliveries, fields in claimed
            ]
        )

    def bury(self, delivery: Delivery, error: str) -> None:
        """See `ConsumerLink`."""
        key = self._queue.dead
        kept = max(1, min(DEAD_LETTERS_KEPT, DEAD_LETTERS_BYTES // max(1, len(delivery.block))))
        fields: Command = (
            *("b", delivery.block, "error", error),
            *("deliveries", delivery.deliveries, "consumer", self._consumer),
        )
        self._execute((key, ("XADD", key, "MAXLEN", "~", kept, "*", *fields)))

    def close(self) -> None:
        """See `ConsumerLink`. The consumer itself is deleted where it holds nothing."""
        try:
            pending = _checked(self._on_each_stream("XPENDING", "{}", GROUP, "-", "+", 1, self._consumer))
            idle = [stream for stream, held in zip(self._streams, pending, strict=True) if held == []]
            self._forget([(stream, self._consumer) for stream in idle])
        finally:
            self._connections.close()

    @property
    def _consumer(self) -> str:
        return consumer_name(self._name, self.losses)

    def _whole(self, deliveries: list[Delivery]) -> list[Delivery]:
        """The deliveries with the blocks in the place of references. Blocks whose fragments are gone are finished."""
        whole: list[Delivery] = []
        gone: list[Delivery] = []
        for delivery in deliveries:
            reference = read_reference(delivery.block)
            if reference is None:
                whole.append(delivery)
                continue
            key = self._queue.fragments(reference.id)
            block = self._fetched(key, reference)
            (gone if block is None else whole).append(
                replace(delivery, block=block or b"", gone_bytes=0 if block else reference.size, fragments=key)
            )
        self._execute(*self._finish(gone))
        return whole

    def _fetched(self, key: str, reference: Reference) -> bytes | None:
        fragments: list[bytes] = []
        for number in range(reference.count):
            answers = self._execute((key, ("LRANGE", key, number, number)))
            if not answers or not answers[0]:
                return None  # they expired with the deadlines of their callers, or Redis lost them
            fragments.append(answers[0][0])
        return b"".join(fragments)

    @staticmethod
    def _replies(replies: Sequence[Reply]) -> list[Routed]:
        """One script call for each API process, after the fragments of large blocks."""
        blocks: dict[str, list[bytes]] = {}
        commands: list[Routed] = []
        for reply in replies:
            block = reply.block
            if len(block) >= _LARGE_REPLY_BYTES:
                reference = Reference(uuid.uuid4().hex, fragment_count(len(block)), len(block))
                key = reply_fragments(reply.reply_to, reference.id)
                commands += [
                    call("store", [key, reply.reply_to], REPLY_STREAM_TTL_MS, fragment)
                    for fragment in fragments([block])
                ]
                block = reference.encoded()
            blocks.setdefault(reply.reply_to, []).append(block)
        return commands + [
            call("reply", [reply_to], REPLY_STREAM_ENTRIES, *theirs) for reply_to, theirs in blocks.items()
        ]

    def _finish(self, finished: Sequence[Delivery]) -> list[Routed]:
        """One script call for all blocks."""
        if not finished:
            return []
        blocks = (
            part
            for delivery in finished
            for part in (
                PRIORITIES.index(delivery.priority) + 2,
                delivery.entry_id,
                delivery.rows,
                delivery.size,
            )
        )
        keys = [delivery.fragments for delivery in finished if delivery.fragments]
        drop: list[Routed] = [(keys[0], ("UNLINK", *keys))] if keys else []
        return [call("finish", [self._queue.held, *self._streams], GROUP, *blocks), *drop]

    def _on_each_stream(self, *command: Argument) -> list[Any]:
        """The answers to a command on each request stream, whose name is put for {}."""
        return self._connections.execute(
            *((stream, tuple(stream if part == "{}" else part for part in command)) for stream in self._streams)
        )

    def _make_groups(self) -> None:
        for answer in self._on_each_stream("XGROUP", "CREATE", "{}", GROUP, "0", "MKSTREAM"):
            if isinstance(answer, hiredis.ReplyError) and "BUSYGROUP" not in str(answer):
                raise failure(answer)
        self._has_group = True
        self._forget_consumers()

    def _forget_consumers(self) -> None:
        """Delete the consumers that workers who died left behind: those that hold nothing and were silent for long."""
        answers = _checked(self._on_each_stream("XINFO", "CONSUMERS", "{}", GROUP))
        self._forget(
            [
                (stream, consumer[b"name"])
                for stream, consumers in zip(self._streams, answers, strict=True)
                if not isinstance(consumers, hiredis.ReplyError)
                for consumer in (dict(zip(fields[::2], fields[1::2], strict=True)) for fields in consumers)
                if consumer[b"pending"] == 0 and consumer[b"idle"] >= self._forget_ms
            ]
        )

    def _forget(self, consumers: Sequence[tuple[str, Argument]]) -> None:
        commands = ((stream, ("XGROUP", "DELCONSUMER", stream, GROUP, name)) for stream, name in consumers)
        _checked(self._connections.execute(*commands))

    def _execute(self, *commands: Routed, wait_ms: int = 0) -> list[Any]:
        """The answers; [] where a group is gone (Redis came back empty): it is made again, for the next call to use."""
        try:
            if not self._has_group:
                self._make_groups()
            answers = self._connections.execute(*commands, wait_ms=wait_ms)
        except Unavailable:
            self._has_lost_connection = True
            raise
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                if "NOGROUP" in str(answer):
                    self._make_groups()
                    return []
                self._connections.close()
                self._has_lost_connection = True
                raise failure(answer)
        return answers

    def _deliveries(self, streams: Sequence[tuple[bytes, Sequence[tuple[bytes, Sequence[bytes]]]]]) -> list[Delivery]:
        by_stream = {stream.decode(): entries for stream, entries in streams}
        return [
            Delivery(entry_id, priority, *_contents(fields))
            for priority, stream in zip(PRIORITIES, self._streams, strict=True)
            for entry_id, fields in by_stream.get(stream, ())
        ]


class RedisWorkerLink:
    """A worker process's heartbeat."""

    def __init__(self, servers: Servers, clock: Clock) -> None:
        self._connections = BlockingConnections(servers, *_WORKER_SCRIPTS)
        self.clock = BrokerClock(clock)
        self._documents = Documents()

    def announce(self, announcement: WorkerAnnouncement) -> tuple[list[WorkerAnnouncement], list[DesiredState]]:
        """See `WorkerLink`. Announcements that expired a minute ago are swept away on the way."""
        if not self.clock.is_set:
            before_ms = self.clock.now_ms()
            self._timed()
            self._timed()  # the first answer came after the connection was made
            announcement = moved(announcement, self.clock.now_ms() - before_ms)
        publish = call("announce", [WORKERS], announcement.worker, msgspec.json.encode(announcement))
        now_ms, (_, values, desired_states) = self._timed(
            publish, (WORKERS, ("HVALS", WORKERS)), (DESIRED_STATES, ("HVALS", DESIRED_STATES))
        )
        everyone = self._documents.announcements(values)
        stale_ms = now_ms - _EXPIRED_KEPT_MS
        gone = [worker.worker for worker in everyone if worker.expires_ms < stale_ms]
        if gone:
            self._execute((WORKERS, ("HDEL", WORKERS, *gone)))
        return _live(everyone, now_ms), self._documents.desired_states(desired_states)

    def put_back(self, desired_states: Sequence[DesiredState]) -> None:
        """See `WorkerLink`."""
        self._execute(*map(_put_back, desired_states))

    def block_count(self, queue: Queue) -> int:
        """See `WorkerLink`."""
        streams = [queue.requests(priority) for priority in PRIORITIES]
        return sum(self._execute(*((stream, ("XLEN", stream)) for stream in streams)))

    def withdraw(self, worker: str) -> None:
        """See `WorkerLink`."""
        self._execute((WORKERS, ("HDEL", WORKERS, worker)))

    def live(self) -> list[WorkerAnnouncement]:
        """See `WorkerLink`."""
        now_ms, (workers,) = self._timed((WORKERS, ("HVALS", WORKERS)))
        return _live(self._documents.announcements(workers), now_ms)

    def renew(self, consumers: Sequence[tuple[Queue, str]]) -> None:
        """See `WorkerLink`."""
        held = [(queue.requests(priority), name) for queue, name in consumers for priority in PRIORITIES]
        self._execute(*(call("renew", [stream], GROUP, name) for stream, name in held))

    def release(self, queue: Queue, consumer: str, *, is_suspect: bool) -> None:
        """See `WorkerLink`."""
        arguments = (GROUP, consumer, _RELEASED, _RELEASED_IDLE_MS, 0 if is_suspect else 1)
        self._execute(*(call("release", [queue.requests(priority)], *arguments) for priority in PRIORITIES))

    def settle(self, queue: Queue, reply: Reply, item: int, deadline_ms: int) -> None:
        """See `WorkerLink`."""
        note = call("cancel", [queue.cancelled], int(self.clock.now_ms()), deadline_ms, f"{reply.reply_to} {item}")
        self._execute(call("reply", [reply.reply_to], REPLY_STREAM_ENTRIES, reply.block), note)

    @property
    def can_watch(self) -> bool:
        """See `WorkerLink`. In a Cluster, queues lie on several servers."""
        return not self._connections.is_spread

    def watch(self, queues: Sequence[Queue], block_ms: int) -> set[Queue]:
        """See `WorkerLink`. A finished block leaves its stream, so what is there waits or is in work."""
        streams = {queue.requests(priority): queue for queue in queues for priority in PRIORITIES}
        read: Command = ("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", *streams, *("0" for _ in streams))
        (found,) = self._execute((next(iter(streams)), read), wait_ms=block_ms)
        return {streams[stream.decode()] for stream, _ in found or ()}

    def _timed(self, *commands: Routed) -> tuple[float, list[Any]]:
        """The broker's time, which sets the clock, and the answers."""
        sent_s = self.clock.read()
        told, *answers = self._execute((WORKERS, _TIME), *commands)
        now_ms = _milliseconds(told)
        self.clock.sample(now_ms, sent_s, self.clock.read())
        return now_ms, answers

    def close(self) -> None:
        """See `WorkerLink`."""
        self._connections.close()

    def _execute(self, *commands: Routed, wait_ms: int = 0) -> list[Any]:
        answers = self._connections.execute(*commands, wait_ms=wait_ms)
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError) and "NOGROUP" not in str(answer):
                self._connections.close()
                raise failure(answer)
        return answers


class RedisOperatorLink:
    """An operator's look at what was given up."""

    def __init__(self, servers: Servers) -> None:
        self._connections = BlockingConnections(servers)

    def dead_letter_queues(self) -> list[Queue]:
        """See `OperatorLink`. Looks through the keys of every server."""
        found = set()
        for server in self._connections.servers():
            cursor = b"0"
            while True:
                scan: Command = ("SCAN", cursor, "MATCH", DEAD_LETTERS, "COUNT", 1000, "TYPE", "stream")
                (answer,) = self._connections.execute_at(server, scan)
                if isinstance(answer, hiredis.ReplyError):
                    raise failure(answer)
                cursor, keys = answer
                found |= {queue for key in keys if (queue := queue_of_dead_letters(key.decode()))}
                if cursor == b"0":
                    break
        return sorted(found, key=lambda queue: (queue.model, queue.version))

    def dead_letters(self, queue: Queue) -> Iterator[DeadLetter]:
        """See `OperatorLink`."""
        after = "-"
        while True:
            entries = self._execute(queue.dead, "XRANGE", queue.dead, after, "+", "COUNT", _LETTERS_AT_ONCE)
            for entry_id, fields in entries:
                after = f"({entry_id.decode()}"
                yield _dead_letter(queue, entry_id.decode(), fields)
            if len(entries) < _LETTERS_AT_ONCE:
                return

    def drop_dead_letters(self, queue: Queue, entry_ids: Sequence[str] | None = None) -> int:
        """See `OperatorLink`. A stream that is left empty is deleted, too."""
        key = queue.dead
        if entry_ids is None:
            dropped = self._execute(key, "XTRIM", key, "MAXLEN", 0)
        else:
            dropped = self._execute(key, "XDEL", key, *entry_ids) if entry_ids else 0
        if not self._execute(key, "XLEN", key):
            self._execute(key, "DEL", key)
        return int(dropped)

    def close(self) -> None:
        """See `OperatorLink`."""
        self._connections.close()

    def _execute(self, key: str, *command: Argument) -> Any:
        (answer,) = self._connections.execute((key, command))
        if isinstance(answer, hiredis.ReplyError):
            raise failure(answer)
        return answer


def _dead_letter(queue: Queue, entry_id: str, fields: Sequence[bytes]) -> DeadLetter:
    field = dict(zip(fields[::2], fields[1::2], strict=True))
    return DeadLetter(
        queue=queue,
        entry_id=entry_id,
        buried_ms=int(entry_id.partition("-")[0]),
        block=field[b"b"],
        error=field[b"error"].decode(),
        deliveries=int(field[b"deliveries"]),
        consumer=field[b"consumer"].decode(),
    )
