"""The whole keyspace in Redis, written once.

The part in braces is the hash tag: in a Redis Cluster all keys with one tag are in one slot, so that a script may touch
them together. MODEL and VERSION are those of the repository (digits, 1); API is the id of one API process. In MODEL
every character but letters, digits and "-._~" is escaped as in a URL (caf%C3%A9), so that no name breaks a tag.

    key                                          type    holds
    millrace:{MODEL/VERSION}:requests:high       stream  request blocks "b" and their rows "r"; consumer group "workers"
    millrace:{MODEL/VERSION}:requests:normal     stream  the same, taken after "high"
    millrace:{MODEL/VERSION}:requests:bulk       stream  the same of jobs, which take what callers leave
    millrace:{MODEL/VERSION}:held                hash    "rows" and "bytes" of high, normal: waiting, in work or kept
    millrace:{MODEL/VERSION}:held:bulk           hash    the same of bulk
    millrace:{MODEL/VERSION}:kept                zset    room for the rest of large requests, by when it is given up
    millrace:{MODEL/VERSION}:kept:bulk           zset    the same for bulk
    millrace:{MODEL/VERSION}:fragments:ID        list    a block too large for one entry, which has a reference to it
    millrace:{MODEL/VERSION}:dead                stream  blocks given up: "b", "error", "deliveries", "consumer"
    millrace:{MODEL/VERSION}:cancelled           zset    "REPLY_STREAM ITEM_ID" that nobody awaits, by deadline in ms
    millrace:{API}:replies                       stream  reply blocks for that API process, field "b"; expires with it
    millrace:{API}:replies:ID                    list    a reply block too large for one entry; expires
    millrace:{workers}                           hash    worker id -> its announcement as JSON, with the time it expires
    millrace:{workers}:controls                  hash    MODEL -> what is wanted of it at run time, as JSON
    millrace:{apis}:usage                        hash    API -> what was asked with each API key of late, as JSON

A finished block is acknowledged and deleted in one step, so a stream's length is what waits or is in work. Request
streams are never trimmed; admission (lua/append.lua) refuses instead. About the last 1,000 dead letters are kept, or as
many as make 100 MB where they are large.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote

GROUP = "workers"
WORKERS = "millrace:{workers}"
DESIRED_STATES = "millrace:{workers}:controls"
USAGE = "millrace:{apis}:usage"
DEAD_LETTERS_KEPT = 1000
DEAD_LETTERS_BYTES = 100_000_000  # as many as fit, were all as large as the newest
BULK = "bulk"
URGENT = ("high", "normal")
ONLY_BULK = (BULK,)
PRIORITIES = (*URGENT, *ONLY_BULK)
DEAD_LETTERS = "millrace:{*}:dead"  # what SCAN finds them by
_DEAD = re.compile(r"millrace:\{(.+)/(\d+)\}:dead")


@dataclass(frozen=True, slots=True)
class Queue:
    """The queue of one model version, and the names of its keys."""

    model: str
    version: int

    def requests(self, priority: str) -> str:
        """The request stream of one priority."""
        return f"{_prefix(self.model, self.version)}:requests:{priority}"

    @property
    def held(self) -> str:
        """What the queue holds of high and normal priority, which bounds it."""
        return f"{_prefix(self.model, self.version)}:held"

    @property
    def held_bulk(self) -> str:
        """What it holds of bulk, which has limits of its own."""
        return f"{_prefix(self.model, self.version)}:held:bulk"

    def kept(self, priority: str) -> str:
        """The room that is kept for blocks that follow."""
        return f"{_prefix(self.model, self.version)}:kept{':bulk' if priority == BULK else ''}"

    def fragments(self, fragments_id: str) -> str:
        """The fragments of one large request block."""
        return f"{_prefix(self.model, self.version)}:fragments:{fragments_id}"

    @property
    def dead(self) -> str:
        """The dead-letter stream."""
        return f"{_prefix(self.model, self.version)}:dead"

    @property
    def cancelled(self) -> str:
        """The items whose callers went away."""
        return f"{_prefix(self.model, self.version)}:cancelled"


@lru_cache(maxsize=4096)
def _prefix(model: str, version: int) -> str:
    return f"millrace:{{{quote(model, safe='')}/{version}}}"


def consumer_name(consumer: str, losses: int) -> str:
    """The name under which a consumer takes after it lost its connection so many times."""
    return f"{consumer}.{losses}" if losses else consumer


def queue_of_dead_letters(key: str) -> Queue | None:
    """The queue whose dead-letter stream has that name; None where it is no such name."""
    match = _DEAD.fullmatch(key)
    return Queue(unquote(match[1]), int(match[2])) if match else None


def replies(api: str) -> str:
    """The reply stream of one API process."""
    return f"millrace:{{{api}}}:replies"


def reply_fragments(reply_to: str, fragments_id: str) -> str:
    """The fragments of one large reply block on that reply stream."""
    return f"{reply_to}:{fragments_id}"
