"""Commands that more than one kind of link sends, and what their answers mean."""

from collections.abc import Iterable, Sequence

import msgspec

from millrace.broker.connections import call
from millrace.broker.keys import DESIRED_STATES
from millrace.broker.resp import Command, Routed
from millrace.protocol.desired_state import DesiredState
from millrace.protocol.messages import WorkerAnnouncement

REPLY_STREAM_TTL_MS = 60_000
REPLY_STREAM_ENTRIES = 100_000
TIME: Command = ("TIME",)


def live(workers: Iterable[WorkerAnnouncement], now_ms: float) -> list[WorkerAnnouncement]:
    """Those that had not expired when the broker's time was `now_ms`: when they were read, not when we come to it."""
    return [worker for worker in workers if worker.expires_ms > now_ms]


def write_desired_state(control: DesiredState, replaces: int) -> Routed:
    """Write the document in the place of one that is not newer than `replaces`."""
    return call("desired_state", [DESIRED_STATES], control.model, replaces, msgspec.json.encode(control))


def put_back(control: DesiredState) -> Routed:
    """Write the document unless a newer one is there, or the same."""
    return write_desired_state(control, control.generation - 1)


def forget(control: DesiredState) -> Routed:
    """Remove the document unless a newer one is there."""
    return call("desired_state", [DESIRED_STATES], control.model, control.generation, b"")


def milliseconds(told: Sequence[bytes]) -> float:
    """The answer of TIME, seconds and microseconds, in milliseconds."""
    return int(told[0]) * 1000 + int(told[1]) / 1000
