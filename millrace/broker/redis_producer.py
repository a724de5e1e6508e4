"""The API's side of the queue on Redis: it appends requests and reads replies."""

import asyncio
import itertools
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

from millrace.broker.base import USAGE_TTL_MS, Append, BrokerClock, Heartbeat, Held, Limits, Room
from millrace.broker.clock import Clock
from millrace.broker.connections import GRACE_S, Connections, call, sha
from millrace.broker.depth import QueueDepth, depth_keys, read_depth
from millrace.broker.discovery import Servers
from millrace.broker.documents import Documents, newer_desired_state
from millrace.broker.fragments import Reference
from millrace.broker.keys import BULK, DESIRED_STATES, USAGE, WORKERS, Queue, replies, reply_fragments
from millrace.broker.redis_commands import (
    REPLY_STREAM_TTL_MS,
    TIME,
    forget,
    live,
    milliseconds,
    put_back,
    write_desired_state,
)
from millrace.broker.resp import Argument, Command, Routed
from millrace.protocol.desired_state import DesiredState
from millrace.protocol.errors import Unavailable

_BLOCK_MS = 2_000
_UNTRIMMED_BYTES = 65_536
_REPLIES_AT_ONCE = 64  # so that one read brings no more than 16 MB


class RedisProducerLink:
    """The API's side: connections to send on, and one that waits for replies. All are made again when lost."""

    def __init__(self, servers: Servers, api: str, clock: Clock) -> None:
        self._api = api
        self.reply_to = replies(api)
        self.clock = BrokerClock(clock)
        self._sending = Connections(servers, "append", "cancel", "depth", "desired_state", clock=clock)
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
            (WORKERS, TIME),
            (self.reply_to, ("PEXPIRE", self.reply_to, REPLY_STREAM_TTL_MS)),
            (WORKERS, ("HVALS", WORKERS)),
            (DESIRED_STATES, ("HVALS", DESIRED_STATES)),
        )
        now_ms = self._sample(told, sent_s)
        if not alive:
            await self._make_reply_stream()
        announced = self._documents.announcements(workers)
        return Heartbeat(live(announced, now_ms), bool(alive), self._documents.desired_states(desired_states))

    def _sample(self, told: Sequence[bytes], sent_s: float) -> float:
        """Let the clock know an answer of TIME; the broker's time, then."""
        now_ms = milliseconds(told)
        self.clock.sample(now_ms, sent_s, self._sending.received_s)
        return now_ms

    async def depths(self, queues: Sequence[Queue]) -> list[QueueDepth]:
        """See `ProducerLink`."""
        answers = await self._sending.execute(*[call("depth", depth_keys(queue)) for queue in queues])
        return [read_depth(queue, answer) for queue, answer in zip(queues, answers, strict=True)]

    async def exchange_usage(self, usage: bytes) -> dict[str, bytes]:
        """See `ProducerLink`. Each value begins with the time when it expires."""
        now_ms, api = int(self.clock.now_ms()), self._api
        told = b"%d %b" % (now_ms + USAGE_TTL_MS, usage)
        _, found = await self._sending.execute((USAGE, ("HSET", USAGE, api, told)), (USAGE, ("HGETALL", USAGE)))
        live, gone = {}, []
        for name, value in zip(found[::2], found[1::2], strict=True):
            expires_ms, _, content = value.partition(b" ")
            if not expires_ms.isdigit() or int(expires_ms) < now_ms:  # the first is of another version's form
                gone.append(name)
            else:
                live[name.decode()] = content
        if gone:
            await self._sending.execute((USAGE, ("HDEL", USAGE, *gone)))
        return live

    async def write_desired_state(self, control: DesiredState, *, replaces: int) -> DesiredState | None:
        """See `ProducerLink`."""
        (answer,) = await self._sending.execute(write_desired_state(control, replaces))
        return newer_desired_state(answer)

    async def put_back(self, desired_states: Sequence[DesiredState]) -> None:
        """See `ProducerLink`."""
        await self._sending.execute(*map(put_back, desired_states))

    async def forget(self, desired_states: Sequence[DesiredState]) -> None:
        """See `ProducerLink`."""
        await self._sending.execute(*map(forget, desired_states))

    async def _make_reply_stream(self) -> None:
        self._last_id, self._untrimmed = "0", 0
        key = self.reply_to
        create: Command = ("XGROUP", "CREATE", key, "reader", "$", "MKSTREAM")
        sent_s = self.clock.read()
        # The time once more: before the first answer there was the connection to make.
        told, _, _ = await self._sending.execute(
            (WORKERS, TIME), (key, create), (key, ("PEXPIRE", key, REPLY_STREAM_TTL_MS))
        )
        self._sample(told, sent_s)


async def _held(answers: Awaitable[list[Any]]) -> list[Held]:
    return [Held(rows, size, not is_admitted) for is_admitted, rows, size in await answers]


async def _done(answers: Awaitable[list[Any]]) -> None:
    await answers


def _append(append: Append, limits: Limits) -> Routed:
    queue = append.queue
    held = queue.held_bulk if append.priority == BULK else queue.held
    keys = stream, _, _ = queue.requests(append.priority), held, queue.kept(append.priority)
    blocks: Iterable[Argument] = itertools.chain.from_iterable(append.blocks)
    takes, keeps = append.takes, append.keeps
    room = ("", "", 0) if takes is keeps is None else (_room(takes), _room(keeps), keeps.expires_ms if keeps else 0)
    return stream, ("EVALSHA", sha("append"), 3, *keys, limits.rows, limits.bytes, *room, *blocks)  # as `call` does


def _room(room: Room | None) -> str:
    return f"{room.id} {room.rows} {room.bytes}" if room else ""
