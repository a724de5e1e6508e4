"""The slowest requests of the last minute. A request that is none of them costs one comparison."""

import time
from collections.abc import Callable

from serving.call import Call
from serving.monitoring.counts import MOST_SLOW, SlowRequest, slowest

_KEPT_S = 60.0


class SlowRequests:
    """Holds them for one process. Whoever has a call that took longer than `least_s` adds it.

    `now` gives the Unix time in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._kept: list[SlowRequest] = []
        self.least_s = 0.0

    def add(self, call: Call) -> None:
        """Take in a call that has ended."""
        t = call.timings
        stages = (call.parse_ms, t.queue_ms, t.batch_ms, t.compute_ms, t.reply_ms) if t else ()
        request = SlowRequest(
            round(self._now() * 1000),
            call.seconds * 1000,
            call.model,
            call.version,
            call.protocol,
            call.status,
            call.request_id,
            *stages,
        )
        self._keep([*self._kept, request])

    def recent(self) -> list[SlowRequest]:
        """Those that ended in the last minute, the slowest first."""
        oldest_ms = (self._now() - _KEPT_S) * 1000
        self._keep([request for request in self._kept if request.ended_ms >= oldest_ms])
        return self._kept

    def _keep(self, requests: list[SlowRequest]) -> None:
        self._kept = slowest(requests)
        self.least_s = self._kept[-1].duration_ms / 1000 if len(self._kept) == MOST_SLOW else 0.0
