"""The queue on Redis streams (6.2 or later, or Valkey); the keyspace is in `keys.py`, the scripts in `lua/`."""

import asyncio
import logging
from collections.abc import Sequence
from importlib import resources
from typing import Any

import hiredis
import msgspec
import redis
from redis.connection import ConnectionPool

from millrace.broker.base import Append, BrokerClock, Delivery, Held, Limits, Reply
from millrace.broker.keys import DEAD_LETTERS_KEPT, GROUP, PRIORITIES, WORKERS, Queue, replies
from millrace.broker.resp import Argument, Connection, connect
from millrace.protocol.errors import Unavailable
from millrace.protocol.messages import WorkerAnnouncement

REPLY_STREAM_TTL_MS = 60_000
REPLY_STREAM_ENTRIES = 100_000
_BLOCK_MS = 2_000
_GRACE_S = 5.0  # beyond a blocking read's own limit, before the server counts as gone
_EXPIRED_KEPT_MS = 60_000
_CONSUMERS_KEPT_MS = 3_600_000

_log = logging.getLogger(__name__)
_decode_announcement = msgspec.json.Decoder(WorkerAnnouncement).decode
Command = tuple[Argument, ...]


def script(name: str) -> str:
    """The text of a script in `lua/`."""
    return resources.files("millrace.broker").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def _failure(error: object) -> Unavailable:
    text = str(error)
    if text.startswith("OOM"):
        return Unavailable("the queue's Redis is out of memory; try again when it has drained")
    return Unavailable(f"the queue's Redis failed: {text}")


def _announcements(values: Sequence[bytes]) -> list[WorkerAnnouncement]:
    """The announcements that can be read; one of another version's form must not hide the others."""
    readable = []
    for value in values:
        try:
            readable.append(_decode_announcement(value))
        except msgspec.MsgspecError as error:
            _log.warning("a worker's announcement cannot be read", extra={"reason": str(error)})
    return readable


def _live(values: Sequence[bytes], clock: BrokerClock) -> list[WorkerAnnouncement]:
    return [worker for worker in _announcements(values) if worker.expires_ms > clock.now_ms()]


def _milliseconds(time: Sequence[bytes]) -> float:
    """The answer of TIME, seconds and microseconds, in milliseconds."""
    return int(time[0]) * 1000 + int(time[1]) / 1000


async def _answers(connection: Connection, *commands: Command, limit_s: float = _GRACE_S) -> list[Any]:
    """The answers in order. A server that does not answer in time loses the connection.

    Raises `Unavailable` for that, and for the first error among the answers.
    """
    try:
        async with asyncio.timeout(limit_s):
            answers = await connection.execute(*commands)
    except TimeoutError:
        connection.close()  # all others who wait for it must know
        raise Unavailable("the queue's Redis does not answer") from None
    for answer in answers:
        if isinstance(answer, hiredis.ReplyError):
            raise _failure(answer)
    return answers


class RedisBroker:
    """Makes links to the Redis that a redis://, rediss:// or unix:// URL names."""

    def __init__(self, url: str) -> None:
        self._url = url

    def producer(self, api: str) -> "RedisProducerLink":
        """See `Broker`."""
        return RedisProducerLink(self._url, api)

    def consumer(self, queue: Queue, consumer: str, *, forget_ms: int = _CONSUMERS_KEPT_MS) -> "RedisConsumerLink":
        """See `Broker`. Consumers that hold nothing and were silent for `forget_ms` are deleted on the way."""
        return RedisConsumerLink(_BlockingConnection(self._url), queue, consumer, forget_ms)

    def worker(self) -> "RedisWorkerLink":
        """See `Broker`."""
        return RedisWorkerLink(_BlockingConnection(self._url))


