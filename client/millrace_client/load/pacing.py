"""When each user of this process sends its next request: at the times of a schedule, or when it has its last answer.

A schedule does not wait for users: a request that is due while all of them wait for answers is sent by the first one
that is free, and its latency counts from when it was due.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import gevent
from gevent.event import Event
from gevent.hub import Waiter, get_hub

from millrace_client.load.precise import Alarm
from millrace_client.load.schedules import Times


@dataclass(frozen=True, slots=True)
class Due:
    """A request's number in the schedule, and the moment (seconds of `time.perf_counter`) at which it is due."""

    number: int
    at_s: float


class Pace(Protocol):
    """Tells the users of a process when to send. `start` begins the run, at the moment it returns."""

    def start(self) -> float:
        """Begin the run. Returns the moment at which its time begins."""

    def take(self) -> Due | None:
        """The next request, when it is due; None when the run is over. Blocks the user."""

    def stop(self) -> None:
        """End the run now: waiting users get None."""


class OpenPace:
    """Requests at the times of a schedule. `late` is told of each by how many seconds the generator was late.

    That is until a user has it; or, where all users wait for answers, until the generator noticed that it is due.
    """

    def __init__(self, times: Times, late: Callable[[Due, float], None]) -> None:
        self._times = times.tolist()
        self._late = late
        self._idle: list[Waiter] = []
        self._waiting: deque[Due] = deque()
        self._is_over = False
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> float:
        """Begin. Returns the moment from which the schedule's times count."""
        begin_s = time.perf_counter() + 0.005
        self._greenlet = gevent.spawn(self._run, begin_s)
        return begin_s

    def take(self) -> Due | None:
        """The next request. The user that became idle last is taken first, so that few connections are used."""
        if self._waiting:
            return self._waiting.popleft()
        if self._is_over:
            return None
        waiter = Waiter()
        self._idle.append(waiter)
        try:
            due: Due | None = waiter.get()
        except BaseException:  # the user is stopped: nobody may give it a request any more
            if waiter in self._idle:
                self._idle.remove(waiter)
            raise
        if due is not None:
            self._late(due, time.perf_counter() - due.at_s)
        return due

    def stop(self) -> None:
        """End the run."""
        if self._greenlet is not None and self._greenlet is not gevent.getcurrent():
            self._greenlet.kill(block=False)
        self._end()

    def _run(self, begin_s: float) -> None:
        alarm = Alarm()
        try:
            for number, after_s in enumerate(self._times):
                due_s = begin_s + after_s
                if due_s > time.perf_counter():
                    alarm.wait_until(due_s)
                self._hand_out(Due(number, due_s))
        finally:
            alarm.close()
        self._end()

    def _hand_out(self, due: Due) -> None:
        if self._idle:
            get_hub().loop.run_callback(self._idle.pop().switch, due)
        else:
            self._late(due, time.perf_counter() - due.at_s)
            self._waiting.append(due)

    def _end(self) -> None:
        self._is_over = True
        for waiter in self._idle:
            get_hub().loop.run_callback(waiter.switch, None)
        self._idle.clear()


class ClosedPace:
    """Each user sends when it has its last answer, for `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends_s = 0.0
        self._number = 0
        self._started = Event()

    def start(self) -> float:
        """Begin."""
        now_s = time.perf_counter()
        self._ends_s = now_s + self._seconds
        self._started.set()
        return now_s

    def take(self) -> Due | None:
        """Now, while there is time."""
        self._started.wait()
        now_s = time.perf_counter()
        if now_s >= self._ends_s:
            return None
        self._number += 1
        return Due(self._number, now_s)

    def stop(self) -> None:
        """End the run."""
        self._ends_s = 0.0
        self._started.set()
