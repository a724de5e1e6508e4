"""Requests that no worker will answer: the last live worker with their version has left, or has fallen silent.

    a worker that answers ──left──► nobody ──grace──► its requests get `NoWorker`, and are cancelled in the queue
             ▲                        │
             └────── one comes ───────┘   the requests wait in the queue, and it answers them

Whoever asks after the heartbeat has told of the loss gets `NoWorker` at once (`models/registry.py`), so only requests
that were sent before are looked after here. A worker that drains counts as long as it works on what it has.
"""

from collections.abc import Callable, Iterable

from serving.queueing.requests import Clock

GRACE_S = 2.0  # for a worker that is started again
LAST_REPLIES_S = 0.3  # for replies that a worker sent before it left, and that are still to be read

Version = tuple[str, int]


class Stranded:
    """Says which versions' requests are to be given up.

    `can_be_answered` tells of a version whether any worker may still answer; `clock` counts seconds.
    """

    def __init__(self, can_be_answered: Callable[[str, int], bool], clock: Clock, grace_s: float = GRACE_S) -> None:
        self._can_be_answered = can_be_answered
        self._clock = clock
        self.grace_s = grace_s
        self._since: dict[Version, float] = {}

    def given_up(self, versions: Iterable[Version]) -> set[Version]:
        """Those of the versions with open requests that no worker has answered for, for `grace_s`.

        Ask after each heartbeat, with all versions that have open requests.
        """
        now = self._clock()
        self._since = {
            version: self._since.get(version, now) for version in versions if not self._can_be_answered(*version)
        }
        return {version for version, since in self._since.items() if now - since >= self.grace_s}