class RedisProducerLink:
    """The API's side: one connection to send on, one that waits for replies. Both are made again when lost."""

    def __init__(self, url: str, api: str) -> None:
        self._url = url
        self.reply_to = replies(api)
        self.clock = BrokerClock()
        self._sending: Connection | None = None
        self._reading: Connection | None = None
        self._connecting = asyncio.Lock()
        self._shas: dict[str, str] = {}
        self._last_id: bytes | str = "0"

    async def close(self) -> None:
        """See `ProducerLink`."""
        try:
            if self._sending and self._sending.is_open:
                await _answers(self._sending, ("DEL", self.reply_to))
        finally:
            for connection in (self._sending, self._reading):
                if connection:
                    connection.close()

    async def append(self, appends: Sequence[Append], limits: Limits) -> list[Held | None]:
        """See `ProducerLink`."""
        connection = await self._sender()
        answers = await connection.execute(*(self._append_command(append, limits) for append in appends))
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                if str(answer).startswith("NOSCRIPT"):
                    connection.close()  # the next one loads the script again
                raise _failure(answer)
        return [Held(*held) if held else None for held in answers]

    def _append_command(self, append: Append, limits: Limits) -> Command:
        queue = append.queue
        keys = (queue.requests(append.priority), queue.held)
        blocks = (part for rows_and_block in append.blocks for part in rows_and_block)
        return ("EVALSHA", self._shas["append"], 2, *keys, limits.rows, limits.bytes, *blocks)

    async def cancel(self, queue: Queue, items: Sequence[tuple[int, int]]) -> None:
        """See `ProducerLink`."""
        connection = await self._sender()
        noted = (part for number, deadline_ms in items for part in (deadline_ms, f"{self.reply_to} {number}"))
        now_ms = int(self.clock.now_ms())
        await _answers(connection, ("EVALSHA", self._shas["cancel"], 1, queue.cancelled, now_ms, *noted))

    async def replies(self) -> list[bytes]:
        """See `ProducerLink`."""
        if self._reading is None or not self._reading.is_open:
            self._reading = await connect(self._url)
        read: Command = ("XREAD", "COUNT", 256, "BLOCK", _BLOCK_MS, "STREAMS", self.reply_to, self._last_id)
        answers = await _answers(self._reading, *self._trim(), read, limit_s=_BLOCK_MS / 1000 + _GRACE_S)
        if not answers[-1]:
            return []
        entries = answers[-1][0][1]
        self._last_id = entries[-1][0]
        return [fields[1] for _, fields in entries]

    def _trim(self) -> list[Command]:
        """The command that drops what was read before: up to the last id, which stays until the next time."""
        return [("XTRIM", self.reply_to, "MINID", self._last_id)] if self._last_id != "0" else []

    async def heartbeat(self) -> tuple[list[WorkerAnnouncement], bool]:
        """See `ProducerLink`."""
        connection = await self._sender()
        alive, time, workers = await _answers(
            connection, ("PEXPIRE", self.reply_to, REPLY_STREAM_TTL_MS), ("TIME",), ("HVALS", WORKERS)
        )
        if not alive:
            await self._make_reply_stream(connection)
        self.clock.set(_milliseconds(time))
        return _live(workers, self.clock), bool(alive)

    async def _make_reply_stream(self, connection: Connection) -> None:
        self._last_id = "0"
        await _answers(
            connection,
            ("XGROUP", "CREATE", self.reply_to, "reader", "$", "MKSTREAM"),
            ("PEXPIRE", self.reply_to, REPLY_STREAM_TTL_MS),
        )

    async def _sender(self) -> Connection:
        if self._sending is not None and self._sending.is_open:
            return self._sending
        async with self._connecting:
            if self._sending is None or not self._sending.is_open:
                self._sending = await self._connected()
            return self._sending

    async def _connected(self) -> Connection:
        connection = await connect(self._url)
        try:
            names = ("append", "cancel")
            shas = await _answers(connection, *(("SCRIPT", "LOAD", script(name)) for name in names))
            self._shas = dict(zip(names, (sha.decode() for sha in shas), strict=True))
        except BaseException:  # cancelled, too
            connection.close()
            raise
        return connection


