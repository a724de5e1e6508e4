"""How much a queue holds, as an operator sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from millrace.broker.keys import PRIORITIES, Queue


@dataclass(frozen=True, slots=True)
class StreamDepth:
    """The blocks of one priority: all of them, those in work, and when the oldest came, in broker ms; 0 for none."""

    blocks: int = 0
    working: int = 0
    oldest_ms: int = 0

    @property
    def waiting(self) -> int:
        """The blocks that no worker has taken."""
        return max(0, self.blocks - self.working)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """What waits in a queue or is in work. `rows` and `bytes` are of high and normal priority together."""

    queue: Queue
    rows: int = 0
    bytes: int = 0
    bulk_rows: int = 0
    bulk_bytes: int = 0
    dead_letters: int = 0
    streams: Mapping[str, StreamDepth]


def depth_keys(queue: Queue) -> list[str]:
    """The keys that lua/depth.lua looks at."""
    return [*map(queue.requests, PRIORITIES), queue.held, queue.held_bulk, queue.dead]


def read_depth(queue: Queue, answer: Sequence[Any]) -> QueueDepth:
    """What lua/depth.lua found."""
    rows, size, bulk_rows, bulk_bytes, dead_letters, *streams = answer
    parts = zip(PRIORITIES, zip(*[iter(streams)] * 3, strict=True), strict=True)
    return QueueDepth(
        queue=queue,
        rows=rows,
        bytes=size,
        bulk_rows=bulk_rows,
        bulk_bytes=bulk_bytes,
        dead_letters=dead_letters,
        streams={name: StreamDepth(blocks, working, entry_ms(oldest)) for name, (blocks, working, oldest) in parts},
    )


def entry_ms(entry_id: bytes) -> int:
    """When an entry came, in broker ms; 0 for no entry."""
    return int(entry_id.partition(b"-")[0] or 0)
