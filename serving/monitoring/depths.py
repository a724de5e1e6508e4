"""What waits in the queues, asked of Redis only when somebody looks: once a second, and when versions come or go."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from millrace.broker.depth import QueueDepth
from millrace.broker.keys import Queue
from millrace.protocol.errors import Unavailable

_log = logging.getLogger(__name__)
_FRESH_S = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What each queue held, and the broker's time then, in ms."""

    queues: Sequence[QueueDepth] = ()
    at_ms: float = 0.0


class Depths:
    """Every API process can see all queues: they are not to be added up over processes.

    `ask` looks at queues, `queues` are those that there are. `clock` is a monotonic clock in seconds, `now_ms` the
    broker's.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Queue]], Awaitable[list[QueueDepth]]],
        queues: Callable[[], Sequence[Queue]],
        now_ms: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._queues = queues
        self._now_ms = now_ms
        self._clock = clock
        self._asking = asyncio.Lock()
        self._seen = Seen()
        self._asked: Sequence[Queue] = ()
        self._seen_at = float("-inf")
        self._failed = ""

    async def read(self) -> Seen:
        """What was seen of all queues, at most a second ago; nothing where the queue does not answer."""
        async with self._asking:
            queues = self._queues()
            if queues != self._asked or self._clock() - self._seen_at >= _FRESH_S:
                self._seen = await self._look(queues)
                self._asked, self._seen_at = queues, self._clock()
        return self._seen

    async def _look(self, queues: Sequence[Queue]) -> Seen:
        try:
            found = await self._ask(queues) if queues else []
        except Unavailable as error:
            if str(error) != self._failed:
                self._failed = str(error)
                _log.warning("what waits in the queues cannot be seen", extra={"reason": self._failed})
            return Seen()
        self._failed = ""
        return Seen(found, self._now_ms())
