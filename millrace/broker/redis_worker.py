"""A worker's heartbeat on Redis, and what it does for its consumers."""

from collections.abc import Sequence
from typing import Any

import hiredis
import msgspec

from millrace.broker.base import BrokerClock, Reply, moved
from millrace.broker.clock import Clock
from millrace.broker.connections import BlockingConnections, call, failure
from millrace.broker.discovery import Servers
from millrace.broker.documents import Documents
from millrace.broker.keys import DESIRED_STATES, GROUP, PRIORITIES, WORKERS, Queue
from millrace.broker.redis_commands import REPLY_STREAM_ENTRIES, TIME, live, milliseconds, put_back
from millrace.broker.resp import Command, Routed
from millrace.protocol.desired_state import DesiredState
from millrace.protocol.messages import WorkerAnnouncement

_EXPIRED_KEPT_MS = 60_000
_RELEASED = "released"  # the consumer that holds what others may claim at once
_RELEASED_IDLE_MS = 86_400_000
_WORKER_SCRIPTS = ("announce", "renew", "release", "desired_state", "reply", "cancel")


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
        return live(everyone, now_ms), self._documents.desired_states(desired_states)

    def put_back(self, desired_states: Sequence[DesiredState]) -> None:
        """See `WorkerLink`."""
        self._execute(*map(put_back, desired_states))

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
        return live(self._documents.announcements(workers), now_ms)

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
        told, *answers = self._execute((WORKERS, TIME), *commands)
        now_ms = milliseconds(told)
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
