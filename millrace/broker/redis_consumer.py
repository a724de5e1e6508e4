"""A worker thread's side of one queue on Redis: it takes blocks, replies and finishes them.

What is taken comes in the round trip that delivers what is done. Who takes what callers send, or bulk, waits for it in
one blocking read. Who takes both has two ways:

- where no bulk is in the queue, the blocking read of what callers send. Bulk is counted on the way;
- where there is some, or nothing came last time, a script (`lua/take.lua`), which sees all three streams at once. When
  all are empty, and only then, a blocking read of all three follows.
"""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import hiredis

from millrace.broker.base import Delivery, Reply
from millrace.broker.connections import BlockingConnections, call, failure
from millrace.broker.discovery import Servers
from millrace.broker.fragments import Reference, fragment_count, fragments, read_reference
from millrace.broker.keys import (
    DEAD_LETTERS_BYTES,
    DEAD_LETTERS_KEPT,
    GROUP,
    ONLY_BULK,
    PRIORITIES,
    URGENT,
    Queue,
    consumer_name,
    reply_fragments,
)
from millrace.broker.redis_commands import REPLY_STREAM_ENTRIES, REPLY_STREAM_TTL_MS
from millrace.broker.resp import Argument, Command, Routed
from millrace.protocol.errors import Unavailable

_LARGE_REPLY_BYTES = 262_144  # from here on a reply travels in fragments
CONSUMERS_KEPT_MS = 3_600_000


class RedisConsumerLink:
    """A worker thread's hold on one queue."""

    def __init__(self, servers: Servers, queue: Queue, consumer: str, forget_ms: int) -> None:
        self._connections = BlockingConnections(servers, "reply", "store", "finish", "take", "claim")
        self._forget_ms = forget_ms
        self._queue = queue
        self._name = consumer
        self._streams = tuple(queue.requests(priority) for priority in PRIORITIES)
        self._urgent = self._streams[: len(URGENT)]
        self._counts: Sequence[Routed] = [
            (queue.cancelled, ("ZCARD", queue.cancelled)),
            (self._streams[-1], ("XLEN", self._streams[-1])),
        ]
        self._looks_for_bulk = True
        self._has_group = False
        self._has_lost_connection = False
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
        """See `ConsumerLink`. Replies travel before their blocks are finished; one whose reader is gone is dropped.

        Bulk that comes when there was none may be left to the next call.
        """
        sent = self._replies(replies)
        if sent and self._connections.is_spread:  # no order between servers: the replies must be there first
            self._execute(*sent)
            sent = []
        commands = sent + self._finish(finished)
        if not count:
            self._execute(*commands)
            return []
        if self._has_lost_connection:
            self._has_lost_connection, self.losses = False, self.losses + 1
        if priorities == ONLY_BULK:
            return self._taken(commands, self._waiting(self._streams[-1:], 1, block_ms), block_ms)
        if priorities == URGENT or (block_ms and not self._looks_for_bulk):
            return self._taken(commands, self._waiting(self._urgent, count, block_ms), block_ms)
        take = call("take", self._streams, GROUP, self._consumer, count)
        taken = self._taken(commands, take, 0)
        if not taken and block_ms:
            taken = self._taken([], self._waiting(self._streams, 1, block_ms), block_ms)
        return taken

    def _waiting(self, streams: Sequence[str], count: int, block_ms: int) -> Routed:
        """The command that waits for blocks on any of the streams."""
        wait = ("BLOCK", block_ms) if block_ms else ()
        take: Command = ("XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", count, *wait)
        return streams[0], (*take, "STREAMS", *streams, *(">" for _ in streams))

    def _taken(self, commands: Sequence[Routed], take: Routed, wait_ms: int) -> list[Delivery]:
        """Execute the commands and then the one that takes; what it took."""
        answers = self._execute(*commands, take, *self._counts, wait_ms=wait_ms)
        if not answers:
            return []
        taken, self.cancelled_count, held_bulk = answers[-3:]
        self.has_bulk = bool(held_bulk)
        self._looks_for_bulk = self.has_bulk or not taken
        return self._whole(self._deliveries(taken or ()))

    def cancelled(self, items: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        """See `ConsumerLink`."""
        if not items:
            return set()
        key = self._queue.cancelled
        (scores,) = self._execute((key, ("ZMSCORE", key, *(f"{reply_to} {number}" for reply_to, number in items))))
        return {item for item, score in zip(items, scores, strict=True) if score is not None}

    def claim(self, *, lease_ms: int, count: int, priorities: Sequence[str] = PRIORITIES) -> list[Delivery]:
        """See `ConsumerLink`."""
        first, last = PRIORITIES.index(priorities[0]) + 1, PRIORITIES.index(priorities[-1]) + 1
        claim = call("claim", self._streams, GROUP, self._consumer, lease_ms, count, first, last)
        answers = self._execute(claim, self._counts[0])
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
        if gone:
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
                PRIORITIES.index(delivery.priority) + 3,
                delivery.entry_id,
                delivery.rows,
                delivery.size,
            )
        )
        keys = [delivery.fragments for delivery in finished if delivery.fragments]
        drop: list[Routed] = [(keys[0], ("UNLINK", *keys))] if keys else []
        return [call("finish", [self._queue.held, self._queue.held_bulk, *self._streams], GROUP, *blocks), *drop]

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
