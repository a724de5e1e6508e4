"""What an instance is doing, in memory that another process can read: no lock, no copy, no Python object crosses.

    idle ──► holding ──► working on items, until their last deadline ──► holding … ──► idle
             blocks       preparing or running them
             in hand

A status is one slot of a buffer: eight numbers of 8 bytes, which are written and read whole, and a text. Only the
deadline decides whether an instance is stuck; it is written first and taken back last.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from millrace.broker.keys import ONLY_BULK, PRIORITIES, URGENT

SLOT_BYTES = 512
_NUMBERS_BYTES = 80
_TEXT_LIMIT = SLOT_BYTES - _NUMBERS_BYTES
_DEADLINE, _STATE, _SINCE, _LOSSES, _ITEM, _ITEM_DEADLINE, _DELIVERIES, _TEXT_BYTES, _TAKES, _SEES_BULK = range(10)
_IDLE, _HOLDING, _WORKING = 0.0, 1.0, 2.0
_TAKEN = (PRIORITIES, URGENT, ONLY_BULK)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoneItem:
    """A request that an instance works on alone: where its answer goes, its id, and how often its block was delivered.

    `deadline_ms` is the request's, on the broker's clock.
    """

    reply_to: str
    id: int
    deadline_ms: int
    deliveries: int


class InstanceStatus:
    """One instance's slot. The instance writes it; whoever watches over it reads it. `slot` has `SLOT_BYTES` bytes.

    `monotonic` is the machine's clock, the same in all its processes.
    """

    def __init__(self, slot: memoryview | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        slot = memoryview(bytearray(SLOT_BYTES)) if slot is None else slot
        self._numbers = slot[:_NUMBERS_BYTES].cast("d")
        self._text = slot[_NUMBERS_BYTES:]
        self._monotonic = monotonic

    def clear(self) -> None:
        """Begin anew, idle."""
        for number in range(len(self._numbers)):
            self._numbers[number] = 0.0
        self._numbers[_SINCE] = self._monotonic()

    # Written by the instance

    def idle(self) -> None:
        """It has nothing in hand."""
        numbers = self._numbers
        if numbers[_STATE] != _IDLE:
            numbers[_SINCE] = self._monotonic()
            numbers[_STATE] = _IDLE

    def hold(self, losses: int) -> None:
        """It has blocks in hand, taken after so many lost connections (`ConsumerLink.losses`)."""
        numbers = self._numbers
        numbers[_LOSSES] = losses
        numbers[_SINCE] = self._monotonic()
        numbers[_STATE] = _HOLDING

    def work(self, last_deadline_ms: float) -> None:
        """It prepares or runs items, whose callers wait until then at the latest."""
        numbers = self._numbers
        numbers[_TEXT_BYTES] = 0.0
        numbers[_DEADLINE] = last_deadline_ms
        numbers[_STATE] = _WORKING

    def work_alone(self, reply_to: str, item: int, deadline_ms: int, deliveries: int) -> None:
        """It prepares or runs a single item (see `LoneItem`)."""
        numbers, text = self._numbers, reply_to.encode()
        size = len(text)
        if size > _TEXT_LIMIT:
            size = 0  # then nobody can answer it in this process's place
        self._text[:size] = text[:size]
        numbers[_ITEM], numbers[_ITEM_DEADLINE], numbers[_DELIVERIES] = item, deadline_ms, deliveries
        numbers[_TEXT_BYTES] = size
        numbers[_DEADLINE] = deadline_ms
        numbers[_STATE] = _WORKING

    def pause(self) -> None:
        """It still has blocks in hand, and works on none of them."""
        numbers = self._numbers
        numbers[_STATE] = _HOLDING
        numbers[_TEXT_BYTES] = 0.0
        numbers[_DEADLINE] = 0.0

    def see_bulk(self, has_bulk: bool) -> None:
        """Whether bulk waits in its queue, or is in work."""
        self._numbers[_SEES_BULK] = has_bulk

    # Read by whoever watches over it

    @property
    def takes(self) -> Sequence[str]:
        """The priorities that the instance takes: all, those of callers, or bulk. Whoever watches over it sets them."""
        return _TAKEN[int(self._numbers[_TAKES])]

    @takes.setter
    def takes(self, priorities: Sequence[str]) -> None:
        self._numbers[_TAKES] = _TAKEN.index(tuple(priorities))

    @property
    def sees_bulk(self) -> bool:
        """Whether bulk was in its queue when it looked last."""
        return bool(self._numbers[_SEES_BULK])

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing in hand."""
        return self._numbers[_STATE] == _IDLE

    @property
    def is_working(self) -> bool:
        """Whether it prepares or runs items, so that what ends its process may be their fault."""
        return self._numbers[_STATE] == _WORKING

    @property
    def since_s(self) -> float:
        """Since when it is idle, or has what it has in hand, on the monotonic clock."""
        return self._numbers[_SINCE]

    @property
    def losses(self) -> int:
        """After how many lost connections it took what it has in hand."""
        return int(self._numbers[_LOSSES])

    @property
    def lone_item(self) -> LoneItem | None:
        """The item that it works on, if it is a single one."""
        size = int(self._numbers[_TEXT_BYTES])
        if not self.is_working or not size:
            return None
        return LoneItem(
            reply_to=bytes(self._text[:size]).decode(),
            id=int(self._numbers[_ITEM]),
            deadline_ms=int(self._numbers[_ITEM_DEADLINE]),
            deliveries=int(self._numbers[_DELIVERIES]),
        )

    def overdue_ms(self, now_ms: float) -> float:
        """For how long it works on after its callers' last deadline, by the broker's time; 0 where it does not."""
        deadline_ms = self._numbers[_DEADLINE]
        return max(0.0, now_ms - deadline_ms) if deadline_ms else 0.0
