"""The open connections of one HTTP server: how many there may be, which must go, and the clocks they go by."""

import asyncio
import heapq
from collections.abc import Iterator
from email.utils import formatdate
from typing import Protocol

_NEVER = float("inf")
_EVICTED_SHARE = 100
_SEARCH_S = 0.1


class OpenConnection(Protocol):
    """What the table knows of a connection. Times are the event loop's."""

    ends: float
    """When `expire` is to be called."""

    @property
    def waits_since(self) -> float | None:
        """Since when it waits for a request; None while it has one."""

    def pace(self, now: float) -> float | None:
        """Bytes a second at which its caller sends or reads what it holds memory for; None where it holds none."""

    def give_up(self) -> int:
        """Close at once; how many bytes came back."""

    def linger(self) -> None:
        """The server stops: close once what came is answered."""

    def expire(self) -> None:
        """What the connection waited for has not come in time."""

    def count_unsent(self) -> None:
        """Count what the socket has not taken."""

    def look_for_caller(self) -> None:
        """Close it where the caller, who has ended its side, has left for good."""

    def abort(self) -> None:
        """Close at once."""


class ConnectionTable:
    """Holds at most `limit` connections. When it is full, those that have waited longest for a request are closed."""

    def __init__(self, limit: int, keep_alive_timeout_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self.limit = limit
        self.date = ""
        self.idle_ends = _NEVER
        self.accepted = 0
        self.evicted = 0
        self.reclaimed = 0
        self._next_search = 0.0
        self.emptied = asyncio.Event()
        self._keep_alive_timeout_s = keep_alive_timeout_s
        self._loop = loop
        self._open: set[OpenConnection] = set()
        self._half_closed: set[OpenConnection] = set()
        self.tick()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[OpenConnection]:
        return iter(tuple(self._open))

    def add(self, connection: OpenConnection) -> bool:
        """Add a connection; False where the table is full of connections that all have a request."""
        self._open.add(connection)
        self.accepted += 1
        if len(self._open) > self.limit:
            self._evict(connection)
        return len(self._open) <= self.limit

    def replace(self, old: OpenConnection, new: OpenConnection) -> None:
        """A connection turns out to speak another protocol: the new one stands for it."""
        self._open.discard(old)
        self._open.add(new)

    def remove(self, connection: OpenConnection) -> None:
        """A connection is closed."""
        self._open.discard(connection)
        self._half_closed.discard(connection)
        if not self._open:
            self.emptied.set()

    def hand_over(self, handshake: OpenConnection) -> None:
        """A handshake is done: its connection takes its place at once."""
        self._open.discard(handshake)

    def half_closed(self, connection: OpenConnection) -> None:
        """The caller of a connection has ended its side, and is looked for while its request is answered."""
        self._half_closed.add(connection)

    def reclaim(self, bytes_: int) -> bool:
        """Close connections until so many bytes have come back, those with the slowest callers first.

        Whoever sends a head or a body, or reads a response, has a second before it counts as slow. False where nobody
        does; it is looked for no more than ten times a second.
        """
        now = self._loop.time()
        if now < self._next_search:
            return False
        self._next_search = now + _SEARCH_S
        slow = [(pace, id(c), c) for c in self._open if (pace := c.pace(now)) is not None]
        heapq.heapify(slow)
        wanted = bytes_
        while slow and wanted > 0:
            wanted -= heapq.heappop(slow)[2].give_up()
            self.reclaimed += 1
        return wanted < bytes_

    def tick(self) -> None:
        """Set the clocks, and look after all that is late."""
        now = self._loop.time()
        self.date = f"date: {formatdate(usegmt=True)}\r\n"
        self.idle_ends = now + self._keep_alive_timeout_s
        for connection in [c for c in self._open if c.ends < now]:
            connection.expire()
        for connection in tuple(self._open):
            connection.count_unsent()
        for connection in tuple(self._half_closed):
            connection.look_for_caller()

    def _evict(self, newest: OpenConnection) -> None:
        """Close a hundredth at once, so that a flood of connections does not cost a search each."""
        waiting = [(since, id(c), c) for c in self._open if c is not newest and (since := c.waits_since) is not None]
        for _, _, connection in heapq.nsmallest(max(1, self.limit // _EVICTED_SHARE), waiting):
            self.evicted += 1
            self._open.discard(connection)
            connection.abort()
