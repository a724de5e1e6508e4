"""The seam between the programs and the queue: what an implementation must offer, and what it promises.

- At least once: a block that was appended is delivered until somebody finishes it. A consumer that stops renewing its
  lease loses its blocks to the next one that claims.
- Bounded: `append` refuses, it never drops. What is `bulk` counts apart from the rest, and fills no room of theirs.
- Three priorities (`keys.py`): high before normal, and bulk only when nothing of the others waits.
- Replies go to one API process and are lost with it; nobody else waits for them.

The API side is asynchronous (one event loop, thousands of requests); the worker side is blocking (a few threads, each
with a link of its own). `redis.py` and `memory.py` implement it, and one suite of tests holds both to it.
"""

import time
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from millrace.broker.clock import BrokerClock as BrokerClock
from millrace.broker.clock import Clock
from millrace.broker.depth import QueueDepth
from millrace.broker.fragments import Reference
from millrace.broker.keys import BULK, PRIORITIES, Queue
from millrace.protocol.desired_state import DesiredState
from millrace.protocol.messages import WorkerAnnouncement


@dataclass(frozen=True, slots=True)
class Room:
    """Room in a queue for blocks that follow, under an id of its own, without spaces.

    It counts as held until it is taken or given back, and no longer than about until `expires_ms` of the broker's time.
    """

    id: str
    rows: int
    bytes: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Append:
    """Encoded request blocks for one queue, each with its rows, which are admitted together or not at all.

    `keeps` is room for blocks that follow. `takes` is the room that an earlier append kept: what is taken from it is
    admitted, whatever the queue holds. Of a large request the first append keeps room for the rest. Each later one
    takes that room and keeps what is left of it. An append that takes room and has nothing else gives it back.
    """

    queue: Queue
    priority: str
    blocks: tuple[tuple[int, bytes], ...]
    takes: Room | None = None
    keeps: Room | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What one queue may hold of the priority that is appended, waiting or in work; high and normal count together."""

    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Held:
    """What a queue holds after an append, or held when it refused one."""

    rows: int
    bytes: int
    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """A block in a consumer's hands. `deliveries` counts how often it was handed out, this time included.

    A large block came in `fragments`, whose key that is. `gone_bytes` is the size of a block that is not here any more.
    """

    entry_id: bytes
    priority: str
    block: bytes
    rows: int
    deliveries: int = 1
    fragments: str = ""
    gone_bytes: int = 0

    @property
    def size(self) -> int:
        """The bytes that it counts for in its queue."""
        return self.gone_bytes or len(self.block)

    @property
    def is_bulk(self) -> bool:
        """Whether it is background work."""
        return self.priority == BULK


@dataclass(frozen=True, slots=True)
class Reply:
    """An encoded reply block and the reply stream that it goes to."""

    reply_to: str
    block: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A request block that was given up: when, in broker ms, after how many deliveries, and for what error."""

    queue: Queue
    entry_id: str
    buried_ms: int
    block: bytes
    error: str
    deliveries: int
    consumer: str


USAGE_TTL_MS = 5_000


def moved(announcement: WorkerAnnouncement, ms: float) -> WorkerAnnouncement:
    """The announcement with its times that much later."""
    if not ms:
        return announcement
    return replace(announcement, sent_ms=int(announcement.sent_ms + ms), expires_ms=int(announcement.expires_ms + ms))


class Heartbeat(NamedTuple):
    """What an API process learns with each heartbeat: the live workers' announcements, and what is wanted of models.

    `had_stream` says whether its reply stream was there already: where it was there once and is gone, the queue lost
    its memory, and so every request that was on its way.
    """

    workers: list[WorkerAnnouncement]
    had_stream: bool
    desired_states: list[DesiredState]


class ProducerLink(Protocol):
    """The API's side of the queue. Every method raises `Unavailable` when the queue cannot be reached."""

    reply_to: str
    clock: BrokerClock

    async def close(self) -> None:
        """Disconnect; the reply stream goes away."""

    def append(self, appends: Sequence[Append], limits: Limits) -> Awaitable[list[Held]]:
        """Append in one round trip: what each queue holds, and whether it refused."""

    def store(self, queue: Queue, fragments_id: str, fragment: bytes, expires_ms: int) -> Awaitable[None]:
        """Put the next fragment of a large block where its reference will point; kept until the broker's time is up.

        See `fragments.py`. An append of the reference must follow.
        """

    async def cancel(self, queue: Queue, items: Sequence[tuple[int, int]]) -> None:
        """Say that nobody waits for these items any more: (id, deadline in ms of the broker's time) each.

        A worker that takes one before its deadline can know it; what a worker has taken already is not called back.
        """

    async def replies(self) -> list[bytes]:
        """Wait for the next reply blocks; each comes once, or again when the connection was lost after it.

        In the place of a large one comes its reference, which `fetch` takes.
        """

    async def fetch(self, reference: Reference, /) -> bytes | None:
        """The reply block of a reference, which is then forgotten; None where its fragments are gone."""

    async def heartbeat(self) -> Heartbeat:
        """Make the reply stream or keep it alive, and set the clock; needed before the first reply can come."""

    async def depths(self, queues: Sequence[Queue]) -> list[QueueDepth]:
        """How much each of the queues holds, in one round trip; for operators, not for every request."""

    async def exchange_usage(self, usage: bytes) -> dict[str, bytes]:
        """Tell the other API processes what was asked of this one; what each that lives told last, by its id.

        It is forgotten when it is not told again for `USAGE_TTL_MS`. The clock must be set.
        """

    async def write_desired_state(self, control: DesiredState, *, replaces: int) -> DesiredState | None:
        """Write what is wanted of a model in the place of a document of that generation, or an older one, or none.

        Returns None, or the newer document that is there: nothing was written then.
        """

    async def put_back(self, desired_states: Sequence[DesiredState]) -> None:
        """Write documents that are not there any more, or only older ones; newer ones stay."""

    async def forget(self, desired_states: Sequence[DesiredState]) -> None:
        """Delete these documents; newer ones stay."""