class _BlockingConnection:
    """A blocking connection that pipelines raw commands; made again when lost. For one thread at a time.

    redis-py's `Connection` finds the server and enters it; its client is left out, since turning each answer into
    objects costs more than the round trip.
    """

    def __init__(self, url: str) -> None:
        self._pool = ConnectionPool.from_url(url, protocol=2, socket_timeout=_GRACE_S, socket_connect_timeout=2.0)
        self._connection: Any | None = None
        self._shas: dict[str, str] = {}

    def execute(self, *commands: Command, wait_ms: int = 0) -> list[Any]:
        """The answers in order, Redis' own errors among them. `wait_ms` is the time that a command may block."""
        connection = self._connection or self._connect()
        try:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            return [self._read(connection, wait_ms) for _ in commands]
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self.close()
            raise Unavailable(f"the connection to the queue was lost: {error}") from None

    def call(self, name: str, keys: Sequence[str], *arguments: Argument) -> Command:
        """The command that runs a script of `lua/`."""
        if not self._shas:
            self._connect()
        return ("EVALSHA", self._shas[name], len(keys), *keys, *arguments)

    def close(self) -> None:
        """Disconnect; the next command connects again."""
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None
        self._shas = {}

    def _connect(self) -> Any:
        if self._connection is None:
            try:
                connection: Any = self._pool.make_connection()
                connection.connect()
                names = ("finish", "claim", "renew")
                connection.send_packed_command(
                    connection.pack_commands([("SCRIPT", "LOAD", script(name)) for name in names])
                )
                self._shas = {name: connection.read_response().decode() for name in names}
            except (redis.RedisError, OSError) as error:
                raise Unavailable(f"the queue's Redis cannot be reached: {error}") from None
            self._connection = connection
        return self._connection

    @staticmethod
    def _read(connection: Any, wait_ms: int) -> Any:
        try:
            return connection.read_response(timeout=wait_ms / 1000 + _GRACE_S)
        except redis.ResponseError as error:
            return error


