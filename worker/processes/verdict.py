"""What is to be done about the blocks of a model process that has ended: who is to blame, and who is not."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from worker.running.seats import Seat
from worker.running.status import LoneItem

# Why a process ended: by itself, or because the worker ended it.
Cause = Literal["itself", "stuck", "memory", "slow", "loading", "stopped"]
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which seats' blocks are suspects from now on, and the one item that is to blame, with its seat, if one is."""

    suspects: frozenset[str]
    culprit: tuple[Seat, LoneItem] | None = None


def judge(seats: Sequence[Seat], cause: Cause, status: int, *, now_ms: float, lease_ms: float) -> Verdict:
    """The verdict over a process whose instances sat on these seats, and which ended with a status of `os.waitpid`.

    An item is to blame when it alone was worked on. Where somebody else may have ended the process, as who sends
    SIGKILL does, it must have happened to the item before.
    """
    if cause == "stopped":
        return Verdict(frozenset())
    working = [seat for seat in seats if seat.status.is_working]
    if cause == "stuck":
        working = [seat for seat in working if seat.status.overdue_ms(now_ms) > lease_ms]
    culprit = _culprit(working, cause, status)
    # What was delivered for the first time must be remembered as a suspect; what is one already need not be counted
    # again where it is known who is to blame.
    suspects = [seat for seat in working if not culprit or culprit[1].deliveries == 1]
    return Verdict(frozenset(seat.consumer for seat in suspects), culprit)


def _culprit(working: Sequence[Seat], cause: Cause, status: int) -> tuple[Seat, LoneItem] | None:
    if len(working) != 1 or not (item := working[0].status.lone_item):
        return None
    is_from_outside = os.WIFSIGNALED(status) and os.WTERMSIG(status) in _FROM_OUTSIDE
    if cause == "itself" and is_from_outside and item.deliveries == 1:
        return None
    return working[0], item


def in_words(cause: Cause, status: int, memory_mb: int = 0, load_s: float = 0.0) -> str:
    """How the process ended, for its caller and for the log."""
    if cause == "loading":
        return f"it was not loaded within {load_s:g} s"
    if cause == "stuck":
        return "it worked on after its callers' deadlines"
    if cause == "memory":
        return f"it took more than {memory_mb} MB of memory"
    if cause == "slow":
        return "its first run took too long"
    if cause == "stopped":
        return "it did not end in time"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        known = {signal.SIGSEGV: ", a wrong access to memory", signal.SIGFPE: ", a wrong calculation"}
        return f"{signal.Signals(number).name}{known.get(signal.Signals(number), '')}"
    return f"exit status {os.waitstatus_to_exitcode(status)}"