class ConsumerLink(Protocol):
    """A worker's hold on one queue, for one thread. Methods raise `Unavailable` when the queue is out of reach.

    `cancelled_count` is how many of the queue's items were cancelled when blocks were taken or claimed last; while it
    is 0, `cancelled` need not be asked. `losses` counts how often the link took a new name (`keys.consumer_name`): what
    was on its way to it when the connection was lost is nobody's, and must not be renewed with what it takes
    afterwards. `has_bulk` is whether the queue held bulk, waiting or in work, when blocks were taken last.
    """

    cancelled_count: int
    losses: int
    has_bulk: bool

    def exchange(
        self,
        replies: Sequence[Reply],
        finished: Sequence[Delivery],
        *,
        count: int,
        block_ms: int,
        priorities: Sequence[str] = PRIORITIES,
    ) -> list[Delivery]:
        """Send replies, finish their blocks and wait for the next, in one round trip.

        Waits up to `block_ms` for at least one block and returns up to `count` of high and of normal priority, the
        higher first. Where neither of them waits, one block of bulk is returned. One more may come together with others
        that arrive while it waits. `block_ms` 0 does not wait, and `count` 0 takes nothing. `priorities` are all three,
        those of callers (`keys.URGENT`), or bulk alone (`keys.ONLY_BULK`): nothing of others is taken.
        """

    def cancelled(self, items: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        """Those of the items, (reply stream, id) each, that nobody waits for any more."""

    def claim(self, *, lease_ms: int, count: int, priorities: Sequence[str] = PRIORITIES) -> list[Delivery]:
        """Take over blocks of these priorities (see `exchange`) whose lease ran out, of any consumer.

        One that was claimed before comes alone, and so does one of bulk, when there is no other.
        """

    def bury(self, delivery: Delivery, error: str) -> None:
        """Copy a block to the dead-letter stream, with its error; `exchange` must still finish it."""

    def close(self) -> None:
        """Give the link up; blocks that were not finished go to whoever claims them."""


class WorkerLink(Protocol):
    """A worker process's word to the others. Every method raises `Unavailable` when the queue cannot be reached."""

    clock: BrokerClock

    def announce(self, announcement: WorkerAnnouncement) -> tuple[list[WorkerAnnouncement], list[DesiredState]]:
        """Publish what the worker has, replacing what it said before, and set the clock.

        Where the clock was not set yet, it is set first, and the announcement's times are moved by what it was off.
        Returns the announcements that have not expired, its own among them, and what is wanted of models.
        """

    def put_back(self, desired_states: Sequence[DesiredState]) -> None:
        """See `ProducerLink.put_back`."""

    def block_count(self, queue: Queue) -> int:
        """How many of the queue's blocks wait or are in work, at any worker."""

    def withdraw(self, worker: str) -> None:
        """Take the announcement back."""

    def live(self) -> list[WorkerAnnouncement]:
        """The announcements that have not expired, of all workers."""

    def renew(self, consumers: Sequence[tuple[Queue, str]]) -> None:
        """Renew the leases of all that these consumers hold of their queues."""

    def release(self, queue: Queue, consumer: str, *, is_suspect: bool) -> None:
        """Let others claim at once what a consumer that is gone holds, and forget the consumer.

        Unless a block `is_suspect`, as one that its consumer worked on when it died, this delivery is not counted.
        """

    def settle(self, queue: Queue, reply: Reply, item: int, deadline_ms: int) -> None:
        """Answer an item in the place of the consumer that holds it; whoever claims its block finds it cancelled."""

    @property
    def can_watch(self) -> bool:
        """Whether `watch` can look at several queues at once."""

    def watch(self, queues: Sequence[Queue], block_ms: int) -> set[Queue]:
        """Wait until any of the queues has blocks, at most that long; those that have some, waiting or in work."""

    def close(self) -> None:
        """Disconnect."""


class OperatorLink(Protocol):
    """An operator's look at what was given up. Every method raises `Unavailable` when the queue cannot be reached."""

    def dead_letter_queues(self) -> list[Queue]:
        """The queues that have dead letters, in order of model and version."""

    def dead_letters(self, queue: Queue) -> Iterator[DeadLetter]:
        """One queue's dead letters, the oldest first, read as they are asked for."""

    def drop_dead_letters(self, queue: Queue, entry_ids: Sequence[str] | None = None) -> int:
        """Delete those dead letters, or all of the queue; how many there were."""

    def close(self) -> None:
        """Disconnect."""


class Broker(Protocol):
    """Makes links; itself it holds no connection."""

    def producer(self, api: str, *, clock: Clock = time.monotonic) -> ProducerLink:
        """A link for the API process of that id; it connects when it is first used.

        `clock` is what its `BrokerClock` counts by.
        """

    def consumer(self, queue: Queue, consumer: str) -> ConsumerLink:
        """A link that takes from one queue under that consumer's name."""

    def worker(self, *, clock: Clock = time.monotonic) -> WorkerLink:
        """A link for heartbeats. `clock` is what its `BrokerClock` counts by."""

    def operator(self) -> OperatorLink:
        """A link for whoever looks after the queue."""