class RedisConsumerLink:
    """A worker thread's hold on one queue."""

    def __init__(self, connection: _BlockingConnection, queue: Queue, consumer: str, forget_ms: int) -> None:
        self._connection = connection
        self._forget_ms = forget_ms
        self._queue = queue
        self._consumer = consumer
        self._streams = tuple(queue.requests(priority) for priority in PRIORITIES)
        self._has_group = False
        self.cancelled_count = 0

    def exchange(
        self, replies: Sequence[Reply], finished: Sequence[Delivery], *, count: int, block_ms: int
    ) -> list[Delivery]:
        """See `ConsumerLink`. Replies travel before their blocks are finished; one whose reader is gone is dropped."""
        commands = [self._reply(reply) for reply in replies] + [self._finish(delivery) for delivery in finished]
        if count:
            wait = ("BLOCK", block_ms) if block_ms else ()
            take: Command = ("XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", count, *wait)
            commands += [(*take, "STREAMS", *self._streams, ">", ">"), ("ZCARD", self._queue.cancelled)]
        answers = self._execute(*commands, wait_ms=block_ms if count else 0)
        if not count or not answers:
            return []
        taken, self.cancelled_count = answers[-2:]
        return self._deliveries(taken or ())

    def cancelled(self, items: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        """See `ConsumerLink`."""
        if not items:
            return set()
        members = (f"{reply_to} {number}" for reply_to, number in items)
        (scores,) = self._execute(("ZMSCORE", self._queue.cancelled, *members)) or [()]
        return {item for item, score in zip(items, scores, strict=False) if score is not None}

    def claim(self, *, lease_ms: int, count: int) -> list[Delivery]:
        """See `ConsumerLink`."""
        answers = self._execute(
            *(
                self._connection.call("claim", [stream], GROUP, self._consumer, lease_ms, count)
                for stream in self._streams
            )
        )
        return [
            Delivery(entry_id, priority, block, int(rows), deliveries)
            for priority, taken in zip(PRIORITIES, answers or ([], []), strict=True)
            for entry_id, deliveries, block, rows in taken
        ]

    def bury(self, delivery: Delivery, error: str) -> None:
        """See `ConsumerLink`."""
        fields: Command = (
            *("b", delivery.block, "error", error),
            *("deliveries", delivery.deliveries, "consumer", self._consumer),
        )
        self._execute(("XADD", self._queue.dead, "MAXLEN", "~", DEAD_LETTERS_KEPT, "*", *fields))

    def close(self) -> None:
        """See `ConsumerLink`. The consumer itself is deleted where it holds nothing."""
        try:
            pending = self._connection.execute(
                *(("XPENDING", stream, GROUP, "-", "+", 1, self._consumer) for stream in self._streams)
            )
            idle = [stream for stream, held in zip(self._streams, pending, strict=True) if held == []]
            self._connection.execute(*(("XGROUP", "DELCONSUMER", stream, GROUP, self._consumer) for stream in idle))
        finally:
            self._connection.close()

    def _reply(self, reply: Reply) -> Command:
        return ("XADD", reply.reply_to, "NOMKSTREAM", "MAXLEN", "~", REPLY_STREAM_ENTRIES, "*", "b", reply.block)

    def _finish(self, delivery: Delivery) -> Command:
        keys = (self._queue.requests(delivery.priority), self._queue.held)
        return self._connection.call("finish", keys, GROUP, delivery.entry_id, delivery.rows, len(delivery.block))

    def _make_groups(self) -> None:
        made = self._connection.execute(
            *(("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM") for stream in self._streams)
        )
        for answer in made:
            if isinstance(answer, redis.ResponseError) and "BUSYGROUP" not in str(answer):
                raise _failure(answer)
        self._has_group = True
        self._forget_consumers()

    def _forget_consumers(self) -> None:
        """Delete the consumers that workers who died left behind: those that hold nothing and were silent for long."""
        answers = self._connection.execute(*(("XINFO", "CONSUMERS", stream, GROUP) for stream in self._streams))
        gone = [
            (stream, consumer[b"name"])
            for stream, consumers in zip(self._streams, answers, strict=True)
            if not isinstance(consumers, redis.ResponseError)
            for consumer in (dict(zip(fields[::2], fields[1::2], strict=True)) for fields in consumers)
            if consumer[b"pending"] == 0 and consumer[b"idle"] >= self._forget_ms
        ]
        self._connection.execute(*(("XGROUP", "DELCONSUMER", stream, GROUP, name) for stream, name in gone))

    def _execute(self, *commands: Command, wait_ms: int = 0) -> list[Any]:
        """The answers; [] where a group is gone (Redis came back empty): it is made again, for the next call to use."""
        if not self._has_group:
            self._make_groups()
        answers = self._connection.execute(*commands, wait_ms=wait_ms)
        for answer in answers:
            if isinstance(answer, redis.ResponseError):
                if "NOGROUP" in str(answer):
                    self._make_groups()
                    return []
                self._connection.close()
                raise _failure(answer)
        return answers

    def _deliveries(self, streams: Sequence[tuple[bytes, Sequence[tuple[bytes, Sequence[bytes]]]]]) -> list[Delivery]:
        by_stream = {stream.decode(): entries for stream, entries in streams}
        return [
            Delivery(entry_id, priority, fields[1], int(fields[3]))
            for priority, stream in zip(PRIORITIES, self._streams, strict=True)
            for entry_id, fields in by_stream.get(stream, ())
        ]


class RedisWorkerLink:
    """A worker process's heartbeat."""

    def __init__(self, connection: _BlockingConnection) -> None:
        self._connection = connection
        self.clock = BrokerClock()

    def announce(self, announcement: WorkerAnnouncement) -> None:
        """See `WorkerLink`. Announcements that expired a minute ago are swept away on the way."""
        time, _, everyone = self._checked(
            ("TIME",), ("HSET", WORKERS, announcement.worker, msgspec.json.encode(announcement)), ("HVALS", WORKERS)
        )
        self.clock.set(_milliseconds(time))
        stale_ms = self.clock.now_ms() - _EXPIRED_KEPT_MS
        gone = [worker.worker for worker in _announcements(everyone) if worker.expires_ms < stale_ms]
        if gone:
            self._checked(("HDEL", WORKERS, *gone))

    def withdraw(self, worker: str) -> None:
        """See `WorkerLink`."""
        self._checked(("HDEL", WORKERS, worker))

    def live(self) -> list[WorkerAnnouncement]:
        """See `WorkerLink`."""
        time, workers = self._checked(("TIME",), ("HVALS", WORKERS))
        self.clock.set(_milliseconds(time))
        return _live(workers, self.clock)

    def renew(self, queue: Queue, consumer: str, deliveries: Sequence[Delivery]) -> None:
        """See `WorkerLink`."""
        self._checked(
            *(
                self._connection.call("renew", [queue.requests(delivery.priority)], GROUP, consumer, delivery.entry_id)
                for delivery in deliveries
            )
        )

    def close(self) -> None:
        """See `WorkerLink`."""
        self._connection.close()

    def _checked(self, *commands: Command) -> list[Any]:
        answers = self._connection.execute(*commands)
        for answer in answers:
            if isinstance(answer, redis.ResponseError) and "NOGROUP" not in str(answer):
                self._connection.close()
                raise _failure(answer)
        return answers
