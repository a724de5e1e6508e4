"""Where an instance sits: what whoever watches over it, in this process or another, knows it by."""

from collections.abc import Iterable
from dataclasses import dataclass

from millrace.broker.keys import Queue, consumer_name
from worker.running.status import InstanceStatus

_LONGEST_HOLD_S = 30.0  # that blocks in hand may wait for their turn before they are left to others


@dataclass(frozen=True, slots=True)
class Seat:
    """What one instance is known by: the name under which it takes blocks, and where it says what it does."""

    consumer: str
    status: InstanceStatus


def held_by(queue: Queue, seats: Iterable[Seat]) -> list[tuple[Queue, str]]:
    """The queue and the name under which each of the seats takes at present, as `WorkerLink.renew` wants them."""
    return [(queue, consumer_name(seat.consumer, seat.status.losses)) for seat in seats]


def are_renewed(seats: Iterable[Seat], *, now_s: float, now_ms: float, lease_ms: float) -> bool:
    """Whether the leases of one process's instances are worth renewing: one is at work, and none is stuck.

    An idle instance may have been given a block that it does not know of yet, while another one has the interpreter.
    `now_s` is of the monotonic clock, `now_ms` of the broker's.
    """
    is_busy = False
    for seat in seats:
        status = seat.status
        if status.overdue_ms(now_ms) > lease_ms:
            return False
        is_busy = is_busy or status.is_working or (not status.is_idle and now_s - status.since_s < _LONGEST_HOLD_S)
    return is_busy
